//! The transaction against hosts in memory: what fails and what then becomes of the rest, case by case.

use super::memory::{Event, Killed, MemoryHost, Slot};
use super::{
    Applied, ApplyError, Options, Outcome, RollbackOptions, RollbackReport, StateDir, StateLock, apply,
    release, rollback, settled, verify,
};
use crate::model::{CpuSet, IrqNumber, Pid, Tid, Value, VcpuId};
use crate::plan::journal::Standing;
use crate::plan::{IrqTarget, Need, PLAN_SCHEMA, Plan, Role, Step, Target, TargetKey, ThreadTarget};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

pub(super) fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

pub(super) fn irq(number: u32) -> Target {
    let actions = format!("vfio-msix[{number}](0000:01:10.0)");
    Target::Irq(IrqTarget { number: IrqNumber(number), actions, vector: None })
}

pub(super) fn thread(tid: u32, role: Role) -> Target {
    let comm = format!("t{tid}");
    Target::Thread(ThreadTarget { pid: Pid(tid / 10 * 10), tid: Tid(tid), start_time: 5, comm, role })
}

pub(super) fn vcpu(tid: u32) -> Target {
    thread(tid, Role::Vcpu { guest: "vm1".to_owned(), index: VcpuId(0) })
}

pub(super) fn step(host: &MemoryHost, target: Target, new: &CpuSet, need: Need) -> Step {
    let slot: Slot = host.snapshot()[&target.key()].clone();
    let Slot { target, value: now, effective } = slot;
    Step { target, now, effective, new: new.clone().into(), need, reason: "test".to_owned() }
}

pub(super) fn plan(steps: Vec<Step>) -> Plan {
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
pub(super) fn state_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A state folder with a host beside it.
pub(super) struct Bench {
    pub(super) host: MemoryHost,
    pub(super) dir: tempfile::TempDir,
}

impl Bench {
    /// Interrupt 30 on CPUs 0-3 firing on 1, threads 10 (a vCPU) and 11 on 0-3, default mask 0-3.
    pub(super) fn new() -> Self {
        let host = MemoryHost::default();
        host.add(irq(30), cpus("0-3"), Some(cpus("1")));
        host.add(vcpu(10), cpus("0-3"), None);
        host.add(thread(11, Role::Host), cpus("0-3"), None);
        host.add(Target::DefaultAffinity, cpus("0-3"), None);
        Self { host, dir: state_dir() }
    }

    pub(super) fn state(&self) -> StateDir {
        StateDir::new(self.dir.path())
    }

    pub(super) fn plan(&self) -> Plan {
        plan(vec![
            step(&self.host, Target::DefaultAffinity, &cpus("0-1,3"), Need::Required),
            step(&self.host, thread(11, Role::Host), &cpus("0-1,3"), Need::BestEffort),
            step(&self.host, vcpu(10), &cpus("2"), Need::Required),
            step(&self.host, irq(30), &cpus("2"), Need::Required),
        ])
    }

    pub(super) fn apply(&self, plan: &Plan) -> Result<Applied, ApplyError> {
        let lock = self.state().lock().unwrap();
        apply(&self.host, plan, &lock, &Options { settle: Duration::ZERO, ..Options::new() })
    }

    pub(super) fn rollback(&self) -> RollbackReport {
        self.rollback_by(&self.state().lock().unwrap())
    }

    pub(super) fn rollback_by(&self, lock: &StateLock) -> RollbackReport {
        rollback(&self.host, lock, &RollbackOptions { settle: Duration::ZERO, salvage: false }).unwrap()
    }

    pub(super) fn holds(&self) -> Option<bool> {
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

    pub(super) fn value(&self, target: &Target) -> String {
        self.host.snapshot()[&target.key()].value.to_string()
    }
}

/// Runs something that a kill may end. `None` when it did.
pub(super) fn unless_killed<T>(run: impl FnOnce() -> T) -> Option<T> {
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
    let options = Options { settle: Duration::ZERO, interrupted: &interrupted, ..Options::new() };
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
    let release = || release(&bench.host, &bench.state().lock().unwrap(), &|_, _| false).unwrap().len();
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
fn what_is_over_is_let_go_where_it_is_not_as_asked() {
    let bench = Bench::new();
    bench.apply(&bench.plan()).unwrap();
    bench.host.set(&irq(30).key(), cpus("0-1,3"));
    bench.host.set(&vcpu(10).key(), cpus("1"));
    let asked_about = std::cell::RefCell::new(Vec::new());
    let is_over = |standing: &Standing, found: &Value| {
        asked_about.borrow_mut().push(format!("{}: {found}", standing.target));
        matches!(standing.target, Target::Irq(_))
    };
    let released = release(&bench.host, &bench.state().lock().unwrap(), &is_over).unwrap();
    assert_eq!(released, [irq(30)]);
    let expected = ["vm1 vCPU 0 (thread 10): 1", "irq 30 vfio-msix[30](0000:01:10.0): 0-1,3"];
    assert_eq!(*asked_about.borrow(), expected, "nothing is asked about what is as asked");
    assert!(bench.rollback().is_complete());
    assert_eq!((bench.value(&irq(30)), bench.value(&vcpu(10))), ("0-3".to_owned(), "1".to_owned()));
}

/// Some kernels take offline CPUs out of the mask of a thread, and do not give them back.
#[test]
fn what_was_taken_in_part_is_ours_when_the_cpus_come_back() {
    let bench = Bench::new();
    let before = bench.host.snapshot();
    bench.host.set_offline(cpus("3"));
    bench.apply(&bench.plan()).unwrap();
    let helper = thread(11, Role::Host);
    assert_eq!((bench.holds(), bench.value(&helper).as_str()), (Some(true), "0-1"));
    bench.host.set_offline(CpuSet::new());
    assert_eq!(bench.holds(), Some(false));
    // One who keeps the policy goes on from there.
    let again = plan(vec![step(&bench.host, helper.clone(), &cpus("0-1,3"), Need::BestEffort)]);
    bench.apply(&again).unwrap();
    assert_eq!((bench.holds(), bench.value(&helper).as_str()), (Some(true), "0-1,3"));
    bench.host.set(&helper.key(), cpus("0-1"));
    assert!(bench.rollback().foreign().next().is_none());
    assert_eq!(bench.host.snapshot(), before);
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
fn what_a_service_keeps_is_told_from_what_was_applied() {
    let bench = Bench::new();
    let lock = bench.state().lock().unwrap();
    let add = |target: Target, new: &str, kept_by| {
        let plan = plan(vec![step(&bench.host, target, &cpus(new), Need::Required)]);
        let options = Options { settle: Duration::ZERO, kept_by, ..Options::new() };
        apply(&bench.host, &plan, &lock, &options).unwrap();
        verify(&bench.host, &bench.state().load().unwrap(), "").unwrap().kept_by
    };
    let (one, other) = ("/etc/vfprobe/one.toml", "/etc/vfprobe/other.toml");
    assert_eq!(add(vcpu(10), "2", Some(one)).as_deref(), Some(one));
    assert_eq!(add(irq(30), "2", Some(one)).as_deref(), Some(one));
    assert_eq!(add(irq(30), "3", None), None);
    assert_eq!(add(irq(30), "2", Some(one)), None);
    assert!(bench.rollback_by(&lock).is_complete());
    assert_eq!(add(vcpu(10), "2", Some(one)).as_deref(), Some(one));
    assert_eq!(add(vcpu(10), "3", Some(other)), None);
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
    bench.host.add(irq(34), cpus("0-3"), None);
    let mut first = bench.plan();
    first.steps.push(step(&bench.host, irq(34), &cpus("2"), Need::Required));
    bench.apply(&first).unwrap();
    // The guest has enabled MSI-X again: the same number and a new one; and somebody has one of a mask of his own.
    bench.host.add(irq(30), cpus("0-1,3"), None);
    bench.host.add(irq(31), cpus("0-1,3"), None);
    bench.host.add(irq(32), cpus("1"), None);
    // And some were seen and written to since: a new one, and one that was made anew.
    bench.host.add(irq(33), cpus("0-1,3"), None);
    bench.host.add(irq(34), cpus("0-1,3"), None);
    release(&bench.host, &bench.state().lock().unwrap(), &|item, _| item.target == irq(34)).unwrap();
    let steps = [33, 34].map(|number| step(&bench.host, irq(number), &cpus("2"), Need::Required));
    bench.apply(&plan(steps.to_vec())).unwrap();
    assert!(bench.rollback().is_complete());
    let masks = [20, 30, 31, 32, 33, 34].map(|number| bench.value(&irq(number)));
    assert_eq!(masks, ["0-1,3", "0-3", "0-3", "1", "0-3", "0-3"]);
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
    // It was no step, but nobody can know.
    assert_eq!((&report.lost[..], report.is_complete()), (&[3][..], false));
    assert_eq!(bench.host.snapshot(), before);
    assert!(bench.rollback_by(&lock).is_complete());
}

#[test]
fn a_step_that_is_lost_takes_no_other_along() {
    let bench = Bench::new();
    let before = bench.host.snapshot();
    bench.apply(&bench.plan()).unwrap();
    let path = bench.state().journal_path();
    let text = std::fs::read_to_string(&path).unwrap();
    // The second line is the step that wrote the default mask.
    std::fs::write(&path, text.replacen("\"step\"", "\"stop\"", 1)).unwrap();
    let lock = bench.state().lock().unwrap();
    let options = RollbackOptions { settle: Duration::ZERO, salvage: true };
    let report = rollback(&bench.host, &lock, &options).unwrap();
    // With the step, what became of it is lost.
    assert_eq!((&report.lost[..], report.is_complete()), (&[2, 3][..], false));
    assert_eq!(bench.value(&Target::DefaultAffinity), "0-1,3");
    let after = bench.host.snapshot();
    let rest = |mut all: BTreeMap<TargetKey, Slot>| {
        all.remove(&TargetKey::DefaultAffinity);
        all
    };
    assert_eq!(rest(after), rest(before));
    assert!(!path.exists());
}

/// The timer's mask, say, which not even root may open for writing: it is passed over, unless the process dies first.
#[test]
fn what_nobody_may_write_keeps_nobody_from_undoing() {
    for (dies, steps) in [(false, 3), (true, 0)] {
        let bench = Bench::new();
        let before = bench.host.snapshot();
        let plan = bench.plan();
        bench.host.make_read_only(&thread(11, Role::Host).key());
        if dies {
            bench.host.at_write(1, Event::KilledBefore);
        }
        let applied = unless_killed(|| bench.apply(&plan).unwrap());
        bench.host.calm();
        assert_eq!(applied.map_or(0, |applied| applied.steps), steps);
        // Else one who keeps the policy would try again at every look.
        assert_eq!(bench.state().load().unwrap().immovable().count(), usize::from(!dies));
        assert!(bench.rollback().is_complete());
        assert_eq!(bench.host.snapshot(), before);
    }
}

/// The snapshot without what is gone now.
pub(super) fn without_gone(
    mut snapshot: BTreeMap<TargetKey, Slot>,
    now: &BTreeMap<TargetKey, Slot>,
) -> BTreeMap<TargetKey, Slot> {
    snapshot.retain(|key, _| now.contains_key(key));
    snapshot
}
