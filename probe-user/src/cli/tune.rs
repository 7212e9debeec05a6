//! `vfprobe tune`.

use super::paint::Paint;
use super::{Exit, Failure, Globals, compare::Output, duration, failures, print, progress};
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
    /// Leave the best configuration in force when it is clearly better and breaks no --fail-if
    #[arg(long)]
    keep_best: bool,
    /// Session file to write; must not exist [default: vfprobe-<time>.vfprobe here]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    format: Output,
    /// A command that makes load, started anew for each run
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the session and tells its verdict.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let (root, state) = (HostRoot::live(), StateDir::new(globals.state_dir()));
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
    let format = &args.format;
    print(format.text(&assessments, &session.notes, false, Paint::stdout(globals.color()))?.as_bytes())?;
    let report = format.write_report(&assessments, &session.notes)?;
    let report = report.map_or_else(String::new, |file| format!("report   {file}\n"));
    tell(globals, format, &format!("\nsession  {name}\n{report}"))?;
    let conclusion = conclude(&assessments, format);
    for line in &conclusion.broken {
        eprintln!("{line}");
    }
    let best = conclusion.best.and_then(|name| tries.iter().find(|t| t.name == name));
    match best.filter(|_| args.keep_best) {
        Some(chosen) => {
            tune::keep(root, state, chosen).map_err(failure)?;
            tell(globals, format, &format!("in force {} (undo it with `vfprobe rollback`)\n", chosen.name))?;
        }
        None => tell(globals, format, "in force nothing; the host is as it was\n")?,
    }
    Ok(if conclusion.broken.is_empty() { Exit::Fine } else { Exit::Finding })
}

/// What belongs below the table. A document on standard output is left to itself; then standard error gets it.
fn tell(globals: &Globals, format: &Output, text: &str) -> Result<(), Failure> {
    if format.is_table() {
        print(text.as_bytes())?;
    } else if !globals.quiet {
        eprint!("{}", text.trim_start());
    }
    Ok(())
}

/// What follows from a session's comparisons.
#[derive(Debug, PartialEq, Eq)]
struct Conclusion<'a> {
    /// Conditions that a configuration broke, or that could not be judged.
    broken: Vec<String>,
    /// The configuration with the clearest gain among those that broke none; none when no verdict is `better`.
    best: Option<&'a str>,
}

fn conclude<'a>(assessments: &[Assessment<'a>], format: &Output) -> Conclusion<'a> {
    let mut broken = Vec::new();
    let mut best: Option<(f64, &'a str)> = None;
    for assessment in assessments {
        let lines = format.broken(assessment);
        let compared = &assessment.headline.compared;
        let fit = lines.is_empty() && compared.verdict == Verdict::Better;
        let ratio = compared.estimate.filter(|_| fit).map(|e| e.ratio);
        broken.extend(lines);
        if let Some(ratio) = ratio.filter(|ratio| best.is_none_or(|(least, _)| *ratio < least)) {
            best = Some((ratio, assessment.after.config));
        }
    }
    Conclusion { broken, best: best.map(|(_, config)| config) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{decode, sample};
    use clap::Parser as _;

    #[test]
    fn the_best_is_clearly_better_and_breaks_no_condition() {
        for (others, conditions, best, broken) in [
            (&[("own", 0.3), ("near", 0.6)][..], &[][..], Some("own"), 0),
            (&[("near", 0.6), ("own", 0.3)], &["irq_delivery.p99 > +5%"], Some("own"), 0),
            (&[("own", 1.0)], &[], None, 0),
            (&[("own", 3.0)], &[], None, 0),
            (&[("own", 3.0), ("near", 0.5)], &["irq_delivery.p99 > +5%"], Some("near"), 1),
            (&[("own", 0.3), ("near", 0.6)], &["irq_delivery.p99 < -60%"], Some("near"), 1),
            (&[("own", 0.3)], &["irq_delivery.p50 > 1us", "vm_exit{reason=CPUID}.p50 > +5%"], None, 2),
        ] {
            let session = decode(sample::lines(5, others).as_bytes()).unwrap();
            let pairs = pairs_within(Named { file: "f", session: &session }, Some(BASELINE), None).unwrap();
            let assessments: Vec<_> =
                pairs.into_iter().map(|pair| assess(pair, Detail::Folded, None)).collect();
            let found = conclude(&assessments, &Output::with_conditions(conditions));
            assert_eq!(
                (found.best, found.broken.len()),
                (best, broken),
                "{others:?} {conditions:?}: {found:?}"
            );
            for line in &found.broken {
                assert!(line.starts_with("fail-if ") && line.contains(" against baseline: "), "{line}");
            }
        }
    }

    #[test]
    fn output_options_are_checked_before_any_run() {
        for (options, accepted) in [
            (&["--json"][..], true),
            (&["--markdown", "--fail-if", "irq_delivery.p99 > +5%", "--html", "F"], true),
            (&["--json", "--markdown"], false),
            (&["--fail-if", "irq_delivery > 5"], false),
        ] {
            for command in [&["vfprobe", "tune", "--guest", "vm1"][..], &["vfprobe", "compare", "A", "B"]] {
                let found = crate::cli::Cli::try_parse_from(command.iter().chain(options));
                assert_eq!(found.is_ok(), accepted, "{command:?} {options:?}");
            }
        }
    }
}
