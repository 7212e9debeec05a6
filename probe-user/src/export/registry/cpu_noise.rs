//! Metrics of the probe `cpu_noise`: what takes guarded CPUs from their vCPUs.

use super::{Kind, Metric, Origin, Unit};

pub(super) const ROWS: &[Metric] = &[Metric {
    name: "vfprobe_cpu_noise_seconds",
    kind: Kind::Histogram,
    unit: Unit::Seconds,
    labels: &["cpu", "kind", "source", "config"],
    help: "Time that something took a guarded CPU from its vCPU, net of what was nested in it",
    origin: Origin::Series("cpu_noise"),
}];
