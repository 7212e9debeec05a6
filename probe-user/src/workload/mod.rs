//! Commands that make the load of a run: how they are started and ended, and what their output says.
//!
//! The parsers are pure; docs/workloads.md lists what they read. Knows no probe, no session and no configuration.

mod continuous;
pub mod fortio;
pub mod iperf3;
pub mod json;
mod latency;
mod lines;
pub mod netperf;
pub mod ping;
mod recognise;
mod result;
mod run;
pub mod sockperf;
mod traffic;
pub mod wrk;

pub use continuous::Continuous;
pub use recognise::{Said, parse, parse_part, parse_within, tells_runs_apart, tool_of};
pub use result::{Better, Metric, Unit, Workload};
pub use run::{Echo, Reading, Running, STATED, WorkloadError, start};
pub use traffic::Traffic;
