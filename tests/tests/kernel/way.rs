//! An interrupt's way from the host's handler to the guest's EOI, with invented arguments, for what this kernel or this
//! processor does not do by itself: injection, hardware delivery (APICv, AVIC), injection called off and repeated.
//!
//! The programs read the vCPU's number through a pointer. They are given the address of a function; what stands there
//! is taken for the number, and the accepts name the same.

use super::delivery::{ACTION, IRQ, run, teach, topology, total};
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
