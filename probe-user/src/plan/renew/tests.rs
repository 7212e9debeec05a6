//! Planning again, as guests come and go and others write.

use super::*;
use crate::model::VcpuId;
use crate::plan::journal::{Begin, JOURNAL_FORMAT, Journal, Record, encode};
use crate::plan::testing::{HostShape, add_slots, cpus, guest, host, irq, settled};
use crate::plan::{Pins, Placement, plan};
use proptest::prelude::*;

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
        kept_by: None,
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
        let mut host = Host { topology, threads: Vec::new(), knobs: Vec::new(), owners: Owners::default() };
        host.set(target, value);
        self.topology = host.topology;
    }

    /// Plans again for every guest and carries it out.
    fn keep(&mut self, policy: &Policy) -> Result<Plan, PlanError> {
        let Renewed { plan, held, .. } = self.renew(policy)?;
        assert_eq!(held, []);
        Ok(plan)
    }

    /// Plans again and carries it out, if each step finds what it expects.
    fn renew(&mut self, policy: &Policy) -> Result<Renewed, PlanError> {
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
            fixed: &BTreeSet::new(),
        };
        let renewed = plan_again(&facts, policy, &standing)?;
        let plan = &renewed.plan;
        for step in &plan.steps {
            assert_eq!(self.found(&step.target).as_ref(), Some(&step.now), "{}", step.target);
        }
        (self.topology, _) = settled(&topology, &[], plan);
        let first = self.records.iter().filter(|record| matches!(record, Record::Step { .. })).count();
        self.records.push(begin());
        for (step, n) in plan.steps.iter().zip(u32::try_from(first).unwrap()..) {
            self.records.push(Record::Step { n, step: step.clone() });
            self.records.push(Record::Done { n, taken: None });
        }
        self.records.push(Record::Applied);
        Ok(renewed)
    }
}

fn policy(list: &[(&str, Pins)]) -> Policy {
    let mut tables = list.iter().map(|(name, pins)| Policy::for_guest(name, pins.clone(), Placement::Own));
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
    let ceded = |bench: &mut Bench| -> Vec<TargetKey> {
        let ceded = bench.renew(&policy).unwrap().ceded;
        ceded.into_iter().collect()
    };
    assert_eq!(ceded(&mut bench), []);
    // It stays off the guarded CPU, so nobody needs to correct it.
    bench.topology.irqs[0].affinity = Some(cpus("4"));
    assert_eq!(ceded(&mut bench), [TargetKey::Irq(crate::model::IrqNumber(24), "nvme0q1".to_owned())]);
    bench.topology.irqs[0].affinity = Some(cpus("2-3"));
    assert_eq!(lines(&bench.keep(&policy).unwrap()), ["irq 24 nvme0q1: 2-3 -> 3"]);
}

/// A kernel that takes offline CPUs out of the mask of a thread.
#[test]
fn cpus_that_come_back_are_asked_for_again() {
    let mut bench = two_guests();
    let policy = policy(&[("vm1", Pins::Cpus(cpus("2").iter().collect()))]);
    bench.topology.cpus[1].online = false;
    bench.keep(&policy).unwrap();
    let helper = |bench: &Bench| bench.topology.guests[0].threads[0].affinity.to_string();
    assert_eq!(helper(&bench), "0-1,3");
    // What the kernel made of it, and what was recorded of that.
    bench.topology.guests[0].threads[0].affinity = cpus("0,3");
    let thread = bench.standing().into_iter().find(|item| item.target.to_string().starts_with("vm1 thread"));
    let n = *thread.unwrap().steps.first().unwrap();
    let taken = Some(cpus("0,3").into());
    let done = bench
        .records
        .iter_mut()
        .find(|record| matches!(record, Record::Done { n: found, .. } if *found == n));
    *done.unwrap() = Record::Done { n, taken };
    assert_eq!(bench.keep(&policy).unwrap().steps, [], "more cannot be had");
    bench.topology.cpus[1].online = true;
    assert_eq!(lines(&bench.keep(&policy).unwrap()), ["vm1 thread 1000 qemu: 0,3 -> 0-1,3"]);
    let standing = bench.standing();
    assert!(standing.iter().all(|item| item.old.to_string() != "0,3"), "{standing:?}");
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

/// One guest's trouble is its own: what was done for it stays, and the others are served.
#[test]
fn a_guest_that_cannot_be_served_stays_as_it_is() {
    let list = |list: &str| Pins::Cpus(cpus(list).iter().collect());
    let both = policy(&[("vm1", list("2")), ("vm2", list("3-4"))]);
    type Change = fn(&mut Topology);
    let more_vcpus: Change = |topology| {
        let added = guest("vm1", 2, None).vcpus.remove(1);
        topology.guests[0].vcpus.push(added);
    };
    let its_cpu_goes: Change = |topology| {
        topology.cpus[2].online = false;
        topology.guests[0].vcpus[0].thread.affinity = cpus("0-5");
    };
    for (change, back, expected) in [
        (
            more_vcpus,
            (|topology| drop(topology.guests[0].vcpus.pop())) as Change,
            "guest \"vm1\" has 2 vCPUs but only 1 CPUs were given; give one CPU per vCPU",
        ),
        (its_cpu_goes, |topology| topology.cpus[2].online = true, "CPU 2 is offline"),
    ] {
        let mut bench = two_guests();
        bench.keep(&both).unwrap();
        change(&mut bench.topology);
        let before = bench.topology.guests[0].clone();
        // The other guest is reset, and has a vCPU more.
        bench.topology.irqs.retain(|irq| irq.number.0 != 40);
        bench.topology.guests[1].vfs[0].slots.clear();
        add_slots(&mut bench.topology, 1, 41, 1, "0-5");
        let added = guest("vm2", 2, None).vcpus.remove(1);
        bench.topology.guests[1].vcpus.push(added);

        let Renewed { plan, held, .. } = bench.renew(&both).unwrap();
        let found: Vec<_> = held.iter().map(|held| (held.guest.as_str(), held.error.to_string())).collect();
        assert!(matches!(&found[..], [("vm1", error)] if error.starts_with(expected)), "{found:?}");
        // Its vCPU, its other thread, and its interrupt.
        assert_eq!(held[0].targets.len(), 3, "{:?}", held[0].targets);
        assert_eq!(bench.topology.guests[0], before);
        assert_eq!(
            lines(&plan),
            ["vm2 vCPU 1 (thread 2011): 0-3 -> 4", "irq 41 VF 0000:01:10.2 slot 0: 0-5 -> 3"]
        );
        assert_eq!(bench.renew(&both).unwrap().plan.steps, [], "it holds");

        // It can be served again.
        back(&mut bench.topology);
        bench.keep(&both).unwrap();
        assert_eq!(bench.topology.guests[0].vcpus[0].thread.affinity, cpus("2"));
        assert_eq!(bench.topology.guests[0].vfs[0].slots[0].affinity, Some(cpus("2")));
    }
    // What is wrong for all has no plan.
    let mut bench = two_guests();
    let all = policy(&[("vm1", list("0-2")), ("vm2", list("3-5"))]);
    assert_eq!(bench.renew(&all).unwrap_err(), PlanError::NoHousekeeping("0-5".to_owned()));
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
                fixed: &BTreeSet::new(),
            };
            let (expected, _) = settled(&fresh, &[], &plan(&facts, &policy).unwrap());
            prop_assert_eq!(&bench.topology.irqs, &expected.irqs);
            prop_assert_eq!(&bench.topology.default_affinity, &expected.default_affinity);
            prop_assert_eq!(&bench.topology.guests, &expected.guests);
        }
    }
}
