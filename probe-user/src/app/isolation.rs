//! Watching guarded CPUs for a while: what took them from their vCPUs.

use super::observe::Observer;
use super::record::{RecordError, Stop};
use crate::host::{HostRoot, read_topology};
use crate::model::CpuSet;
use crate::model::topology::Topology;
use crate::probes::{PROBES, ProbeReport, Verdict, cpu_noise};
use crate::stats::Snapshot;
use std::time::{Duration, Instant};

/// How often whoever shows progress is told.
const TICK: Duration = Duration::from_millis(250);

/// What was seen.
#[derive(Debug)]
pub struct Watched {
    /// The noise of the window.
    pub snapshot: Snapshot,
    /// The host at its start.
    pub topology: Topology,
    /// How the probe fared.
    pub report: ProbeReport,
}

impl Watched {
    /// Why nothing at all could be counted; `None` when something could.
    #[must_use]
    pub fn blind(&self) -> Option<&str> {
        match &self.report.verdict {
            Verdict::Ready { .. } if !self.report.attached.is_empty() => None,
            Verdict::Ready { missing } => {
                Some(missing.first().map_or("no hook could be attached", |m| m.reason.as_str()))
            }
            Verdict::Unsupported { reason } | Verdict::NotApplicable { reason } => Some(reason),
        }
    }

    /// Kinds of noise that this kernel does not show, each with the reason.
    #[must_use]
    pub fn unseen(&self) -> Vec<(String, String)> {
        let mut unseen: Vec<(String, String)> = match &self.report.verdict {
            Verdict::Ready { missing } => {
                missing.iter().map(|m| (m.loses.clone(), format!("{}: {}", m.event, m.reason))).collect()
            }
            _ => Vec::new(),
        };
        // A kind has two hooks, its beginning and its end.
        unseen.dedup_by(|a, b| a.0 == b.0);
        unseen
    }
}

/// Counts noise on `guarded` for `length`, or until a signal. Needs a tokio runtime.
///
/// # Errors
/// [`RecordError`] when the probe cannot be loaded or read.
pub async fn watch(
    root: &HostRoot,
    guarded: &CpuSet,
    length: Duration,
    progress: &mut dyn FnMut(Duration),
) -> Result<Watched, RecordError> {
    let topology = read_topology(root);
    let mut observer = Observer::start_anywhere(root, &topology)?;
    observer.guard(guarded)?;
    let mut stop = Stop::new();
    observer.open(Some(length))?;
    let opened = Instant::now();
    let mut tick = tokio::time::interval(TICK);
    let over = tokio::time::sleep(length);
    tokio::pin!(over);
    loop {
        tokio::select! {
            _ = tick.tick() => progress(opened.elapsed()),
            () = &mut over => break,
            () = stop.requested() => break,
        }
    }
    observer.close()?;
    let snapshot = observer.snapshot(&topology)?;
    let reports = PROBES.iter().zip(observer.reports());
    let report =
        reports.filter(|(probe, _)| probe.name == cpu_noise::SPEC.name).map(|(_, report)| report).next();
    let report = report.cloned().unwrap_or_else(|| ProbeReport {
        probe: cpu_noise::SPEC.name.to_owned(),
        verdict: Verdict::NotApplicable { reason: "not built in".to_owned() },
        attached: Vec::new(),
    });
    Ok(Watched { snapshot, topology, report })
}
