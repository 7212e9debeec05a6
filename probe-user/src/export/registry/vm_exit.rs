//! Metrics of the probe `vm_exit`: exits, halts, and time in the guest.

use super::{Kind, Metric, Origin, Unit, VCPU};

const fn exit(
    name: &'static str,
    counter: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Counter, unit, labels, help, origin: Origin::Counter("vm_exit", counter) }
}

pub(super) const ROWS: &[Metric] = &[
    Metric {
        name: "vfprobe_vm_exit_seconds",
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        labels: &["guest", "vcpu", "reason", "config"],
        help: "Time from a VM exit to the next entry of the same vCPU; HLT contains the guest's sleep",
        origin: Origin::Series("vm_exit"),
    },
    exit(
        "vfprobe_vm_exit_userspace_total",
        "user_exits",
        Unit::None,
        &["guest", "vcpu", "reason", "config"],
        "VM exits that went on to the VMM, by KVM_EXIT reason",
    ),
    exit(
        "vfprobe_vm_exit_interrupts_total",
        "interrupt_exits",
        Unit::None,
        &["guest", "vcpu", "kind", "config"],
        "VM exits because of interrupts (host, nmi, window, apic), which are also among the exits by reason",
    ),
    exit(
        "vfprobe_vm_exit_host_vector_total",
        "host_vector_exits",
        Unit::None,
        &["guest", "vcpu", "vector", "config"],
        "VM exits by a host interrupt, by its APIC vector; absent where the processor does not tell it (AMD)",
    ),
    exit(
        "vfprobe_vm_exit_fastpath_total",
        "fastpath",
        Unit::None,
        &["guest", "vcpu", "reason", "config"],
        "VM exits after which KVM entered the guest again on a fast path, with interrupts still off; they are also among the exits by reason",
    ),
    exit("vfprobe_vcpu_guest_seconds_total", "guest_ns", Unit::Seconds, VCPU, "Time in guest mode"),
    exit(
        "vfprobe_vcpu_host_seconds_total",
        "host_ns",
        Unit::Seconds,
        VCPU,
        "Time from VM exits other than halts to the next entry, preemption and the VMM's work included",
    ),
    exit(
        "vfprobe_vcpu_halted_seconds_total",
        "halted_ns",
        Unit::Seconds,
        VCPU,
        "Time from halts of the guest to the next entry: sleep, halt polling and wake-up",
    ),
    exit(
        "vfprobe_halt_polled_total",
        "halt_polled",
        Unit::None,
        VCPU,
        "Halts that ended while the host was still polling",
    ),
    exit(
        "vfprobe_halt_polled_seconds_total",
        "halt_polled_ns",
        Unit::Seconds,
        VCPU,
        "Time of the halts that ended while the host was still polling",
    ),
    exit(
        "vfprobe_halt_waited_total",
        "halt_waited",
        Unit::None,
        VCPU,
        "Halts in which the vCPU's thread went to sleep",
    ),
    exit(
        "vfprobe_halt_waited_seconds_total",
        "halt_waited_ns",
        Unit::Seconds,
        VCPU,
        "Time of the halts in which the vCPU's thread went to sleep",
    ),
];
