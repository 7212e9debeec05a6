//! `vfprobe tune`.

use super::paint::Paint;
use super::{Exit, Failure, Globals, compare::Output, duration, failures, print, progress};
use crate::app::loads::{self, Load};
use crate::app::tune::{self, BASELINE, Event, Place, Try, TuneError, TuneRequest};
use crate::app::{guests, record};
use crate::apply::{ApplyError, StateDir};
use crate::host::{HostError, HostRoot, read_guest_addresses, read_topology};
use crate::model::topology::Guest;
use crate::plan::policy::parse_cpus;
use crate::plan::{Isolate, Pins, Placement, Policy};
use crate::report::aims::aims;
use crate::report::assess::{Assessment, Named, assess, pairs_within};
use crate::session;
use crate::stats::compare::{Detail, Verdict};
use crate::workload::Echo;
use anyhow::{Context as _, anyhow};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
    /// Make the loads of an experiment instead of COMMAND's: `paper` measures throughput by iperf3 and delay by ping.
    /// COMMAND then stands in front of theirs, such as `ssh peer`; the guest runs `iperf3 -s`
    #[arg(long, value_name = "NAME")]
    preset: Option<Preset>,
    /// The guest's address for --preset [default: where this host last reached one of its VFs]
    #[arg(long, value_name = "ADDRESS", requires = "preset")]
    target: Option<IpAddr>,
    /// Length of each run; --preset takes whole seconds
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

/// Experiments that are built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Preset {
    /// Throughput by iperf3 and delay by ping, before and after.
    Paper,
}

/// Runs the session and tells its verdict.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let (root, state) = (HostRoot::live(), StateDir::new(&globals.state_dir));
    let topology = read_topology(&root);
    let found = guests::find(&topology, &args.guest).map_err(Failure::usage)?;
    let guest = found.name.clone();
    let tries = tries(args, &guest)?;
    let loads = loads(args, &root, found)?;
    let path =
        args.output.clone().unwrap_or_else(|| format!("vfprobe-{}.vfprobe", record::file_stamp()).into());
    let request = TuneRequest {
        guest: &guest,
        tries: &tries,
        repeats: args.repeat.into(),
        seed: args.seed.unwrap_or_else(record::unix_ms),
        loads: &loads,
        echo: if globals.verbose > 0 { Echo::ToStderr } else { Echo::No },
    };
    let mut writer = record::create_session(&root, &path).map_err(failures::session)?;
    let mut screen = Screen { globals, bar: None, began: Instant::now() };
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

/// What runs are made under.
fn loads(args: &Args, root: &HostRoot, guest: &Guest) -> Result<Vec<Load>, Failure> {
    let Args { duration, warm_up, command, .. } = args;
    let (duration, warm_up) = (*duration, *warm_up);
    match args.preset {
        None => Ok(vec![Load { name: None, command: command.clone(), warm_up, duration }]),
        Some(Preset::Paper) => {
            let target = match args.target {
                Some(target) => target,
                None => IpAddr::V4(only_address(read_guest_addresses(root, guest), &guest.name)?),
            };
            Ok(loads::paper(target, command, warm_up, duration).to_vec())
        }
    }
}

fn only_address(found: Result<Vec<Ipv4Addr>, HostError>, guest: &str) -> Result<Ipv4Addr, Failure> {
    match found.map_err(Failure::cannot_run)?[..] {
        [one] => Ok(one),
        [] => Err(Failure::usage(anyhow!(
            "the address of {guest} is not known here (its VFs' MACs are not in this host's ARP table); name it with --target"
        ))),
        ref several => {
            let list: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(Failure::usage(anyhow!(
                "{guest} has several addresses ({}); choose one with --target",
                list.join(", ")
            )))
        }
    }
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
    began: Instant,
}

impl Screen<'_> {
    fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Begin(place) => {
                let left = remaining(self.began.elapsed(), place);
                let what = format!("{}/{} {}, {left}", place.number + 1, place.of, name_of(place));
                self.bar = Some(progress::Bar::new(self.globals, &what, Some(place.load.duration)));
            }
            Event::Progress(p) => {
                if let Some(bar) = &self.bar {
                    bar.show(p);
                }
            }
            Event::End(place, finished) => {
                self.clear();
                if !self.globals.quiet {
                    let figures = progress::headline(&finished.snapshot);
                    eprintln!("run {:>3}/{}  {:<14} {figures}", place.number + 1, place.of, name_of(place));
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

fn name_of(place: &Place<'_>) -> String {
    session::Part { config: place.config, load: place.load.name.as_deref() }.to_string()
}

/// How long the rest of a session takes, as its runs so far did; before the first, as they are asked for.
fn remaining(elapsed: Duration, place: &Place<'_>) -> String {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (done, left) = (count(place.number), count(place.of.saturating_sub(place.number)));
    let each = elapsed.checked_div(done).unwrap_or(place.load.warm_up + place.load.duration);
    match each.saturating_mul(left).as_secs() {
        seconds @ 0..=99 => format!("about {seconds} s left"),
        seconds => format!("about {} min left", seconds.div_ceil(60)),
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
    print(format.text(&assessments, &session.notes, false, Paint::stdout(globals.color))?.as_bytes())?;
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
    let tables = aims(assessments);
    let mut broken = Vec::new();
    let mut best: Option<(f64, &'a str)> = None;
    // Comparisons of one configuration under several loads follow each other.
    for one in assessments.chunk_by(|a, b| a.after.config == b.after.config) {
        let after = &one[0].after;
        let lines: Vec<String> = one.iter().flat_map(|assessment| format.broken(assessment)).collect();
        let (verdict, ratio) = match tables.iter().find(|table| table.after == after.name) {
            Some(table) => (table.verdict(), table.gain()),
            None => {
                let compared = &one[0].headline.compared;
                (compared.verdict, compared.estimate.map(|e| e.ratio))
            }
        };
        let ratio = ratio.filter(|_| lines.is_empty() && verdict == Verdict::Better);
        broken.extend(lines);
        if let Some(ratio) = ratio.filter(|ratio| best.is_none_or(|(least, _)| *ratio < least)) {
            best = Some((ratio, after.config));
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
    fn under_several_loads_their_aims_decide() {
        for (others, best) in [
            (&[("own", 0.5, 1.24)][..], Some("own")),
            (&[("near", 0.7, 1.1), ("own", 0.4, 1.3)], Some("own")),
            (&[("own", 0.3, 0.5)], None),
            (&[("own", 1.0, 1.0)], None),
        ] {
            let session = sample::loads(5, others);
            let pairs = pairs_within(Named { file: "f", session: &session }, Some(BASELINE), None).unwrap();
            let assessments: Vec<_> =
                pairs.into_iter().map(|pair| assess(pair, Detail::Folded, None)).collect();
            assert_eq!(conclude(&assessments, &Output::default()).best, best, "{others:?}");
        }
    }

    #[test]
    fn remaining_time_follows_the_runs_made() {
        let load = Load {
            name: None,
            command: Vec::new(),
            warm_up: Duration::from_secs(1),
            duration: Duration::from_secs(9),
        };
        for (number, elapsed, text) in
            [(0, 0, "about 2 min left"), (5, 60, "about 84 s left"), (11, 110, "about 10 s left")]
        {
            let place = Place { number, of: 12, config: "own", load: &load };
            assert_eq!(remaining(Duration::from_secs(elapsed), &place), text);
        }
    }

    #[test]
    fn a_preset_needs_one_address() {
        let address = |last| Ipv4Addr::new(10, 0, 0, last);
        assert_eq!(only_address(Ok(vec![address(2)]), "vm1").unwrap(), address(2));
        for (found, said) in [(vec![], "--target"), (vec![address(2), address(3)], "10.0.0.2, 10.0.0.3")] {
            let failure = only_address(Ok(found), "vm1").unwrap_err();
            assert!(format!("{failure:?}").contains(said), "{failure:?}");
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
