//! An interrupt's way from the host's handler to the guest's EOI, with invented arguments, for what this kernel or this
//! processor does not do by itself: injection, hardware delivery (APICv, AVIC), injection called off and repeated.
//!
//! The programs read the vCPU's number through a pointer. They are given the address of a function; what stands there
//! is taken for the number, and the accepts name the same.

use super::delivery::{ACTION, IRQ, change_vcpu, run, teach, topology, total};
use probe_ebpf::layout::IRQFD_INJECT;
use probe_user::app::observe::Observer;
use probe_user::bpf::facts::read_facts;
use probe_user::host::HostRoot;
use probe_user::probes::MapReader as _;
use probe_user::stats::{Observability, Snapshot};

const VECTOR: u64 = 0x51;

/// One call of a program.
#[derive(Clone, Copy, Debug)]
enum Step {
    Irq,
    Accept,
    Apicv,
    IrqEnd,
    Inject,
    InjectAgain,
    Enter,
    Eoi,
}

/// What the steps leave, on a host of its own; again when a real interrupt of this CPU ended the made-up one early.
fn after(steps: &[Step]) -> Snapshot {
    super::slow_path::stay_here();
    let pointer = read_facts(&HostRoot::live()).globals[IRQFD_INJECT];
    let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    let topology = topology(&[tid]);
    for _ in 0..20 {
        let mut observer = Observer::start(&HostRoot::live(), &topology).unwrap();
        teach(&mut observer, &[]);
        observer.open(None).unwrap();
        run(&mut observer, "vcpu_entry_raw", &[pointer]);
        let vcpus = observer.loaded_mut().maps().vcpus().unwrap();
        let [(known, vcpu)] = &vcpus[..] else {
            panic!("the entry made one vCPU known, not {}", vcpus.len())
        };
        assert_eq!(*known, tid);
        let id = vcpu.vcpu_id;
        for step in steps {
            let (program, args) = match step {
                Step::Irq => ("irq_entry_raw", vec![IRQ.into(), ACTION]),
                Step::Accept => ("irq_accept_raw", vec![id.into(), 0, 0, VECTOR]),
                Step::Apicv => ("irq_apicv_raw", vec![id.into(), 0, 0, VECTOR]),
                Step::IrqEnd => ("irq_exit_raw", vec![IRQ.into(), ACTION, 1]),
                Step::Inject => ("irq_inject_raw", vec![VECTOR, 0, 0]),
                Step::InjectAgain => ("irq_inject_raw", vec![VECTOR, 0, 1]),
                Step::Enter => ("vcpu_entry_raw", vec![pointer]),
                Step::Eoi => ("irq_eoi_raw", vec![0, VECTOR]),
            };
            run(&mut observer, program, &args);
        }
        let snapshot = observer.snapshot(&topology).unwrap();
        if total(&snapshot, "userspace", None) == 0 {
            return snapshot;
        }
    }
    panic!("a real interrupt came between the steps each time: {steps:?}");
}

/// The program for the entry, with the switches of the thread around an accept as we like them.
#[test]
fn a_wait_is_told_by_the_times_of_switches() {
    /// Switch-outs, each with the switch-in that follows (ns from the accept), and n and sum of `wake`.
    type Case = (&'static [(i64, i64)], (u64, u64));
    let cases: [Case; 6] = [
        (&[], (0, 0)),
        (&[(-10, 7)], (1, 7)),
        (&[(-10, -5)], (0, 0)),
        // It was running when its interrupt came, and switched out before anybody could look.
        (&[(-10, -5), (1, 7)], (0, 0)),
        (&[(-10, 7), (8, 9)], (1, 7)),
        (&[(-30, -20), (0, 3)], (1, 3)),
    ];
    for (switches, expected) in cases {
        super::slow_path::stay_here();
        let pointer = read_facts(&HostRoot::live()).globals[IRQFD_INJECT];
        let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let topology = topology(&[tid]);
        let snapshot = (0..20).find_map(|_| {
            let mut observer = Observer::start(&HostRoot::live(), &topology).unwrap();
            teach(&mut observer, &[]);
            observer.open(None).unwrap();
            run(&mut observer, "vcpu_entry_raw", &[pointer]);
            let (_, vcpu) = observer.loaded_mut().maps().vcpus().unwrap()[0];
            run(&mut observer, "irq_entry_raw", &[IRQ.into(), ACTION]);
            run(&mut observer, "irq_accept_raw", &[vcpu.vcpu_id.into(), 0, 0, VECTOR]);
            run(&mut observer, "irq_exit_raw", &[IRQ.into(), ACTION, 1]);
            let accept_ns = observer.loaded_mut().maps().delivery(0).unwrap().accept_ns;
            run(&mut observer, "irq_inject_raw", &[VECTOR, 0, 0]);
            change_vcpu(observer.loaded_mut().ebpf_mut(), 0, |vcpu| {
                vcpu.switches = switches.len() as u64;
                for (number, (left, switched)) in (1..).zip(switches) {
                    vcpu.left_ns[number] = accept_ns.checked_add_signed(*left).unwrap();
                    vcpu.switched_ns[number] = accept_ns.checked_add_signed(*switched).unwrap();
                }
            });
            run(&mut observer, "vcpu_entry_raw", &[pointer]);
            let snapshot = observer.snapshot(&topology).unwrap();
            // A real interrupt or switch of this CPU may come between the steps.
            let whole =
                total(&snapshot, "userspace", None) == 0 && total(&snapshot, "delivered", Some("0")) == 1;
            whole.then_some(snapshot)
        });
        let snapshot = snapshot.expect("the steps, without a real interrupt between them");
        let wake = snapshot.series.iter().find(|s| s.labels.get("stage").is_some_and(|name| name == "wake"));
        let wake = &wake.unwrap().histogram;
        assert_eq!((wake.n(), wake.sum()), expected, "{switches:?}, lost {:?}", snapshot.lost);
    }
}

#[test]
fn each_way_is_counted_for_what_it_is() {
    use Step::{Accept, Apicv, Enter, Eoi, Inject, InjectAgain, Irq, IrqEnd};
    // Accepted, delivered, coalesced, apicv, pending, and n of `delivery` and `service`.
    let cases: [(&[Step], [u64; 7]); 7] = [
        (&[Irq, Accept, IrqEnd, Inject, Enter, Eoi], [1, 1, 0, 0, 0, 1, 1]),
        (&[Irq, Accept, IrqEnd, Inject, Enter], [1, 1, 0, 0, 0, 1, 0]),
        (&[Irq, Accept, IrqEnd], [1, 0, 0, 0, 1, 0, 0]),
        (&[Irq, Accept, IrqEnd, Inject, InjectAgain, Enter, Eoi], [1, 1, 0, 0, 0, 1, 1]),
        (&[Irq, Accept, IrqEnd, Irq, Accept, IrqEnd, Inject, Enter, Eoi], [2, 1, 1, 0, 0, 1, 1]),
        (&[Irq, Accept, IrqEnd, Inject, Enter, Eoi, Enter, Inject, Enter, Eoi], [1, 1, 0, 0, 0, 1, 1]),
        (&[Irq, Accept, Apicv, IrqEnd, Enter], [1, 0, 0, 1, 0, 0, 0]),
    ];
    for (steps, expected) in cases {
        let snapshot = after(steps);
        let counted = ["accepted", "delivered", "coalesced", "apicv", "pending"]
            .map(|name| total(&snapshot, name, Some("0")));
        let n = ["delivery", "service"].map(|stage| {
            let found =
                |s: &&probe_user::stats::Series| s.labels.get("stage").is_some_and(|name| name == stage);
            snapshot.series.iter().find(found).unwrap().histogram.n()
        });
        assert_eq!([counted.as_slice(), &n].concat(), expected, "{steps:?}, lost {:?}", snapshot.lost);
        assert_eq!(total(&snapshot, "unmatched", None), 0, "{steps:?}");
    }
}

#[test]
fn hardware_delivery_is_hidden_and_not_zero() {
    let snapshot = after(&[Step::Irq, Step::Accept, Step::Apicv, Step::IrqEnd]);
    for series in snapshot.series.iter().filter(|s| s.probe == "irq_delivery") {
        let seen = series.observable == Observability::Yes;
        assert_eq!(seen, series.labels["stage"] == "dispatch", "{series:?}");
    }
}

#[test]
fn an_accept_outside_an_interrupt_of_a_vf_is_nobodys() {
    let snapshot = after(&[Step::Accept, Step::Apicv, Step::Inject, Step::Enter, Step::Eoi]);
    assert_eq!(total(&snapshot, "accepted", None), 0);
    assert!(snapshot.series.iter().all(|s| s.probe != "irq_delivery"), "{:?}", snapshot.series);
}
