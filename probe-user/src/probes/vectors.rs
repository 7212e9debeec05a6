//! Each vector of a VF as it stands: host vector and CPU, guest vector, vCPU, and how its interrupts reach the guest.
//!
//! Pure: one look at the probes' maps beside the host's topology, compared with the look before. What nobody has seen
//! stays unknown.

use super::{MapReader, ReadError};
use crate::model::topology::{DeliveryMode, Guest, Slot, Topology};
use crate::model::{CpuId, CpuSet, IrqNumber, PciAddress, VcpuId};
use probe_ebpf::control::Table;
use probe_ebpf::probes::irq_delivery::{IRQ_NUMBERS, Slot as Counted, unpack_vector};
use std::collections::BTreeMap;

/// Packets that each VF has received so far, where its PF's driver counts them.
pub type Traffic = BTreeMap<PciAddress, u64>;

/// The APIC vector of each interrupt on each CPU, from the kernel's own tables.
pub type HostVectors = BTreeMap<(IrqNumber, CpuId), u8>;

/// One look at all vectors, to be compared with the next.
#[derive(Clone, Debug, Default)]
pub struct Look {
    vectors: BTreeMap<(PciAddress, u16), Evidence>,
    traffic: Traffic,
}

/// How far a vector had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Evidence {
    irq: IrqNumber,
    /// Interrupts that the host took, as `/proc/interrupts` counts them.
    fired: u64,
    /// As the programs count them.
    raised: u64,
    /// Of these, left to the VMM.
    userspace: u64,
    mode: DeliveryMode,
}

impl Look {
    /// Looks again: fills in what is known of each vector in a topology that was just read.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn again(
        &self,
        maps: &dyn MapReader,
        topology: &mut Topology,
        host: &HostVectors,
        traffic: Traffic,
    ) -> Result<Self, ReadError> {
        let counted: Vec<Counted> =
            (0..maps.used(Table::Slots)?).map(|i| maps.slot(i)).collect::<Result<_, _>>()?;
        let told = told(maps, topology)?;
        let fired: BTreeMap<IrqNumber, u64> =
            topology.irqs.iter().map(|irq| (irq.number, irq.count)).collect();
        let mut vectors = BTreeMap::new();
        for guest in &mut topology.guests {
            let Guest { pid, vfs, vcpus, .. } = guest;
            for vf in vfs {
                let mut steps = Vec::with_capacity(vf.slots.len());
                for slot in &mut vf.slots {
                    let counted = counted.iter().find(|c| {
                        c.owner == pid.0
                            && (c.vf, c.slot, c.irq) == (vf.address.packed(), slot.slot.into(), slot.irq.0)
                    });
                    fill_host(maps, host, slot)?;
                    if let Some(counted) = counted.filter(|c| c.last_tid != 0) {
                        let delivery = maps.delivery(counted.last_series)?;
                        slot.guest_vector = u8::try_from(delivery.vector).ok();
                        slot.vcpu =
                            vcpus.iter().find(|v| v.thread.tid.0 == counted.last_tid).map(|v| v.index);
                    }
                    let told = told.iter().find(|told| told.irq == slot.irq);
                    if let Some(told) = told.filter(|told| told.set) {
                        slot.guest_vector = told.guest_vector;
                        slot.vcpu = told.vcpu;
                    }
                    let now = Evidence {
                        irq: slot.irq,
                        fired: fired.get(&slot.irq).copied().unwrap_or(0),
                        raised: counted.map_or(0, |c| c.raised),
                        userspace: counted.map_or(0, |c| c.userspace),
                        mode: slot.mode,
                    };
                    let before = self.vectors.get(&(vf.address, slot.slot));
                    let before = before.filter(|before| before.irq == now.irq).copied();
                    steps.push(Step { before, now, told: told.map(|told| told.set) });
                }
                let received = self.traffic.get(&vf.address).zip(traffic.get(&vf.address));
                let still = steps.iter().all(|step| !step.taken());
                let past_the_host = still && received.is_some_and(|(before, now)| now > before);
                for (slot, step) in vf.slots.iter_mut().zip(steps) {
                    slot.mode = step.mode(past_the_host);
                    vectors.insert((vf.address, slot.slot), Evidence { mode: slot.mode, ..step.now });
                }
            }
        }
        Ok(Self { vectors, traffic })
    }
}

/// The vector on the CPU that the interrupt goes to: of the kernel's tables, else as the programs saw it being set.
fn fill_host(maps: &dyn MapReader, host: &HostVectors, slot: &mut Slot) -> Result<(), ReadError> {
    if slot.irq.0 >= IRQ_NUMBERS || slot.host_vector.is_some() {
        return Ok(());
    }
    let cpus = slot.effective_affinity.iter().flat_map(CpuSet::iter);
    slot.host_vector = cpus.filter_map(|cpu| host.get(&(slot.irq, cpu)).copied()).next();
    if slot.host_vector.is_none()
        && let Some((vector, cpu)) = unpack_vector(maps.host_vector(slot.irq.0)?)
    {
        // The interrupt may have been moved again since the topology was read; then the CPU says so.
        let agrees = slot.effective_affinity.as_ref().is_none_or(|cpus| cpus.contains(CpuId(cpu)));
        slot.host_vector = agrees.then_some(vector);
    }
    Ok(())
}

/// From one look to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    before: Option<Evidence>,
    /// Its mode is what can be told without tracing.
    now: Evidence,
    /// What became of it in the IOMMU last: whether hardware delivers.
    told: Option<bool>,
}

impl Step {
    /// Whether the host took an interrupt.
    fn taken(&self) -> bool {
        let fired = self.before.is_some_and(|before| self.now.fired > before.fired);
        fired || self.raised() > 0
    }

    fn raised(&self) -> u64 {
        self.now.raised.saturating_sub(self.before.map_or(0, |before| before.raised))
    }

    /// How the vector's interrupts reach the guest.
    ///
    /// An interrupt that the host took settles it, whatever else was said. Without one, KVM's word to the IOMMU counts;
    /// without that, packets that came without any interrupt of the VF, where hardware may deliver. When nothing
    /// happened, it stays as it was.
    fn mode(&self, past_the_host: bool) -> DeliveryMode {
        let userspace = self.now.userspace.saturating_sub(self.before.map_or(0, |before| before.userspace));
        if self.raised() > 0 && userspace * 2 > self.raised() {
            return DeliveryMode::Userspace;
        }
        if self.taken() {
            return DeliveryMode::Remapped;
        }
        match (self.told, self.before) {
            (Some(true), _) => DeliveryMode::Posted,
            (Some(false), _) => DeliveryMode::Remapped,
            (None, Some(before)) if before.mode != DeliveryMode::Unknown => before.mode,
            (None, Some(_)) if past_the_host && self.now.mode == DeliveryMode::Unknown => {
                DeliveryMode::Posted
            }
            (None, _) => self.now.mode,
        }
    }
}

/// An interrupt of which it is known how the IOMMU was told to deliver it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Its number.
    pub(super) irq: IrqNumber,
    /// Whether hardware delivers it.
    pub(super) set: bool,
    /// What the guest gets.
    pub(super) guest_vector: Option<u8>,
    /// Where.
    pub(super) vcpu: Option<VcpuId>,
}

/// All such interrupts of guests that are known.
pub(super) fn told(maps: &dyn MapReader, topology: &Topology) -> Result<Vec<Told>, ReadError> {
    let posted = maps.posted()?;
    if posted.is_empty() {
        return Ok(Vec::new());
    }
    let threads = maps.vcpus()?;
    let told = posted.into_iter().filter_map(|(irq, posted)| {
        let set = posted.by_hardware()?;
        let guest = topology.guests.iter().find(|guest| guest.pid.0 == posted.tgid)?;
        let thread = threads
            .iter()
            .find(|(_, vcpu)| (vcpu.tgid, vcpu.vcpu_id) == (posted.tgid, posted.vcpu_id))
            .map(|(tid, _)| *tid);
        let vcpu = guest.vcpus.iter().find(|vcpu| Some(vcpu.thread.tid.0) == thread);
        Some(Told {
            irq: IrqNumber(irq),
            set,
            // Named by the event alone.
            guest_vector: u8::try_from(posted.vector).ok().filter(|_| set && posted.updates > 0),
            vcpu: vcpu.map(|vcpu| vcpu.index),
        })
    });
    Ok(told.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use DeliveryMode::{Posted, Remapped, Unknown, Userspace};

    const fn at(mode: DeliveryMode, fired: u64, raised: u64, userspace: u64) -> Evidence {
        Evidence { irq: IrqNumber(33), fired, raised, userspace, mode }
    }

    #[test]
    fn modes_follow_what_happened() {
        let quiet = at(Unknown, 5, 5, 0);
        for (before, now, told, past_the_host, expected) in [
            // Seen for the first time: the row's count is old, the programs' is not.
            (None, at(Unknown, 5, 0, 0), None, false, Unknown),
            (None, at(Remapped, 5, 0, 0), None, true, Remapped),
            (None, at(Unknown, 5, 2, 0), None, false, Remapped),
            (None, at(Unknown, 5, 2, 2), None, false, Userspace),
            (None, at(Unknown, 0, 0, 0), Some(true), false, Posted),
            (None, at(Unknown, 0, 0, 0), Some(false), true, Remapped),
            // The host took one: the IOMMU may have been told otherwise since.
            (Some(quiet), at(Unknown, 6, 6, 0), Some(true), false, Remapped),
            // Taken, but not by the programs, whose VF's owner was not known yet.
            (Some(quiet), at(Unknown, 6, 5, 0), None, false, Remapped),
            (Some(quiet), at(Unknown, 9, 9, 3), None, false, Userspace),
            (Some(quiet), at(Unknown, 9, 9, 2), None, false, Remapped),
            // Nothing happened.
            (Some(quiet), quiet, None, false, Unknown),
            (Some(at(Remapped, 5, 5, 0)), quiet, None, false, Remapped),
            (Some(at(Userspace, 5, 5, 5)), quiet, None, false, Userspace),
            (Some(at(Posted, 5, 5, 0)), quiet, Some(false), false, Remapped),
            // Packets without an interrupt: where hardware may deliver, it does; seen at the host it stays there.
            (Some(quiet), quiet, None, true, Posted),
            (Some(at(Remapped, 5, 5, 0)), quiet, None, true, Remapped),
            (Some(at(Posted, 5, 5, 0)), quiet, None, false, Posted),
            // A counter that began anew, with the probes.
            (Some(quiet), at(Unknown, 5, 0, 0), None, false, Unknown),
        ] {
            let step = Step { before, now, told };
            assert_eq!(step.mode(past_the_host), expected, "{step:?} {past_the_host}");
        }
    }
}
