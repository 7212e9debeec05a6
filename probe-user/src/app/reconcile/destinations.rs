//! Which vCPU each vector is for, from what the probes have seen arrive.
//!
//! Values in, values out: counts of accepted interrupts in, destinations out.

use super::watch::TICK;
use crate::model::topology::Topology;
use crate::model::{PciAddress, Pid, VcpuId};
use crate::probes::irq_delivery::Accepted;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long the counts are read often after a vector has gone to another vCPU: the guest may be moving more of them.
const EAGER: Duration = Duration::from_secs(1);

/// How long is waited at most for a guest that moves vectors to be done with it, so that one change takes them all.
const BURST: Duration = Duration::from_millis(500);

/// A vector in the hands of one guest.
type Vector = (Pid, PciAddress, u16);

/// The last destination of every vector that has fired.
#[derive(Debug, Default)]
pub(super) struct Destinations {
    counts: BTreeMap<(Vector, VcpuId), u64>,
    last: BTreeMap<Vector, VcpuId>,
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
    /// it just now, and next time tells, or it has several. Guests of which nothing is said are forgotten, unless
    /// nothing is said at all: then the counts could not be read.
    pub(super) fn note(&mut self, accepted: &[Accepted]) -> bool {
        if accepted.is_empty() {
            self.several = false;
            return false;
        }
        let present: BTreeSet<Pid> = accepted.iter().map(|accepted| accepted.guest).collect();
        self.counts.retain(|((guest, ..), _), _| present.contains(guest));
        self.last.retain(|(guest, ..), _| present.contains(guest));
        let mut went: BTreeMap<Vector, Vec<VcpuId>> = BTreeMap::new();
        for Accepted { guest, vf, slot, vcpu, count } in accepted {
            let vector = (*guest, *vf, *slot);
            let before = self.counts.insert((vector, *vcpu), *count).unwrap_or(0);
            // A count that fell was begun anew.
            if *count > before || (*count < before && *count > 0) {
                went.entry(vector).or_default().push(*vcpu);
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
        for guest in &mut topology.guests {
            for vf in &mut guest.vfs {
                for slot in &mut vf.slots {
                    let last = self.last.get(&(guest.pid, vf.address, slot.slot));
                    slot.vcpu = last.copied().or(slot.vcpu);
                }
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

    const VF: &str = "0000:01:10.0";

    /// `guest slot vcpu count` each.
    fn seen(counts: &[(u32, u16, u32, u64)]) -> Vec<Accepted> {
        let one = |(guest, slot, vcpu, count): &(u32, u16, u32, u64)| Accepted {
            guest: Pid(*guest),
            vf: VF.parse().unwrap(),
            slot: *slot,
            vcpu: VcpuId(*vcpu),
            count: *count,
        };
        counts.iter().map(one).collect()
    }

    fn last(destinations: &Destinations, guest: u32, slot: u16) -> Option<u32> {
        destinations.last.get(&(Pid(guest), VF.parse().unwrap(), slot)).map(|vcpu| vcpu.0)
    }

    #[test]
    fn the_last_destination_counts() {
        let mut destinations = Destinations::default();
        for (counts, changed, slot_1) in [
            (&[][..], false, None),
            (&[(7, 1, 0, 5)], true, Some(0)),
            (&[(7, 1, 0, 9)], false, Some(0)),
            // Moving just now: both have got some.
            (&[(7, 1, 0, 10), (7, 1, 1, 1)], false, Some(0)),
            (&[(7, 1, 0, 10), (7, 1, 1, 4)], true, Some(1)),
            (&[(7, 1, 0, 10), (7, 1, 1, 4)], false, Some(1)),
            (&[(7, 1, 0, 10), (7, 1, 1, 4), (7, 2, 0, 0)], false, Some(1)),
            // Counted anew.
            (&[(7, 1, 0, 2), (7, 1, 1, 4)], true, Some(0)),
            // Not read.
            (&[], false, Some(0)),
        ] {
            assert_eq!(destinations.note(&seen(counts)), changed, "{counts:?}");
            assert_eq!(last(&destinations, 7, 1), slot_1, "{counts:?}");
        }
    }

    #[test]
    fn a_guest_that_is_started_again_is_another() {
        let mut destinations = Destinations::default();
        for (counts, changed, of_7, of_9) in [
            (&[(7, 1, 0, 100), (8, 1, 0, 1)][..], true, Some(0), None),
            // The other guest alone, then beside the one that has come back with the same VF.
            (&[(8, 1, 0, 1)], false, None, None),
            (&[(8, 1, 0, 1), (9, 1, 0, 5)], true, None, Some(0)),
            (&[(8, 1, 0, 1), (9, 1, 0, 5), (9, 1, 1, 2)], true, None, Some(1)),
            (&[(8, 1, 0, 1), (9, 1, 0, 8), (9, 1, 1, 2)], true, None, Some(0)),
        ] {
            assert_eq!(destinations.note(&seen(counts)), changed, "{counts:?}");
            assert_eq!(last(&destinations, 7, 1), of_7, "{counts:?}");
            assert_eq!(last(&destinations, 9, 1), of_9, "{counts:?}");
        }
        assert_eq!(destinations.counts.len(), 3, "of guests that are gone nothing is kept");
    }
}
