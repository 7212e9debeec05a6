//! What a session holds: the host, the configurations, the runs.

use crate::{model::topology::Topology, stats::Snapshot, workload::Workload};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// A recording: runs of one or more configurations on one host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    /// Who wrote it, when.
    pub header: Header,
    /// The host it was recorded on.
    pub host: HostFacts,
    /// What it is to be, when it is a tuning session.
    pub tuning: Option<Tuning>,
    /// Configurations, in the order of their first mention.
    pub configs: Vec<Config>,
    /// Runs, in the order in which they were made.
    pub runs: Vec<Run>,
    /// What a reader should know: records that were skipped, a torn end, runs that were cut off. One line each.
    pub notes: Vec<String>,
}

/// Who wrote a file, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The program and its version.
    pub tool: String,
    /// When the file was begun (ms since the Unix epoch).
    pub created_unix_ms: u64,
}

/// Facts about a host that do not change during a session. What is not known is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Its name.
    pub hostname: Option<String>,
    /// Kernel release (`uname -r`).
    pub kernel: Option<String>,
    /// CPU model name.
    pub cpu_model: Option<String>,
    /// Number of online CPUs.
    pub cpus: Option<u32>,
    /// Kernel command line.
    pub cmdline: Option<String>,
    /// Boot id (`/proc/sys/kernel/random/boot_id`): monotonic times compare only within one boot.
    pub boot_id: Option<String>,
    /// Anything else worth knowing, such as `kvm_intel.enable_apicv`.
    #[serde(default)]
    pub more: BTreeMap<String, String>,
}

/// A configuration: a named set of placements, pins and knobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Its name: `baseline`, `own`.
    pub name: String,
    /// What it is, for people.
    #[serde(default)]
    pub about: String,
}

/// What a tuning session is to be: enough to make the runs that are still missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// The guest (its name).
    pub guest: String,
    /// Seed that the order of the runs is drawn with.
    pub seed: u64,
    /// Runs of each configuration under each load.
    pub repeats: u32,
    /// Configurations by name, with the text of their policy; `None` is the host as it is found.
    pub tries: Vec<(String, Option<String>)>,
    /// What runs are made under.
    pub loads: Vec<TuningLoad>,
    /// Conditions that end the session at once.
    #[serde(default)]
    pub abort_if: Vec<String>,
    /// Whether what takes the CPUs that configurations promise to the guest is counted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub noise: bool,
}

/// One load of a tuning session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TuningLoad {
    /// Its name, when there are several.
    pub name: Option<String>,
    /// The command; none when empty.
    pub command: Vec<String>,
    /// Whether it states its figures itself.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stated: bool,
    /// Whether it runs on through all runs of the session.
    #[serde(default, skip_serializing_if = "is_false")]
    pub continuous: bool,
    /// Time between its start and the window (ns).
    pub warm_up_ns: u64,
    /// Length of the window (ns).
    pub duration_ns: u64,
}

/// What is known when a run begins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunStart {
    /// Name of the configuration in force.
    pub config: String,
    /// Position in the session, from 0.
    pub order: u32,
    /// Which of the session's loads it was recorded under; `None` in a session with one load or none.
    pub load: Option<String>,
    /// Seed that the order of the session's runs was drawn with, when it was drawn.
    pub seed: Option<u64>,
    /// When it began (ms since the Unix epoch).
    pub started_unix_ms: u64,
    /// Begin of the window (CLOCK_MONOTONIC ns).
    pub from_ns: u64,
    /// The topology at its beginning, with the configuration in force.
    pub topology: Option<Topology>,
    /// What was changed for this configuration, one line each; empty for the untouched host.
    pub changes: Vec<String>,
}

/// What is known when a run is over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunEnd {
    /// The workload, when one was run.
    #[serde(default)]
    pub workload: Option<Workload>,
    /// What each probe could see.
    #[serde(default)]
    pub verdicts: Vec<ProbeVerdict>,
    /// What happened during the run that may disturb it: a guest rebooted, another writer was seen. One line each.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// Whether a signal ended it before its time.
    #[serde(default, skip_serializing_if = "is_false")]
    pub interrupted: bool,
    /// Why it was ended before its time, when that was not by a signal: it was beyond a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken_off: Option<String>,
    /// What of its configuration did not hold: its figures are those of some other one. One line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_held: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// One recording of one configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// What was known at its beginning.
    pub start: RunStart,
    /// What was counted from its beginning to its end.
    pub snapshot: Snapshot,
    /// `None`: the recorder was killed, and the snapshot reaches to its last checkpoint.
    pub end: Option<RunEnd>,
}

/// A configuration under one load: runs that may be taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The configuration.
    pub config: &'a str,
    /// The load, in a session with several.
    pub load: Option<&'a str>,
}

impl fmt::Display for Part<'_> {
    /// `own`, `own under iperf3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.load {
            None => f.write_str(self.config),
            Some(load) => write!(f, "{} under {load}", self.config),
        }
    }
}

/// Whether a probe could do its work, and why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeVerdict {
    /// The probe's name.
    pub probe: String,
    /// What it could do.
    pub verdict: Verdict,
    /// Why, or by which hook.
    pub reason: String,
}

/// What a probe could do. A word of a later version reads as [`Verdict::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It ran.
    Ready,
    /// The host lacks what it needs.
    Unsupported,
    /// There was nothing for it to see.
    NotApplicable,
    /// It should have worked and did not.
    Broken,
    /// Something else; the reason says what.
    #[serde(other)]
    Other,
}

impl Verdict {
    /// The words for tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Unsupported => "unsupported",
            Self::NotApplicable => "not applicable",
            Self::Broken => "broken",
            Self::Other => "other",
        }
    }
}

/// Changes of a configuration that are listed without being asked.
const CHANGES_SHOWN: usize = 8;

impl Run {
    /// What was changed for its configuration: a long list apart from its last lines. The guest's own vCPUs and vectors come
    /// last in a plan and tell most; what comes before keeps others off its CPUs.
    #[must_use]
    pub fn changes(&self) -> (&[String], &[String]) {
        let all = self.start.changes.as_slice();
        all.split_at(all.len().saturating_sub(CHANGES_SHOWN))
    }

    /// Name of its configuration.
    #[must_use]
    pub fn config(&self) -> &str {
        &self.start.config
    }

    /// Length of its window (ns).
    #[must_use]
    pub fn duration_ns(&self) -> u64 {
        self.snapshot.to_ns.saturating_sub(self.snapshot.from_ns)
    }

    /// Its workload, when one was run to the end.
    #[must_use]
    pub fn workload(&self) -> Option<&Workload> {
        self.end.as_ref()?.workload.as_ref()
    }

    /// Why it must not be compared: it was cut off or broken off, its workload failed, it ended before the others of its
    /// session, or its configuration did not hold.
    #[must_use]
    pub fn unfit(&self) -> Option<String> {
        match (&self.end, self.workload()) {
            (None, _) => Some("was cut off".to_owned()),
            (Some(end), _) if end.interrupted && self.start.seed.is_some() => {
                Some("was ended early by a signal".to_owned())
            }
            (Some(RunEnd { broken_off: Some(why), .. }), _) => Some(format!("was broken off: {why}")),
            (_, Some(workload)) if !workload.succeeded() => Some(workload.ending()),
            (Some(end), _) => not_held(&end.not_held),
        }
    }
}

/// What did not hold of a run's configuration, on one line: of many things the first.
fn not_held(lines: &[String]) -> Option<String> {
    let (first, more) = lines.split_first()?;
    let more = if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) };
    Some(format!("did not keep its configuration: {first}{more}"))
}

impl Session {
    /// Names of the configurations that have runs, in the order of the session.
    #[must_use]
    pub fn config_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        let announced = self.configs.iter().map(|c| c.name.as_str());
        for name in announced.chain(self.runs.iter().map(Run::config)) {
            if !names.contains(&name) && self.runs.iter().any(|r| r.config() == name) {
                names.push(name);
            }
        }
        names
    }

    /// Names of the loads that runs were recorded under, in the order of the session; none when it has but one load.
    #[must_use]
    pub fn load_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for name in self.runs.iter().filter_map(|run| run.start.load.as_deref()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// What can be pooled: each configuration under each load, where there are runs, in the order of the session.
    #[must_use]
    pub fn parts(&self) -> Vec<Part<'_>> {
        let unnamed = [None].into_iter();
        let loads: Vec<Option<&str>> = unnamed.chain(self.load_names().into_iter().map(Some)).collect();
        let names = self.config_names().into_iter();
        let all = names.flat_map(|config| loads.iter().map(move |load| Part { config, load: *load }));
        all.filter(|part| self.runs_in(*part).next().is_some()).collect()
    }

    /// The runs of a configuration under a load.
    pub fn runs_in<'a>(&'a self, part: Part<'a>) -> impl Iterator<Item = &'a Run> {
        self.runs_of(part.config).filter(move |run| run.start.load.as_deref() == part.load)
    }

    /// The runs of a configuration.
    pub fn runs_of<'a>(&'a self, config: &'a str) -> impl Iterator<Item = &'a Run> {
        self.runs.iter().filter(move |r| r.config() == config)
    }
}
