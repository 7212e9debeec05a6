//! Which kernel fields the programs read, and under which global each offset is handed in.
//!
//! Offsets are resolved from the running kernel's BTF (or a tracepoint's `format`) before loading; a program whose
//! offset is [`ABSENT`] is not loaded, or reads nothing.

/// The value of an offset that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// A member of a kernel structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldRef {
    /// The structure.
    pub structure: &'static str,
    /// Its member, dotted for nested ones.
    pub member: &'static str,
    /// The global that carries its offset in bytes.
    pub global: &'static str,
}

/// A field of a classic tracepoint's record, as its `format` file lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordField {
    /// `system/event`.
    pub event: &'static str,
    /// The field.
    pub field: &'static str,
    /// The global that carries its offset in bytes.
    pub global: &'static str,
}

const fn member(structure: &'static str, member: &'static str, global: &'static str) -> FieldRef {
    FieldRef { structure, member, global }
}

const fn field(event: &'static str, field: &'static str, global: &'static str) -> RecordField {
    RecordField { event, field, global }
}

/// Members read through pointers that raw tracepoints hand over.
pub const MEMBERS: &[FieldRef] = &[
    member("irqaction", "name", "OFF_IRQACTION_NAME"),
    member("irqaction", "dev_id", "OFF_IRQACTION_DEV_ID"),
    member("irq_desc", "irq_data.irq", "OFF_IRQ_DESC_IRQ"),
    member("amd_iommu_pi_data", "is_guest_mode", "OFF_AMD_PI_GUEST_MODE"),
    member("kvm_vcpu", "vcpu_id", "OFF_KVM_VCPU_ID"),
    member("kvm_vcpu", "arch.last_guest_tsc", LAST_GUEST_TSC),
    member("task_struct", "pid", "OFF_TASK_PID"),
    member("task_struct", "comm", "OFF_TASK_COMM"),
    member("task_struct", "flags", "OFF_TASK_FLAGS"),
    member("task_struct", "__state", "OFF_TASK_STATE"),
    member("work_struct", "func", "OFF_WORK_FUNC"),
    member("sk_buff", "dev", "OFF_SKB_DEV"),
    member("sk_buff", "len", "OFF_SKB_LEN"),
    member("sk_buff", "head", "OFF_SKB_HEAD"),
    member("sk_buff", "end", "OFF_SKB_END"),
    member("skb_shared_info", "gso_size", "OFF_SHINFO_GSO_SIZE"),
    member("skb_shared_info", "gso_segs", "OFF_SHINFO_GSO_SEGS"),
    member("net_device", "ifindex", "OFF_NETDEV_IFINDEX"),
    member("net_device", "nd_net.net", "OFF_NETDEV_NET"),
    member("net", "ns.inum", "OFF_NET_INUM"),
];

/// Fields of classic tracepoints, for events whose raw arguments do not carry the value.
pub const FIELDS: &[RecordField] = &[
    field("irq/irq_handler_entry", "irq", "REC_IRQ_ENTRY_IRQ"),
    field("irq/irq_handler_entry", "name", "REC_IRQ_ENTRY_NAME"),
    field("kvm/kvm_apic_accept_irq", "apicid", "REC_ACCEPT_APICID"),
    field("kvm/kvm_apic_accept_irq", "vec", "REC_ACCEPT_VEC"),
    field("kvm/kvm_inj_virq", "vector|irq", "REC_INJ_VECTOR"),
    field("kvm/kvm_inj_virq", "reinjected", "REC_INJ_REINJECTED"),
    field("kvm/kvm_eoi", "vector", "REC_EOI_VECTOR"),
    field("kvm/kvm_entry", "vcpu_id", "REC_ENTRY_VCPU_ID"),
    field("kvm/kvm_exit", "exit_reason", "REC_EXIT_REASON"),
    field("kvm/kvm_exit", "isa", "REC_EXIT_ISA"),
    field("kvm/kvm_exit", "intr_info", "REC_EXIT_INTR_INFO"),
    field("kvm/kvm_pi_irte_update", "host_irq", "REC_PI_IRQ"),
    field("kvm/kvm_pi_irte_update", "vcpu_id", "REC_PI_VCPU_ID"),
    field("kvm/kvm_pi_irte_update", "gvec", "REC_PI_VECTOR"),
    field("kvm/kvm_pi_irte_update", "set", "REC_PI_SET"),
    field("kvm/kvm_userspace_exit", "reason", "REC_USERSPACE_REASON"),
    field("kvm/kvm_userspace_exit", "errno", "REC_USERSPACE_ERRNO"),
    field("kvm/kvm_vcpu_wakeup", "ns", "REC_WAKEUP_NS"),
    field("kvm/kvm_vcpu_wakeup", "waited", "REC_WAKEUP_WAITED"),
    field("sched/sched_switch", "next_pid", "REC_SWITCH_NEXT_PID"),
    field("sched/sched_switch", "prev_state", "REC_SWITCH_PREV_STATE"),
    field("skb/kfree_skb", "skbaddr", "REC_KFREE_SKB"),
];

/// Address of `irqfd_inject` (kvm), 0 when not known.
pub const IRQFD_INJECT: &str = "IRQFD_INJECT";

/// Address of `__per_cpu_offset`, absent when not known.
pub const PER_CPU_OFFSET: &str = "__per_cpu_offset";

/// Address of the per-CPU variable `vector_irq`, before the CPU's offset is added; absent when not known.
pub const VECTOR_IRQ: &str = "vector_irq";

/// Offset of the guest's clock as KVM reads it after each exit, but for those of a fast path that enters the guest again.
pub const LAST_GUEST_TSC: &str = "OFF_LAST_GUEST_TSC";

/// 1 when the raw tracepoint `kvm_inj_virq` has `reinjected` as its third argument (6.1 and later), else 0.
pub const INJ_TELLS_REINJECTION: &str = "INJ_TELLS_REINJECTION";

/// 1 when the raw tracepoint `sched_switch` has `prev_state` as its fourth argument (5.18 and later), else 0.
pub const SWITCH_TELLS_STATE: &str = "SWITCH_TELLS_STATE";

/// 1 when the raw tracepoint `kvm_pi_irte_update` passes a vCPU's address instead of its number (6.18), else 0.
pub const PI_PASSES_VCPU: &str = "PI_PASSES_VCPU";

/// Whose structure the argument `vcpu_info` of `irq_set_vcpu_affinity()` is: `irq_delivery::VCPU_INFO_INTEL` or `..._AMD`;
/// 0 when the processor is neither's.
pub const VCPU_INFO: &str = "VCPU_INFO";

/// Globals that programs can do without.
pub const OPTIONAL: &[&str] = &[
    "REC_INJ_REINJECTED",
    INJ_TELLS_REINJECTION,
    SWITCH_TELLS_STATE,
    PI_PASSES_VCPU,
    VCPU_INFO,
    LAST_GUEST_TSC,
    "OFF_AMD_PI_GUEST_MODE",
    "REC_EXIT_INTR_INFO",
    "OFF_IRQ_DESC_IRQ",
    "OFF_TASK_COMM",
    "OFF_TASK_FLAGS",
    "OFF_TASK_STATE",
    "OFF_SHINFO_GSO_SIZE",
    "OFF_SHINFO_GSO_SEGS",
    "OFF_NETDEV_NET",
    "OFF_NET_INUM",
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn globals_are_unique() {
        let names: Vec<_> = MEMBERS.iter().map(|m| m.global).chain(FIELDS.iter().map(|f| f.global)).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }
}
