//! `trace`: single interrupts, hop by hop. Attached only for `vfprobe trace`; it has no figures (docs/trace.md).

use super::hook::{self, Variant};
use super::vm_exit::reason_comes_first;
use super::{Hook, Needs, ProbeSpec, Role, exit_names, text};
use crate::model::PciAddress;
use crate::stats::timeline::{Event, Id, What};
use probe_ebpf::probes::trace::{self, PENDING, Record, VCPU_RUNS};

/// The specification.
pub static SPEC: ProbeSpec = ProbeSpec {
    name: "trace",
    about: "single interrupts of VFs, hop by hop",
    needs: Needs::Nothing,
    hooks: &[
        figure("kvm/kvm_eoi", "service", hook::raw("trace_eoi_raw", &[])),
        Hook {
            event: "kvm/kvm_entry",
            role: Role::Required,
            raw: hook::raw("trace_entry_raw", &["OFF_KVM_VCPU_ID"]),
            classic: None,
        },
        figure("kvm/kvm_inj_virq", "delivery", hook::raw("trace_inject_raw", &[])),
        figure("kvm/kvm_vcpu_wakeup", "halts", hook::raw("trace_halt_raw", &[])),
        Hook {
            event: "kvm/kvm_exit",
            role: Role::Figure("exits"),
            raw: Some(Variant { program: "trace_exit_raw", needs: &[], fits: reason_comes_first }),
            classic: hook::classic("trace_exit_tp", &["REC_EXIT_REASON", "REC_EXIT_ISA"]),
        },
        figure("sched/sched_switch", "wake", hook::raw("trace_switch_raw", &["OFF_TASK_PID"])),
        figure("sched/sched_waking", "wakers", hook::raw("trace_waking_raw", &["OFF_TASK_PID"])),
        figure("kvm/kvm_apicv_accept_irq", "hardware", hook::raw("trace_apicv_raw", &[])),
        figure("workqueue/workqueue_execute_start", "slow path", hook::raw("trace_work_raw", &[])),
        figure(
            "workqueue/workqueue_queue_work",
            "slow path",
            hook::raw("trace_queue_raw", &["OFF_WORK_FUNC", "IRQFD_INJECT"]),
        ),
        Hook {
            event: "kvm/kvm_apic_accept_irq",
            role: Role::Required,
            raw: hook::raw("trace_accept_raw", &[]),
            classic: None,
        },
        Hook {
            event: "irq/irq_handler_exit",
            role: Role::Required,
            raw: hook::raw("trace_handled_raw", &[]),
            classic: None,
        },
        Hook {
            event: "irq/irq_handler_entry",
            role: Role::Required,
            raw: hook::raw("trace_irq_raw", &["OFF_IRQACTION_NAME"]),
            classic: None,
        },
    ],
    collect: |_, _, _, _| Ok(()),
};

const fn figure(event: &'static str, loses: &'static str, raw: Option<Variant>) -> Hook {
    Hook { event, role: Role::Figure(loses), raw, classic: None }
}

/// A record of the ring in words; `None` for one of a kind that is not known.
#[must_use]
pub fn event_of(record: &Record) -> Option<Event> {
    let hop = *trace::Hop::ALL.get(usize::try_from(record.hop).ok()?)?;
    let vcpu = (record.vcpu != 0).then_some(record.vcpu);
    let what = match hop {
        trace::Hop::Raised => What::Raised { irq: record.a, busy: record.b != 0 },
        trace::Hop::Handled => What::Handled,
        trace::Hop::Queued => What::Queued,
        trace::Hop::Worked => What::Worked,
        trace::Hop::Accepted => What::Accepted {
            vector: record.a,
            pending: record.b & PENDING != 0,
            running: vcpu.map(|_| record.b & VCPU_RUNS != 0),
            vcpu_id: record.c,
            vcpu_cpu: vcpu.map(|_| record.d),
        },
        trace::Hop::Hardware => What::Hardware,
        trace::Hop::Waking => What::Waking,
        trace::Hop::SwitchedIn => What::SwitchedIn,
        trace::Hop::SwitchedOut => What::SwitchedOut { to: text(&record.other), to_tid: record.a },
        trace::Hop::Exited => {
            // The upper half of a VMX reason holds flags (failed entry, enclave, bus lock).
            let code = if record.b == exit_names::VMX { record.a & 0xffff } else { record.a };
            What::Exited { reason: exit_names::exit_name(record.b, code) }
        }
        trace::Hop::HaltEnded => What::HaltEnded { slept: record.a != 0 },
        trace::Hop::Injected => What::Injected { vector: record.a },
        trace::Hop::Entered => What::Entered,
        trace::Hop::PassedBy => What::PassedBy,
        trace::Hop::Ended => What::Ended,
    };
    let id = (record.id.raise_ns != 0).then(|| Id {
        raise_ns: record.id.raise_ns,
        vf: PciAddress::from_packed(record.id.vf),
        slot: record.id.slot,
    });
    let hop = crate::stats::timeline::Hop {
        ns: record.ns,
        cpu: record.cpu,
        tid: record.tid,
        comm: text(&record.comm),
        what,
    };
    Some(Event { hop, id, vcpu })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(hop: trace::Hop, a: u32, b: u32) -> Record {
        let mut comm = [0; trace::COMM_LEN];
        comm[..5].copy_from_slice(b"CPU 0");
        Record {
            ns: 5,
            id: trace::Id { raise_ns: 3, vf: 0x180, slot: 1 },
            hop: hop as u32,
            cpu: 2,
            tgid: 70,
            tid: 77,
            vcpu: 77,
            a,
            b,
            c: 4,
            d: 1,
            pad: 0,
            comm,
            other: [b'x'; trace::COMM_LEN],
        }
    }

    #[test]
    fn records_become_events() {
        let accepted = |b| event_of(&record(trace::Hop::Accepted, 38, b)).unwrap().hop.what;
        let expected = |pending, running| What::Accepted {
            vector: 38,
            pending,
            running: Some(running),
            vcpu_id: 4,
            vcpu_cpu: Some(1),
        };
        assert_eq!(accepted(0), expected(false, false));
        assert_eq!(accepted(PENDING | VCPU_RUNS), expected(true, true));
        let event = event_of(&record(trace::Hop::SwitchedOut, 9, 0)).unwrap();
        let to = "x".repeat(trace::COMM_LEN);
        assert_eq!(event.hop.what, What::SwitchedOut { to, to_tid: 9 });
        assert_eq!((event.hop.comm.as_str(), event.hop.cpu, event.hop.ns), ("CPU 0", 2, 5));
        assert_eq!(event.id.unwrap().vf.to_string(), "0000:01:10.0");
        for (isa, code, name) in [(1, 0x8000_0001, "EXTERNAL_INTERRUPT"), (2, 0x78, "HLT")] {
            let what = event_of(&record(trace::Hop::Exited, code, isa)).unwrap().hop.what;
            assert_eq!(what, What::Exited { reason: name.to_owned() });
        }
        let mut shared = record(trace::Hop::Waking, 0, 0);
        shared.id.raise_ns = 0;
        assert_eq!(event_of(&shared).unwrap().id, None);
        assert_eq!(event_of(&Record { hop: 99, ..shared }), None);
    }

    #[test]
    fn every_hop_names_one_of_its_hooks() {
        for hop in trace::Hop::ALL {
            let event = event_of(&record(hop, 0, 2)).unwrap().hop.what.event().replace(':', "/");
            assert!(SPEC.hooks.iter().any(|hook| hook.event == event), "{hop:?}: {event}");
        }
    }
}
