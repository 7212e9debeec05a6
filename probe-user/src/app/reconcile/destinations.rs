//! Which vCPU each vector is for, from what the probes have seen arrive.
//!
//! Values in, values out: counts of accepted interrupts in, destinations out.

use crate::model::topology::Topology;
use crate::model::{PciAddress, VcpuId};
use crate::probes::irq_delivery::Accepted;
use std::collections::BTreeMap;

/// The last destination of every vector that has fired.
#[derive(Debug, Default)]
pub(super) struct Destinations {
    counts: BTreeMap<(PciAddress, u16, VcpuId), u64>,
    last: BTreeMap<(PciAddress, u16), VcpuId>,
}

impl Destinations {
    /// Takes in new counts. Says whether a vector now goes to another vCPU than before, or is known for the first time.
    /// A vector that went to several vCPUs since the last time keeps its former destination: either the guest is moving
    /// it just now, and next time tells, or it has several.
    pub(super) fn note(&mut self, accepted: &[Accepted]) -> bool {
        let mut went: BTreeMap<(PciAddress, u16), Vec<VcpuId>> = BTreeMap::new();
        for Accepted { vf, slot, vcpu, count } in accepted {
            let before = self.counts.insert((*vf, *slot, *vcpu), *count).unwrap_or(0);
            // A count that fell was begun anew.
            if *count > before || (*count < before && *count > 0) {
                went.entry((*vf, *slot)).or_default().push(*vcpu);
            }
        }
        let mut changed = false;
        for (vector, vcpus) in went {
            if let [vcpu] = vcpus[..] {
                changed |= self.last.insert(vector, vcpu) != Some(vcpu);
            }
        }
        changed
    }

    /// Writes what is known into the topology.
    pub(super) fn fill(&self, topology: &mut Topology) {
        for vf in topology.guests.iter_mut().flat_map(|guest| &mut guest.vfs) {
            for slot in &mut vf.slots {
                slot.vcpu = self.last.get(&(vf.address, slot.slot)).copied().or(slot.vcpu);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_destination_counts() {
        let vf: PciAddress = "0000:01:10.0".parse().unwrap();
        let seen = |counts: &[(u16, u32, u64)]| -> Vec<Accepted> {
            let one = |(slot, vcpu, count): &(u16, u32, u64)| Accepted {
                vf,
                slot: *slot,
                vcpu: VcpuId(*vcpu),
                count: *count,
            };
            counts.iter().map(one).collect()
        };
        let mut destinations = Destinations::default();
        for (counts, changed, slot_1) in [
            (&[][..], false, None),
            (&[(1, 0, 5)], true, Some(0)),
            (&[(1, 0, 9)], false, Some(0)),
            // Moving just now: both have got some.
            (&[(1, 0, 10), (1, 1, 1)], false, Some(0)),
            (&[(1, 0, 10), (1, 1, 4)], true, Some(1)),
            (&[(1, 0, 10), (1, 1, 4)], false, Some(1)),
            (&[(1, 0, 10), (1, 1, 4), (2, 0, 0)], false, Some(1)),
            // Counted anew.
            (&[(1, 0, 2), (1, 1, 4)], true, Some(0)),
        ] {
            assert_eq!(destinations.note(&seen(counts)), changed, "{counts:?}");
            assert_eq!(destinations.last.get(&(vf, 1)).map(|v| v.0), slot_1, "{counts:?}");
        }
    }
}
