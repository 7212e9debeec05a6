//! Metrics of the probe `vcpu_sched`: what the scheduler does with vCPUs.

use super::{Kind, Metric, Origin, Unit, VCPU};

/// Labels of what one thread took from one vCPU in one configuration.
const PREEMPTER: &[&str] = &["guest", "vcpu", "by", "by_kind", "config"];

const fn sched(
    name: &'static str,
    counter: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Counter, unit, labels, help, origin: Origin::Counter("vcpu_sched", counter) }
}

pub(super) const ROWS: &[Metric] = &[
    Metric {
        name: "vfprobe_vcpu_runqueue_seconds",
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        labels: VCPU,
        help: "Time from the wakeup of a vCPU's thread until it runs",
        origin: Origin::Series("vcpu_sched"),
    },
    sched("vfprobe_vcpu_running_seconds_total", "running_ns", Unit::Seconds, VCPU, "Time on a CPU"),
    sched(
        "vfprobe_vcpu_runnable_seconds_total",
        "runnable_ns",
        Unit::Seconds,
        VCPU,
        "Time in which the vCPU's thread could have run and had no CPU",
    ),
    sched("vfprobe_vcpu_blocked_seconds_total", "blocked_ns", Unit::Seconds, VCPU, "Time asleep"),
    sched(
        "vfprobe_vcpu_migrations_total",
        "migrations",
        Unit::None,
        VCPU,
        "Times that a vCPU's thread went on on another CPU",
    ),
    sched(
        "vfprobe_vcpu_preempted_total",
        "preempted",
        Unit::None,
        PREEMPTER,
        "Times that another thread took the CPU of a vCPU that wanted to go on",
    ),
    sched(
        "vfprobe_vcpu_preempted_seconds_total",
        "preempted_ns",
        Unit::Seconds,
        PREEMPTER,
        "Time from such a preemption until the vCPU ran again",
    ),
];
