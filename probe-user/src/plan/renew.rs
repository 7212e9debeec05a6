//! Planning again while an earlier plan is in force: what is still wanted stays as it is, what nobody wants any more goes
//! back to what it was, and only the difference is changed.
//!
//! The plan is made from the host as it was before vfprobe changed it, since what keeps off guarded CPUs depends on the
//! CPUs it had. Pins are the exception: a guest that has CPUs of its own keeps them.

use super::journal::Standing;
use super::planner::{Wanted, draft};
use super::{Facts, Need, Plan, PlanError, Policy, Role, Step, Target, TargetKey, ThreadTarget};
use crate::model::owners::{Owners, bans_of, bans_value};
use crate::model::topology::{Thread, Topology};
use crate::model::{CpuSet, HostThread, Knob, Value};
use std::collections::BTreeMap;

/// Plans what has to change for `policy` to hold on a host where `standing` has been written.
///
/// # Errors
/// [`PlanError`] says which wish this host cannot meet.
pub fn plan_again(facts: &Facts<'_>, policy: &Policy, standing: &[Standing]) -> Result<Plan, PlanError> {
    let mut host = Host {
        topology: facts.topology.clone(),
        threads: facts.threads.to_vec(),
        knobs: facts.knobs.to_vec(),
        owners: facts.owners.clone(),
    };
    // What somebody else has set since is planned from there. One of our former values is as good as ours, whoever has
    // written it, but what is found is what a step has to expect.
    let ours: Vec<(&Standing, Value)> = standing
        .iter()
        .filter_map(|item| Some((item, host.value(&item.target)?)))
        .filter(|(item, found)| item.ours.contains(found))
        .collect();
    let mut written: BTreeMap<TargetKey, &Value> = BTreeMap::new();
    for (item, found) in ours.iter().filter(|(item, _)| !is_pin(&item.target)) {
        host.set(&item.target, &item.old);
        written.insert(item.target.key(), found);
    }
    let Host { topology, threads, knobs, owners } = &host;
    let past = Facts { topology, threads, knobs, owners, ..*facts };
    let Wanted { mut plan, mut wanted } = draft(&past, policy)?;

    // Set as wanted in the past is what was found there: what has been written over it goes back.
    wanted.retain(|key| !written.contains_key(key));
    wanted.extend(plan.steps.iter().map(|step| step.target.key()));
    for step in &mut plan.steps {
        if let Some(found) = written.get(&step.target.key()) {
            step.now = (*found).clone();
        }
    }
    plan.steps.retain(|step| step.now != step.new);
    let unwanted = ours.iter().rev().filter(|(item, _)| !wanted.contains(&item.target.key()));
    plan.steps.extend(unwanted.filter(|(item, found)| item.old != *found).map(|(item, found)| Step {
        target: item.target.clone(),
        now: found.clone(),
        effective: None,
        new: item.old.clone(),
        need: Need::BestEffort,
        reason: "what it was before is what it is to be now".to_owned(),
    }));
    Ok(plan)
}

fn is_pin(target: &Target) -> bool {
    matches!(target, Target::Thread(ThreadTarget { role: Role::Vcpu { .. }, .. }))
}

/// Facts that can be changed, to have the host as it was.
struct Host {
    topology: Topology,
    threads: Vec<HostThread>,
    knobs: Vec<(Knob, Value)>,
    owners: Owners,
}

impl Host {
    /// What a target is set to; `None` when it is not among the facts.
    fn value(&self, target: &Target) -> Option<Value> {
        let cpus = match target {
            Target::DefaultAffinity => self.topology.default_affinity.clone()?,
            Target::Irq(irq) => {
                let found = self.topology.irq(irq.number).filter(|found| found.actions == irq.actions)?;
                found.affinity.clone()?
            }
            Target::Thread(thread) => {
                let of_guests = self
                    .topology
                    .guests
                    .iter()
                    .flat_map(|g| g.threads.iter().chain(g.vcpus.iter().map(|vcpu| &vcpu.thread)));
                let mut all = of_guests.chain(self.threads.iter().map(|thread| &thread.thread));
                all.find(|found| is_thread(found, thread))?.affinity.clone()
            }
            Target::Knob(Knob::IrqbalanceBans { pid, start_time }) => {
                let running = self.owners.irqbalance.as_ref()?;
                let same = (running.pid, running.start_time) == (*pid, *start_time);
                return running.setup.as_ref().ok().filter(|_| same).map(|setup| bans_value(&setup.bans));
            }
            Target::Knob(knob) => {
                return self.knobs.iter().find(|(found, _)| found == knob).map(|(_, value)| value.clone());
            }
        };
        Some(cpus.into())
    }

    fn set(&mut self, target: &Target, value: &Value) {
        match (target, value) {
            (Target::DefaultAffinity, Value::Cpus(cpus)) => {
                self.topology.default_affinity = Some(cpus.clone());
            }
            (Target::Irq(irq), Value::Cpus(cpus)) => {
                let slots = self.topology.guests.iter_mut().flat_map(|guest| &mut guest.vfs);
                for slot in slots.flat_map(|vf| &mut vf.slots).filter(|slot| slot.irq == irq.number) {
                    slot.affinity = Some(cpus.clone());
                }
                for found in self.topology.irqs.iter_mut().filter(|found| found.number == irq.number) {
                    found.affinity = Some(cpus.clone());
                }
            }
            (Target::Thread(thread), Value::Cpus(cpus)) => self.set_thread(thread, cpus),
            (Target::Knob(Knob::IrqbalanceBans { .. }), list) => {
                let setup = self.owners.irqbalance.as_mut().and_then(|running| running.setup.as_mut().ok());
                if let (Some(setup), Some(bans)) = (setup, bans_of(list)) {
                    setup.bans = bans;
                }
            }
            (Target::Knob(knob), value) => {
                for (_, found) in self.knobs.iter_mut().filter(|(found, _)| found == knob) {
                    found.clone_from(value);
                }
            }
            (_, Value::Text { .. }) => {}
        }
    }

    fn set_thread(&mut self, thread: &ThreadTarget, cpus: &CpuSet) {
        let guests = self.topology.guests.iter_mut();
        let of_guests =
            guests.flat_map(|g| g.threads.iter_mut().chain(g.vcpus.iter_mut().map(|vcpu| &mut vcpu.thread)));
        let all = of_guests.chain(self.threads.iter_mut().map(|thread| &mut thread.thread));
        for found in all.filter(|found| is_thread(found, thread)) {
            found.affinity = cpus.clone();
        }
    }
}

fn is_thread(found: &Thread, thread: &ThreadTarget) -> bool {
    (found.tid, found.start_time) == (thread.tid, thread.start_time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::VcpuId;
    use crate::plan::journal::{Begin, JOURNAL_FORMAT, Journal, Record, encode};
    use crate::plan::testing::{HostShape, add_slots, cpus, guest, host, irq, settled};
    use crate::plan::{Pins, Placement, plan};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// A host, and what vfprobe has written to it.
    struct Bench {
        topology: Topology,
        records: Vec<Record>,
    }

    fn begin() -> Record {
        Record::Begin(Begin {
            format: JOURNAL_FORMAT,
            boot_id: String::new(),
            unix_time: 0,
            ticks: 0,
            vfprobe: String::new(),
            pid: 1,
            config: "own".to_owned(),
            guests: Vec::new(),
            guarded: CpuSet::new(),
            irqs: Vec::new(),
        })
    }

    impl Bench {
        fn standing(&self) -> Vec<Standing> {
            let text: String = self.records.iter().zip(0..).map(|(record, n)| encode(n, record)).collect();
            Journal::parse(text.as_bytes()).unwrap().standing()
        }

        /// What a target of the plan is set to.
        fn found(&self, target: &Target) -> Option<Value> {
            let topology = self.topology.clone();
            let host = Host { topology, threads: Vec::new(), knobs: Vec::new(), owners: Owners::default() };
            host.value(target)
        }

        /// Sets a target as somebody else would.
        fn set(&mut self, target: &Target, value: &Value) {
            let topology = self.topology.clone();
            let mut host =
                Host { topology, threads: Vec::new(), knobs: Vec::new(), owners: Owners::default() };
            host.set(target, value);
            self.topology = host.topology;
        }

        /// Plans again and carries it out, if each step finds what it expects.
        fn keep(&mut self, policy: &Policy) -> Result<Plan, PlanError> {
            let (immovable, owners) = (BTreeSet::new(), Owners::default());
            let (topology, standing) = (self.topology.clone(), self.standing());
            let facts = Facts {
                topology: &topology,
                threads: &[],
                knobs: &[],
                owners: &owners,
                virtual_apic: None,
                seen: None,
                immovable: &immovable,
            };
            let plan = plan_again(&facts, policy, &standing)?;
            for step in &plan.steps {
                assert_eq!(self.found(&step.target).as_ref(), Some(&step.now), "{}", step.target);
            }
            (self.topology, _) = settled(&topology, &[], &plan);
            let first = self.records.iter().filter(|record| matches!(record, Record::Step { .. })).count();
            self.records.push(begin());
            for (step, n) in plan.steps.iter().zip(u32::try_from(first).unwrap()..) {
                self.records.push(Record::Step { n, step: step.clone() });
                self.records.push(Record::Done { n });
            }
            self.records.push(Record::Applied);
            Ok(plan)
        }
    }

    fn policy(list: &[(&str, Pins)]) -> Policy {
        let mut tables =
            list.iter().map(|(name, pins)| Policy::for_guest(name, pins.clone(), Placement::Own));
        let mut policy = tables.next().unwrap();
        policy.guests.extend(tables.flat_map(|policy| policy.guests));
        policy
    }

    fn lines(plan: &Plan) -> Vec<String> {
        plan.steps.iter().map(|s| format!("{}: {} -> {}", s.target, s.now, s.new)).collect()
    }

    fn two_guests() -> Bench {
        let mut topology = host(HostShape { nodes: 1, cores: 6, threads: 1 });
        topology.guests = vec![guest("vm1", 1, None), guest("vm2", 1, None)];
        topology.irqs = vec![irq(24, "nvme0q1", "0-5")];
        add_slots(&mut topology, 0, 30, 1, "0-5");
        add_slots(&mut topology, 1, 40, 1, "0-5");
        Bench { topology, records: Vec::new() }
    }

    #[test]
    fn a_guest_that_ends_leaves_the_others_as_they_are() {
        let list = |list: &str| Pins::Cpus(cpus(list).iter().collect());
        let both = policy(&[("vm1", list("2")), ("vm2", list("3"))]);
        let mut bench = two_guests();
        let first = bench.keep(&both).unwrap();
        assert_eq!(
            lines(&first)[..2],
            ["default mask of new interrupts: 0-5 -> 0-1,4-5", "irq 24 nvme0q1: 0-5 -> 0-1,4-5"]
        );
        assert_eq!(bench.keep(&both).unwrap().steps, [], "it holds");

        let vm2 = bench.topology.guests.remove(1);
        bench.topology.irqs.retain(|irq| irq.number.0 != 40);
        let second = bench.keep(&policy(&[("vm1", list("2"))])).unwrap();
        assert_eq!(
            lines(&second),
            [
                "default mask of new interrupts: 0-1,4-5 -> 0-1,3-5",
                "irq 24 nvme0q1: 0-1,4-5 -> 0-1,3-5",
                "vm1 thread 1000 qemu: 0-1 -> 0-1,3",
            ]
        );

        // It comes back: only what it needs is changed.
        bench.topology.guests.push(vm2);
        let third = bench.keep(&both).unwrap();
        assert!(!lines(&third).iter().any(|line| line.starts_with("vm1 vCPU")), "{:?}", lines(&third));
        assert_eq!(third.guarded.to_string(), "2-3");
    }

    #[test]
    fn a_vector_that_moves_takes_nothing_else_along() {
        let mut bench = two_guests();
        bench.topology.guests[0] = guest("vm1", 2, None);
        add_slots(&mut bench.topology, 0, 50, 1, "0-5");
        let policy = policy(&[("vm1", Pins::Auto)]);
        bench.keep(&policy).unwrap();
        bench.topology.guests[0].vfs[0].slots[0].vcpu = Some(VcpuId(1));
        let moved = bench.keep(&policy).unwrap();
        assert_eq!(lines(&moved), ["irq 50 VF 0000:01:10.1 slot 0: 1 -> 2"]);
    }

    /// The interrupt went to the first vCPU's CPU when it was found, so nothing but going back is asked in the end.
    #[test]
    fn a_vector_that_moves_back_to_where_it_was_found_goes_back() {
        let mut bench = two_guests();
        bench.topology.guests[0] = guest("vm1", 2, None);
        add_slots(&mut bench.topology, 0, 50, 1, "1");
        let policy = policy(&[("vm1", Pins::Auto)]);
        bench.keep(&policy).unwrap();
        for (vcpu, expected) in [(1, "1 -> 2"), (0, "2 -> 1"), (1, "1 -> 2")] {
            bench.topology.guests[0].vfs[0].slots[0].vcpu = Some(VcpuId(vcpu));
            let moved = bench.keep(&policy).unwrap();
            assert_eq!(lines(&moved), [format!("irq 50 VF 0000:01:10.1 slot 0: {expected}")]);
            assert_eq!(bench.keep(&policy).unwrap().steps, [], "it holds");
        }
    }

    #[test]
    fn what_somebody_else_set_is_planned_from_there() {
        let mut bench = two_guests();
        let policy = policy(&[("vm1", Pins::Cpus(cpus("2").iter().collect()))]);
        bench.keep(&policy).unwrap();
        bench.topology.irqs[0].affinity = Some(cpus("2-3"));
        assert_eq!(lines(&bench.keep(&policy).unwrap()), ["irq 24 nvme0q1: 2-3 -> 3"]);
    }

    /// One of our values, but not the one that is asked for.
    #[test]
    fn a_former_value_of_ours_is_corrected() {
        let mut bench = two_guests();
        bench.topology.guests[0] = guest("vm1", 3, None);
        add_slots(&mut bench.topology, 0, 50, 1, "0-5");
        let policy = policy(&[("vm1", Pins::Auto)]);
        bench.keep(&policy).unwrap();
        bench.topology.guests[0].vfs[0].slots[0].vcpu = Some(VcpuId(1));
        bench.keep(&policy).unwrap();
        let vector =
            bench.standing().into_iter().find(|item| item.target.to_string().starts_with("irq 50")).unwrap();
        assert_eq!(vector.ours.iter().map(Value::to_string).collect::<Vec<_>>(), ["1", "2"]);
        for (vcpu, expected) in [(1, "1 -> 2"), (2, "1 -> 3")] {
            bench.set(&vector.target, &vector.ours[0]);
            bench.topology.guests[0].vfs[0].slots[0].vcpu = Some(VcpuId(vcpu));
            let plan = bench.keep(&policy).unwrap();
            assert_eq!(lines(&plan), [format!("irq 50 VF 0000:01:10.1 slot 0: {expected}")]);
            assert_eq!(bench.keep(&policy).unwrap().steps, [], "it holds");
        }
        // The guest needs it no more, and somebody has set it before that is noticed.
        bench.set(&vector.target, &vector.ours[0]);
        let kept = Policy::for_guest("vm2", Pins::Auto, Placement::Own);
        let back = lines(&bench.keep(&kept).unwrap());
        // And kept off the other guest's CPU 4.
        assert!(back.contains(&"irq 50 VF 0000:01:10.1 slot 0: 1 -> 0-3,5".to_owned()), "{back:?}");
    }

    proptest! {
        /// Guests come and go in any order, and somebody else writes what vfprobe has written before; whatever was done
        /// in between, the host ends as if only those guests that are left had ever been there.
        #[test]
        fn the_way_does_not_matter(
            masks in proptest::collection::vec(proptest::collection::btree_set(0_u32..6, 1..6), 3),
            order in proptest::collection::vec((0_usize..3, any::<Option<[proptest::sample::Index; 2]>>()), 1..8),
        ) {
            let mut topology = host(HostShape { nodes: 1, cores: 6, threads: 1 });
            let mask = |n: usize| -> String {
                masks[n].iter().copied().map(crate::model::CpuId).collect::<CpuSet>().to_string()
            };
            topology.irqs = vec![irq(24, "a", &mask(0)), irq(25, "b", &mask(1)), irq(26, "c", &mask(2))];
            let original = topology.clone();
            let all: Vec<_> = (1..=3).map(|n| guest(&format!("vm{n}"), 1, None)).collect();
            let pins = |name: &str| Pins::Cpus(vec![crate::model::CpuId(1 + u32::from(name.as_bytes()[2] - b'0'))]);
            let mut bench = Bench { topology, records: Vec::new() };
            for (which, former) in order {
                let standing = bench.standing();
                if let Some([item, value]) = former.filter(|_| !standing.is_empty()) {
                    let item = item.get(&standing);
                    bench.set(&item.target, value.get(&item.ours));
                }
                let name = &all[which].name;
                if bench.topology.guests.iter().any(|g| g.name == *name) {
                    bench.topology.guests.retain(|g| g.name != *name);
                } else {
                    bench.topology.guests.push(all[which].clone());
                }
                let present: Vec<(&str, Pins)> =
                    bench.topology.guests.iter().map(|g| (g.name.as_str(), pins(&g.name))).collect();
                if present.is_empty() {
                    // The last one has gone: everything is undone.
                    bench = Bench { topology: original.clone(), records: Vec::new() };
                    continue;
                }
                let policy = policy(&present);
                bench.keep(&policy).unwrap();
                prop_assert_eq!(lines(&bench.keep(&policy).unwrap()), Vec::<String>::new());

                let mut fresh = original.clone();
                fresh.guests = bench.topology.guests.iter().map(|g| guest(&g.name, 1, None)).collect();
                let (owners, immovable) = (Owners::default(), BTreeSet::new());
                let facts = Facts {
                    topology: &fresh,
                    threads: &[],
                    knobs: &[],
                    owners: &owners,
                    virtual_apic: None,
                    seen: None,
                    immovable: &immovable,
                };
                let (expected, _) = settled(&fresh, &[], &plan(&facts, &policy).unwrap());
                prop_assert_eq!(&bench.topology.irqs, &expected.irqs);
                prop_assert_eq!(&bench.topology.default_affinity, &expected.default_affinity);
                prop_assert_eq!(&bench.topology.guests, &expected.guests);
            }
        }
    }
}
