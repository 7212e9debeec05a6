//! Why a policy cannot be kept.

use crate::apply::{ApplyError, RollbackError, StateError, TargetError};
use crate::plan::{PlanError, PolicyError};
use std::io;
use std::path::PathBuf;

/// Why the policy cannot be kept, now or at all.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The policy file cannot be read.
    #[error("cannot read the policy {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is no policy.
    #[error("{}: {cause}", path.display())]
    Policy {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        cause: PolicyError,
    },
    /// Another configuration is in force.
    #[error(
        "{configs} is in force, {}; undo it with `vfprobe rollback`, then start again",
        by_whom(.kept_by.as_deref())
    )]
    InForce {
        /// The names of what is in force.
        configs: String,
        /// The policy file that a service kept it by, if one did.
        kept_by: Option<String>,
    },
    /// The state folder cannot be used, or another vfprobe holds it.
    #[error(transparent)]
    State(#[from] StateError),
    /// The host cannot be read.
    #[error(transparent)]
    Host(#[from] TargetError),
    /// The host cannot meet the policy.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A change failed; says what became of it.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Undoing could not begin.
    #[error("cannot undo: {0}")]
    Rollback(#[from] RollbackError),
    /// Undoing left something.
    #[error("not all could be undone: {}", .0.join("; "))]
    LeftOver(Vec<String>),
    /// No thread can be started.
    #[error("cannot start the controller")]
    Thread(#[source] io::Error),
}

impl ReconcileError {
    /// Whether the policy itself is at fault.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Policy { .. })
    }
}

fn by_whom(kept_by: Option<&str>) -> String {
    kept_by.map_or_else(|| "applied by hand".to_owned(), |path| format!("kept by the policy {path}"))
}
