//! Plans of made-up hosts: what is changed, what is refused, and that planning again changes nothing.

use super::planner::{Facts, plan};
use super::policy::Policy;
use super::{Isolate, Need, Plan, PlanError, Target, TargetKey};
use crate::model::owners::Owners;
use crate::model::seen::Seen;
use crate::model::topology::{DeliveryMode, Topology};
use crate::model::{CpuId, CpuSet, HostThread, IrqNumber, Pid, VcpuId};
use crate::plan::testing::{HostShape, add_slots, cpus, guest, host, irq, settled, thread};
use crate::plan::{Pins, Placement, VfPolicy, wants_look};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Duration;

fn two_guests() -> Topology {
    let mut topology = host(HostShape { nodes: 1, cores: 4, threads: 1 });
    topology.guests = vec![guest("vm1", 1, None), guest("vm2", 1, None)];
    topology.irqs = vec![irq(0, "timer", "0-3"), irq(24, "nvme0q1", "0-1"), irq(25, "", "0-3")];
    add_slots(&mut topology, 0, 30, 2, "0-3");
    add_slots(&mut topology, 1, 40, 1, "2");
    topology
}

fn plan_of(topology: &Topology, threads: &[HostThread], policy: &Policy) -> Result<Plan, PlanError> {
    plan(
        &Facts {
            topology,
            threads,
            knobs: &[],
            owners: &Owners::default(),
            virtual_apic: None,
            seen: None,
            immovable: &BTreeSet::new(),
            fixed: &BTreeSet::new(),
        },
        policy,
    )
}

fn lines(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(|s| format!("{}: {} -> {}", s.target, s.now, s.new)).collect()
}

fn policy(list: &str, placement: Placement) -> Policy {
    let list = cpus(list).iter().collect();
    Policy::for_guest("vm1", Pins::Cpus(list), placement)
}

#[test]
fn placements() {
    let check = |placement, vectors: &[&str]| {
        let plan = plan_of(&two_guests(), &[], &policy("2", placement)).unwrap();
        let mut expect = vec![
            "default mask of new interrupts: 0-3 -> 0-1,3",
            "irq 0 timer: 0-3 -> 0-1,3",
            "irq 40 VF 0000:01:10.2 slot 0: 2 -> 0-1,3",
            "vm1 thread 1000 qemu: 0-3 -> 0-1,3",
            "vm1 vCPU 0 (thread 1010): 0-3 -> 2",
        ];
        expect.extend(vectors);
        assert_eq!(lines(&plan), expect, "{placement}");
    };
    let (first, second) =
        ("irq 30 VF 0000:01:10.1 slot 0: 0-3 -> ", "irq 31 VF 0000:01:10.1 slot 1: 0-3 -> ");
    check(Placement::Own, &[&format!("{first}2"), &format!("{second}2")]);
    check(Placement::Near, &[&format!("{first}1"), &format!("{second}3")]);
    check(Placement::Housekeeping, &[&format!("{first}0-1,3"), &format!("{second}0-1,3")]);
    check(Placement::Keep, &[]);
}

#[test]
fn auto_depends_on_how_interrupts_are_delivered() {
    let check = |virtual_apic: Option<bool>, cpu: &str, reason: &str| {
        let (topology, owners, immovable) = (two_guests(), Owners::default(), BTreeSet::new());
        let facts = Facts {
            topology: &topology,
            threads: &[],
            knobs: &[],
            owners: &owners,
            virtual_apic,
            seen: None,
            immovable: &immovable,
            fixed: &BTreeSet::new(),
        };
        let plan = plan(&facts, &policy("2", Placement::Auto)).unwrap();
        let step = plan.steps.iter().rev().nth(1).unwrap();
        assert_eq!(step.new.to_string(), cpu, "{virtual_apic:?}");
        assert!(step.reason.starts_with(reason), "{}", step.reason);
    };
    check(Some(false), "2", "without APICv or AVIC the vCPU leaves the guest anyway: CPU 2 runs vCPU 0");
    check(Some(true), "1", "APICv or AVIC lets the guest go on: housekeeping CPU 1");
    check(None, "1", "whether APICv or AVIC is on is not known: housekeeping CPU 1");
}

#[test]
fn a_vf_may_have_a_placement_of_its_own() {
    let topology = two_guests();
    let mut policy = policy("2", Placement::Keep);
    let table = |address: &str, placement| VfPolicy { address: address.parse().unwrap(), placement };
    policy.guests[0].vfs = vec![table("0000:01:10.1", Placement::Own), table("0000:01:10.7", Placement::Own)];
    let plan = plan_of(&topology, &[], &policy).unwrap();
    assert!(
        lines(&plan).contains(&"irq 30 VF 0000:01:10.1 slot 0: 0-3 -> 2".to_owned()),
        "{:?}",
        lines(&plan)
    );
    let note = "VF 0000:01:10.7 has a table in the policy, but is not one of vm1's".to_owned();
    assert!(plan.notes.contains(&note), "{:?}", plan.notes);

    policy.guests[0].placement = Placement::Own;
    policy.guests[0].vfs = vec![table("0000:01:10.1", Placement::Keep)];
    let plan = plan_of(&topology, &[], &policy).unwrap();
    assert!(!lines(&plan).iter().any(|line| line.contains("0000:01:10.1")), "{:?}", lines(&plan));
}

#[test]
fn with_partial_application_nothing_is_needed() {
    let mut policy = policy("2", Placement::Own);
    policy.limits.partial = true;
    let plan = plan_of(&two_guests(), &[], &policy).unwrap();
    assert!(plan.steps.iter().all(|step| step.need == Need::BestEffort));
}

#[test]
fn own_follows_the_vcpu_that_the_guest_chose() {
    let mut topology = host(HostShape { nodes: 1, cores: 4, threads: 1 });
    topology.guests = vec![guest("vm1", 2, None)];
    add_slots(&mut topology, 0, 30, 3, "0-3");
    topology.guests[0].vfs[0].slots[0].vcpu = Some(VcpuId(1));
    topology.guests[0].vfs[0].slots[1].mode = DeliveryMode::Posted;
    let plan = plan_of(&topology, &[], &policy("2-3", Placement::Own)).unwrap();
    let vectors: Vec<(String, String)> = plan
        .steps
        .iter()
        .filter(|s| matches!(s.target, Target::Irq(_)))
        .map(|s| (s.new.to_string(), s.reason.clone()))
        .collect();
    assert_eq!(
        vectors,
        [
            ("3".to_owned(), "CPU 3 runs vCPU 1, which the interrupt is for".to_owned()),
            ("2".to_owned(), "CPU 2 runs vCPU 0; by queue order: not seen".to_owned()),
        ]
    );
    assert!(plan.notes[0].contains("slot 1 is posted"), "{:?}", plan.notes);
}

#[test]
fn reasons_say_what_was_seen() {
    let mut topology = host(HostShape { nodes: 1, cores: 4, threads: 1 });
    topology.guests = vec![guest("vm1", 2, None)];
    add_slots(&mut topology, 0, 30, 4, "0-3");
    let vf = &mut topology.guests[0].vfs[0];
    for (slot, vcpu) in [(0, 1), (1, 1), (2, 0)] {
        vf.slots[slot].vcpu = Some(VcpuId(vcpu));
    }
    let vf = topology.guests[0].vfs[0].address;
    let counts =
        [(vf, 0, VcpuId(1), 120), (vf, 1, VcpuId(0), 2), (vf, 1, VcpuId(1), 3), (vf, 2, VcpuId(0), 1)];
    let seen = Seen::of(&topology).counted(Duration::from_millis(2010), counts);
    let (owners, immovable) = (Owners::default(), BTreeSet::new());
    let reasons = |seen: Option<&Seen>, pins: Pins| -> Vec<String> {
        let facts = Facts {
            topology: &topology,
            threads: &[],
            knobs: &[],
            owners: &owners,
            virtual_apic: None,
            seen,
            immovable: &immovable,
            fixed: &BTreeSet::new(),
        };
        let plan = plan(&facts, &Policy::for_guest("vm1", pins, Placement::Own)).unwrap();
        plan.steps.iter().filter(|s| matches!(s.target, Target::Irq(_))).map(|s| s.reason.clone()).collect()
    };
    let list = || Pins::Cpus(vec![CpuId(2), CpuId(3)]);
    assert_eq!(
        reasons(Some(&seen), list()),
        [
            "CPU 3 runs vCPU 1; seen: all 120 interrupts of 2 s were for it",
            "CPU 3 runs vCPU 1; seen: 3 of 5 interrupts of 2 s were for it, the last among them",
            "CPU 2 runs vCPU 0; seen: the one interrupt of 2 s was for it",
            "CPU 3 runs vCPU 1; by queue order: no interrupt was seen in 2 s",
        ]
    );
    assert_eq!(
        reasons(None, list())[2..],
        ["CPU 2 runs vCPU 0, which the interrupt is for", "CPU 3 runs vCPU 1; by queue order: not seen",]
    );
    // A vCPU without a CPU of its own has none for its interrupts, and another vCPU's is no help.
    assert_eq!(reasons(Some(&seen), Pins::Keep), Vec::<String>::new());
}

#[test]
fn a_look_is_worth_it_where_the_plan_depends_on_it() {
    let check = |vcpus: u32, mode: DeliveryMode, placement: Placement, expected: bool| {
        let mut topology = host(HostShape { nodes: 1, cores: 4, threads: 1 });
        topology.guests = vec![guest("vm1", vcpus, None)];
        assert!(!wants_look(&topology, &policy("2-3", placement)), "no interrupt is in use");
        add_slots(&mut topology, 0, 30, 1, "0-3");
        topology.guests[0].vfs[0].slots[0].mode = mode;
        let policy = Policy::for_guest("vm*", Pins::Auto, placement);
        assert_eq!(wants_look(&topology, &policy), expected, "{vcpus} {mode:?} {placement}");
        assert!(!wants_look(&topology, &Policy::for_guest("vm2", Pins::Auto, placement)));
        topology.guests[0].vfs[0].slots[0].vcpu = Some(VcpuId(0));
        assert_eq!(wants_look(&topology, &policy), expected && mode == DeliveryMode::Unknown);
    };
    for placement in [Placement::Own, Placement::Near, Placement::Auto] {
        check(1, DeliveryMode::Remapped, placement, false);
        check(2, DeliveryMode::Remapped, placement, true);
        check(1, DeliveryMode::Unknown, placement, true);
    }
    check(2, DeliveryMode::Remapped, Placement::Housekeeping, false);
    check(2, DeliveryMode::Unknown, Placement::Housekeeping, true);
    check(2, DeliveryMode::Unknown, Placement::Keep, false);
}

#[test]
fn near_prefers_cache_then_node_and_avoids_busy_cores() {
    // Node 0 holds CPUs 0, 1 and their siblings 4, 5; node 1 the others.
    let check = |list: &str, without_cache: bool, expect: &str, reason: &str| {
        let mut topology = host(HostShape { nodes: 2, cores: 2, threads: 2 });
        topology.guests = vec![guest("vm1", 1, None)];
        add_slots(&mut topology, 0, 30, 1, "0-7");
        if without_cache {
            topology.cpus.iter_mut().for_each(|c| c.llc = c.id.into());
        }
        let plan = plan_of(&topology, &[], &policy(list, Placement::Near)).unwrap();
        let step = plan.steps.last().unwrap();
        assert_eq!(step.new.to_string(), expect, "{list}");
        assert!(step.reason.contains(reason), "{list}: {}", step.reason);
    };
    check("2", false, "3", "shares the last-level cache with CPU 2");
    check("2", true, "3", "is on the NUMA node of CPU 2");
    check("2-3", false, "6", "shares the last-level cache (and a core with a guarded CPU)");
    check("2-3,6-7", false, "1", "no housekeeping CPU shares cache or node with CPU 2");
}

#[test]
fn threads_leave_guarded_cpus_when_asked() {
    let other = |pid: u32, tid: u32, affinity: &str, bound: bool| HostThread {
        pid: Pid(pid),
        parent: Pid(1),
        thread: thread(tid, "x", affinity),
        kernel: bound,
        bound,
    };
    let mut topology = two_guests();
    topology.guests[1].vcpus[0].thread.affinity = cpus("2");
    let threads = [
        other(50, 50, "0-3", false),
        other(51, 51, "2", true),
        other(52, 52, "2", false),
        other(53, 53, "0-1", false),
        other(1000, 1011, "0-3", false),
        other(2000, 2010, "2", false),
        HostThread { kernel: true, thread: thread(54, "irq/25-aerdrv", "2"), ..other(54, 54, "2", false) },
    ];
    let mut policy = policy("2", Placement::Keep);
    policy.isolate = Isolate::Threads;
    let plan = plan_of(&topology, &threads, &policy).unwrap();
    let moved: Vec<String> = lines(&plan).into_iter().filter(|l| l.starts_with("thread")).collect();
    assert_eq!(moved, ["thread 50 x: 0-3 -> 0-1,3", "thread 52 x: 2 -> 0-1,3"]);
    assert!(plan.notes.iter().any(|n| n.starts_with("vm2 vCPU 0 is pinned to guarded")), "{:?}", plan.notes);
    assert!(plan.notes.iter().any(|n| n.starts_with("1 kernel threads are bound")), "{:?}", plan.notes);
}

#[test]
fn what_the_kernel_refused_is_noted_and_not_tried_again() {
    let topology = two_guests();
    let immovable = BTreeSet::from([TargetKey::Irq(IrqNumber(0), "timer".to_owned())]);
    let facts = Facts {
        topology: &topology,
        threads: &[],
        knobs: &[],
        owners: &Owners::default(),
        virtual_apic: None,
        seen: None,
        immovable: &immovable,
        fixed: &BTreeSet::new(),
    };
    let plan = plan(&facts, &policy("2", Placement::Keep)).unwrap();
    assert!(!lines(&plan).iter().any(|l| l.starts_with("irq 0 ")));
    assert!(plan.notes.iter().any(|n| n == "irq 0 timer cannot be moved: the kernel refused it before"));
}

/// An interrupt that the kernel places itself: as newer kernels tell before it is tried, and as any told when it was.
#[test]
fn the_way_out_for_a_managed_interrupt_is_told() {
    let topology = two_guests();
    let (timer, queue) = ((IrqNumber(0), "timer".to_owned()), (IrqNumber(24), "nvme0q1".to_owned()));
    let way_out =
        "booted with isolcpus=managed_irq,domain,1, a managed one fires there only for these CPUs' own I/O";
    let refused = [&timer, &queue].map(|(number, actions)| TargetKey::Irq(*number, actions.clone()));
    for (immovable, fixed) in
        [(BTreeSet::new(), BTreeSet::from([timer.0, queue.0])), (BTreeSet::from(refused), BTreeSet::new())]
    {
        let facts = Facts {
            topology: &topology,
            threads: &[],
            knobs: &[],
            owners: &Owners::default(),
            virtual_apic: None,
            seen: None,
            immovable: &immovable,
            fixed: &fixed,
        };
        let plan = plan(&facts, &policy("1", Placement::Keep)).unwrap();
        let steps = plan.steps.iter().map(|step| format!("{}: {}", step.target, step.reason));
        let told: Vec<String> = steps.chain(plan.notes).filter(|line| line.contains(way_out)).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("irq 24 nvme0q1"), "{told:?}");
    }
}

/// CPUs 4 to 7 are somebody else's, who is named nowhere.
#[test]
fn what_is_moved_goes_to_the_housekeeping_cpus_that_the_policy_names() {
    let mut topology = host(HostShape { nodes: 1, cores: 8, threads: 1 });
    topology.guests = vec![guest("vm1", 1, None)];
    topology.guests[0].threads[0].affinity = cpus("0-7");
    topology.irqs = vec![
        irq(20, "a", "0-7"),
        irq(21, "b", "4-5"),
        irq(22, "c", "2"),
        irq(23, "d", "2,6"),
        irq(24, "e", "1-2"),
    ];
    add_slots(&mut topology, 0, 30, 2, "0-7");
    let named = |list: &str| Policy { housekeeping: Some(cpus(list)), ..policy("2", Placement::Near) };
    let plan = plan_of(&topology, &[], &named("0-1")).unwrap();
    assert_eq!(plan.housekeeping.to_string(), "0-1");
    assert_eq!(
        lines(&plan),
        [
            "default mask of new interrupts: 0-7 -> 0-1",
            "irq 20 a: 0-7 -> 0-1",
            "irq 22 c: 2 -> 0-1",
            "irq 23 d: 2,6 -> 0-1",
            "irq 24 e: 1-2 -> 1",
            "vm1 thread 1000 qemu: 0-7 -> 0-1",
            "vm1 vCPU 0 (thread 1010): 0-3 -> 2",
            "irq 30 VF 0000:01:10.1 slot 0: 0-7 -> 1",
            "irq 31 VF 0000:01:10.1 slot 1: 0-7 -> 1",
        ]
    );
    let (after, _) = settled(&topology, &[], &plan);
    assert_eq!(lines(&plan_of(&after, &[], &named("0-1")).unwrap()), Vec::<String>::new());

    // A guest that is given its CPUs automatically, or has them, gets none of these.
    let auto = |list: &str| Policy {
        housekeeping: Some(cpus(list)),
        ..Policy::for_guest("vm1", Pins::Auto, Placement::Keep)
    };
    assert_eq!(plan_of(&topology, &[], &auto("0-3")).unwrap().guarded.to_string(), "4");
    topology.guests[0].vcpus[0].thread.affinity = cpus("1");
    assert_eq!(plan_of(&topology, &[], &auto("0-1")).unwrap().guarded.to_string(), "2");
    // All others may be guests' then.
    assert_eq!(plan_of(&topology, &[], &auto("0-6")).unwrap().guarded.to_string(), "7");
    let refused =
        |policy: &Policy, topology: &Topology| plan_of(topology, &[], policy).unwrap_err().to_string();
    assert!(refused(&auto("0-7"), &topology).contains("only 0 of the online CPUs"));
    let keep =
        Policy { housekeeping: Some(cpus("0-1")), ..Policy::for_guest("vm1", Pins::Keep, Placement::Keep) };
    let error = refused(&keep, &topology);
    assert!(
        error.starts_with("CPU 1 is a housekeeping CPU of the policy, and a vCPU of guest \"vm1\""),
        "{error}"
    );
    assert!(refused(&named("0-2"), &topology).starts_with("CPU 2 is a housekeeping CPU"));
    assert!(refused(&named("0,9"), &topology).starts_with("CPU 9 does not exist"));
    topology.cpus[1].online = false;
    assert!(refused(&named("0-1"), &topology).starts_with("CPU 1 is offline"));
}

#[test]
fn impossible_wishes() {
    let mut topology = two_guests();
    topology.cpus[3].online = false;
    topology.guests[0] = guest("vm1", 2, None);
    let check = |guest: &str, pins: Pins, expect: &str| {
        let error =
            plan_of(&topology, &[], &Policy::for_guest(guest, pins, Placement::Own)).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    let list = |text: &str| Pins::Cpus(cpus(text).iter().collect());
    check("vm3", Pins::Auto, "no running guest is called \"vm3\"; running guests: vm1, vm2");
    check("vm1", list("2,9"), "CPU 9 does not exist; this host has CPUs 0-3");
    check("vm1", list("2-3"), "CPU 3 is offline");
    check("vm1", list("2"), "has 2 vCPUs but only 1 CPUs");
    check("vm1", list("0-2"), "at least one must remain");
    topology.cpus[2].online = false;
    let error = plan_of(&topology, &[], &Policy::for_guest("vm1", Pins::Auto, Placement::Own)).unwrap_err();
    assert!(matches!(error, PlanError::HostTooSmall { vcpus: 2, free: 2, .. }), "{error}");
}

#[test]
fn a_cpu_is_promised_once() {
    let mut policy = policy("2", Placement::Own);
    policy.guests.extend(Policy::for_guest("vm2", Pins::Cpus(vec![CpuId(2)]), Placement::Own).guests);
    let error = plan_of(&two_guests(), &[], &policy).unwrap_err();
    assert_eq!(
        error.to_string(),
        "CPU 2 is promised to guest \"vm1\" and to guest \"vm2\"; give each its own"
    );
    policy.guests[1] = policy.guests[0].clone();
    assert_eq!(plan_of(&two_guests(), &[], &policy), Err(PlanError::GuestTwice("vm1".to_owned())));
}

#[test]
fn a_guest_that_starts_later_drives_nobody_away() {
    let mut topology = host(HostShape { nodes: 1, cores: 4, threads: 1 });
    topology.guests = vec![guest("vm2", 1, None)];
    let policy = Policy::for_guest("vm*", Pins::Auto, Placement::Keep);
    let first = plan_of(&topology, &[], &policy).unwrap();
    assert_eq!(first.guarded.to_string(), "1");
    (topology, _) = settled(&topology, &[], &first);
    topology.guests.insert(0, guest("vm1", 1, None));
    let second = plan_of(&topology, &[], &policy).unwrap();
    let pins: Vec<String> = lines(&second).into_iter().filter(|line| line.contains("vCPU")).collect();
    assert_eq!(pins, ["vm1 vCPU 0 (thread 1010): 0-3 -> 2"]);
    assert_eq!((second.guests.join(","), second.guarded.to_string()), ("vm1,vm2".into(), "1-2".into()));
}

fn any_pins() -> impl Strategy<Value = Pins> {
    prop_oneof![
        Just(Pins::Auto),
        Just(Pins::Keep),
        proptest::sample::subsequence((0..8).map(CpuId).collect::<Vec<_>>(), 1..4).prop_map(Pins::Cpus),
    ]
}

fn any_placement() -> impl Strategy<Value = Placement> {
    proptest::sample::select(Placement::ALL.to_vec())
}

fn any_mask() -> impl Strategy<Value = String> {
    proptest::collection::btree_set(0_u32..8, 1..5)
        .prop_map(|set| set.into_iter().map(CpuId).collect::<CpuSet>().to_string())
}

proptest! {
    /// The plan for a host on which the last plan holds is empty; no step leads to a CPU that is not online, and
    /// none but a pin or a vector with placement `own` or `keep` leads to a guarded one.
    #[test]
    fn plans_converge(
        shape in (1_u32..3, 1_u32..5, 1_u32..3),
        vcpus in (1_u32..4, 1_u32..3),
        masks in proptest::collection::vec(any_mask(), 8),
        pins in any_pins(),
        second in proptest::option::of((any_pins(), any_placement())),
        placement in any_placement(),
        isolate in any::<bool>(),
    ) {
        let (nodes, cores, threads) = shape;
        let mut topology = host(HostShape { nodes, cores, threads });
        topology.guests = vec![guest("vm1", vcpus.0, Some(nodes - 1)), guest("vm2", vcpus.1, None)];
        topology.guests[1].vcpus[0].thread.affinity = cpus(&masks[0]);
        topology.guests[0].vcpus[0].thread.affinity = cpus(&masks[1]);
        topology.irqs = vec![irq(20, "a", &masks[2]), irq(21, "b", &masks[3])];
        add_slots(&mut topology, 0, 30, 3, &masks[4]);
        add_slots(&mut topology, 1, 40, 1, &masks[5]);
        let mut host_threads: Vec<HostThread> = masks[6..]
            .iter()
            .zip(70..)
            .map(|(mask, tid)| HostThread {
                pid: Pid(tid),
                parent: Pid(1), thread: thread(tid, "t", mask), kernel: false, bound: false,
            })
            .collect();
        for g in &topology.guests {
            let all = g.threads.iter().chain(g.vcpus.iter().map(|v| &v.thread));
            host_threads.extend(all.map(|t| HostThread {
                pid: g.pid,
                parent: Pid(1), thread: t.clone(), kernel: false, bound: false,
            }));
        }
        let mut policy = Policy::for_guest("vm1", pins, placement);
        if let Some((pins, placement)) = second {
            policy.guests.extend(Policy::for_guest("vm2", pins, placement).guests);
        }
        policy.isolate = if isolate { Isolate::Threads } else { Isolate::None };

        let Ok(plan) = plan_of(&topology, &host_threads, &policy) else { return Ok(()) };
        prop_assert_eq!(&plan, &plan_of(&topology, &host_threads, &policy).unwrap());
        for step in &plan.steps {
            prop_assert_ne!(&step.now, &step.new);
            let new = step.new.cpus().unwrap();
            prop_assert!(!new.intersection(&topology.online()).is_empty(), "{:?}", step);
            if step.need != Need::Required {
                prop_assert!(new.intersection(&plan.guarded).is_empty(), "{:?}", step);
            }
        }
        let (after, threads_after) = settled(&topology, &host_threads, &plan);
        let again = plan_of(&after, &threads_after, &policy).unwrap();
        prop_assert_eq!(lines(&again), Vec::<String>::new());
        prop_assert_eq!(again.guarded, plan.guarded);
    }
}
