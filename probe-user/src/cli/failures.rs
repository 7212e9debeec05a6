//! Which exit code an error of a lower layer means.

use super::{Exit, Failure};
use crate::app::guests::GuestError;
use crate::app::record::RecordError;
use crate::bpf::LoadError;
use crate::plan::PlanError;
use crate::session::SessionError;

/// A file that cannot be read or written is wrong input.
pub(super) fn session(error: SessionError) -> Failure {
    Failure::usage(error)
}

/// A run that could not be made.
pub(super) fn record(error: RecordError) -> Failure {
    match error {
        RecordError::Load(e) => load(e),
        RecordError::Read(e) => Failure::cannot_run(e),
        RecordError::Session(e) => session(e),
        RecordError::Workload(e) => Failure::usage(e),
        error @ RecordError::Signals { .. } => Failure::cannot_run(error),
    }
}

/// A wish that cannot be met is wrong input, unless this process is not allowed to see.
pub(super) fn plan(error: PlanError) -> Failure {
    match error {
        PlanError::Hidden { .. } => Failure::cannot_run(error),
        _ => Failure::usage(error),
    }
}

/// A guest that was not found is wrong input, unless this process is not allowed to see any.
pub(super) fn guest(error: GuestError) -> Failure {
    match error {
        GuestError::Hidden { .. } | GuestError::AllHidden { .. } => Failure::cannot_run(error),
        _ => Failure::usage(error),
    }
}

/// Probes that could not be loaded.
pub(super) fn load(error: LoadError) -> Failure {
    Failure::new(Exit::CannotRun, error)
}
