//! Metrics of the exporter itself: how probes, guests and the configuration stand, and its own cost.

use super::{Kind, Metric, Origin, Unit};

const fn own(
    name: &'static str,
    kind: Kind,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, help, origin: Origin::Exporter }
}

pub(super) const ROWS: &[Metric] = &[
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
    own(
        "vfprobe_irq_vector_info",
        Kind::Info,
        Unit::None,
        &["guest", "vf", "slot", "vcpu", "irq", "host_vector", "cpu", "guest_vector"],
        "The host's APIC vector of a VF's interrupt and its CPU, and the guest's vector and vCPU; empty: not known",
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
