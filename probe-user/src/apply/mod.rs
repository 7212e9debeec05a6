//! The only writers: steps of a plan carried out as one transaction, checked, and undone.
//!
//! Every step is on disk before it is carried out and is read back afterwards, so that whatever happens, `rollback` can
//! restore what was found. Nothing here decides what to change or knows why.

mod error;
mod faults;
mod heirs;
mod host;
mod journal_file;
mod live;
#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod random_tests;
mod release;
mod rollback;
mod state;
mod transaction;
mod undo;
mod verify;

pub use error::{ApplyError, Cause, Failed, RollbackError, StateError};
pub use host::{Host, Observed, Refusal, Seen, TargetError};
pub use live::LiveHost;
pub use release::release;
pub use rollback::{RollbackOptions, rollback};
pub use state::{StateDir, StateLock};
pub use transaction::{Applied, Options, Skipped, apply};
pub use undo::{Outcome, RollbackReport, Undone};
pub use verify::{Check, InForce, Left, Reality, settled, verify};
