//! `vcpu`: which thread runs which vCPU, and when it is on a CPU. It shows nothing by itself; the others need it.

use super::{Hook, Needs, ProbeSpec, Role, hook};

/// The specification.
pub static SPEC: ProbeSpec = ProbeSpec {
    name: "vcpu",
    about: "which thread runs which vCPU, and when it is on a CPU",
    needs: Needs::Nothing,
    hooks: &[
        Hook {
            event: "sched/sched_switch",
            role: Role::Figure("wake"),
            raw: hook::raw("vcpu_switch_raw", &["OFF_TASK_PID"]),
            classic: hook::classic("vcpu_switch_tp", &["REC_SWITCH_NEXT_PID", "REC_SWITCH_PREV_STATE"]),
        },
        Hook {
            event: "kvm/kvm_entry",
            role: Role::Required,
            raw: hook::raw("vcpu_entry_raw", &["OFF_KVM_VCPU_ID"]),
            classic: hook::classic("vcpu_entry_tp", &["REC_ENTRY_VCPU_ID"]),
        },
    ],
    collect: |_, _, _, _| Ok(()),
};
