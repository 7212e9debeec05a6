//! `vfprobe record`.

use super::{Exit, Failure, Globals, duration, failures, print, progress};
use crate::app::{guests, record};
use crate::host::{HostRoot, read_topology};
use crate::session;
use crate::workload::{Echo, Reading};
use std::path::PathBuf;
use std::time::Duration;

/// Length of a run without a command and without `--duration`.
const DEFAULT_LENGTH: Duration = Duration::from_secs(10);

/// Arguments of `record`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long to count [default: until COMMAND ends, else 10s]
    #[arg(short, long, value_name = "TIME", value_parser = duration::parse)]
    duration: Option<Duration>,
    /// Session file to write; must not exist [default: vfprobe-<time>.vfprobe here]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only this guest (name, uuid or pid)
    #[arg(long)]
    guest: Option<String>,
    /// Name of the configuration in force, for comparing later
    #[arg(long, value_name = "NAME", default_value = "baseline")]
    config: String,
    /// COMMAND states its figures itself, as JSON in its last line (docs/workloads.md)
    #[arg(long, requires = "command")]
    workload_json: bool,
    /// A command that makes load; its exit code becomes vfprobe's
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Records one run and shows it.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let root = HostRoot::live();
    let topology = read_topology(&root);
    let guest = match &args.guest {
        Some(wanted) => Some(guests::find(&topology, wanted).map_err(failures::guest)?.name.clone()),
        None => None,
    };
    let path =
        args.output.clone().unwrap_or_else(|| format!("vfprobe-{}.vfprobe", record::file_stamp()).into());
    let duration = args.duration.or_else(|| args.command.is_empty().then_some(DEFAULT_LENGTH));
    let request = record::RunRequest {
        config: &args.config,
        order: 0,
        load: None,
        seed: None,
        changes: Vec::new(),
        guest: guest.as_deref(),
        guarded: topology.promised(),
        duration,
        warm_up: Duration::ZERO,
        command: &args.command,
        reading: if args.workload_json { Reading::Stated } else { Reading::ByTool },
        echo: if globals.quiet { Echo::No } else { Echo::ToStderr },
    };
    // Before the file: a host that cannot be observed leaves none behind.
    let mut writer = record::create_session(&root, &path).map_err(failures::session)?;
    let bar = progress::Bar::new(globals, &args.config, duration);
    let finished = super::runtime()?
        .block_on(record::record_run(&root, &mut writer, &request, None, &mut record::AsItIs, &mut |p| {
            bar.show(p);
        }))
        .map_err(|error| {
            drop(std::fs::remove_file(&path));
            failures::record(error)
        })?;
    bar.clear();
    let session = session::read(&path).map_err(failures::session)?;
    print(super::show::recording(globals, &session).as_bytes())?;
    if !globals.quiet {
        eprintln!("written to {}", path.display());
    }
    Ok(exit_of(&finished))
}

/// The command's own exit code, when it ended by itself.
fn exit_of(finished: &record::Finished) -> Exit {
    let Some(workload) = finished.end.workload.as_ref().filter(|w| !w.stopped) else { return Exit::Fine };
    match (workload.exit_code, workload.signal) {
        (Some(0), _) => Exit::Fine,
        (Some(code), _) => Exit::Workload(u8::try_from(code).unwrap_or(u8::MAX)),
        // As shells report a command that a signal ended.
        (None, Some(signal)) => Exit::Workload(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
        (None, None) => Exit::Fine,
    }
}
