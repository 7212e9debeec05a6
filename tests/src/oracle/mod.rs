//! An independent evaluation of what vfprobe measures, from a tracefs capture of the same run.
//!
//! Shares no code with the product: it reads ftrace's text, keeps every event, and applies the definitions of
//! docs/probes.md to them. Times have the microsecond resolution of that text.

pub mod chrome;
pub mod delivery;
pub mod exits;
pub mod guests;
pub mod noise;
pub mod path;
pub mod perf;
pub mod sched;
pub mod trace;
pub mod verdict;
pub mod vmm;

/// A span of CLOCK_MONOTONIC time (ns), end excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Begin.
    pub from_ns: u64,
    /// End.
    pub until_ns: u64,
}

impl Span {
    /// Whether a moment lies inside.
    #[must_use]
    pub fn contains(&self, ns: u64) -> bool {
        (self.from_ns..self.until_ns).contains(&ns)
    }
}
