//! Timelines from invented events: every outcome, gaps, order, and which are kept.

use super::*;

const VCPU: u32 = 77;

fn id(raise_ns: u64) -> Id {
    Id { raise_ns, vf: "0000:01:10.0".parse().unwrap(), slot: 1 }
}

fn hop(ns: u64, what: What) -> Hop {
    Hop { ns, cpu: 0, tid: 0, comm: "swapper/0".to_owned(), what }
}

fn own(raise_ns: u64, ns: u64, what: What) -> Event {
    let about_vcpu = !matches!(what, What::Raised { .. } | What::Handled | What::Queued | What::Worked);
    Event { hop: hop(ns, what), id: Some(id(raise_ns)), vcpu: about_vcpu.then_some(VCPU) }
}

fn shared(ns: u64, what: What) -> Event {
    Event { hop: hop(ns, what), id: None, vcpu: Some(VCPU) }
}

fn accepted(pending: bool, running: bool) -> What {
    What::Accepted { vector: 38, pending, running: Some(running), vcpu_id: 0, vcpu_cpu: Some(1) }
}

fn raised(busy: bool) -> What {
    What::Raised { irq: 32, busy }
}

const INJECTED: What = What::Injected { vector: 38 };

fn joiner(keep: Keep, longer_than: Option<u64>) -> Joiner {
    let who = Who {
        guests: [("0000:01:10.0".parse().unwrap(), "vm1".to_owned())].into(),
        vcpus: [(VCPU, "3".to_owned())].into(),
    };
    Joiner::new(who, keep, longer_than)
}

fn joined(events: Vec<Event>) -> Joined {
    let mut joiner = joiner(Keep::First(100), None);
    joiner.add(events);
    joiner.finish()
}

/// Raised at `ns`, delivered `length` later.
fn delivered(ns: u64, length: u64) -> Vec<Event> {
    vec![
        own(ns, ns, raised(false)),
        own(ns, ns + 1, accepted(false, true)),
        own(ns, ns + 2, What::Handled),
        own(ns, ns + 3, INJECTED),
        own(ns, ns + length, What::Entered),
        own(ns, ns + length + 5, What::Ended),
    ]
}

#[test]
fn a_sleeping_vcpus_interrupt_has_every_stage() {
    let events = vec![
        own(100, 100, raised(false)),
        own(100, 110, accepted(false, false)),
        shared(112, What::Waking),
        own(100, 115, What::Handled),
        shared(130, What::SwitchedIn),
        shared(140, What::HaltEnded { slept: true }),
        own(100, 150, INJECTED),
        own(100, 160, What::Entered),
        // After its entry, the vCPU's business is no longer its own.
        shared(170, What::Exited { reason: "IOIO".to_owned() }),
        own(100, 180, What::Ended),
    ];
    let mut reversed = events.clone();
    reversed.reverse();
    let result = joined(events);
    assert_eq!(result, joined(reversed), "order within a batch does not matter");
    let [timeline] = result.timelines.as_slice() else { panic!("{result:?}") };
    assert_eq!((timeline.guest.as_str(), timeline.vcpu.as_deref()), ("vm1", Some("3")));
    assert_eq!((timeline.irq(), timeline.vector(), timeline.complete), (Some(32), Some(38), true));
    assert_eq!(timeline.outcome, Outcome::Delivered);
    assert_eq!(timeline.hops.len(), 9);
    let stages = timeline.stages().named().map(|(_, ns)| ns);
    assert_eq!(stages, [Some(10), Some(20), Some(30), Some(60), Some(20)]);
}

#[test]
fn what_becomes_of_an_interrupt() {
    use Outcome::{Coalesced, Delivered, Hardware, Merged, Open, Userspace};
    let (irq, end) = (own(1, 1, raised(false)), own(1, 9, What::Handled));
    let accept = own(1, 2, accepted(false, true));
    let queued = own(1, 3, What::Queued);
    let cases: [(Vec<Event>, Outcome, bool); 10] = [
        (vec![irq.clone(), accept.clone(), own(1, 3, What::Hardware), end.clone()], Hardware, true),
        (vec![irq.clone(), own(1, 2, accepted(true, true)), end.clone()], Coalesced, true),
        // KVM had taken the one that waited already: it is injected by itself.
        (
            vec![
                irq.clone(),
                own(1, 2, accepted(true, true)),
                end.clone(),
                own(1, 10, INJECTED),
                own(1, 11, What::Entered),
            ],
            Delivered,
            true,
        ),
        (vec![irq.clone(), accept.clone(), end.clone()], Open, true),
        (vec![irq.clone(), queued.clone(), end.clone()], Open, true),
        (vec![own(1, 1, raised(true)), end.clone()], Merged, true),
        (vec![irq.clone(), end.clone()], Userspace, true),
        (vec![irq], Open, true),
        (vec![own(1, 10, INJECTED), own(1, 11, What::Entered)], Delivered, false),
        (vec![end], Open, false),
    ];
    for (events, outcome, complete) in cases {
        let result = joined(events.clone());
        let [timeline] = result.timelines.as_slice() else { panic!("{events:?}") };
        assert_eq!((timeline.outcome, timeline.complete), (outcome, complete), "{events:?}");
        assert_eq!(result.incomplete, u64::from(!complete));
    }
}

#[test]
fn inject_is_not_known_without_the_end_of_the_wait() {
    let events = vec![
        own(1, 1, raised(false)),
        own(1, 2, accepted(false, false)),
        own(1, 30, INJECTED),
        own(1, 40, What::Entered),
    ];
    let stages = joined(events).timelines[0].stages();
    assert_eq!((stages.wake, stages.inject, stages.delivery), (None, None, Some(39)));
}

#[test]
fn the_slow_path_has_its_hops() {
    let result = joined(vec![
        own(1, 1, raised(false)),
        own(1, 3, What::Queued),
        own(1, 4, What::Handled),
        own(1, 8, What::Worked),
        own(1, 9, accepted(false, true)),
        own(1, 12, INJECTED),
        own(1, 13, What::Entered),
        own(1, 20, What::Ended),
    ]);
    assert_eq!(result.timelines[0].outcome, Outcome::Delivered);
    assert_eq!(result.timelines[0].stages().dispatch, Some(8));
}

#[test]
fn one_for_several_vcpus_is_over_when_all_are_done() {
    let other = |ns, what| Event { vcpu: Some(78), ..own(1, ns, what) };
    let mut joiner = joiner(Keep::First(9), None);
    joiner.add(vec![
        own(1, 1, raised(false)),
        own(1, 2, accepted(false, true)),
        other(3, accepted(false, true)),
        own(1, 4, What::Handled),
        own(1, 5, What::Ended),
    ]);
    assert!(!joiner.settled());
    joiner.add(vec![other(6, What::Ended)]);
    assert!(joiner.settled());
}

#[test]
fn which_are_kept() {
    let cases: [(Keep, Option<u64>, &[u64], u64); 5] = [
        (Keep::First(2), None, &[1000, 2000], 4),
        (Keep::First(9), Some(50), &[2000, 4000], 2),
        (Keep::Slowest(2), None, &[4000, 2000], 4),
        (Keep::Slowest(9), Some(60), &[4000], 1),
        (Keep::Slowest(0), None, &[], 4),
    ];
    for (keep, longer_than, expected, matched) in cases {
        let mut joiner = joiner(keep, longer_than);
        for (ns, length) in [(1000, 10), (2000, 60), (3000, 20), (4000, 90)] {
            joiner.add(delivered(ns, length));
        }
        assert_eq!(joiner.full(), keep == Keep::First(2), "{keep:?}");
        let result = joiner.finish();
        let kept: Vec<u64> = result.timelines.iter().map(|t| t.id.raise_ns).collect();
        assert_eq!((kept.as_slice(), result.matched, result.seen), (expected, matched, 4), "{keep:?}");
    }
}

#[test]
fn the_slowest_are_kept_in_bounded_memory() {
    let mut joiner = joiner(Keep::Slowest(3), None);
    for n in 0..10_000u64 {
        joiner.add(delivered(1000 * n + 1, 10 + n % 700));
        assert!(joiner.joined.timelines.len() <= 64);
    }
    let result = joiner.finish();
    let lengths: Vec<_> = result.timelines.iter().map(|t| t.stages().delivery).collect();
    assert_eq!(lengths, [Some(709); 3]);
    assert_eq!(result.seen, 10_000);
}

#[test]
fn nothing_is_waited_for_for_ever() {
    let mut joiner = joiner(Keep::First(9), None);
    joiner.add(vec![own(1, 1, raised(false)), own(1, 2, accepted(false, true))]);
    joiner.expire(1_000_000_000);
    assert!(!joiner.settled());
    joiner.expire(3_000_000_000);
    assert!(joiner.settled());
    // What is said of the vCPU from now on is nobody's.
    joiner.add(vec![shared(3_000_000_001, What::Waking)]);
    assert!(joiner.settled());
    assert_eq!(joiner.finish().timelines[0].outcome, Outcome::Open);
}
