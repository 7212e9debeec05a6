//! What the exporter asks for: one look at the probes, and how they and the host stand.
//!
//! The exporter is built against this trait alone; the observer and the tests implement it.

use crate::{
    model::{PciAddress, VfIndex, topology::Topology, vf_counters::VfCounters},
    stats::Snapshot,
};
use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

/// What was counted, by the configuration that was in force.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Under the configuration that the status names; and what is told of no configuration.
    pub present: Snapshot,
    /// Under others, by their names. It stands still.
    pub former: Vec<(String, Arc<Snapshot>)>,
}

impl From<Snapshot> for Figures {
    fn from(present: Snapshot) -> Self {
        Self { present, former: Vec::new() }
    }
}

/// Where figures come from. Called from a thread that may block, by one scrape at a time.
pub trait Source: Send + Sync {
    /// All distributions and counters as they stand now. Counts only grow while the source lives.
    ///
    /// # Errors
    /// When nothing can be read; the scrape then says `vfprobe_up 0` and carries the status alone.
    fn figures(&self) -> Result<Figures, SourceError>;

    /// How the probes stand, which configuration is in force, and the guests' interrupts. Cheap: no scan of `/proc`.
    fn status(&self) -> Status;

    /// Both at one moment: the configuration that the status names is the one that new figures are counted under.
    fn scrape(&self) -> (Result<Figures, SourceError>, Status) {
        (self.figures(), self.status())
    }

    /// What drivers of PFs count now for the host's VFs. One of which nothing is told is missing.
    fn vf_counters(&self) -> Vec<CountedVf>;
}

/// A VF, and what its PF's driver counts for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedVf {
    /// The PF's network interface.
    pub pf: String,
    /// The VF's number under it.
    pub index: VfIndex,
    /// Its PCI address.
    pub address: PciAddress,
    /// The figures.
    pub counters: VfCounters,
}

/// Why figures could not be read: one line that names the call, the cause and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// The state of everything that is not a distribution or a counter.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Name of the configuration in force: `baseline` until one is applied and verified.
    pub config: String,
    /// How the host stands beside what was applied; `None` when nothing was.
    pub hold: Option<Hold>,
    /// All probes that were asked for, in the registry's order.
    pub probes: Vec<ProbeStatus>,
    /// Guests, vCPUs, VFs and their interrupts as last read; `None` before the first reading.
    pub topology: Option<Arc<Topology>>,
    /// Since when is counted.
    pub began: Began,
    /// How often figures of a configuration that has ended were dropped, because as many as are kept have ended since.
    pub dropped_configs: u64,
    /// How often the probes' maps were made anew, because they were full of guests that are gone.
    pub renewals: u64,
    /// What the process itself has used; `None` when that cannot be read.
    pub own: Option<OwnCost>,
}

/// When counters were 0. A scraper that knows takes the first value it sees for growth since then.
#[derive(Clone, Debug, Default)]
pub struct Began {
    /// The probes' start; `None` when not known.
    pub probes: Option<SystemTime>,
    /// Of guests that came later: the last moment at which they were seen not to be there.
    pub guests: BTreeMap<String, SystemTime>,
    /// Of configurations that were not in force from the start: when they came into force the first time, or the first
    /// time since their figures were dropped.
    pub configs: BTreeMap<String, SystemTime>,
}

impl Began {
    /// When the counters of a guest, or of none, under a configuration, or under all, were 0.
    #[must_use]
    pub fn of(&self, guest: Option<&str>, config: Option<&str>) -> Option<SystemTime> {
        let guest = guest.and_then(|guest| self.guests.get(guest)).copied().or(self.probes);
        guest.max(config.and_then(|config| self.configs.get(config)).copied())
    }
}

/// What a process has used of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnCost {
    /// CPU time since its start, user and kernel (ns).
    pub cpu_ns: u64,
    /// Memory that is resident now (bytes).
    pub resident_bytes: u64,
}

/// How far an applied configuration still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Settings it has made.
    pub settings: usize,
    /// Of these, such that are no longer as asked.
    pub drifted: usize,
    /// Whether no change was cut short or is under way.
    pub settled: bool,
}

/// Whether a probe runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeState {
    /// Attached and counting.
    Running,
    /// This kernel lacks what it needs.
    Unsupported,
    /// Nothing on this host for it to look at.
    NotApplicable,
    /// It should run and does not.
    Failed,
}

impl ProbeState {
    /// The word used in labels and pages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Unsupported => "unsupported",
            Self::NotApplicable => "not_applicable",
            Self::Failed => "failed",
        }
    }
}

/// One probe's verdict and its own cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeStatus {
    /// The probe's name: `irq_delivery`.
    pub name: String,
    /// Whether it runs.
    pub state: ProbeState,
    /// The hook in use, or why it does not run; one short phrase.
    pub reason: String,
    /// Hooks that it runs without: what they would show is hidden.
    pub missing: usize,
    /// Time its programs have run (ns); `None` unless the kernel keeps BPF statistics.
    pub run_ns: Option<u64>,
    /// How often its programs have run; `None` likewise.
    pub runs: Option<u64>,
}

impl Status {
    /// Whether figures flow: at least one probe runs, and none that should has failed.
    #[must_use]
    pub fn healthy(&self) -> bool {
        let any = |state| self.probes.iter().any(|p| p.state == state);
        any(ProbeState::Running) && !any(ProbeState::Failed)
    }
}
