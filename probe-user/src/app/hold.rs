//! Whether what a run is made under holds: interrupts go where they are to go when counting begins, and everything still
//! is as asked for when it ends.
//!
//! Where interrupts are not remapped, one moves when it fires next. One that does not fire stays where it was and takes
//! nothing from anybody; so only an interrupt that *has* fired and still goes elsewhere is astray.

use crate::apply::{Check, Host, InForce, Observed, Reality, Seen};
use crate::model::{CpuSet, IrqNumber};
use crate::plan::{Need, PLAN_SCHEMA, Plan, Step, Target};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long counting may wait, beyond the warm-up, for interrupts to arrive where they are to go.
const LIMIT: Duration = Duration::from_secs(5);

/// How often interrupts have fired since boot.
pub type Counts = BTreeMap<IrqNumber, u64>;

/// What a run's configuration looks like at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// What did not hold: such a run is not compared. One line each.
    pub not: Vec<String>,
    /// What else is to be known. One line each.
    pub remarks: Vec<String>,
}

/// An interrupt and where it is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    number: IrqNumber,
    target: Target,
    /// What it is set to. With another mask it is somebody else's matter.
    mask: CpuSet,
    /// Any of these.
    goes: CpuSet,
    /// Whether the configuration does without it.
    wished: bool,
}

/// An interrupt that does not go where it is to go.
#[derive(Debug)]
struct Astray<'a> {
    place: &'a Place,
    to: CpuSet,
    fired: bool,
}

/// Where interrupts are to go, from one change of the host to the next.
#[derive(Debug, Default)]
pub struct Hold {
    /// Those that the configuration in force has set; none under the host as it was found.
    asked: Vec<Place>,
    /// Where those went, before a session's first configuration set them. The kernel leaves an interrupt where it is when
    /// its mask gets wider, so its mask alone does not bring it back.
    homes: BTreeMap<IrqNumber, Place>,
    /// What was counted when the present configuration came into force.
    since: Counts,
    /// Whether a whole run went by without any of them firing: there is nothing to wait for.
    quiet: bool,
}

impl Hold {
    /// A configuration came into force by these steps; `counts` is read afterwards.
    pub fn entered(&mut self, steps: &[Step], counts: Counts) {
        self.asked =
            steps.iter().filter_map(|step| place(step, step.new.cpus()?, step.new.cpus()?)).collect();
        for step in steps {
            let home = step.effective.as_ref().filter(|home| home.only().is_some());
            let Some(home) = home.zip(step.now.cpus()).and_then(|(home, mask)| place(step, mask, home))
            else {
                continue;
            };
            // Under the mask that is known it may only have been left behind by the configuration before.
            let known = self.homes.get(&home.number);
            if known.is_none_or(|known| known.mask != home.mask || known.target != home.target) {
                self.homes.insert(home.number, home);
            }
        }
        self.since = counts;
    }

    /// It was undone; `counts` is read afterwards.
    pub fn left(&mut self, counts: Counts) {
        self.asked.clear();
        self.since = counts;
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        // What the configuration has not set is to be as it was, too.
        let homes =
            self.homes.values().filter(|home| !self.asked.iter().any(|one| one.number == home.number));
        self.asked.iter().chain(homes)
    }

    fn fired(&self, place: &Place, now: &Counts) -> bool {
        // What is not counted is taken to have fired.
        match (self.since.get(&place.number), now.get(&place.number)) {
            (Some(before), Some(now)) => now > before,
            _ => true,
        }
    }

    fn astray(&self, host: &dyn Host, counts: &dyn Fn() -> Counts) -> (Vec<Astray<'_>>, Counts) {
        let suspects: Vec<&Place> = self.places().filter(|place| elsewhere(host, place).is_some()).collect();
        if suspects.is_empty() {
            return (Vec::new(), Counts::new());
        }
        // Counted first and looked at again: one that fires in between has moved by then.
        let now = counts();
        let again = suspects.into_iter().filter_map(|place| {
            let to = elsewhere(host, place)?;
            Some(Astray { place, to, fired: self.fired(place, &now) })
        });
        (again.collect(), now)
    }

    /// Whether counting may begin: every interrupt goes where it is to go, or does not fire, or there was time enough.
    /// `beyond` is the time since the end of the warm-up.
    pub fn settled(&self, host: &dyn Host, counts: &dyn Fn() -> Counts, beyond: Duration) -> bool {
        let (astray, now) = self.astray(host, counts);
        if astray.is_empty() || beyond >= LIMIT {
            return true;
        }
        // With traffic under way, those that have not fired by now carry none of it.
        !astray.iter().any(|one| one.fired) && (self.quiet || self.places().any(|one| self.fired(one, &now)))
    }

    /// Sends interrupts back that fire where a configuration has left them: `None` when there are none. Applied and undone,
    /// it leaves them with their masks as they are.
    pub fn way_home(&self, host: &dyn Host, counts: &dyn Fn() -> Counts, config: &str) -> Option<Plan> {
        let (astray, _) = self.astray(host, counts);
        if !self.asked.is_empty() {
            return None;
        }
        let home = |one: &Astray<'_>| Step {
            target: one.place.target.clone(),
            now: one.place.mask.clone().into(),
            // Undoing must leave it there.
            effective: Some(one.place.goes.clone()),
            new: one.place.goes.clone().into(),
            need: Need::WhilePresent,
            reason: "it went there before the session".to_owned(),
        };
        let steps: Vec<Step> = astray.iter().filter(|one| one.fired).map(home).collect();
        (!steps.is_empty()).then(|| Plan {
            schema: PLAN_SCHEMA,
            config: config.to_owned(),
            guests: Vec::new(),
            guarded: CpuSet::new(),
            housekeeping: CpuSet::new(),
            steps,
            notes: Vec::new(),
        })
    }

    /// How it stands when counting begins: what is astray then is in the figures.
    pub fn opens(&self, host: &dyn Host, counts: &dyn Fn() -> Counts) -> Vec<String> {
        let (astray, _) = self.astray(host, counts);
        let late = astray.iter().filter(|one| one.fired && !one.place.wished);
        late.map(|one| format!("{}, when counting began", one.say())).collect()
    }

    /// How it stands when counting ends. `in_force` is the configuration; `None` for the host as it was found.
    pub fn closes(
        &mut self,
        host: &dyn Host,
        counts: &dyn Fn() -> Counts,
        in_force: Option<&InForce>,
    ) -> Held {
        let mut held = Held::default();
        let (astray, now) = self.astray(host, counts);
        for one in &astray {
            match (one.fired, one.place.wished) {
                (true, false) => held.not.push(one.say()),
                (true, true) => held.remarks.push(one.say()),
                (false, _) => held.remarks.push(one.say() + ", as it has not fired since"),
            }
        }
        for check in in_force.iter().flat_map(|in_force| &in_force.checks) {
            let Some(found) = amiss(check) else { continue };
            let line = format!("{}: asked for {}, but {found}", check.target, check.asked);
            if check.need == Need::BestEffort { held.remarks.push(line) } else { held.not.push(line) }
        }
        self.quiet = !astray.is_empty() && !self.places().any(|place| self.fired(place, &now));
        held
    }

    /// Interrupts that are not where they are to go, whether or not they have fired since.
    pub fn left_behind(&self, host: &dyn Host) -> Vec<String> {
        let say = |place| elsewhere(host, place).map(|to| Astray { place, to, fired: false }.say());
        self.places().filter_map(say).collect()
    }
}

impl Astray<'_> {
    fn say(&self) -> String {
        format!("{}: belongs on CPU {}, but still goes to {}", self.place.target, self.place.goes, self.to)
    }
}

fn place(step: &Step, mask: &CpuSet, goes: &CpuSet) -> Option<Place> {
    let Target::Irq(irq) = &step.target else { return None };
    Some(Place {
        number: irq.number,
        target: step.target.clone(),
        mask: mask.clone(),
        goes: goes.clone(),
        wished: step.need == Need::BestEffort,
    })
}

/// Where an interrupt goes instead of where it is to go.
fn elsewhere(host: &dyn Host, place: &Place) -> Option<CpuSet> {
    match host.observe(&place.target) {
        Ok(Seen::Here(Observed { value, effective: Some(to), .. })) if value.cpus() == Some(&place.mask) => {
            (!to.is_subset(&place.goes)).then_some(to)
        }
        _ => None,
    }
}

/// What does not hold of a target. Where interrupts go is looked at apart.
fn amiss(check: &Check) -> Option<String> {
    match &check.reality {
        Reality::AsAsked { .. } | Reality::Pending { .. } => None,
        Reality::Gone if !check.is_drift() => None,
        Reality::Gone => Some("it is gone".to_owned()),
        Reality::Drifted { found } => Some(format!("somebody has set it to {found}")),
        Reality::Unreadable { error } => Some(error.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::memory::MemoryHost;
    use crate::apply::{Options, RollbackOptions, StateDir, apply, rollback};
    use crate::model::Value;
    use crate::plan::IrqTarget;
    use std::cell::RefCell;

    fn cpus(list: &str) -> CpuSet {
        list.parse().unwrap()
    }

    fn irq(number: u32) -> Target {
        let actions = format!("vfio-msix[{number}](0000:01:10.0)");
        Target::Irq(IrqTarget { number: IrqNumber(number), actions, vector: None })
    }

    /// A host whose interrupts 30 and 31 have the mask 0-3 and go to CPU 1 until they fire under another one.
    struct Bench {
        host: MemoryHost,
        dir: tempfile::TempDir,
        counts: RefCell<Counts>,
        hold: Hold,
    }

    impl Bench {
        fn new() -> Self {
            let host = MemoryHost::default();
            for number in [30, 31] {
                host.add(irq(number), cpus("0-3"), Some(cpus("1")));
            }
            host.defer_moves();
            let counts = [30, 31].map(|number| (IrqNumber(number), 7)).into();
            let dir = tempfile::tempdir().unwrap();
            Self { host, dir, counts: RefCell::new(counts), hold: Hold::default() }
        }

        fn counts(&self) -> Counts {
            self.counts.borrow().clone()
        }

        /// It fires, and moves; `stuck` it does not.
        fn fire(&self, number: u32, stuck: bool) {
            *self.counts.borrow_mut().get_mut(&IrqNumber(number)).unwrap() += 1;
            if !stuck {
                self.host.fire(&irq(number).key());
            }
        }

        fn goes_to(&self, number: u32) -> String {
            let slot = self.host.snapshot()[&irq(number).key()].clone();
            format!("{} of {}", slot.effective.unwrap(), slot.value)
        }

        fn plan(&self) -> Plan {
            let step = |number| {
                let slot = self.host.snapshot()[&irq(number).key()].clone();
                Step {
                    target: slot.target,
                    now: slot.value,
                    effective: slot.effective,
                    new: cpus("2").into(),
                    need: if number == 30 { Need::Required } else { Need::BestEffort },
                    reason: String::new(),
                }
            };
            Plan {
                schema: PLAN_SCHEMA,
                config: "own".to_owned(),
                guests: Vec::new(),
                guarded: cpus("2"),
                housekeeping: cpus("0-1"),
                steps: vec![step(30), step(31)],
                notes: Vec::new(),
            }
        }

        fn apply(&mut self, plan: &Plan) {
            let lock = StateDir::new(self.dir.path().join("state")).lock().unwrap();
            let options = Options { settle: Duration::ZERO, ..Options::new() };
            apply(&self.host, plan, &lock, &options).unwrap();
        }

        fn enter(&mut self) {
            let plan = self.plan();
            self.apply(&plan);
            self.hold.entered(&plan.steps, self.counts());
        }

        fn undo(&self) {
            let lock = StateDir::new(self.dir.path().join("state")).lock().unwrap();
            let options = RollbackOptions { settle: Duration::ZERO, ..RollbackOptions::default() };
            assert!(rollback(&self.host, &lock, &options).unwrap().is_complete());
        }

        fn leave(&mut self) {
            self.undo();
            self.hold.left(self.counts());
        }

        fn settled(&self, beyond: Duration) -> bool {
            self.hold.settled(&self.host, &|| self.counts(), beyond)
        }

        fn opens(&self) -> Vec<String> {
            self.hold.opens(&self.host, &|| self.counts())
        }

        fn closes(&mut self) -> Held {
            let counts = self.counts();
            self.hold.closes(&self.host, &|| counts.clone(), None)
        }
    }

    #[test]
    fn counting_waits_for_interrupts_that_fire() {
        // Which fire and move, which fire and stay; whether it may begin at once, and late; what does not hold, and what is remarked.
        for (moved, stuck, begins, late, not, remarks) in [
            (&[30, 31][..], &[][..], true, true, 0, 0),
            (&[30], &[], true, true, 0, 1),
            (&[], &[], false, true, 0, 2),
            (&[31], &[30], false, true, 1, 0),
            // What was only wished for is waited for all the same, and no more.
            (&[30], &[31], false, true, 0, 1),
        ] {
            let mut bench = Bench::new();
            bench.enter();
            moved.iter().for_each(|number| bench.fire(*number, false));
            stuck.iter().for_each(|number| bench.fire(*number, true));
            assert_eq!(
                (bench.settled(Duration::ZERO), bench.settled(LIMIT)),
                (begins, late),
                "{moved:?} {stuck:?}"
            );
            assert_eq!(bench.opens().len(), not, "{moved:?} {stuck:?}");
            let held = bench.closes();
            assert_eq!((held.not.len(), held.remarks.len()), (not, remarks), "{moved:?} {stuck:?}: {held:?}");
        }
    }

    #[test]
    fn what_is_said_names_the_interrupt_and_its_cpus() {
        let mut bench = Bench::new();
        bench.enter();
        bench.fire(30, true);
        let said = "irq 30 vfio-msix[30](0000:01:10.0): belongs on CPU 2, but still goes to 1";
        assert_eq!(bench.opens(), [format!("{said}, when counting began")]);
        let held = bench.closes();
        assert_eq!(held.not, [said]);
        let idle = "irq 31 vfio-msix[31](0000:01:10.0): belongs on CPU 2, but still goes to 1, as it has not fired since";
        assert_eq!(held.remarks, [idle]);
    }

    #[test]
    fn a_run_without_traffic_is_waited_for_once() {
        let mut bench = Bench::new();
        bench.enter();
        assert!(!bench.settled(Duration::ZERO));
        bench.closes();
        bench.leave();
        bench.enter();
        assert!(bench.settled(Duration::ZERO));
        bench.fire(30, true);
        assert!(!bench.settled(Duration::ZERO), "there is traffic after all");
    }

    #[test]
    fn the_untouched_host_has_its_interrupts_where_they_were() {
        let mut bench = Bench::new();
        for _ in 0..2 {
            bench.enter();
            bench.fire(30, false);
            assert_eq!((bench.goes_to(30), bench.goes_to(31)), ("2 of 2".to_owned(), "1 of 2".to_owned()));
            // Nothing fires while it is undone, and so it stays although its mask is back.
            bench.leave();
            assert_eq!(
                (bench.goes_to(30), bench.goes_to(31)),
                ("2 of 0-3".to_owned(), "1 of 0-3".to_owned())
            );
        }
        assert_eq!(bench.hold.left_behind(&bench.host).len(), 1);
        assert!(!bench.settled(Duration::ZERO));
        let way_home = |bench: &Bench| bench.hold.way_home(&bench.host, &|| bench.counts(), "baseline");
        assert_eq!(way_home(&bench), None, "sending it would wait for a firing that may never come");
        // Traffic: it fires where the configuration left it, also the second time round.
        bench.fire(30, false);
        assert!(!bench.settled(Duration::ZERO));
        assert!(bench.opens()[0].contains("belongs on CPU 1, but still goes to 2"), "{:?}", bench.opens());
        assert_eq!(bench.closes().not.len(), 1);
        let plan = way_home(&bench).unwrap();
        bench.apply(&plan);
        bench.fire(30, false);
        bench.undo();
        assert_eq!(bench.goes_to(30), "1 of 0-3");
        assert!(bench.settled(Duration::ZERO) && way_home(&bench).is_none());
        assert_eq!(bench.closes(), Held::default());
        // One that somebody else has set meanwhile is theirs.
        bench.host.set(&irq(30).key(), cpus("3"));
        bench.fire(30, false);
        assert_eq!(bench.closes(), Held::default());
    }

    #[test]
    fn what_is_not_counted_is_taken_to_have_fired() {
        let mut bench = Bench::new();
        bench.counts.borrow_mut().clear();
        bench.enter();
        assert!(!bench.settled(Duration::ZERO));
        assert_eq!((bench.opens().len(), bench.closes().not.len()), (1, 1));
    }

    #[test]
    fn settings_that_others_changed_do_not_hold() {
        let drifted = Reality::Drifted { found: cpus("0").into() };
        let unreadable = Reality::Unreadable { error: "cannot read it".to_owned() };
        let as_asked = Reality::AsAsked { effective: None };
        for (reality, need, not, remarks) in [
            (as_asked, Need::Required, None, None),
            (drifted.clone(), Need::Required, Some("somebody has set it to 0"), None),
            (drifted.clone(), Need::WhilePresent, Some("somebody has set it to 0"), None),
            (drifted, Need::BestEffort, None, Some("somebody has set it to 0")),
            (Reality::Gone, Need::Required, Some("it is gone"), None),
            (Reality::Gone, Need::WhilePresent, None, None),
            (unreadable, Need::Required, Some("cannot read it"), None),
        ] {
            let asked: Value = cpus("2").into();
            let check = Check { target: irq(30), asked, reality, need, owner: None };
            let in_force = InForce {
                configs: vec!["own".to_owned()],
                guests: Vec::new(),
                guarded: CpuSet::new(),
                kept_by: None,
                since: 0,
                settled: true,
                checks: vec![check],
                left: Vec::new(),
            };
            let held = Hold::default().closes(&MemoryHost::default(), &Counts::new, Some(&in_force));
            let line = |found: &str| format!("irq 30 vfio-msix[30](0000:01:10.0): asked for 2, but {found}");
            let expected = Held {
                not: not.map(line).into_iter().collect(),
                remarks: remarks.map(line).into_iter().collect(),
            };
            assert_eq!(held, expected);
        }
    }
}
