//! What a workload yielded: how it ended, how long it took, and the figures its output holds.

use crate::stats::gate::{Figure, Measure};
use serde::{Deserialize, Serialize};

/// A finished workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Whose output was understood: `ping`, `iperf3`, ... (docs/workloads.md). `None`: the command was only timed.
    pub tool: Option<String>,
    /// Its exit code; `None` when a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether it still ran when the run was over: vfprobe then ended it, and its exit status says nothing about its success;
    /// a continuous one runs on, and has no exit status.
    #[serde(default)]
    pub stopped: bool,
    /// Whether it is to run through all runs of its session. Its figures are then those of one run.
    #[serde(default, skip_serializing_if = "is_false")]
    pub continuous: bool,
    /// Wall time from start to end (ns); of a continuous one the time of the run.
    pub wall_ns: u64,
    /// What its output says.
    #[serde(default)]
    pub metrics: Vec<Metric>,
    /// Why its output could not be read although the tool is known, or other remarks.
    #[serde(default)]
    pub note: Option<String>,
    /// The last lines of its standard error, at most 2 KiB.
    #[serde(default)]
    pub stderr: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// One figure of a workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// What it is: `rtt_p99`, `throughput`.
    pub name: String,
    /// Its unit.
    pub unit: Unit,
    /// Its value; never NaN or infinite.
    pub value: f64,
    /// Which direction is better.
    pub better: Better,
}

/// Units of workload figures. A unit of a later version reads as [`Unit::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nanoseconds.
    Nanoseconds,
    /// Bits per second.
    BitsPerSecond,
    /// A share between 0 and 1.
    Share,
    /// A plain number.
    #[serde(other)]
    Other,
}

/// Which direction of a figure is an improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Less is better: latency, loss.
    Lower,
    /// More is better: throughput.
    Higher,
    /// Neither: counts that describe the load.
    #[serde(other)]
    Neither,
}

impl Unit {
    /// What figures in it measure, for conditions on them.
    #[must_use]
    pub fn measure(self) -> Measure {
        match self {
            Self::Nanoseconds => Measure::Time,
            Self::BitsPerSecond => Measure::BitRate,
            Self::Share => Measure::Share,
            Self::Other => Measure::Number,
        }
    }
}

impl Workload {
    /// Its figures, for conditions on them.
    #[must_use]
    pub fn figures(&self) -> Vec<Figure<f64>> {
        let Some(tool) = &self.tool else { return Vec::new() };
        let figure = |metric: &Metric| {
            let (name, measure) = (metric.name.clone(), metric.unit.measure());
            Figure { tool: tool.clone(), load: None, name, measure, value: metric.value }
        };
        self.metrics.iter().map(figure).collect()
    }

    /// Whether the command ended as it should: exit code 0, or it still ran when the run was over. A continuous one must not
    /// end at all.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.stopped || (self.exit_code == Some(0) && !self.continuous)
    }

    /// How it ended, in words, when it did not end as it should.
    #[must_use]
    pub fn ending(&self) -> String {
        match (self.exit_code, self.signal) {
            (Some(code), _) if self.continuous => {
                format!("workload ended with exit code {code}, and was to run on")
            }
            (Some(code), _) => format!("workload failed with exit code {code}"),
            (None, Some(signal)) => format!("workload was ended by signal {signal}"),
            (None, None) => "workload failed".to_owned(),
        }
    }

    /// The figure of that name.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|m| m.name == name)
    }

    /// The command as one line.
    #[must_use]
    pub fn command_line(&self) -> String {
        self.command.join(" ")
    }
}

impl Metric {
    /// A figure, unless it is not a number.
    #[must_use]
    pub fn new(name: &str, unit: Unit, value: f64, better: Better) -> Option<Self> {
        value.is_finite().then(|| Self { name: name.to_owned(), unit, value, better })
    }
}
