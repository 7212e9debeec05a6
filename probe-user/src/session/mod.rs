//! Sessions: runs of one or more configurations in one file (`*.vfprobe`, docs/session-format.md).
//!
//! `model` holds the values, `codec` turns them into lines and back without touching a file, `file` is the edge.
//! Knows no probe, no clock, and neither who records nor who reads.

mod codec;
mod file;
mod line;
mod model;
mod record;
#[cfg(test)]
pub(crate) mod sample;

pub use codec::{DecodeError, Encoder, decode};
pub use file::{SessionError, Writer, read};
pub use model::{
    Config, Header, HostFacts, Part, ProbeVerdict, Run, RunEnd, RunStart, Session, Tuning, TuningLoad,
    Verdict,
};
