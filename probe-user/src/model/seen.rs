//! What was seen of VFs' vectors: how each reaches its guest, and which vCPUs its interrupts were for. A topology that is read
//! anew knows neither.

use super::topology::{DeliveryMode, Guest, Slot, Topology, Vf};
use super::{IrqNumber, PciAddress, Pid, VcpuId};
use std::collections::BTreeMap;
use std::time::Duration;

/// A vector in the hands of one guest. One whose interrupt was made anew is another: nothing is known of it yet.
type Key = (Pid, PciAddress, u16, IrqNumber);

/// What was seen of vectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// For how long interrupts were counted; `None` when they were not.
    length: Option<Duration>,
    vectors: BTreeMap<Key, Vector>,
}

/// What was seen of one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Vector {
    mode: DeliveryMode,
    guest_vector: Option<u8>,
    /// Where the last interrupt went.
    vcpu: Option<VcpuId>,
    /// Interrupts, by the vCPU that they were for.
    counts: BTreeMap<VcpuId, u64>,
}

impl Seen {
    /// What a topology holds that was filled in by one who looked.
    #[must_use]
    pub fn of(topology: &Topology) -> Self {
        let vectors = topology.guests.iter().flat_map(slots).map(|(guest, vf, slot)| {
            let Slot { guest_vector, vcpu, mode, .. } = slot;
            let vector =
                Vector { mode: *mode, guest_vector: *guest_vector, vcpu: *vcpu, counts: BTreeMap::new() };
            (key(guest.pid, vf.address, slot), vector)
        });
        Self { length: None, vectors: vectors.collect() }
    }

    /// The same, with how many interrupts each vCPU got of a VF's slot within `length`.
    #[must_use]
    pub fn counted(
        mut self,
        length: Duration,
        counts: impl IntoIterator<Item = (PciAddress, u16, VcpuId, u64)>,
    ) -> Self {
        self.length = Some(length);
        for (vf, slot, vcpu, count) in counts.into_iter().filter(|(.., count)| *count > 0) {
            let of_slot =
                self.vectors.iter_mut().filter(|((_, at, number, _), _)| (*at, *number) == (vf, slot));
            of_slot.for_each(|(_, vector)| *vector.counts.entry(vcpu).or_default() += count);
        }
        self
    }

    /// For how long interrupts were counted; `None` when they were not.
    #[must_use]
    pub fn length(&self) -> Option<Duration> {
        self.length
    }

    /// How many interrupts of a vector were seen for that vCPU, and how many in all.
    #[must_use]
    pub fn share(&self, guest: Pid, vf: PciAddress, slot: &Slot, vcpu: VcpuId) -> (u64, u64) {
        let Some(vector) = self.vectors.get(&key(guest, vf, slot)) else { return (0, 0) };
        (vector.counts.get(&vcpu).copied().unwrap_or(0), vector.counts.values().sum())
    }

    /// Fills what is known into a topology that was read later. Vectors whose guest or interrupt is another by now stay as
    /// they were read.
    pub fn fill(&self, topology: &mut Topology) {
        for guest in &mut topology.guests {
            let Guest { pid, vfs, .. } = guest;
            for Vf { address, slots, .. } in vfs {
                for slot in slots {
                    let Some(vector) = self.vectors.get(&key(*pid, *address, slot)) else { continue };
                    if vector.mode != DeliveryMode::Unknown {
                        slot.mode = vector.mode;
                    }
                    slot.guest_vector = vector.guest_vector.or(slot.guest_vector);
                    slot.vcpu = vector.vcpu.or(slot.vcpu);
                }
            }
        }
    }
}

fn key(guest: Pid, vf: PciAddress, slot: &Slot) -> Key {
    (guest, vf, slot.slot, slot.irq)
}

fn slots(guest: &Guest) -> impl Iterator<Item = (&Guest, &Vf, &Slot)> {
    guest.vfs.iter().flat_map(move |vf| vf.slots.iter().map(move |slot| (guest, vf, slot)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{HostShape, add_slots, guest, host};

    fn fresh() -> Topology {
        let mut topology = host(HostShape { nodes: 1, cores: 4, threads: 1 });
        topology.guests = vec![guest("vm1", 2, None)];
        add_slots(&mut topology, 0, 30, 2, "0-3");
        topology.guests[0].vfs[0].slots.iter_mut().for_each(|slot| slot.mode = DeliveryMode::Unknown);
        topology
    }

    #[test]
    fn what_was_seen_of_a_vector_is_known_as_long_as_it_is_the_same() {
        let mut looked = fresh();
        let slot = &mut looked.guests[0].vfs[0].slots[0];
        (slot.mode, slot.vcpu, slot.guest_vector) = (DeliveryMode::Posted, Some(VcpuId(1)), Some(42));
        let seen = Seen::of(&looked);
        let check = |change: fn(&mut Topology), expected: (DeliveryMode, Option<u32>, Option<u8>)| {
            let mut later = fresh();
            change(&mut later);
            seen.fill(&mut later);
            let slot = &later.guests[0].vfs[0].slots[0];
            assert_eq!((slot.mode, slot.vcpu.map(|vcpu| vcpu.0), slot.guest_vector), expected);
            assert_eq!(later.guests[0].vfs[0].slots[1], fresh().guests[0].vfs[0].slots[1], "not seen");
        };
        check(|_| {}, (DeliveryMode::Posted, Some(1), Some(42)));
        let nothing = (DeliveryMode::Unknown, None, None);
        check(|later| later.guests[0].vfs[0].slots[0].irq = IrqNumber(50), nothing);
        check(|later| later.guests[0].pid = Pid(50), nothing);
        check(|later| later.guests[0].vfs[0].address.function = 7, nothing);
    }

    #[test]
    fn interrupts_are_counted_by_vcpu() {
        let topology = fresh();
        let (pid, vf) = (topology.guests[0].pid, &topology.guests[0].vfs[0]);
        let other = PciAddress { function: 7, ..vf.address };
        let seen = Seen::of(&topology).counted(
            Duration::from_secs(2),
            [(vf.address, 0, VcpuId(0), 20), (vf.address, 0, VcpuId(1), 100), (other, 0, VcpuId(0), 9)],
        );
        let share = |slot: usize, vcpu| seen.share(pid, vf.address, &vf.slots[slot], VcpuId(vcpu));
        assert_eq!((share(0, 1), share(0, 0), share(1, 0)), ((100, 120), (20, 120), (0, 0)));
        assert_eq!((seen.length(), Seen::of(&topology).length()), (Some(Duration::from_secs(2)), None));
    }
}
