//! One run: probes attached, the workload started, a window opened, counted, and written to a session file.

use super::hold::Held;
use super::observe::{Observer, monotonic_ns};
use crate::bpf::LoadError;
use crate::host::{HostRoot, read_facts, read_topology};
use crate::model::CpuSet;
use crate::model::topology::Topology;
use crate::probes::{ProbeReport, ReadError, Verdict};
use crate::session::{self, ProbeVerdict, RunEnd, RunStart, SessionError, Writer};
use crate::stats::Snapshot;
use crate::workload::{self, Continuous, Echo, Reading, Traffic, Workload, WorkloadError};
use std::time::{Duration, Instant, SystemTime};

/// How often figures are read for the progress line.
const TICK: Duration = Duration::from_millis(250);
/// How often the file is brought up to date.
const CHECKPOINT: Duration = Duration::from_secs(1);
/// How often guests and their VFs are looked for: some 50 ms of work on a host with 64 guests.
const LOOK: Duration = Duration::from_secs(5);
/// How long interrupts raised inside the window may take to arrive after it.
const DRAIN: Duration = Duration::from_millis(500);
/// How often it is looked at whether the host is as it is to be, before counting begins.
const POLL: Duration = Duration::from_millis(50);
/// How long a workload may take to end after it was asked to.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct RunRequest<'a> {
    /// Configuration in force.
    pub config: &'a str,
    /// Position in the session.
    pub order: u32,
    /// Which of the session's loads it is made under, when there are several.
    pub load: Option<&'a str>,
    /// Seed of the session's order.
    pub seed: Option<u64>,
    /// What was changed for the configuration.
    pub changes: Vec<String>,
    /// Only this guest's series are kept (its name); all when `None`.
    pub guest: Option<&'a str>,
    /// CPUs whose noise is counted; none when empty.
    pub guarded: CpuSet,
    /// Length of the window; until the workload ends when `None`.
    pub duration: Option<Duration>,
    /// Time between the start of the workload and the window.
    pub warm_up: Duration,
    /// The workload of this run alone; none when empty.
    pub command: &'a [String],
    /// How its figures are read.
    pub reading: Reading,
    /// Whether its output is shown.
    pub echo: Echo,
}

/// Looks after what a run is made under: whether it is there when counting begins, and still when it ends.
pub trait Watch {
    /// Whether counting may begin; asked again and again once the workload runs. `beyond` is the time since the end of the
    /// warm-up, and `None` before that, when the answer is of no consequence yet.
    fn settled(&mut self, beyond: Option<Duration>) -> bool;
    /// Why the run under way must not go on, asked about once a second.
    fn objects(&mut self, so_far: &Snapshot) -> Option<String>;
    /// What is not as it is to be when counting begins, one line each.
    fn opens(&mut self) -> Vec<String>;
    /// How it stands when counting ends.
    fn closes(&mut self) -> Held;
}

/// The host as it is, whatever it does: nothing is to be held.
#[derive(Debug)]
pub struct AsItIs;

impl Watch for AsItIs {
    fn settled(&mut self, _beyond: Option<Duration>) -> bool {
        true
    }

    fn objects(&mut self, _so_far: &Snapshot) -> Option<String> {
        None
    }

    fn opens(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn closes(&mut self) -> Held {
        Held::default()
    }
}

/// How a run stands; handed to whoever shows progress.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Time since the window opened.
    pub elapsed: Duration,
    /// What has been counted so far.
    pub snapshot: &'a Snapshot,
}

/// A finished run.
#[derive(Debug)]
pub struct Finished {
    /// What was counted.
    pub snapshot: Snapshot,
    /// As written to the file.
    pub end: RunEnd,
    /// Whether a signal ended it early.
    pub interrupted: bool,
}

impl Finished {
    /// Whether it may be compared.
    #[must_use]
    pub fn fit(&self) -> bool {
        let succeeded = self.end.workload.as_ref().is_none_or(Workload::succeeded);
        succeeded && !self.interrupted && self.end.broken_off.is_none() && self.end.not_held.is_empty()
    }
}

/// A run that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Nothing can be observed here.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The probes' maps failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file could not be written.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The workload could not be run.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// Signal handlers could not be installed.
    #[error("cannot listen for signals")]
    Signals {
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Makes one run. The window opens after the warm-up, when `watch` says that all is settled, and is over when its time is, when the workload ends, or on
/// SIGINT or SIGTERM, or when `watch` objects; whatever was counted is in the file. A `continuous` workload takes the place of the request's command,
/// and outlives the run. What did not hold by `watch` makes the run unfit. Needs a tokio runtime.
///
/// # Errors
/// [`RecordError`]; the command is ended in every case.
pub async fn record_run(
    root: &HostRoot,
    writer: &mut Writer,
    request: &RunRequest<'_>,
    continuous: Option<&mut Continuous>,
    watch: &mut dyn Watch,
    progress: &mut dyn FnMut(&Progress<'_>),
) -> Result<Finished, RecordError> {
    let mut topology = read_topology(root);
    // Before the workload: loading takes CPU time.
    let mut observer = Observer::start(root, &topology)?;
    observer.guard(&request.guarded)?;
    let mut traffic = start_traffic(continuous, request.command, request.reading, request.echo)?;
    let mut stop = Stop::new();
    let warm = tokio::time::Instant::now() + request.warm_up;
    let mut poll = tokio::time::interval(POLL);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut waited = false;
    let mut interrupted = loop {
        let now = tokio::time::Instant::now();
        let beyond = now.checked_duration_since(warm);
        let settled = watch.settled(beyond);
        if settled && beyond.is_some() {
            break false;
        }
        waited |= !settled;
        let warmed_up = async {
            match beyond {
                None => tokio::time::sleep_until(warm).await,
                Some(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = poll.tick() => {}
            () = warmed_up => {}
            () = traffic.ended() => break false,
            () = stop.requested() => break true,
        }
    };
    if waited {
        // Interrupts have moved since.
        topology = read_topology(root);
    }
    let mut not_held = watch.opens();
    observer.count_cpu_time(&topology);
    let window = observer.open(request.duration)?;
    writer.start_run(&RunStart {
        config: request.config.to_owned(),
        order: request.order,
        load: request.load.map(str::to_owned),
        seed: request.seed,
        started_unix_ms: unix_ms(),
        from_ns: window.from_ns,
        topology: Some(topology.clone()),
        changes: request.changes.clone(),
    })?;
    let opened = Instant::now();
    let over = request.duration.map(|d| tokio::time::Instant::from_std(opened + d));
    let mut tick = tokio::time::interval(TICK);
    let (mut saved, mut looked) = (opened, opened);
    let mut broken_off = None;
    while !interrupted {
        tokio::select! {
            _ = tick.tick() => {
                let snapshot = kept(observer.snapshot(&topology)?, request.guest);
                progress(&Progress { elapsed: opened.elapsed(), snapshot: &snapshot });
                if saved.elapsed() >= CHECKPOINT {
                    saved = Instant::now();
                    writer.checkpoint(&snapshot)?;
                    broken_off = watch.objects(&snapshot);
                    if broken_off.is_some() {
                        break;
                    }
                }
                if looked.elapsed() >= LOOK {
                    looked = Instant::now();
                    topology = read_topology(root);
                    observer.update(&topology)?;
                }
            }
            () = at(over) => break,
            () = traffic.ended() => break,
            () = stop.requested() => interrupted = true,
        }
    }
    observer.close()?;
    let closed = Instant::now();
    let Held { not, mut remarks } = watch.closes();
    not_held.extend(not);
    let workload = traffic.finish(opened, closed, GRACE).await?;
    let snapshot = kept(drained(&observer, &topology).await?, request.guest);
    if interrupted {
        remarks.push("ended early by a signal".to_owned());
    }
    let end = RunEnd {
        workload,
        verdicts: verdicts(observer.reports()),
        remarks,
        interrupted,
        broken_off,
        not_held,
    };
    writer.end_run(&snapshot, &end)?;
    Ok(Finished { snapshot, end, interrupted })
}

/// What makes the traffic of a run: a workload that runs on, else the command, else nothing.
pub(super) fn start_traffic<'a>(
    continuous: Option<&'a mut Continuous>,
    command: &[String],
    reading: Reading,
    echo: Echo,
) -> Result<Traffic<'a>, WorkloadError> {
    Ok(match (continuous, command) {
        (Some(continuous), _) => {
            continuous.keep_up()?;
            Traffic::Continuous(continuous)
        }
        (None, []) => Traffic::Nothing,
        (None, command) => Traffic::Anew(Box::new(workload::start(command, echo)?.read_as(reading))),
    })
}

async fn at(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// SIGINT and SIGTERM.
pub(super) struct Stop {
    signals: [Option<tokio::signal::unix::Signal>; 2],
}

impl Stop {
    /// From now on these signals end what is going on instead of the process.
    pub(super) fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        Self { signals: [SignalKind::interrupt(), SignalKind::terminate()].map(|kind| signal(kind).ok()) }
    }

    /// Resolves when one arrives.
    pub(super) async fn requested(&mut self) {
        let [int, term] = &mut self.signals;
        let one = async |signal: &mut Option<tokio::signal::unix::Signal>| match signal {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        };
        tokio::select! {
            () = one(int) => {}
            () = one(term) => {}
        }
    }
}

/// The snapshot once nothing is pending any more, or the time for that is over.
async fn drained(observer: &Observer, topology: &Topology) -> Result<Snapshot, ReadError> {
    let deadline = Instant::now() + DRAIN;
    loop {
        let snapshot = observer.snapshot(topology)?;
        let pending = snapshot.counters.iter().any(|c| c.name == "pending" && c.value > 0);
        if !pending || Instant::now() >= deadline {
            return Ok(snapshot);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Only one guest's series, when one was asked for.
fn kept(mut snapshot: Snapshot, guest: Option<&str>) -> Snapshot {
    if let Some(guest) = guest {
        let mine = |labels: &crate::stats::Labels| labels.get("guest").is_none_or(|g| g == guest);
        snapshot.series.retain(|s| mine(&s.labels));
        snapshot.counters.retain(|c| mine(&c.labels));
    }
    snapshot
}

/// The probes' reports in the words of a session file.
fn verdicts(reports: &[ProbeReport]) -> Vec<ProbeVerdict> {
    reports
        .iter()
        .map(|report| {
            let (verdict, reason) = match &report.verdict {
                Verdict::Ready { missing } => {
                    let lost: Vec<String> = missing
                        .iter()
                        .map(|m| format!("{} not observable: {}: {}", m.loses, m.event, m.reason))
                        .collect();
                    (session::Verdict::Ready, lost.join("; "))
                }
                Verdict::Unsupported { reason } => (session::Verdict::Unsupported, reason.clone()),
                Verdict::NotApplicable { reason } => (session::Verdict::NotApplicable, reason.clone()),
            };
            ProbeVerdict { probe: report.probe.clone(), verdict, reason }
        })
        .collect()
}

/// Begins a session file for this host.
///
/// # Errors
/// [`SessionError`].
pub fn create_session(root: &HostRoot, path: &std::path::Path) -> Result<Writer, SessionError> {
    let (facts, _) = read_facts(root);
    let some = |text: String| (!text.is_empty()).then_some(text);
    let online = read_topology(root).online().len();
    let header = session::Header {
        tool: format!("vfprobe {}", env!("CARGO_PKG_VERSION")),
        created_unix_ms: unix_ms(),
    };
    let host = session::HostFacts {
        hostname: some(facts.hostname),
        kernel: some(facts.kernel),
        cpu_model: some(facts.cpu_model),
        cpus: u32::try_from(online).ok(),
        cmdline: some(facts.cmdline),
        boot_id: some(facts.boot_id),
        more: facts.kvm_parameters,
    };
    Writer::create(path, &header, &host)
}

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Nanoseconds since boot as a file name part that is unique enough on one host.
#[must_use]
pub fn file_stamp() -> String {
    format!("{}-{:03}", unix_ms() / 1000, monotonic_ns() / 1_000_000 % 1000)
}
