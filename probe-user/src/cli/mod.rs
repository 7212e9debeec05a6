//! The command line: arguments in, a use case run, an exit code out. One file per command; no logic here.

mod apply;
mod compare;
mod completions;
mod doctor;
mod duration;
mod exit;
mod failures;
mod isolation;
mod log;
mod man;
mod names;
mod paint;
mod path;
mod plan;
mod policy;
mod progress;
mod record;
mod rollback;
mod serve;
mod show;
mod status;
mod top;
mod topology;
mod trace;
mod tune;
mod verify;

pub use exit::{Exit, Failure};

use anyhow::Context;
use clap::{ColorChoice, Parser, Subcommand};
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Where the journal and the lock are kept unless told otherwise.
const DEFAULT_STATE_DIR: &str = "/run/vfprobe";

/// Options of all commands stand in help below those of the command, and above --help.
const LAST: usize = 900;

/// Trace, tune and verify how SR-IOV guests get their interrupts.
#[derive(Debug, Parser)]
#[command(name = "vfprobe", version, about, disable_help_subcommand = true)]
pub struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Globals {
    /// Only results and errors, no progress
    #[arg(short, long, global = true, display_order = LAST, conflicts_with = "verbose")]
    pub quiet: bool,
    /// More about what is done; twice for debugging
    #[arg(short, long, global = true, display_order = LAST + 1, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Colours in output [default: auto]
    #[arg(long, global = true, display_order = LAST + 2, value_name = "WHEN")]
    color: Option<ColorChoice>,
    #[arg(long, global = true, display_order = LAST + 3, value_name = "DIR", env = "VFPROBE_STATE_DIR", help = format!(
        "Where the journal and the lock are kept [default: {DEFAULT_STATE_DIR}]"
    ))]
    state_dir: Option<PathBuf>,
}

impl Globals {
    fn color(&self) -> ColorChoice {
        self.color.unwrap_or(ColorChoice::Auto)
    }

    fn state_dir(&self) -> &Path {
        self.state_dir.as_deref().unwrap_or(Path::new(DEFAULT_STATE_DIR))
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what this host can do and observe, and how to mend what it cannot
    Doctor(doctor::Args),
    /// Show guests, their vCPUs and VFs, and where each VF's interrupts go
    Topology(topology::Args),
    /// Show present figures, live
    Top(top::Args),
    /// Record one run into a session file, by time or around a command
    Record(record::Args),
    /// Try configurations in interleaved runs, tell which is better, and put the host back
    Tune(tune::Args),
    /// Show a recording: percentiles of every series, counters, workloads
    Show(show::Args),
    /// Compare runs before and after: one verdict, then the table it rests on
    Compare(compare::Args),
    /// Show what would have to change for a guest to get its CPUs and its interrupts
    Plan(plan::Args),
    /// Change it: everything, or nothing
    Apply(apply::Args),
    /// Compare the host with what was applied; exit code 1 when something differs
    Verify(status::Args),
    /// Undo what was applied
    Rollback(rollback::Args),
    /// Show the configuration in force, setting by setting; exit code 1 when something differs
    Status(status::Args),
    /// Judge what disturbs CPUs that were promised to vCPUs; exit code 1 when it is over budget
    Isolation(isolation::Args),
    /// Show the paths of guests' packets through the host, hop by hop, and beside them the VFs that need none
    Path(path::Args),
    /// Show single interrupts, hop by hop, or write them for a trace viewer
    Trace(trace::Args),
    /// Export all figures to Prometheus until stopped
    Serve(serve::Args),
    /// Print the completion script of a shell
    Completions(completions::Args),
    /// Print the manual page
    Man(man::Args),
}

/// Runs what the command line asks for.
///
/// # Errors
/// A [`Failure`] carries the exit code and the one line to print.
pub fn run(cli: Cli) -> Result<Exit, Failure> {
    let Cli { globals, command } = cli;
    // How a service logs may be in its configuration, which it reads first.
    if !matches!(command, Command::Serve(_)) {
        log::start(&globals);
    }
    match command {
        Command::Doctor(args) => doctor::run(&globals, &args),
        Command::Topology(args) => topology::run(&globals, &args),
        Command::Top(args) => top::run(&globals, &args),
        Command::Record(args) => record::run(&globals, &args),
        Command::Tune(args) => tune::run(&globals, &args),
        Command::Show(args) => show::run(&globals, &args),
        Command::Compare(args) => compare::run(&globals, &args),
        Command::Plan(args) => plan::run(&globals, &args),
        Command::Apply(args) => apply::run(&globals, &args),
        Command::Verify(args) => verify::run(&globals, &args),
        Command::Rollback(args) => rollback::run(&globals, &args),
        Command::Status(args) => status::run(&globals, &args),
        Command::Isolation(args) => isolation::run(&globals, &args),
        Command::Path(args) => path::run(&globals, &args),
        Command::Trace(args) => trace::run(&globals, &args),
        Command::Serve(args) => serve::run(&globals, &args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

/// The runtime for commands that wait: one thread, as vfprobe must not compete with guests.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .map_err(Failure::cannot_run)
}

/// Prints a result. A reader that has gone away (`vfprobe man | head`) is no failure.
fn print(bytes: &[u8]) -> Result<Exit, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output").map_err(Failure::cannot_run)
        }
        _ => Ok(Exit::Fine),
    }
}

/// A section of docs/json.md, and the document that it shows.
#[cfg(test)]
fn documented(command: &str) -> (&'static str, serde_json::Value) {
    let all = include_str!("../../../docs/json.md");
    let commands = command.split(", ").map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", ");
    let section = all.split("\n## ").find(|s| s.starts_with(&commands)).expect("a section of docs/json.md");
    let example = section.split("```json\n").nth(1).and_then(|rest| rest.split("```").next());
    let example = serde_json::from_str(example.expect("an example")).expect("JSON");
    (section, example)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    /// What a command is asked with stands first in its help, what every command takes last.
    #[test]
    fn options_of_all_commands_stand_last() {
        let last = ["quiet", "verbose", "color", "state-dir", "help"];
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands_mut() {
            let help = command.render_help().to_string();
            let at = |option: &str| help.rfind(&format!("--{option}")).expect("every command takes it");
            assert!(last.map(at).is_sorted(), "{help}");
            for own in command.get_arguments().filter_map(clap::Arg::get_long) {
                let stands = help.find(&format!(" --{own}"));
                assert!(last.contains(&own) || stands < help.find(", --quiet"), "--{own}\n{help}");
            }
        }
    }
}
