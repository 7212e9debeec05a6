//! Reading the probes' maps through aya.

use crate::probes::{MapReader, ReadError};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use probe_ebpf::control::{Lost, Table};
use probe_ebpf::hist::Hist;
use probe_ebpf::probes::{cpu_noise, irq_delivery, vcpu_sched, vm_exit};
use probe_ebpf::vcpu::Vcpu;

/// Maps of a loaded object.
pub(super) struct Maps<'a>(pub(super) &'a Ebpf);

impl Maps<'_> {
    fn map(&self, name: &'static str) -> Result<&Map, ReadError> {
        self.0.map(name).ok_or_else(|| error(name, "no such map in the object"))
    }

    pub(super) fn element<T: aya::Pod>(&self, name: &'static str, index: u32) -> Result<T, ReadError> {
        let array: Array<&MapData, T> = self.map(name)?.try_into().map_err(|e| error(name, e))?;
        array.get(&index, 0).map_err(|e| error(name, e))
    }

    fn size<T: aya::Pod>(&self, name: &'static str) -> Result<u32, ReadError> {
        let array: Array<&MapData, T> = self.map(name)?.try_into().map_err(|e| error(name, e))?;
        Ok(array.len())
    }

    fn entries<K: aya::Pod, V: aya::Pod>(&self, name: &'static str) -> Result<Vec<(K, V)>, ReadError> {
        let map: HashMap<&MapData, K, V> = self.map(name)?.try_into().map_err(|e| error(name, e))?;
        map.iter().collect::<Result<_, _>>().map_err(|e| error(name, e))
    }

    /// What was lost, all CPUs together: only causes that occurred.
    pub(super) fn lost(&self) -> Result<Vec<(&'static str, &'static str, u64)>, ReadError> {
        const NAME: &str = "LOST";
        let array: PerCpuArray<&MapData, u64> = self.map(NAME)?.try_into().map_err(|e| error(NAME, e))?;
        let mut lost = Vec::new();
        for (cause, probe, word) in Lost::ALL {
            let per_cpu = array.get(&(cause as u32), 0).map_err(|e| error(NAME, e))?;
            let sum: u64 = per_cpu.iter().sum();
            if sum > 0 {
                lost.push((probe, word, sum));
            }
        }
        Ok(lost)
    }
}

fn error(map: &'static str, cause: impl std::fmt::Display) -> ReadError {
    ReadError { map, cause: cause.to_string() }
}

impl MapReader for Maps<'_> {
    fn hist(&self, map: &'static str, index: u32) -> Result<Hist, ReadError> {
        self.element(map, index)
    }

    fn slot(&self, index: u32) -> Result<irq_delivery::Slot, ReadError> {
        self.element("SLOTS", index)
    }

    fn delivery(&self, index: u32) -> Result<irq_delivery::Delivery, ReadError> {
        self.element("DELIVERIES", index)
    }

    fn exit(&self, index: u32) -> Result<vm_exit::ExitSeries, ReadError> {
        self.element("EXITS", index)
    }

    fn noise(&self, index: u32) -> Result<cpu_noise::NoiseSeries, ReadError> {
        self.element("NOISE", index)
    }

    fn preempters(&self) -> Result<Vec<(vcpu_sched::Preempter, vcpu_sched::Preempted)>, ReadError> {
        self.entries("PREEMPTERS")
    }

    fn host_vector(&self, irq: u32) -> Result<u32, ReadError> {
        self.element("IRQ_VECTORS", irq)
    }

    fn posted(&self) -> Result<Vec<(u32, irq_delivery::Posted)>, ReadError> {
        self.entries("POSTED")
    }

    fn apicv(&self) -> Result<Vec<(u32, irq_delivery::Apicv)>, ReadError> {
        self.entries("APICV")
    }

    fn exit_vectors(&self) -> Result<Vec<(vm_exit::ExitVector, u64)>, ReadError> {
        self.entries("EXIT_VECTORS")
    }

    fn vcpus(&self) -> Result<Vec<(u32, Vcpu)>, ReadError> {
        let mut vcpus: Vec<(u32, Vcpu)> = self.entries("VCPUS")?;
        vcpus.sort_by_key(|(tid, _)| *tid);
        Ok(vcpus)
    }

    fn used(&self, table: Table) -> Result<u32, ReadError> {
        let next: u64 = self.element("NEXT", table as u32)?;
        // An index is taken before it is checked, so the counter can run past the table's end.
        let size = match table {
            Table::Slots => self.size::<irq_delivery::Slot>("SLOTS")?,
            Table::Deliveries => self.size::<irq_delivery::Delivery>("DELIVERIES")?,
            Table::Exits => self.size::<vm_exit::ExitSeries>("EXITS")?,
            Table::Scheds => self.size::<Hist>("SCHED_HIST")?,
            Table::Noise => self.size::<cpu_noise::NoiseSeries>("NOISE")?,
        };
        Ok(u32::try_from(next).unwrap_or(u32::MAX).min(size))
    }
}
