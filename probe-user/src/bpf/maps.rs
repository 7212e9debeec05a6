//! Reading the probes' maps through aya.

use crate::probes::{KernelFacts, MapReader, ReadError};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use probe_ebpf::control::{Lost, Table};
use probe_ebpf::hist::Hist;
use probe_ebpf::probes::packet_path::{Counts, Device, DropKey, Sampling, Softirqs};
use probe_ebpf::probes::{cpu_noise, irq_delivery, vcpu_sched, vm_exit};
use probe_ebpf::signs::Sign;
use probe_ebpf::vcpu::Vcpu;

/// Maps of a loaded object.
pub(super) struct Maps<'a>(pub(super) &'a Ebpf, pub(super) &'a KernelFacts);

impl Maps<'_> {
    fn map(&self, name: &'static str) -> Result<&Map, ReadError> {
        self.0.map(name).ok_or_else(|| error(name, "no such map in the object"))
    }

    pub(super) fn element<T: aya::Pod>(&self, name: &'static str, index: u32) -> Result<T, ReadError> {
        let array: Array<&MapData, T> = self.map(name)?.try_into().map_err(|e| error(name, e))?;
        array.get(&index, 0).map_err(|e| error(name, e))
    }

    /// An element of a per-CPU array, all CPUs' copies joined.
    fn joined<T: aya::Pod + Default>(
        &self,
        name: &'static str,
        index: u32,
        join: impl Fn(T, &T) -> T,
    ) -> Result<T, ReadError> {
        let array: PerCpuArray<&MapData, T> = self.map(name)?.try_into().map_err(|e| error(name, e))?;
        let per_cpu = array.get(&index, 0).map_err(|e| error(name, e))?;
        Ok(per_cpu.iter().fold(T::default(), join))
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

    fn sign(&self, sign: Sign) -> Result<u64, ReadError> {
        self.element("SIGNS", sign as u32)
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
        let all = (0..self.used(Table::Vcpus)?).map(|index| self.element::<Vcpu>("VCPUS", index));
        let mut vcpus = all
            .filter(|vcpu| !matches!(vcpu, Ok(Vcpu { tid: 0, .. })))
            .map(|vcpu| vcpu.map(|vcpu| (vcpu.tid, vcpu)))
            .collect::<Result<Vec<_>, _>>()?;
        vcpus.sort_by_key(|(tid, _)| *tid);
        Ok(vcpus)
    }

    fn path_devices(&self) -> Result<Vec<(u32, Device)>, ReadError> {
        self.entries("PATH_DEVICES")
    }

    fn path_counts(&self, index: u32) -> Result<Counts, ReadError> {
        self.joined("PATH_COUNTS", index, |mut sum: Counts, one| {
            sum.packets.iter_mut().zip(one.packets).for_each(|(sum, n)| *sum += n);
            sum.bytes.iter_mut().zip(one.bytes).for_each(|(sum, n)| *sum += n);
            Counts {
                merged_in: sum.merged_in + one.merged_in,
                segments_in: sum.segments_in + one.segments_in,
                merged_out: sum.merged_out + one.merged_out,
                segments_out: sum.segments_out + one.segments_out,
                busy: sum.busy + one.busy,
                ..sum
            }
        })
    }

    fn path_drops(&self) -> Result<Vec<(DropKey, u64)>, ReadError> {
        self.entries("PATH_DROPS")
    }

    fn path_sampling(&self) -> Result<Sampling, ReadError> {
        self.joined("PATH_SAMPLING", 0, |sum: Sampling, one| Sampling {
            seen: sum.seen + one.seen,
            followed: sum.followed + one.followed,
            clones: sum.clones + one.clones,
            left: sum.left + one.left,
            most: sum.most.max(one.most),
            ..sum
        })
    }

    fn path_softirqs(&self) -> Result<Softirqs, ReadError> {
        self.joined("PATH_SOFTIRQS", 0, |sum: Softirqs, one| Softirqs {
            start_ns: 0,
            tx_ns: sum.tx_ns + one.tx_ns,
            rx_ns: sum.rx_ns + one.rx_ns,
            polls: sum.polls + one.polls,
            polled: sum.polled + one.polled,
        })
    }

    fn drop_reason(&self, reason: u32) -> String {
        // Without names there are no reasons either, and the programs put 0.
        match self.1.drop_reasons.get(&reason) {
            Some(name) => name.clone(),
            None if reason == 0 => "not told".to_owned(),
            None => format!("reason {reason}"),
        }
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
            Table::Flights => self.size::<u64>("FLIGHT_RING")?,
            Table::Vcpus => self.size::<Vcpu>("VCPUS")?,
        };
        Ok(u32::try_from(next).unwrap_or(u32::MAX).min(size))
    }
}
