//! Why a change was refused, or what became of it.

use super::host::TargetError;
use super::undo::RollbackReport;
use crate::plan::journal::JournalError;
use std::{io, path::PathBuf};

/// The state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another vfprobe changes this host.
    #[error("{} is held by {}; nothing was changed; wait until it has finished, or stop it", .path.display(), holder(*.pid))]
    Busy {
        /// The lock.
        path: PathBuf,
        /// Who holds it, as far as known.
        pid: Option<u32>,
    },
    /// A call failed.
    #[error("cannot {call} {}{}", .path.display(), remedy(.source))]
    Io {
        /// What was tried.
        call: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The journal cannot be trusted.
    #[error(
        "{}: {source}; `vfprobe rollback --salvage` undoes the steps that can still be read, or remove the file to \
         leave everything as it is now", .path.display()
    )]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// What is wrong with it.
        source: JournalError,
    },
}

/// What to do about it, where that is known.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (run as root, or name another folder with --state-dir)",
        io::ErrorKind::StorageFull => " (free some space there, or name another folder with --state-dir)",
        _ => "",
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another vfprobe".to_owned(), |pid| format!("another vfprobe (pid {pid})"))
}

/// A plan that was not brought into force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The state folder cannot be used; nothing was changed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The host cannot be read, or a privilege is missing; nothing was changed.
    #[error(transparent)]
    Host(#[from] TargetError),
    /// An earlier change was cut short; nothing was changed now.
    #[error("a change that was cut short is on record in {}; run `vfprobe rollback` first", .0.display())]
    Unfinished(PathBuf),
    /// The host is not as it was when the plan was made; nothing was changed.
    #[error("the plan no longer fits the host, nothing was changed; plan again ({})", .0.join("; "))]
    Stale(Vec<String>),
    /// A step failed; everything was rolled back.
    #[error("{}; everything was rolled back", .0.cause)]
    RolledBack(Box<Failed>),
    /// A step failed, and so did rolling back.
    #[error("{}; and it could not all be rolled back: {}", .0.cause, .0.report.failures().join("; "))]
    Incomplete(Box<Failed>),
}

/// A transaction that failed.
#[derive(Debug)]
pub struct Failed {
    /// What failed.
    pub cause: Cause,
    /// What became of each step.
    pub report: RollbackReport,
}

/// What made a transaction fail.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// A step.
    #[error("{target}: {}", one_line(.error))]
    Step {
        /// Its target.
        target: String,
        /// The failure.
        error: TargetError,
    },
    /// The target changed since the plan was made.
    #[error("{0}")]
    Stale(String),
    /// The journal could not be written.
    #[error("{}", one_line(.0))]
    Journal(StateError),
    /// A signal.
    #[error("interrupted by a signal")]
    Interrupted,
}

/// Rollback that could not begin.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The host cannot be read, or a privilege is missing.
    #[error(transparent)]
    Host(#[from] TargetError),
}

/// An error with its causes in one line.
pub(super) fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
