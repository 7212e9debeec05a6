//! The transaction against random hosts in memory: whatever fails wherever, the host ends as it was or as planned.

use super::ApplyError;
use super::memory::{Event, MemoryHost};
use super::model_tests::{Bench, irq, plan, state_dir, step, thread, unless_killed, vcpu, without_gone};
use crate::model::{CpuId, CpuSet, Knob, Value};
use crate::plan::{Need, Plan, Role, Step, Target};
use proptest::prelude::*;

fn any_set() -> impl Strategy<Value = CpuSet> {
    proptest::collection::btree_set(0_u32..4, 1..4).prop_map(|set| set.into_iter().map(CpuId).collect())
}

fn any_need() -> impl Strategy<Value = Need> {
    proptest::sample::select(vec![Need::Required, Need::WhilePresent, Need::BestEffort])
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Managed),
        Just(Event::NoVector),
        Just(Event::KilledBefore),
        Just(Event::KilledAfter),
        Just(Event::Vanishes),
        Just(Event::Trimmed),
        Just(Event::Invalid),
        Just(Event::TooHigh),
        any_set().prop_map(Event::Foreign),
    ]
}

#[derive(Clone, Debug)]
struct Wish {
    now: CpuSet,
    fires_on: prop::sample::Index,
    new: CpuSet,
    need: Need,
}

fn any_wish() -> impl Strategy<Value = Wish> {
    (any_set(), any::<prop::sample::Index>(), any_set(), any_need())
        .prop_map(|(now, fires_on, new, need)| Wish { now, fires_on, new, need })
}

/// Interrupts, threads, the default mask and knobs in turn.
fn target(at: u32) -> Target {
    match at % 4 {
        0 => irq(at),
        1 => thread(10 + at, Role::Host),
        2 if at == 2 => Target::DefaultAffinity,
        2 => vcpu(100 + at),
        _ if at == 3 => Target::Knob(Knob::Workqueues),
        _ => Target::Knob(Knob::IdleLatency { cpu: CpuId(at) }),
    }
}

/// The CPUs as a value of that target: knobs that are about something else have them as a text.
fn value(target: &Target, cpus: &CpuSet) -> Value {
    match target {
        Target::Knob(Knob::IdleLatency { .. }) => Value::text(&cpus.to_string()),
        _ => cpus.clone().into(),
    }
}

fn random_bench(wishes: &[Wish]) -> (Bench, Plan) {
    let bench = Bench { host: MemoryHost::default(), dir: state_dir() };
    let mut steps = Vec::new();
    for (wish, at) in wishes.iter().zip(0..) {
        let target = target(at);
        let fires_on = wish.now.iter().nth(wish.fires_on.index(wish.now.len())).map(CpuSet::from);
        let effective = fires_on.filter(|_| matches!(target, Target::Irq(_)));
        bench.host.add(target.clone(), value(&target, &wish.now), effective);
        if wish.now != wish.new {
            let new = value(&target, &wish.new);
            steps.push(Step { new, ..step(&bench.host, target, &wish.new, wish.need) });
        }
    }
    (bench, plan(steps))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Whatever happens at any write of `apply`: afterwards the plan holds but for what it does not need, or nothing of
    /// it does; and rollback leaves what was found, also when it is killed itself and repeated.
    #[test]
    fn all_or_nothing(
        wishes in proptest::collection::vec(any_wish(), 1..10),
        event in proptest::option::of((0_u32..10, any_event())),
        second_kill in proptest::option::of((0_u32..10, any::<bool>())),
    ) {
        let (bench, plan) = random_bench(&wishes);
        let before = bench.host.snapshot();
        if let Some((at, event)) = event.clone() {
            bench.host.at_write(at, event);
        }
        let outcome = unless_killed(|| bench.apply(&plan));
        bench.host.calm();
        let foreign = matches!(event, Some((_, Event::Foreign(_))));
        let after = bench.host.snapshot();
        match &outcome {
            Some(Ok(applied)) if !foreign => {
                for step in &plan.steps {
                    let key = step.target.key();
                    let skipped = applied.skipped.iter().any(|s| s.target == step.target);
                    let expect = if skipped { &step.now } else { &step.new };
                    if let Some(slot) = after.get(&key) {
                        prop_assert_eq!(&slot.value, expect);
                    } else {
                        prop_assert!(skipped);
                    }
                }
                prop_assert_ne!(bench.holds(), Some(false));
            }
            Some(Err(ApplyError::RolledBack(_))) if !foreign => {
                prop_assert_eq!(&after, &without_gone(before.clone(), &after));
                prop_assert!(!bench.state().journal_path().exists());
            }
            Some(Err(ApplyError::RolledBack(_) | ApplyError::Incomplete(_)) | Ok(_)) | None => {}
            Some(Err(error)) => prop_assert!(false, "{}", error),
        }
        if let Some((at, before_it)) = second_kill {
            bench.host.at_write(at, if before_it { Event::KilledBefore } else { Event::KilledAfter });
            unless_killed(|| bench.rollback());
            bench.host.calm();
        }
        prop_assert!(bench.rollback().is_complete());
        let end = bench.host.snapshot();
        if foreign {
            // What somebody else set stays; everything else is as it was.
            let differing = end.iter().filter(|(key, slot)| before.get(key).map(|s| &s.value) != Some(&slot.value));
            prop_assert!(differing.count() <= 1);
        } else {
            prop_assert_eq!(&end, &without_gone(before, &end));
        }
        prop_assert!(!bench.state().journal_path().exists());
        prop_assert!(bench.rollback().undone.is_empty());
    }
}
