//! `vfprobe serve`: the Prometheus exporter, and the controller that keeps a policy.

use super::{Exit, Failure, Globals, log};
use crate::app::serve::{self, Options, ServeError};
use crate::apply::StateDir;
use crate::export::bounds::Bounds;
use crate::export::families::{Fold, FoldLabel};
use crate::export::{DEFAULT_LISTEN, ExportError};
use crate::host::HostRoot;
use std::io::ErrorKind;
use std::path::PathBuf;

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address and port to answer on; nothing that can be reached there changes the host
    #[arg(long, value_name = "ADDR:PORT", default_value = DEFAULT_LISTEN, env = "VFPROBE_LISTEN")]
    listen: String,
    /// Add up all vectors of a VF (slot) or all vCPUs of a guest (vcpu); may be given twice
    #[arg(long, value_name = "LABEL")]
    fold: Vec<FoldLabel>,
    /// Bounds of the histograms: coarse (14), normal (27) or fine (105); counts are exact at each
    #[arg(long, value_name = "SET", default_value = "normal")]
    bounds: Bounds,
    /// Keep this policy in force while serving (docs/policy.md); SIGHUP reads it again
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// How log lines are written to standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = log::Format::Text)]
    log_format: log::Format,
}

impl Args {
    /// Needed before anything can be logged.
    pub(super) fn log_format(&self) -> log::Format {
        self.log_format
    }
}

/// Serves until it is asked to stop.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let Args { listen, fold, bounds, policy, log_format: _ } = args;
    let options = Options {
        listen: listen.clone(),
        fold: Fold(fold.iter().copied().collect()),
        bounds: *bounds,
        state: StateDir::new(&globals.state_dir),
        policy: policy.clone(),
    };
    match serve::run(HostRoot::live(), options) {
        Ok(()) => Ok(Exit::Fine),
        Err(ServeError::Export(error)) if not_an_address(&error) => Err(Failure::usage(error)),
        Err(ServeError::Policy(error)) if error.is_usage() => Err(Failure::usage(error)),
        Err(error) => Err(Failure::cannot_run(error)),
    }
}

/// Whether the text after `--listen` names no address at all, other than one that cannot be had now.
fn not_an_address(error: &ExportError) -> bool {
    matches!(error, ExportError::Listen { cause, .. } if cause.kind() == ErrorKind::InvalidInput)
}
