//! Metrics of the probe `irq_delivery`: the way of VF interrupts to their guests.

use super::{Kind, Metric, Origin, Unit};

/// Labels of one VF vector's figures in one configuration.
const VECTOR: &[&str] = &["guest", "vf", "slot", "vcpu", "config"];

const fn irq(name: &'static str, counter: &'static str, help: &'static str) -> Metric {
    let origin = Origin::Counter("irq_delivery", counter);
    Metric { name, kind: Kind::Counter, unit: Unit::None, labels: VECTOR, help, origin }
}

pub(super) const ROWS: &[Metric] = &[
    Metric {
        name: "vfprobe_irq_delivery_seconds",
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        labels: &["guest", "vf", "slot", "vcpu", "stage", "config"],
        help: "Time that a VF's interrupt spent in each stage of its way to the guest",
        origin: Origin::Series("irq_delivery"),
    },
    irq("vfprobe_irq_delivery_raised_total", "raised", "Interrupts of the VF that the host took"),
    irq(
        "vfprobe_irq_delivery_accepted_total",
        "accepted",
        "Interrupts of the VF that a vCPU's APIC accepted",
    ),
    irq(
        "vfprobe_irq_delivery_delivered_total",
        "delivered",
        "Interrupts of the VF with which the guest was entered",
    ),
    irq(
        "vfprobe_irq_delivery_coalesced_total",
        "coalesced",
        "Interrupts accepted while the same vector was still pending, and so delivered together with it",
    ),
    irq(
        "vfprobe_irq_delivery_same_cpu_total",
        "same_cpu",
        "Interrupts taken on the CPU that the vCPU was last on",
    ),
    irq(
        "vfprobe_irq_delivery_cross_cpu_total",
        "cross_cpu",
        "Interrupts taken on another CPU than the vCPU's, which needed a kick",
    ),
    irq(
        "vfprobe_irq_delivery_apicv_total",
        "apicv",
        "Interrupts accepted by a vCPU whose APICv or AVIC delivers without a further event",
    ),
    irq(
        "vfprobe_irq_delivery_slow_path_total",
        "slow_path",
        "Interrupts that went through the irqfd work queue instead of being set at once",
    ),
    irq(
        "vfprobe_irq_delivery_slow_merged_total",
        "slow_merged",
        "Interrupts of the slow path raised while its work was waiting already, which injects once for all",
    ),
    irq(
        "vfprobe_irq_delivery_slow_accepted_total",
        "slow_accepted",
        "Interrupts of the VF that a vCPU's APIC accepted from the irqfd work queue",
    ),
    irq(
        "vfprobe_irq_delivery_userspace_total",
        "userspace",
        "Interrupts that the VMM read from the eventfd and injected itself",
    ),
    irq(
        "vfprobe_irq_delivery_not_accepted_total",
        "not_accepted",
        "Interrupts of the slow path and of user space together, where the hook that tells them apart is missing",
    ),
    irq(
        "vfprobe_irq_delivery_multicast_total",
        "multicast",
        "Interrupts of the VF that more than one vCPU accepted",
    ),
    irq(
        "vfprobe_irq_delivery_freed_total",
        "freed",
        "Times that the VF's interrupt was freed: the guest was reset, its driver unbound, the eventfd exchanged",
    ),
    Metric {
        name: "vfprobe_apicv_changes_total",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["guest", "config"],
        help: "Times that KVM's reasons against delivery by hardware (APICv, AVIC) changed; absent while none did",
        origin: Origin::Counter("irq_delivery", "apicv_changes"),
    },
    Metric {
        name: "vfprobe_apicv_inhibits",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["guest", "config"],
        help: "KVM's reasons against delivery by hardware (APICv, AVIC) that stand; absent until they change",
        origin: Origin::Level("irq_delivery", "apicv_inhibits"),
    },
    Metric {
        name: "vfprobe_irq_delivery_pending",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: VECTOR,
        help: "Interrupts accepted and not yet delivered at this moment",
        origin: Origin::Level("irq_delivery", "pending"),
    },
    Metric {
        // A difference of counters that are not read at one instant, so it may step back by one: not a counter.
        name: "vfprobe_irq_delivery_unmatched",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: VECTOR,
        help: "Interrupts accepted so far that were neither delivered nor coalesced nor are pending",
        origin: Origin::Counter("irq_delivery", "unmatched"),
    },
];
