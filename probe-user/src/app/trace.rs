//! Tracing single interrupts for a while: records out of the ring, joined to timelines.

use super::observe::monotonic_ns;
use super::record::{RecordError, Stop};
use crate::bpf::{TraceSizes, Tracer};
use crate::host::HostRoot;
use crate::model::PciAddress;
use crate::model::topology::Topology;
use crate::probes::trace::event_of;
use crate::probes::{ProbeReport, Verdict};
use crate::stats::timeline::{Joined, Joiner, Keep, Who};
use probe_ebpf::control::Window;
use probe_ebpf::probes::trace::{EVERY_SLOT, Wanted};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often the ring is looked at: it holds what some 300 interrupts in a millisecond would fill in this time.
const TICK: Duration = Duration::from_millis(20);
/// Bytes of the ring: some 40000 hops.
const RING: u32 = 4 << 20;
/// How long interrupts raised inside the window may take to arrive after it.
const DRAIN: Duration = Duration::from_millis(500);

/// What is to be traced.
#[derive(Clone, Debug)]
pub struct Request {
    /// Process of the only guest that is traced; all guests when `None`.
    pub guest: Option<u32>,
    /// The only VF.
    pub vf: Option<PciAddress>,
    /// The only vector slot, of each VF.
    pub slot: Option<u32>,
    /// Only interrupts whose delivery takes longer are kept.
    pub longer_than: Option<Duration>,
    /// Which of these are kept.
    pub keep: Keep,
    /// How long at most.
    pub duration: Duration,
}

impl Request {
    /// The VFs that it means: packed address, owner and slot.
    #[must_use]
    pub fn wanted(&self, topology: &Topology) -> Vec<(u32, Wanted)> {
        let guests = topology.guests.iter().filter(|guest| self.guest.is_none_or(|pid| pid == guest.pid.0));
        let vfs = guests.flat_map(|guest| guest.vfs.iter().map(|vf| (guest.pid.0, vf.address)));
        vfs.filter(|(_, address)| self.vf.is_none_or(|only| only == *address))
            .map(|(tgid, vf)| (vf.packed(), Wanted { tgid, slot: self.slot.unwrap_or(EVERY_SLOT) }))
            .collect()
    }
}

/// What was traced.
#[derive(Clone, Debug)]
pub struct Traced {
    /// The timelines, and how many interrupts there were.
    pub joined: Joined,
    /// Hops and interrupts that could not be recorded, by cause.
    pub dropped: BTreeMap<String, u64>,
    /// Interrupts raised in this span were traced.
    pub window: Window,
    /// How the programs fared.
    pub report: ProbeReport,
}

impl Traced {
    /// Why nothing at all could be traced; `None` when something could.
    #[must_use]
    pub fn blind(&self) -> Option<&str> {
        match &self.report.verdict {
            Verdict::Ready { .. } => None,
            Verdict::Unsupported { reason } | Verdict::NotApplicable { reason } => Some(reason),
        }
    }

    /// What this kernel does not show, with the reason.
    #[must_use]
    pub fn unseen(&self) -> BTreeMap<String, String> {
        let Verdict::Ready { missing } = &self.report.verdict else { return BTreeMap::new() };
        missing.iter().map(|m| (m.loses.clone(), format!("{}: {}", m.event, m.reason))).collect()
    }
}

/// Names for what records tell by number.
#[must_use]
pub fn who(topology: &Topology) -> Who {
    let vfs = topology.guests.iter().flat_map(|g| g.vfs.iter().map(|vf| (vf.address, g.name.clone())));
    let vcpus = topology.guests.iter().flat_map(|g| &g.vcpus);
    Who { guests: vfs.collect(), vcpus: vcpus.map(|v| (v.thread.tid.0, v.index.to_string())).collect() }
}

/// Traces until the time is over, enough interrupts were seen, or a signal comes. Needs a tokio runtime.
///
/// # Errors
/// [`RecordError`] when the programs cannot be loaded or their maps not read.
pub async fn trace(
    root: &HostRoot,
    topology: &Topology,
    request: &Request,
    progress: &mut dyn FnMut(Duration),
) -> Result<Traced, RecordError> {
    let wanted = request.wanted(topology);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let vcpus = topology.guests.iter().map(|guest| guest.vcpus.len()).sum();
    let sizes = TraceSizes {
        ring: RING,
        vcpus: count(vcpus).saturating_mul(2).clamp(64, 8192),
        slots: count(wanted.len()).saturating_mul(16).clamp(64, 4096),
    };
    let mut tracer = Tracer::new(root, &wanted, sizes)?;
    let limit = request.longer_than.map(|limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
    let mut joiner = Joiner::new(who(topology), request.keep, limit);
    let mut window = Window::default();
    if matches!(tracer.report().verdict, Verdict::Ready { .. }) {
        let mut stop = Stop::new();
        let from_ns = monotonic_ns();
        let length = u64::try_from(request.duration.as_nanos()).unwrap_or(u64::MAX);
        window = Window { from_ns, until_ns: from_ns.saturating_add(length) };
        tracer.open(window)?;
        let opened = Instant::now();
        let mut tick = tokio::time::interval(TICK);
        let over = tokio::time::sleep(request.duration);
        tokio::pin!(over);
        while !joiner.full() {
            tokio::select! {
                _ = tick.tick() => {
                    take(&mut tracer, &mut joiner)?;
                    progress(opened.elapsed());
                }
                () = &mut over => break,
                () = stop.requested() => break,
            }
        }
        window.until_ns = window.until_ns.min(monotonic_ns());
        tracer.open(window)?;
        let closed = Instant::now();
        take(&mut tracer, &mut joiner)?;
        while !joiner.settled() && !joiner.full() && closed.elapsed() < DRAIN {
            tick.tick().await;
            take(&mut tracer, &mut joiner)?;
        }
    }
    let dropped = tracer.dropped()?.into_iter().map(|(cause, times)| (cause.to_owned(), times)).collect();
    Ok(Traced { joined: joiner.finish(), dropped, window, report: tracer.report().clone() })
}

fn take(tracer: &mut Tracer, joiner: &mut Joiner) -> Result<(), RecordError> {
    joiner.add(tracer.drain()?.iter().filter_map(event_of).collect());
    joiner.expire(monotonic_ns());
    Ok(())
}
