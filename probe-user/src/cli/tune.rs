//! `vfprobe tune`.

use super::paint::Paint;
use super::{Exit, Failure, Globals, compare, duration, failures, print, progress};
use crate::app::tune::{self, BASELINE, Event, Try, TuneError, TuneRequest};
use crate::app::{guests, record};
use crate::apply::{ApplyError, StateDir};
use crate::host::{HostRoot, read_topology};
use crate::plan::policy::parse_cpus;
use crate::plan::{Isolate, Pins, Placement, Policy};
use crate::report::assess::{Assessment, Named, assess, pairs_within};
use crate::session;
use crate::stats::compare::{Detail, Verdict};
use crate::workload::Echo;
use anyhow::{Context as _, anyhow};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of `tune`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The guest to tune for: name, uuid or pid
    #[arg(long)]
    guest: String,
    /// Placements to try against the baseline: own, near, housekeeping, keep; `baseline` alone compares it with itself
    #[arg(long = "try", value_name = "LIST", value_delimiter = ',', default_value = "own")]
    tries: Vec<String>,
    /// CPUs for its vCPUs, the i-th for vCPU i: a list such as 2-3, `auto`, or `keep`
    #[arg(long, value_name = "LIST", default_value = "auto")]
    cpus: String,
    /// Also move threads of other processes and of the kernel off its CPUs
    #[arg(long)]
    isolate: bool,
    /// Runs of each configuration
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// Length of each run
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    duration: Duration,
    /// Time between the start of COMMAND and counting
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration::parse)]
    warm_up: Duration,
    /// Seed of the runs' order [default: from the clock]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Leave the best configuration in force when it is clearly better
    #[arg(long)]
    keep_best: bool,
    /// Session file to write; must not exist [default: vfprobe-<time>.vfprobe here]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also write a report for people, one HTML file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// A command that makes load, started anew for each run
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the session and tells its verdict.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let (root, state) = (HostRoot::live(), StateDir::new(&globals.state_dir));
    let topology = read_topology(&root);
    let guest = guests::find(&topology, &args.guest).map_err(Failure::usage)?.name.clone();
    let tries = tries(args, &guest)?;
    let path =
        args.output.clone().unwrap_or_else(|| format!("vfprobe-{}.vfprobe", record::file_stamp()).into());
    let request = TuneRequest {
        guest: &guest,
        tries: &tries,
        repeats: args.repeat.into(),
        duration: args.duration,
        warm_up: args.warm_up,
        seed: args.seed.unwrap_or_else(record::unix_ms),
        command: &args.command,
        echo: if globals.verbose > 0 { Echo::ToStderr } else { Echo::No },
    };
    let mut writer = record::create_session(&root, &path).map_err(failures::session)?;
    let mut screen = Screen { globals, bar: None, length: args.duration };
    let result = super::runtime()?
        .block_on(tune::tune(&root, &state, &mut writer, &request, &mut |event| screen.show(&event)));
    screen.clear();
    drop(writer);
    if let Err(error) = result {
        // A file without a single run is of no use to anybody.
        if session::read(&path).is_ok_and(|s| s.runs.is_empty()) {
            drop(std::fs::remove_file(&path));
        }
        return Err(failure(error));
    }
    finish(globals, args, &root, &state, &tries, &path)
}

/// The baseline and one configuration per placement.
fn tries(args: &Args, guest: &str) -> Result<Vec<Try>, Failure> {
    let pins = match args.cpus.as_str() {
        "auto" => Pins::Auto,
        "keep" => Pins::Keep,
        list => Pins::Cpus(parse_cpus(list).context("--cpus").map_err(Failure::usage)?),
    };
    let mut tries = vec![Try { name: BASELINE.to_owned(), policy: None }];
    for name in args.tries.iter().filter(|name| *name != BASELINE) {
        let placement: Placement = name.parse().context("--try").map_err(Failure::usage)?;
        if tries.iter().any(|t| t.name == *name) {
            return Err(Failure::usage(anyhow!("--try names {name} twice")));
        }
        let mut policy = Policy::for_guest(guest, pins.clone(), placement);
        if args.isolate {
            policy.isolate = Isolate::Threads;
        }
        tries.push(Try { name: name.clone(), policy: Some(policy) });
    }
    if tries.len() == 1 {
        // The baseline against itself: what comes out is the noise of the host and the method.
        tries.push(Try { name: format!("{BASELINE}-again"), policy: None });
    }
    Ok(tries)
}

/// Progress: a bar on a terminal, and one line per finished run.
struct Screen<'a> {
    globals: &'a Globals,
    bar: Option<progress::Bar>,
    length: Duration,
}

impl Screen<'_> {
    fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Begin(number, of, config) => {
                let what = format!("{}/{of} {config}", number + 1);
                self.bar = Some(progress::Bar::new(self.globals, &what, Some(self.length)));
            }
            Event::Progress(p) => {
                if let Some(bar) = &self.bar {
                    bar.show(p);
                }
            }
            Event::End(number, of, config, finished) => {
                self.clear();
                if !self.globals.quiet {
                    let figures = progress::headline(&finished.snapshot);
                    eprintln!("run {:>3}/{of}  {config:<14} {figures}", number + 1);
                    for remark in &finished.end.remarks {
                        eprintln!("             {remark}");
                    }
                }
            }
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.clear();
        }
    }
}

fn failure(error: TuneError) -> Failure {
    match error {
        TuneError::Record(e) => failures::record(e),
        TuneError::Session(e) => failures::session(e),
        TuneError::Plan { source, .. } => failures::plan(source),
        TuneError::State(_) | TuneError::InForce => Failure::cannot_run(error),
        TuneError::Interrupted => Failure::new(Exit::RolledBack, error),
        TuneError::Apply { source: ApplyError::Incomplete(_), .. }
        | TuneError::Rollback(_)
        | TuneError::LeftOver(_) => Failure::new(Exit::RollbackIncomplete, error),
        TuneError::Apply { .. } => Failure::new(Exit::RolledBack, error),
    }
}

/// Compares, prints, writes the report, and keeps the best when asked and clear.
fn finish(
    globals: &Globals,
    args: &Args,
    root: &HostRoot,
    state: &StateDir,
    tries: &[Try],
    path: &Path,
) -> Result<Exit, Failure> {
    let session = session::read(path).map_err(failures::session)?;
    let name = path.display().to_string();
    let pairs = pairs_within(Named { file: &name, session: &session }, Some(BASELINE), None)
        .map_err(Failure::usage)?;
    let assessments: Vec<Assessment<'_>> =
        pairs.into_iter().map(|pair| assess(pair, Detail::Folded, None)).collect();
    let mut text = compare::render(&assessments, false, Paint::stdout(globals.color));
    let _ = writeln!(text, "\nsession  {name}");
    if let Some(html) = &args.html {
        compare::write_report(html, &assessments, &session.notes)?;
        let _ = writeln!(text, "report   {}", html.display());
    }
    print(text.as_bytes())?;
    let kept = best(&assessments).and_then(|name| tries.iter().find(|t| t.name == name));
    match kept.filter(|_| args.keep_best) {
        Some(chosen) => {
            tune::keep(root, state, chosen).map_err(failure)?;
            print(format!("in force {} (undo it with `vfprobe rollback`)\n", chosen.name).as_bytes())?;
        }
        None => drop(print(b"in force nothing; the host is as it was\n")?),
    }
    Ok(Exit::Fine)
}

/// The configuration with the clearest gain; none when no verdict is `better`.
fn best<'a>(assessments: &[Assessment<'a>]) -> Option<&'a str> {
    assessments
        .iter()
        .filter(|a| a.headline.compared.verdict == Verdict::Better)
        .filter_map(|a| Some((a.headline.compared.estimate.as_ref()?.ratio, a.after.config)))
        .min_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, config)| config)
}
