//! The one table of all metrics: the exporter, docs/metrics.md and the check of the dashboards read it.
//!
//! Names follow Prometheus' rules: base units, `_total` for counters, `_info` for facts held in labels. Nothing here
//! knows how a figure is read or served.

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Full name, `vfprobe_...`.
    pub name: &'static str,
    /// What it is to Prometheus.
    pub kind: Kind,
    /// What its value is counted in.
    pub unit: Unit,
    /// Labels it may carry, in the order shown. One without a value is left out, as Prometheus sees it.
    pub labels: &'static [&'static str],
    /// The HELP line: one sentence without a full stop.
    pub help: &'static str,
    /// Where its value comes from.
    pub origin: Origin,
}

/// What a metric is to Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Cumulative buckets with `_sum` and `_count`.
    Histogram,
    /// Only grows while vfprobe runs.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A gauge that is always 1; its labels say something.
    Info,
}

/// What a value is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Plain numbers.
    None,
}

/// Where a metric's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The series of this probe.
    Series(&'static str),
    /// This counter of this probe; values of a counter in ns become seconds.
    Counter(&'static str, &'static str),
    /// As a counter, but it says how things stand at the moment of reading.
    Level(&'static str, &'static str),
    /// The exporter itself, from the source's status.
    Exporter,
}

/// Labels of one VF vector's figures in one configuration.
const VECTOR: &[&str] = &["guest", "vf", "slot", "vcpu", "config"];
/// Labels of one vCPU's figures in one configuration.
const VCPU: &[&str] = &["guest", "vcpu", "config"];

const fn irq(name: &'static str, counter: &'static str, help: &'static str) -> Metric {
    let origin = Origin::Counter("irq_delivery", counter);
    Metric { name, kind: Kind::Counter, unit: Unit::None, labels: VECTOR, help, origin }
}

const fn exit(
    name: &'static str,
    counter: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Counter, unit, labels, help, origin: Origin::Counter("vm_exit", counter) }
}

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

const fn own(
    name: &'static str,
    kind: Kind,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, help, origin: Origin::Exporter }
}

/// All metrics, grouped as docs/metrics.md shows them.
pub static METRICS: &[Metric] = &[
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
    Metric {
        name: "vfprobe_cpu_noise_seconds",
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        labels: &["cpu", "kind", "source", "config"],
        help: "Time that something took a guarded CPU from its vCPU, net of what was nested in it",
        origin: Origin::Series("cpu_noise"),
    },
    own(
        "vfprobe_lost_total",
        Kind::Counter,
        Unit::None,
        &["probe", "cause"],
        "Events that a probe could not count, by cause; absent while none was lost",
    ),
    own(
        "vfprobe_series_hidden_info",
        Kind::Info,
        Unit::None,
        &["probe", "guest", "vf", "slot", "vcpu", "stage", "reason", "cause"],
        "A series that cannot be observed here and is therefore not exported, and why",
    ),
    own(
        "vfprobe_probe_up",
        Kind::Gauge,
        Unit::None,
        &["probe"],
        "Whether the probe is attached and counting (1) or not (0)",
    ),
    own(
        "vfprobe_probe_info",
        Kind::Info,
        Unit::None,
        &["probe", "state", "reason"],
        "The probe's state (running, unsupported, not_applicable, failed), with its hook or the reason",
    ),
    own(
        "vfprobe_probe_run_seconds_total",
        Kind::Counter,
        Unit::Seconds,
        &["probe"],
        "Time the probe's programs have run; absent unless the kernel keeps BPF statistics",
    ),
    own(
        "vfprobe_probe_runs_total",
        Kind::Counter,
        Unit::None,
        &["probe"],
        "How often the probe's programs have run; absent unless the kernel keeps BPF statistics",
    ),
    own(
        "vfprobe_guest_info",
        Kind::Info,
        Unit::None,
        &["guest", "uuid", "pid", "vmm"],
        "A running guest and the process that runs it",
    ),
    own(
        "vfprobe_vcpu_affinity_info",
        Kind::Info,
        Unit::None,
        &["guest", "vcpu", "tid", "cpus"],
        "The CPUs that a vCPU's thread may run on",
    ),
    own(
        "vfprobe_irq_affinity_info",
        Kind::Info,
        Unit::None,
        &["guest", "vf", "slot", "irq", "asked", "effective"],
        "The CPUs asked for a VF's interrupt, and where it really goes",
    ),
    own(
        "vfprobe_irq_affinity_settled",
        Kind::Gauge,
        Unit::None,
        &["guest", "vf", "slot"],
        "Whether a VF's interrupt goes where it was asked to (1), or a move is pending or refused (0)",
    ),
    own(
        "vfprobe_irq_delivery_mode_info",
        Kind::Info,
        Unit::None,
        &["guest", "vf", "slot", "vcpu", "mode"],
        "How a VF's interrupt reaches its guest (remapped, posted, userspace, unknown), and at which vCPU",
    ),
    own("vfprobe_config_info", Kind::Info, Unit::None, &["config"], "The configuration in force"),
    own(
        "vfprobe_config_settings",
        Kind::Gauge,
        Unit::None,
        &[],
        "Settings that the applied configuration has made; absent while none is applied",
    ),
    own(
        "vfprobe_config_drifted_settings",
        Kind::Gauge,
        Unit::None,
        &[],
        "Settings of the applied configuration that are no longer as asked; absent while none is applied",
    ),
    own(
        "vfprobe_config_settled",
        Kind::Gauge,
        Unit::None,
        &[],
        "Whether applying or undoing is complete (1), or was cut short or is under way (0); absent while none is applied",
    ),
    own(
        "vfprobe_process_cpu_seconds_total",
        Kind::Counter,
        Unit::Seconds,
        &[],
        "CPU time of vfprobe itself, user and kernel; the probes' programs run in other processes' time",
    ),
    own(
        "vfprobe_process_resident_memory_bytes",
        Kind::Gauge,
        Unit::Bytes,
        &[],
        "Memory of vfprobe itself that is resident; BPF maps belong to the kernel and are not in it",
    ),
    own("vfprobe_build_info", Kind::Info, Unit::None, &["version"], "The version of vfprobe"),
    own(
        "vfprobe_up",
        Kind::Gauge,
        Unit::None,
        &[],
        "Whether the probes could be read for this scrape (1) or not (0)",
    ),
    own(
        "vfprobe_scrape_duration_seconds",
        Kind::Gauge,
        Unit::Seconds,
        &[],
        "Time taken to read the probes for this scrape",
    ),
    own(
        "vfprobe_unregistered_series",
        Kind::Gauge,
        Unit::None,
        &[],
        "Series and counters of the probes for which there is no metric; always 0 in a correct build",
    ),
];

/// The metric of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}

/// The metric that a probe's series is exported as.
#[must_use]
pub fn of_series(probe: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| matches!(metric.origin, Origin::Series(p) if p == probe))
}

/// The metric that a probe's counter is exported as.
#[must_use]
pub fn of_counter(probe: &str, counter: &str) -> Option<&'static Metric> {
    let is_it =
        |origin| matches!(origin, Origin::Counter(p, c) | Origin::Level(p, c) if (p, c) == (probe, counter));
    METRICS.iter().find(|metric| is_it(metric.origin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_say_what_they_are() {
        let mut seen = BTreeSet::new();
        for metric in METRICS {
            let name = metric.name;
            assert!(seen.insert(name), "{name} twice");
            assert!(name.starts_with("vfprobe_"), "{name}");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
            assert_eq!(metric.kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert_eq!(metric.kind == Kind::Info, name.ends_with("_info"), "{name}");
            let base = name.strip_suffix("_total").unwrap_or(name);
            assert_eq!(metric.unit == Unit::Seconds, base.ends_with("_seconds"), "{name}");
            assert_eq!(metric.unit == Unit::Bytes, base.ends_with("_bytes"), "{name}");
            for reserved in ["_bucket", "_sum", "_count"] {
                assert!(!name.ends_with(reserved), "{name}");
            }
        }
    }

    #[test]
    fn help_is_one_sentence_without_full_stop() {
        for Metric { name, help, .. } in METRICS {
            assert!(help.starts_with(|c: char| c.is_ascii_uppercase()) && !help.ends_with('.'), "{name}");
            assert!(!help.contains('\n'), "{name}");
        }
    }

    #[test]
    fn nanosecond_counters_become_seconds() {
        for metric in METRICS {
            if let Origin::Counter(_, counter) | Origin::Level(_, counter) = metric.origin {
                assert_eq!(counter.ends_with("_ns"), metric.unit == Unit::Seconds, "{}", metric.name);
            }
        }
    }

    #[test]
    fn origins_are_unique() {
        let origins: Vec<Origin> =
            METRICS.iter().map(|m| m.origin).filter(|o| *o != Origin::Exporter).collect();
        for (i, origin) in origins.iter().enumerate() {
            assert!(!origins[..i].contains(origin), "{origin:?} twice");
        }
    }
}
