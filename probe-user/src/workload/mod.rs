//! Commands that make the load of a run: how they are started and ended, and what their output says.
//!
//! The parsers are pure. Knows no probe, no session and no configuration.

pub mod iperf3;
pub mod ping;
mod recognise;
mod result;
mod run;

pub use recognise::parse;
pub use result::{Better, Metric, Unit, Workload};
pub use run::{Echo, Running, WorkloadError, start};
