//! Which vCPU each vector is for, from what the probes have seen arrive.
//!
//! Values in, values out: counts of accepted interrupts in, destinations out.

use super::watch::TICK;
use crate::model::topology::Topology;
use crate::model::{PciAddress, VcpuId};
use crate::probes::irq_delivery::Accepted;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the counts are read often after a vector has gone to another vCPU: the guest may be moving more of them.
const EAGER: Duration = Duration::from_secs(1);

/// How long is waited at most for a guest that moves vectors to be done with it, so that one change takes them all.
const BURST: Duration = Duration::from_millis(500);

/// The last destination of every vector that has fired.
#[derive(Debug, Default)]
pub(super) struct Destinations {
    counts: BTreeMap<(PciAddress, u16, VcpuId), u64>,
    last: BTreeMap<(PciAddress, u16), VcpuId>,
    /// The probes' sign of moved vectors, and until when the counts are read often.
    moves: u64,
    eager: Duration,
    /// When the first and the last of the moves were seen that came in one go.
    burst: Option<(Duration, Duration)>,
    /// Whether a vector went to several vCPUs since the time before.
    several: bool,
}

impl Destinations {
    /// Whether the counts are worth reading: by the probes' sign of that, a vector has moved since the last time, or did so a
    /// moment ago.
    pub(super) fn have_moved(&mut self, moves: u64, now: Duration) -> bool {
        if moves != self.moves {
            self.moves = moves;
            self.eager = now + EAGER;
            let began = self.burst.map_or(now, |(began, _)| began);
            self.burst = Some((began, now));
        }
        let eager = now < self.eager;
        if !eager {
            self.burst = None;
        }
        eager
    }

    /// Whether more vectors are about to move, as far as that can be told at `now`: one did so since the last time, or goes to
    /// two vCPUs still.
    pub(super) fn are_moving(&self, now: Duration) -> bool {
        self.burst.is_some_and(|(began, last)| (last == now || self.several) && now < began + BURST)
    }

    /// When to read them again: while vectors are moving, soon.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        (now < self.eager).then_some(now + TICK)
    }

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
        self.several = went.values().any(|vcpus| vcpus.len() > 1);
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
    fn counts_are_read_often_while_vectors_move() {
        let mut destinations = Destinations::default();
        for (at, moves, expected) in [
            (0, 0, false),
            (100, 1, true),
            (1000, 1, true),
            (1100, 1, false),
            (1200, 2, true),
            (2100, 0, true),
        ] {
            assert_eq!(destinations.have_moved(moves, Duration::from_millis(at)), expected, "at {at} ms");
        }
    }

    #[test]
    fn moves_in_one_go_are_waited_for_a_while() {
        let at = Duration::from_millis;
        let mut destinations = Destinations::default();
        for (now, moves, several, moving) in [
            (0, 0, false, false),
            (100, 1, false, true),
            (200, 1, true, true),
            (300, 1, false, false),
            (400, 2, false, true),
            (500, 3, false, true),
            (600, 4, true, false),
            // Another burst.
            (1600, 4, false, false),
            (1700, 5, false, true),
        ] {
            destinations.have_moved(moves, at(now));
            destinations.several = several;
            assert_eq!(destinations.are_moving(at(now)), moving, "at {now} ms");
        }
    }

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
