//! Forgetting what was counted of processes that are gone, before another process gets their number.
//!
//! The programs end a vCPU with its thread and key by its index, so that nothing new is added to it. What is keyed by a
//! process - slots, series, hardware delivery - is taken from the number here, when user space sees that the process is gone.

use super::Loaded;
use super::loader::read_error;
use crate::probes::{MapReader as _, RETIRED, ReadError};
use aya::Pod;
use aya::maps::{Array, HashMap};
use probe_ebpf::control::Table;
use probe_ebpf::probes::irq_delivery::{Apicv, Delivery, DeliveryKey, IRQ_NUMBERS, KnownIrq, Slot, SlotKey};
use probe_ebpf::probes::vcpu_sched::{Preempted, Preempter};
use probe_ebpf::probes::vm_exit::{ExitSeries, ExitVector, RareExit};
use probe_ebpf::vcpu::Vcpu;
use std::collections::BTreeSet;

impl Loaded {
    /// Forgets whose the figures of ended vCPUs are, and those of their processes' interrupts. `stays` tells which process
    /// still is the one that it was; it also gets whether one of its vCPUs is alive. A process whose threads were not seen
    /// to end keeps what it has.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn retire(&mut self, stays: impl Fn(u32, bool) -> bool) -> Result<(), ReadError> {
        let vcpus = self.maps().vcpus()?;
        let (alive, ended): (Vec<Vcpu>, Vec<Vcpu>) =
            vcpus.into_iter().map(|(_, vcpu)| vcpu).filter(|v| v.tgid != RETIRED).partition(|v| v.live != 0);
        let alive: BTreeSet<(u32, u32)> = alive.iter().map(|vcpu| (vcpu.tgid, vcpu.tid)).collect();
        let running: BTreeSet<u32> = alive.iter().map(|(tgid, _)| *tgid).collect();
        let ended: Vec<Vcpu> =
            ended.into_iter().filter(|v| !stays(v.tgid, running.contains(&v.tgid))).collect();
        if ended.is_empty() {
            return Ok(());
        }
        let indices: BTreeSet<u32> = ended.iter().map(|vcpu| vcpu.index).collect();
        let threads: BTreeSet<(u32, u32)> = ended.iter().map(|vcpu| (vcpu.tgid, vcpu.tid)).collect();
        // Where another process has got the number meanwhile, its interrupts begin anew at the next of each.
        let processes: BTreeSet<u32> = ended.iter().map(|vcpu| vcpu.tgid).collect();

        self.forget_keys::<ExitVector, u64>("EXIT_VECTORS", |key| indices.contains(&key.vcpu))?;
        self.forget_keys::<RareExit, u32>("RARE_EXITS", |key| indices.contains(&key.vcpu))?;
        self.forget_keys::<Preempter, Preempted>("PREEMPTERS", |key| indices.contains(&key.vcpu))?;
        self.forget_keys::<u32, Apicv>("APICV", |tgid| processes.contains(tgid))?;
        self.forget_keys::<SlotKey, u32>("SLOT_IDS", |key| processes.contains(&key.owner))?;
        let gone = |tgid: u32, tid: u32| threads.contains(&(tgid, tid)) && !alive.contains(&(tgid, tid));
        let mut slots = BTreeSet::new();
        let mut irqs = Vec::new();
        let used = self.maps().used(Table::Slots)?;
        for index in 0..used {
            let slot = self.maps().slot(index)?;
            if processes.contains(&slot.owner) {
                slots.insert(index);
                irqs.push(slot.irq);
                self.put::<Slot>("SLOTS", index, Slot { owner: RETIRED, ..slot })?;
            }
        }
        self.forget_numbers(irqs)?;
        self.forget_keys::<DeliveryKey, u32>("DELIVERY_IDS", |key| slots.contains(&key.slot))?;
        let used = self.maps().used(Table::Deliveries)?;
        for index in 0..used {
            let delivery = self.maps().delivery(index)?;
            if slots.contains(&delivery.slot) || gone(delivery.tgid, delivery.tid) {
                self.put::<Delivery>("DELIVERIES", index, Delivery { tgid: RETIRED, ..delivery })?;
            }
        }
        let used = self.maps().used(Table::Exits)?;
        for index in 0..used {
            let series = self.maps().exit(index)?;
            if gone(series.tgid, series.tid) {
                self.put::<ExitSeries>("EXITS", index, ExitSeries { tgid: RETIRED, ..series })?;
            }
        }
        for vcpu in ended {
            self.put::<Vcpu>("VCPUS", vcpu.index, Vcpu { tgid: RETIRED, ..vcpu })?;
        }
        Ok(())
    }

    /// Has these interrupts looked at anew.
    pub(super) fn forget_numbers(&mut self, irqs: Vec<u32>) -> Result<(), ReadError> {
        const NAME: &str = "KNOWN_IRQS";
        let mut map: Array<_, KnownIrq> = self.map_mut(NAME)?;
        for irq in irqs.into_iter().filter(|irq| *irq < IRQ_NUMBERS) {
            let known = map.get(&irq, 0).map_err(|e| read_error(NAME, e))?;
            map.set(irq, KnownIrq { action: 0, dev_id: 0, slot: 0, ..known }, 0)
                .map_err(|e| read_error(NAME, e))?;
        }
        Ok(())
    }

    fn put<T: Pod>(&mut self, name: &'static str, index: u32, value: T) -> Result<(), ReadError> {
        let mut map: Array<_, T> = self.map_mut(name)?;
        map.set(index, value, 0).map_err(|e| read_error(name, e))
    }

    fn forget_keys<K: Pod, V: Pod>(
        &mut self,
        name: &'static str,
        is_gone: impl Fn(&K) -> bool,
    ) -> Result<(), ReadError> {
        let mut map: HashMap<_, K, V> = self.map_mut(name)?;
        let keys: Vec<K> = map.keys().collect::<Result<_, _>>().map_err(|e| read_error(name, e))?;
        for key in keys.iter().filter(|key| is_gone(key)) {
            map.remove(key).map_err(|e| read_error(name, e))?;
        }
        Ok(())
    }
}
