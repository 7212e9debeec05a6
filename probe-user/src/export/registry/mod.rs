//! The one table of all metrics: the exporter, docs/metrics.md and the check of the dashboards read it.
//!
//! Names follow Prometheus' rules: base units, `_total` for counters, `_info` for facts held in labels. Nothing here
//! knows how a figure is read or served. Rows are in one file for each probe, and for what is no probe's.

mod cpu_noise;
mod irq_delivery;
mod own;
mod packet_path;
mod vcpu_sched;
mod vf;
mod vm_exit;

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
    /// What the PF's driver has counted since it began to, which was not when vfprobe did.
    Driver,
    /// The exporter itself, from the source's status.
    Exporter,
}

/// Labels of one vCPU's figures in one configuration.
const VCPU: &[&str] = &["guest", "vcpu", "config"];

/// The rows, grouped as docs/metrics.md shows them.
const GROUPS: [&[Metric]; 7] = [
    irq_delivery::ROWS,
    vm_exit::ROWS,
    vcpu_sched::ROWS,
    cpu_noise::ROWS,
    packet_path::ROWS,
    vf::ROWS,
    own::ROWS,
];

const fn count() -> usize {
    let (mut n, mut group) = (0, 0);
    while group < GROUPS.len() {
        n += GROUPS[group].len();
        group += 1;
    }
    n
}

/// The groups one after the other; every place of the array gets its row.
const fn joined() -> [Metric; count()] {
    let mut all = [irq_delivery::ROWS[0]; count()];
    let (mut n, mut group) = (0, 0);
    while group < GROUPS.len() {
        let mut row = 0;
        while row < GROUPS[group].len() {
            all[n] = GROUPS[group][row];
            (n, row) = (n + 1, row + 1);
        }
        group += 1;
    }
    all
}

/// All metrics.
pub static METRICS: &[Metric] = &joined();

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
        let origins: Vec<Origin> = METRICS
            .iter()
            .map(|m| m.origin)
            .filter(|o| !matches!(o, Origin::Exporter | Origin::Driver))
            .collect();
        for (i, origin) in origins.iter().enumerate() {
            assert!(!origins[..i].contains(origin), "{origin:?} twice");
        }
    }
}
