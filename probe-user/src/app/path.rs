//! Watching packets for a while: what guests' packets pass, and what VFs send and receive meanwhile.

use super::observe::Observer;
use super::record::{RecordError, Stop};
use crate::host::{HostRoot, read_vf_counters};
use crate::model::PciAddress;
use crate::model::topology::Topology;
use crate::model::vf_counters::VfCounters;
use crate::probes::{ProbeReport, Verdict, packet_path};
use crate::stats::Snapshot;
use crate::stats::path::{self, Report, VfTraffic};
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// How often whoever shows progress is told.
const TICK: Duration = Duration::from_millis(250);

/// What was seen.
#[derive(Debug)]
pub struct Watched {
    /// The paths.
    pub report: Report,
    /// Everything that the probes counted.
    pub snapshot: Snapshot,
    /// Why taps cannot be followed, when there are some and they cannot.
    pub blind: Option<String>,
    /// Figures that this kernel does not show, each with the reason.
    pub unseen: BTreeMap<String, String>,
    /// What could not be read, one line each.
    pub problems: Vec<String>,
}

/// Follows packets for `length`, or until a signal; all of them instead of a share when `every` is set. Needs a tokio
/// runtime.
///
/// # Errors
/// [`RecordError`] when the probes cannot be loaded or read.
pub async fn watch(
    root: &HostRoot,
    topology: &Topology,
    length: Duration,
    every: bool,
    progress: &mut dyn FnMut(Duration),
) -> Result<Watched, RecordError> {
    let mut observer = Observer::start(root, topology)?;
    if every {
        observer.follow_every_packet()?;
    }
    let mut stop = Stop::new();
    let before = read_vf_counters(topology);
    observer.count_cpu_time(topology);
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
    let snapshot = observer.snapshot(topology)?;
    let after = read_vf_counters(topology);
    let traffic = traffic(&before.counters, &after.counters);
    let own = observer.reports().iter().find(|report| report.probe == packet_path::SPEC.name);
    let (blind, unseen) = own.map(fares).unwrap_or_default();
    Ok(Watched {
        report: path::report(&snapshot, topology, &traffic),
        snapshot,
        blind,
        unseen,
        problems: before.problems.into_iter().chain(after.problems).collect(),
    })
}

/// Why nothing is followed, and what of the figures is not.
fn fares(report: &ProbeReport) -> (Option<String>, BTreeMap<String, String>) {
    match &report.verdict {
        Verdict::Ready { missing } => {
            let unseen = missing.iter().map(|m| (m.loses.clone(), format!("{}: {}", m.event, m.reason)));
            (None, unseen.collect())
        }
        Verdict::Unsupported { reason } => (Some(reason.clone()), BTreeMap::new()),
        // No tap: nothing is missed.
        Verdict::NotApplicable { .. } => (None, BTreeMap::new()),
    }
}

/// What was counted in between. A figure that is not there before and after is not known: 0 means that too.
fn traffic(
    before: &BTreeMap<PciAddress, VfCounters>,
    after: &BTreeMap<PciAddress, VfCounters>,
) -> BTreeMap<PciAddress, VfTraffic> {
    let one = |(address, now): (&PciAddress, &VfCounters)| {
        let then = before.get(address).copied().unwrap_or_default();
        let came = |then: Option<NonZeroU64>, now: Option<NonZeroU64>| {
            // From 0 on means that the driver does count.
            Some(now?.get().saturating_sub(then.map_or(0, NonZeroU64::get)))
        };
        let traffic = VfTraffic {
            rx_packets: came(then.rx_packets, now.rx_packets),
            rx_bytes: came(then.rx_bytes, now.rx_bytes),
            rx_dropped: came(then.rx_dropped, now.rx_dropped),
            tx_packets: came(then.tx_packets, now.tx_packets),
            tx_bytes: came(then.tx_bytes, now.tx_bytes),
            tx_dropped: came(then.tx_dropped, now.tx_dropped),
        };
        (*address, traffic)
    };
    after.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_reported_stays_unknown() {
        let address: PciAddress = "0000:01:10.0".parse().unwrap();
        let counters = |rx: u64, tx: u64| VfCounters {
            rx_packets: NonZeroU64::new(rx),
            tx_packets: NonZeroU64::new(tx),
            ..VfCounters::default()
        };
        let all = |rx, tx| BTreeMap::from([(address, counters(rx, tx))]);
        for (before, after, expected) in [
            (all(5, 0), all(9, 0), (Some(4), None)),
            (all(0, 7), all(3, 7), (Some(3), Some(0))),
            (BTreeMap::new(), all(3, 0), (Some(3), None)),
        ] {
            let traffic = traffic(&before, &after)[&address];
            assert_eq!((traffic.rx_packets, traffic.tx_packets), expected);
        }
    }
}
