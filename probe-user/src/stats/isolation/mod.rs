//! Whether guarded CPUs are left alone: noise judged against a budget, offenders named, and what would remove them.
//!
//! Pure: a snapshot of `cpu_noise` and facts about the CPUs in, a report out.

mod budget;
mod remedy;

pub use budget::{Allow, Budget, BudgetError, Limits, parse_budget};
pub use remedy::remedy;

use super::{Labels, Series, Snapshot};
use crate::model::CpuSet;
use crate::model::topology::Topology;
use serde::Serialize;

/// The verdict on all guarded CPUs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Isolation {
    /// Start of the window (CLOCK_MONOTONIC ns).
    pub from_ns: u64,
    /// Time counted (ns).
    pub window_ns: u64,
    /// Whether every CPU and source keeps its limits.
    pub passed: bool,
    /// Guarded CPUs, ascending.
    pub cpus: Vec<CpuNoise>,
    /// Everything that was seen, by the time it took.
    pub sources: Vec<Source>,
}

/// All noise on one CPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CpuNoise {
    /// The CPU.
    pub cpu: u32,
    /// Intervals, sources on the allow list left out.
    pub n: u64,
    /// Time they took (ns).
    pub total_ns: u64,
    /// That time as a share of the window, 0 to 1.
    pub share: f64,
    /// The longest interval (ns); `None` when there was none.
    pub max_ns: Option<u64>,
    /// Limits that are broken, in words.
    pub over: Vec<String>,
}

/// One source on one CPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Source {
    /// The CPU.
    pub cpu: u32,
    /// `irq`, `vector`, `softirq`, `kernel-thread`, `user-thread` or `nmi`.
    pub kind: String,
    /// Its name.
    pub source: String,
    /// Intervals.
    pub n: u64,
    /// Time they took (ns), net of what was nested in them.
    pub total_ns: u64,
    /// That time as a share of the window, 0 to 1.
    pub share: f64,
    /// The longest (ns).
    pub max_ns: u64,
    /// Whether the budget's allow list names it.
    pub allowed: bool,
    /// Limits that it breaks, in words.
    pub over: Vec<String>,
    /// What would remove it.
    pub remedy: String,
}

/// Judges a window of noise on `guarded`. A CPU without any series was quiet.
#[must_use]
pub fn judge(snapshot: &Snapshot, topology: &Topology, guarded: &CpuSet, budget: &Budget) -> Isolation {
    let window_ns = snapshot.to_ns.saturating_sub(snapshot.from_ns);
    let mut sources: Vec<Source> = snapshot
        .series
        .iter()
        .filter(|series| series.probe == "cpu_noise")
        .filter_map(|series| source(series, window_ns, topology, budget))
        .filter(|source| guarded.iter().any(|cpu| cpu.0 == source.cpu))
        .collect();
    sources.sort_by(|a, b| {
        b.total_ns.cmp(&a.total_ns).then_with(|| (a.cpu, &a.source).cmp(&(b.cpu, &b.source)))
    });
    let cpus: Vec<CpuNoise> = guarded.iter().map(|cpu| on_cpu(cpu.0, &sources, window_ns, budget)).collect();
    let passed =
        cpus.iter().all(|cpu| cpu.over.is_empty()) && sources.iter().all(|source| source.over.is_empty());
    Isolation { from_ns: snapshot.from_ns, window_ns, passed, cpus, sources }
}

fn source(series: &Series, window_ns: u64, topology: &Topology, budget: &Budget) -> Option<Source> {
    let label = |labels: &Labels, name: &str| labels.get(name).cloned();
    let (kind, source) = (label(&series.labels, "kind")?, label(&series.labels, "source")?);
    let cpu: u32 = series.labels.get("cpu")?.parse().ok()?;
    let (n, total_ns, max_ns) =
        (series.histogram.n(), series.histogram.sum(), series.histogram.max().unwrap_or(0));
    let allowed = budget.allows(&kind, &source);
    let over = match budget.kinds.get(&kind) {
        Some(limits) if !allowed => limits.broken(n, total_ns, Some(max_ns), window_ns),
        _ => Vec::new(),
    };
    let remedy = remedy(&kind, &source, topology.cpus.iter().find(|c| c.id.0 == cpu));
    let share = share(total_ns, window_ns);
    Some(Source { cpu, kind, source, n, total_ns, share, max_ns, allowed, over, remedy })
}

fn on_cpu(cpu: u32, sources: &[Source], window_ns: u64, budget: &Budget) -> CpuNoise {
    let mine = || sources.iter().filter(|source| source.cpu == cpu && !source.allowed);
    let n = mine().map(|source| source.n).sum();
    let total_ns = mine().map(|source| source.total_ns).sum();
    let max_ns = mine().map(|source| source.max_ns).max();
    let over = budget.cpu.broken(n, total_ns, max_ns, window_ns);
    CpuNoise { cpu, n, total_ns, share: share(total_ns, window_ns), max_ns, over }
}

/// Part of the window, 0 for a window without length.
fn share(ns: u64, window_ns: u64) -> f64 {
    if window_ns == 0 { 0.0 } else { super::summary::to_f64(ns) / super::summary::to_f64(window_ns) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Histogram, Observability};

    fn series(cpu: &str, kind: &str, source: &str, values: &[u64]) -> Series {
        let mut histogram = Histogram::default();
        values.iter().for_each(|v| histogram.record(*v));
        let labels =
            [("cpu", cpu), ("kind", kind), ("source", source)].map(|(n, v)| (n.to_owned(), v.to_owned()));
        Series {
            probe: "cpu_noise".into(),
            labels: Labels::from(labels),
            observable: Observability::Yes,
            histogram,
        }
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            from_ns: 1_000_000_000,
            to_ns: 2_000_000_000,
            series: vec![
                series("2", "vector", "local_timer", &[3_000, 5_000]),
                series("2", "irq", "vfio-msix[0](0000:01:10.0)", &[9_000_000]),
                series("3", "user-thread", "stress", &[60_000]),
                series("7", "softirq", "RCU", &[1]),
            ],
            ..Snapshot::default()
        }
    }

    #[test]
    fn what_breaks_a_limit_fails_and_is_named() {
        let guarded: CpuSet = "2-4".parse().unwrap();
        let allow = Allow { kind: None, source: "vfio-*".into() };
        let budget = Budget { allow: vec![allow], ..Budget::default() };
        let report = judge(&snapshot(), &Topology::default(), &guarded, &budget);
        assert!(!report.passed);
        let cpus: Vec<_> = report.cpus.iter().map(|c| (c.cpu, c.n, c.total_ns, c.max_ns)).collect();
        assert_eq!(cpus, [(2, 2, 8_000, Some(5_000)), (3, 1, 60_000, Some(60_000)), (4, 0, 0, None)]);
        assert_eq!(report.cpus[0].over, [] as [&str; 0]);
        assert_eq!(report.cpus[1].over, ["longest 60.0 us, limit 50.0 us"]);
        let names: Vec<_> = report.sources.iter().map(|s| (s.source.as_str(), s.allowed)).collect();
        assert_eq!(
            names,
            [("vfio-msix[0](0000:01:10.0)", true), ("stress", false), ("local_timer", false)],
            "by time, those of other CPUs left out"
        );
    }

    #[test]
    fn limits_of_a_kind_are_for_each_of_its_sources() {
        let guarded: CpuSet = "2-3".parse().unwrap();
        let budget = parse_budget(
            "[cpu]\nshare-percent = 100\nmax-us = 100000\n[kind.vector]\nper-second = 1\n[kind.user-thread]\nshare-percent = 0.001\n",
        )
        .unwrap();
        let report = judge(&snapshot(), &Topology::default(), &guarded, &budget);
        let over: Vec<_> = report.sources.iter().flat_map(|s| s.over.iter().map(String::as_str)).collect();
        assert_eq!(over, ["0.006 % of the time, limit 0.001 %", "2.00 /s, limit 1.00 /s"]);
        assert!(!report.passed);
    }

    #[test]
    fn a_quiet_cpu_passes() {
        let guarded: CpuSet = "4".parse().unwrap();
        let report = judge(&snapshot(), &Topology::default(), &guarded, &Budget::default());
        assert!(report.passed && report.sources.is_empty());
    }
}
