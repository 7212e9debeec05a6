//! The transaction against hosts in memory: whatever fails wherever, the host ends as it was or as planned.

use super::memory::{Event, Killed, MemoryHost, Slot};
use super::{
    Applied, ApplyError, Options, Outcome, RollbackOptions, RollbackReport, StateDir, apply, release_gone,
    rollback, settled, verify,
};
use crate::model::{CpuId, CpuSet, IrqNumber, Knob, Pid, Tid, Value, VcpuId};
use crate::plan::{IrqTarget, Need, PLAN_SCHEMA, Plan, Role, Step, Target, TargetKey, ThreadTarget};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

fn irq(number: u32) -> Target {
    let actions = format!("vfio-msix[{number}](0000:01:10.0)");
    Target::Irq(IrqTarget { number: IrqNumber(number), actions, vector: None })
}

fn thread(tid: u32, role: Role) -> Target {
    let comm = format!("t{tid}");
    Target::Thread(ThreadTarget { pid: Pid(tid / 10 * 10), tid: Tid(tid), start_time: 5, comm, role })
}

fn vcpu(tid: u32) -> Target {
    thread(tid, Role::Vcpu { guest: "vm1".to_owned(), index: VcpuId(0) })
}

fn step(host: &MemoryHost, target: Target, new: &CpuSet, need: Need) -> Step {
    let slot: Slot = host.snapshot()[&target.key()].clone();
    let Slot { target, value: now, effective } = slot;
    Step { target, now, effective, new: new.clone().into(), need, reason: "test".to_owned() }
}

fn plan(steps: Vec<Step>) -> Plan {
    Plan {
        schema: PLAN_SCHEMA,
        config: "own".to_owned(),
        guests: vec!["vm1".to_owned()],
        guarded: cpus("2"),
        housekeeping: cpus("0-1,3"),
        steps,
        notes: Vec::new(),
    }
}

/// A folder in memory where there is one: the journal is synced often, and thousands of cases need no disk for that.
fn state_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A state folder with a host beside it.
struct Bench {
    host: MemoryHost,
    dir: tempfile::TempDir,
}

impl Bench {
    /// Interrupt 30 on CPUs 0-3 firing on 1, threads 10 (a vCPU) and 11 on 0-3, default mask 0-3.
    fn new() -> Self {
        let host = MemoryHost::default();
        host.add(irq(30), cpus("0-3"), Some(cpus("1")));
        host.add(vcpu(10), cpus("0-3"), None);
        host.add(thread(11, Role::Host), cpus("0-3"), None);
        host.add(Target::DefaultAffinity, cpus("0-3"), None);
        Self { host, dir: state_dir() }
    }

    fn state(&self) -> StateDir {
        StateDir::new(self.dir.path())
    }

    fn plan(&self) -> Plan {
        plan(vec![
            step(&self.host, Target::DefaultAffinity, &cpus("0-1,3"), Need::Required),
            step(&self.host, thread(11, Role::Host), &cpus("0-1,3"), Need::BestEffort),
            step(&self.host, vcpu(10), &cpus("2"), Need::Required),
            step(&self.host, irq(30), &cpus("2"), Need::Required),
        ])
    }

    fn apply(&self, plan: &Plan) -> Result<Applied, ApplyError> {
        let lock = self.state().lock().unwrap();
        apply(&self.host, plan, &lock, &Options { settle: Duration::ZERO, interrupted: &|| false })
    }

    fn rollback(&self) -> RollbackReport {
        let lock = self.state().lock().unwrap();
        rollback(&self.host, &lock, &RollbackOptions { settle: Duration::ZERO, salvage: false }).unwrap()
    }

    fn holds(&self) -> Option<bool> {
        let journal = self.state().load().unwrap();
        let found = verify(&self.host, &journal, "");
        // The journal alone says the same of what is in force.
        let expected = match &found {
            None => Some(Vec::new()),
            Some(found) => found.settled.then(|| found.configs.clone()),
        };
        assert_eq!(settled(&journal, ""), expected);
        assert_eq!(settled(&journal, "of another boot"), Some(Vec::new()));
        found.map(|in_force| in_force.holds())
    }

    fn value(&self, target: &Target) -> String {
        self.host.snapshot()[&target.key()].value.to_string()
    }
}

/// Runs something that a kill may end. `None` when it did.
fn unless_killed<T>(run: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(value) => Some(value),
        Err(payload) if payload.is::<Killed>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

#[test]
fn applied_verified_and_undone() {
    let bench = Bench::new();
    let before = bench.host.snapshot();
    let applied = bench.apply(&bench.plan()).unwrap();
    assert_eq!(applied, Applied { steps: 4, skipped: vec![], pending: vec![] });
    assert_eq!(bench.holds(), Some(true));
    assert_eq!((bench.value(&irq(30)).as_str(), bench.value(&vcpu(10)).as_str()), ("2", "2"));
    assert!(bench.rollback().is_complete());
    assert_eq!(bench.host.snapshot(), before);
    assert_eq!(bench.holds(), None);
    assert!(bench.rollback().undone.is_empty());
    assert!(bench.dir.path().join("journal.last").exists());
}

#[test]
fn a_plan_that_no_longer_fits_changes_nothing() {
    let bench = Bench::new();
    let plan = bench.plan();
    bench.host.set(&vcpu(10).key(), cpus("1"));
    bench.host.remove(&irq(30).key());
    let before = bench.host.snapshot();
    let Err(ApplyError::Stale(what)) = bench.apply(&plan) else { panic!("it must be refused") };
    assert_eq!(
        what,
        ["vm1 vCPU 0 (thread 10) is set to 1, not to 0-3", "irq 30 vfio-msix[30](0000:01:10.0) is gone"]
    );
    assert_eq!(bench.host.snapshot(), before);
    assert!(!bench.state().journal_path().exists());
}

#[test]
fn what_is_not_needed_may_fail() {
    // The write to thread 11 is the second one.
    for event in [Event::Managed, Event::Trimmed] {
        let bench = Bench::new();
        let before = bench.host.snapshot();
        bench.host.at_write(1, event);
        let applied = bench.apply(&bench.plan()).unwrap();
        assert_eq!((applied.steps, applied.skipped.len()), (3, 1));
        assert!(applied.skipped[0].refused);
        assert_eq!(bench.value(&thread(11, Role::Host)), "0-3");
        assert_eq!(bench.state().load().unwrap().immovable().count(), 1);
        assert!(bench.rollback().is_complete());
        assert_eq!(bench.host.snapshot(), before);
    }
}

#[test]
fn what_is_gone_or_was_changed_is_not_refused() {
    let helper = thread(11, Role::Host);
    let gone_before = |bench: &Bench| bench.host.remove(&helper.key());
    let gone_at_the_write = |bench: &Bench| bench.host.at_write(1, Event::Vanishes);
    let changed = |bench: &Bench| bench.host.set(&helper.key(), cpus("1"));
    let refused = |bench: &Bench| bench.host.at_write(1, Event::Invalid);
    type Happens<'a> = &'a dyn Fn(&Bench);
    let cases: [(Happens<'_>, bool); 4] =
        [(&gone_before, false), (&gone_at_the_write, false), (&changed, false), (&refused, true)];
    for (n, (happens, expected)) in cases.into_iter().enumerate() {
        let bench = Bench::new();
        let plan = bench.plan();
        happens(&bench);
        let applied = bench.apply(&plan).unwrap();
        let skipped: Vec<_> = applied.skipped.iter().map(|s| (&s.target, s.refused)).collect();
        assert_eq!(skipped, [(&helper, expected)], "case {n}");
    }
}

#[test]
fn a_signal_rolls_back() {
    let bench = Bench::new();
    let before = bench.host.snapshot();
    let asked = std::cell::Cell::new(0);
    let interrupted = || {
        asked.set(asked.get() + 1);
        asked.get() > 2
    };
    let lock = bench.state().lock().unwrap();
    let options = Options { settle: Duration::ZERO, interrupted: &interrupted };
    let error = apply(&bench.host, &bench.plan(), &lock, &options).unwrap_err();
    assert_eq!(error.to_string(), "interrupted by a signal; everything was rolled back");
    assert_eq!(bench.host.snapshot(), before);
}

#[test]
fn somebody_elses_values_stay() {
    let bench = Bench::new();
    bench.apply(&bench.plan()).unwrap();
    bench.host.set(&vcpu(10).key(), cpus("3"));
    bench.host.remove(&irq(30).key());
    assert_eq!(bench.holds(), Some(false));
    let report = bench.rollback();
    assert!(report.is_complete());
    let foreign: Vec<String> = report.foreign().map(|(target, found)| format!("{target}: {found}")).collect();
    assert_eq!(foreign, ["vm1 vCPU 0 (thread 10): 3"]);
    assert!(report.undone.iter().any(|u| matches!(u.outcome, Outcome::Gone)));
    assert_eq!(bench.value(&vcpu(10)), "3");
    assert_eq!(bench.value(&Target::DefaultAffinity), "0-3");
}

#[test]
fn a_second_plan_goes_on_top_and_both_are_undone() {
    let bench = Bench::new();
    let before = bench.host.snapshot();
    bench.apply(&bench.plan()).unwrap();
    let second = plan(vec![
        step(&bench.host, vcpu(10), &cpus("3"), Need::Required),
        step(&bench.host, irq(30), &cpus("3"), Need::Required),
    ]);
    bench.apply(&second).unwrap();
    assert_eq!((bench.holds(), bench.value(&irq(30)).as_str()), (Some(true), "3"));

    // One that fails takes only itself back.
    let third = plan(vec![
        step(&bench.host, vcpu(10), &cpus("1"), Need::Required),
        step(&bench.host, irq(30), &cpus("1"), Need::Required),
    ]);
    bench.host.at_write(1, Event::NoVector);
    assert!(matches!(bench.apply(&third), Err(ApplyError::RolledBack(_))));
    assert_eq!((bench.value(&vcpu(10)).as_str(), bench.holds()), ("3", Some(true)));

    assert!(bench.rollback().is_complete());
    assert_eq!(bench.host.snapshot(), before);
}

#[test]
fn what_is_gone_is_let_go_and_the_rest_stays() {
    let bench = Bench::new();
    let before = bench.host.snapshot();
    bench.apply(&bench.plan()).unwrap();
    bench.host.remove(&irq(30).key());
    bench.host.remove(&vcpu(10).key());
    assert_eq!(bench.holds(), Some(false));
    let release = || release_gone(&bench.host, &bench.state().lock().unwrap()).unwrap().len();
    assert_eq!((release(), release()), (2, 0));
    assert_eq!((bench.holds(), bench.value(&Target::DefaultAffinity).as_str()), (Some(true), "0-1,3"));

    // What nobody needs any more goes back by a step of its own, and is then no longer on record.
    let back = plan(vec![step(&bench.host, thread(11, Role::Host), &cpus("0-3"), Need::BestEffort)]);
    bench.apply(&back).unwrap();
    let standing = bench.state().load().unwrap().standing();
    assert_eq!(standing.iter().map(|s| s.target.clone()).collect::<Vec<_>>(), [Target::DefaultAffinity]);
    assert!(bench.rollback().is_complete());
    let after = bench.host.snapshot();
    assert_eq!(after, without_gone(before, &after));
}

#[test]
fn a_configuration_for_other_guests_is_recorded_though_nothing_changes() {
    let bench = Bench::new();
    bench.apply(&bench.plan()).unwrap();
    let others = Plan { guests: vec!["vm2".to_owned()], guarded: cpus("3"), ..plan(Vec::new()) };
    assert_eq!(bench.apply(&others).unwrap(), Applied::default());
    let found = verify(&bench.host, &bench.state().load().unwrap(), "").unwrap();
    assert_eq!((found.guests, found.guarded.to_string()), (vec!["vm2".to_owned()], "3".to_owned()));
    assert!(bench.rollback().is_complete());
}

#[test]
fn another_boot_voids_the_journal() {
    let bench = Bench::new();
    bench.apply(&bench.plan()).unwrap();
    bench.host.reboot();
    let before = bench.host.snapshot();
    let report = bench.rollback();
    assert!(report.undone.is_empty() && report.notes[0].contains("another boot"), "{report:?}");
    assert_eq!(bench.host.snapshot(), before);
    assert!(!bench.state().journal_path().exists());
}

#[test]
fn threads_that_were_created_since_are_given_back_too() {
    let bench = Bench::new();
    bench.apply(&bench.plan()).unwrap();
    // A thread beside the vCPU's; a grandchild of process 10, where thread 11 is; one with a mask of its own; a stranger.
    bench.host.spawn(1, 10, 15, cpus("2"));
    bench.host.spawn(10, 60, 60, cpus("0-3"));
    bench.host.spawn(60, 70, 71, cpus("0-1,3"));
    bench.host.spawn(10, 80, 81, cpus("1"));
    bench.host.spawn(1, 90, 91, cpus("0-1,3"));
    bench.rollback();
    let masks = [15, 71, 81, 91].map(|tid| bench.host.newcomer(tid).to_string());
    assert_eq!(masks, ["0-3", "0-3", "1", "0-1,3"]);
}

#[test]
fn interrupts_that_came_under_our_default_mask_get_the_old_one() {
    let bench = Bench::new();
    bench.host.add(irq(20), cpus("0-1,3"), None);
    bench.apply(&bench.plan()).unwrap();
    // The guest has enabled MSI-X again: the same number and a new one; and somebody has one of a mask of his own.
    bench.host.add(irq(30), cpus("0-1,3"), None);
    bench.host.add(irq(31), cpus("0-1,3"), None);
    bench.host.add(irq(32), cpus("1"), None);
    assert!(bench.rollback().is_complete());
    let masks = [20, 30, 31, 32].map(|number| bench.value(&irq(number)));
    assert_eq!(masks, ["0-1,3", "0-3", "0-3", "1"]);
}

#[test]
fn one_instance_at_a_time() {
    let bench = Bench::new();
    let _first = bench.state().lock().unwrap();
    let error = bench.state().lock().unwrap_err().to_string();
    assert!(error.contains(&format!("held by another vfprobe (pid {})", std::process::id())), "{error}");
}

#[test]
fn damage_is_refused_and_can_be_salvaged() {
    let bench = Bench::new();
    let before = bench.host.snapshot();
    bench.apply(&bench.plan()).unwrap();
    let path = bench.state().journal_path();
    let mut bytes = std::fs::read(&path).unwrap();
    let third = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1).unwrap().0 + 1;
    bytes[third] = b'x';
    std::fs::write(&path, &bytes).unwrap();
    let lock = bench.state().lock().unwrap();
    let options = RollbackOptions { settle: Duration::ZERO, salvage: false };
    let error = rollback(&bench.host, &lock, &options).unwrap_err().to_string();
    assert!(error.contains(&format!("line 3 (byte {third}) is damaged")), "{error}");
    let report = rollback(&bench.host, &lock, &RollbackOptions { salvage: true, ..options }).unwrap();
    assert_eq!(report.notes, ["1 damaged lines of the journal were passed over"]);
    assert_eq!(bench.host.snapshot(), before);
}

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

/// The snapshot without what is gone now.
fn without_gone(
    mut snapshot: BTreeMap<TargetKey, Slot>,
    now: &BTreeMap<TargetKey, Slot>,
) -> BTreeMap<TargetKey, Slot> {
    snapshot.retain(|key, _| now.contains_key(key));
    snapshot
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
