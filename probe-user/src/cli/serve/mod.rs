//! `vfprobe serve`: the Prometheus exporter, and the controller that keeps a policy.

mod file;
mod settings;

use super::{Exit, Failure, Globals, log};
use crate::app::reconcile::Mode;
use crate::app::serve::{self, Options, Reread, ServeError};
use crate::apply::StateDir;
use crate::export::bounds::Bounds;
use crate::export::families::FoldLabel;
use crate::export::ledger::KEEP;
use crate::export::{DEFAULT_LISTEN, ExportError};
use crate::host::HostRoot;
use settings::{Settings, SettingsError};
use std::io::ErrorKind;
use std::path::PathBuf;

/// Arguments of `serve`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// TOML file with a key for each of these flags, which win over it; SIGHUP reads it again
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[arg(long, value_name = "ADDR:PORT", env = "VFPROBE_LISTEN", help = format!(
        "Address and port to answer on; nothing that can be reached there changes the host [default: {DEFAULT_LISTEN}]"
    ))]
    listen: Option<String>,
    /// Add up all vectors of a VF (slot) or all vCPUs of a guest (vcpu); may be given twice
    #[arg(long, value_name = "LABEL")]
    fold: Vec<FoldLabel>,
    /// Bounds of the histograms: coarse (14), normal (27) or fine (105); counts are exact at each [default: normal]
    #[arg(long, value_name = "SET")]
    bounds: Option<Bounds>,
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8), help = format!(
        "Keep the figures of the last N configurations that have ended, beside the baseline's; each adds as much again to a scrape [default: {KEEP}]"
    ))]
    keep_configs: Option<u8>,
    /// Keep this policy in force while serving (docs/policy.md); SIGHUP reads it again
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Change nothing: only say in the log what the policy would change
    #[arg(long)]
    dry_run: bool,
    /// Ask for TLS or passwords as this file says, a web config of Prometheus' exporters (docs/operations.md)
    #[arg(long, value_name = "FILE")]
    web_config: Option<PathBuf>,
    /// How log lines are written to standard error [default: text]
    #[arg(long, value_name = "FORMAT", value_enum)]
    log_format: Option<log::Format>,
}

/// Serves until it is asked to stop.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let settings = Settings::read(globals, args).map_err(Failure::usage)?;
    log::start_service(&settings.globals, settings.log_format);
    let options = Options {
        listen: settings.listen.clone(),
        shape: settings.shape.clone(),
        state: StateDir::new(settings.globals.state_dir()),
        policy: settings.policy.clone(),
        mode: if settings.dry_run { Mode::Tell } else { Mode::Keep },
        keep_configs: settings.keep_configs,
        web_config: settings.web_config.clone(),
    };
    match serve::run(HostRoot::live(), options, reread(globals.clone(), args.clone(), settings)) {
        Ok(()) => Ok(Exit::Fine),
        Err(ServeError::Export(error)) if not_an_address(&error) => Err(Failure::usage(error)),
        Err(ServeError::Export(error @ ExportError::Web(_))) => Err(Failure::usage(error)),
        Err(ServeError::Policy(error)) if error.is_usage() => Err(Failure::usage(error)),
        Err(error) => Err(Failure::cannot_run(error)),
    }
}

/// Reads the file again and says what becomes of it. A file that cannot be used leaves everything as it is.
fn reread(globals: Globals, args: Args, started: Settings) -> Reread {
    Box::new(move || match Settings::read(&globals, &args) {
        Ok(settings) => {
            for key in started.fixed(&settings) {
                tracing::warn!(key, "changed in the configuration; takes effect with a restart");
            }
            Some(settings.shape)
        }
        Err(SettingsError::Read { path, source }) => {
            tracing::error!(path = %path.display(), error = %source, "the former configuration is kept");
            None
        }
        Err(error) => {
            tracing::error!(%error, "the former configuration is kept");
            None
        }
    })
}

/// Whether the text after `--listen` names no address at all, other than one that cannot be had now.
fn not_an_address(error: &ExportError) -> bool {
    matches!(error, ExportError::Listen { cause, .. } if cause.kind() == ErrorKind::InvalidInput)
}
