//! `vfprobe tune`.

mod judgeable;
mod request;
mod screen;

use self::{judgeable::judgeable, request::request, screen::Screen};
use super::compare::{Output, condition};
use super::paint::Paint;
use super::policy::LookArgs;
use super::{Exit, Failure, Globals, duration, failures, plan, print};
use crate::app::tune::{self, BASELINE, Event, TuneError};
use crate::app::tuning::{self, ResumeError, Try};
use crate::app::vectors::Looked;
use crate::app::{control, record};
use crate::apply::{ApplyError, StateDir};
use crate::host::HostRoot;
use crate::plan::Policy;
use crate::plan::sweep::Sweep;
use crate::report::aims::aims;
use crate::report::assess::{Assessment, Named, assess, pairs_within};
use crate::session;
use crate::stats::compare::{Detail, Verdict};
use crate::stats::gate::Gate;
use crate::workload::{Echo, tells_runs_apart};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of `tune`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The guest to tune for: name, uuid or pid
    #[arg(long, value_name = "GUEST", required_unless_present = "resume")]
    guest: Option<String>,
    /// What to try against the baseline: placements (own, near, housekeeping, keep) and policy files, which have a `/` or
    /// end in .toml; `baseline` alone compares it with itself
    #[arg(long = "try", value_name = "LIST", value_delimiter = ',', default_value = "own")]
    tries: Vec<String>,
    /// Try each of these with a policy key set to each value, such as placement=own,near or halt_poll_ns=0,200000; several
    /// make a matrix
    #[arg(long, value_name = "KEY=VALUES")]
    sweep: Vec<Sweep>,
    /// CPUs for its vCPUs, the i-th for vCPU i: a list such as 2-3, `auto`, or `keep`; policy files say it themselves
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
    /// End the session and put the host back as soon as a run of a changed host does this, such as
    /// 'irq_delivery.p99 > +200%' or 'workload.loss > 10%' (changes are against the baseline's runs so far); may be repeated
    #[arg(long, value_name = "CONDITION", value_parser = condition::parse)]
    abort_if: Vec<Gate>,
    /// Also count what takes the CPUs that the configurations promise to the guest, in all runs alike; its rows are among the
    /// others, and not in the verdict
    #[arg(long)]
    noise: bool,
    /// Leave the best configuration in force when it is clearly better and breaks no --fail-if
    #[arg(long)]
    keep_best: bool,
    /// Session file to write; must not exist [default: vfprobe-<time>.vfprobe here]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Make the runs that are missing in the file of a session that was cut short; all else is as it was asked for then
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "guest", "tries", "sweep", "cpus", "isolate", "repeat", "preset", "target", "duration", "warm_up", "seed",
        "abort_if", "noise", "output", "command", "workload_mode",
    ])]
    resume: Option<PathBuf>,
    #[command(flatten)]
    format: Output,
    #[command(flatten)]
    look: LookArgs,
    /// Only show what each configuration would change; nothing is run
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// COMMAND states its figures itself, as JSON in its last line (docs/workloads.md)
    #[arg(long, requires = "command", conflicts_with = "preset")]
    workload_json: bool,
    /// Whether COMMAND is started anew for each run, or once, and runs on through all of them
    #[arg(long, value_name = "MODE", value_enum, default_value = "restart", conflicts_with = "preset")]
    workload_mode: WorkloadMode,
    /// A command that makes load
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// How long a workload lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum WorkloadMode {
    /// Started for each run, and ended with it.
    Restart,
    /// Started once; one that ends fails its run and is started again.
    Continuous,
}

/// Experiments that are built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Preset {
    /// Throughput by iperf3 and delay by ping, before and after.
    Paper,
}

/// Runs the session and tells its verdict.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let (root, state) = (HostRoot::live(), StateDir::new(globals.state_dir()));
    if args.dry_run {
        return dry_run(globals, args, &root, &state, &request(args, &root)?.tries);
    }
    let (path, mut writer, earlier, request) = match &args.resume {
        Some(path) => {
            let (writer, session, mut request) = tuning::resume(&root, path).map_err(resume_failure)?;
            request.look = args.look.length();
            judgeable(&request, args.format.conditions())?;
            (path.clone(), writer, Some(session), request)
        }
        None => {
            let request = request(args, &root)?;
            judgeable(&request, args.format.conditions())?;
            let path = args.output.clone();
            let path = path.unwrap_or_else(|| format!("vfprobe-{}.vfprobe", record::file_stamp()).into());
            let writer = record::create_session(&root, &path).map_err(failures::session)?;
            (path, writer, None, request)
        }
    };
    if let Some(load) = request.loads.iter().find(|load| load.continuous)
        && !globals.quiet
        && !tells_runs_apart(&load.command)
    {
        eprintln!(
            "note: the workload runs on, and what it prints cannot be told apart by runs: no figures of it"
        );
    }
    let echo = if globals.verbose > 0 { Echo::ToStderr } else { Echo::No };
    let mut screen = Screen::new(globals);
    let mut show = |event: Event<'_>| screen.show(&event);
    let session = tune::tune(&root, &state, &mut writer, &request, earlier.as_ref(), echo, &mut show);
    let result = super::runtime()?.block_on(session);
    screen.clear();
    drop(writer);
    let looked = result.map_err(|error| {
        let begun_here = earlier.is_none();
        if !(begun_here && discard_empty(&path)) && matches!(error, TuneError::Interrupted) {
            eprintln!("go on with `vfprobe tune --resume {}`", path.display());
        }
        failure(error)
    })?;
    finish(globals, args, &root, &state, (&request.tries, &looked), &path)
}

/// Removes the file of a session that has not a single run: it is of no use to anybody. Says whether it did.
fn discard_empty(path: &Path) -> bool {
    session::read(path).is_ok_and(|s| s.runs.is_empty()) && std::fs::remove_file(path).is_ok()
}

/// The plan of each configuration, made on the host as it is.
fn dry_run(
    globals: &Globals,
    args: &Args,
    root: &HostRoot,
    state: &StateDir,
    tries: &[Try],
) -> Result<Exit, Failure> {
    let policies: Vec<&Policy> = tries.iter().filter_map(Try::policy).collect();
    let looked = args.look.look(globals, root, &policies)?;
    for policy in policies {
        let plan = control::make_plan(root, state, policy, &looked).map_err(failures::plan)?;
        print(plan::to_text(&plan).as_bytes())?;
    }
    Ok(Exit::Fine)
}

fn resume_failure(error: ResumeError) -> Failure {
    match error {
        ResumeError::Session(error) => failures::session(error),
        error => Failure::usage(error),
    }
}

fn failure(error: TuneError) -> Failure {
    match error {
        TuneError::Record(e) => failures::record(e),
        TuneError::Session(e) => failures::session(e),
        TuneError::Plan { source, .. } => failures::plan(source),
        TuneError::NothingGuarded => Failure::usage(error),
        TuneError::State(_) | TuneError::InForce => Failure::cannot_run(error),
        TuneError::Interrupted | TuneError::Aborted { .. } => Failure::new(Exit::RolledBack, error),
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
    (tries, looked): (&[Try], &Looked),
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
            tune::keep(root, state, chosen, looked).map_err(failure)?;
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
        let lines = format.broken(one);
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
    use crate::apply::memory::MemoryHost;
    use crate::apply::{Options, apply};
    use crate::host::read_facts;
    use crate::plan::{Need, PLAN_SCHEMA, Plan, Step, Target};
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
    fn runs_whose_configuration_did_not_hold_decide_nothing() {
        for (drifted, best) in [(0, Some("own")), (2, Some("own")), (5, None)] {
            let mut session = decode(sample::lines(5, &[("own", 0.3)]).as_bytes()).unwrap();
            for run in session.runs.iter_mut().filter(|run| run.config() == "own").take(drifted) {
                let lines = ["irq 40: asked for 1, but somebody has set it to 0", "irq 41: it is gone"];
                run.end.as_mut().unwrap().not_held = lines.map(str::to_owned).to_vec();
            }
            let pairs = pairs_within(Named { file: "f", session: &session }, Some(BASELINE), None).unwrap();
            let assessments: Vec<_> =
                pairs.into_iter().map(|pair| assess(pair, Detail::Folded, None)).collect();
            assert_eq!(conclude(&assessments, &Output::default()).best, best, "{drifted}");
            assert_eq!(assessments[0].after.runs.len(), 5 - drifted);
            let said = crate::report::sentence::remarks(&assessments[0]);
            let left_out = "(own) did not keep its configuration: irq 40: asked for 1, but somebody has set it to 0 (and 1 more)";
            assert_eq!(said.iter().filter(|line| line.ends_with(left_out)).count(), drifted, "{said:?}");
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
            // A figure that only one of the loads has is no unknown one under the other.
            let gates = ["workload.throughput < -80%", "workload{load=ping}.rtt_mean > +300%"];
            let found = conclude(&assessments, &Output::with_conditions(&gates));
            assert_eq!((found.best, found.broken.len()), (best, 0), "{others:?}: {found:?}");
        }
    }

    #[test]
    fn a_session_is_continued_as_it_was_begun() {
        for (options, accepted) in [
            (&["--resume", "F"][..], true),
            (&["--resume", "F", "--keep-best", "--json"], true),
            (&["--resume", "F", "--guest", "vm1"], false),
            (&["--resume", "F", "--repeat", "3"], false),
            (&["--resume", "F", "--", "ping"], false),
            (&[], false),
        ] {
            let found = crate::cli::Cli::try_parse_from(["vfprobe", "tune"].iter().chain(options));
            assert_eq!(found.is_ok(), accepted, "{options:?}");
        }
    }

    #[test]
    fn a_session_that_cannot_go_on_keeps_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let (file, state) = (dir.path().join("f.vfprobe"), dir.path().join("state"));
        // Killed during the warm-up of its first run: the file says what is to be done, and has no run.
        let boot_id = Some(read_facts(&HostRoot::live()).0.boot_id);
        let host = session::HostFacts { boot_id, ..session::HostFacts::default() };
        let mut writer = session::Writer::create(&file, &session::Header::default(), &host).unwrap();
        let tries = ["baseline", "baseline-again"].map(|name| (name.to_owned(), None)).to_vec();
        let loads = vec![session::TuningLoad::default()];
        writer.tuning(&session::Tuning { repeats: 1, tries, loads, ..session::Tuning::default() }).unwrap();
        drop(writer);
        let memory = MemoryHost::default();
        memory.add(Target::DefaultAffinity, cpus("0-3"), None);
        let step = Step {
            target: Target::DefaultAffinity,
            now: cpus("0-3").into(),
            effective: None,
            new: cpus("0-1").into(),
            need: Need::Required,
            reason: String::new(),
        };
        let plan = Plan {
            schema: PLAN_SCHEMA,
            config: "own".to_owned(),
            guests: Vec::new(),
            guarded: cpus("2"),
            housekeeping: cpus("0-1"),
            steps: vec![step],
            notes: Vec::new(),
        };
        apply(&memory, &plan, &StateDir::new(&state).lock().unwrap(), &Options::new()).unwrap();
        let (file_name, state_name) = (file.to_str().unwrap(), state.to_str().unwrap());
        let line = ["vfprobe", "-q", "--state-dir", state_name, "tune", "--resume", file_name];
        let crate::cli::Cli { globals, command } = crate::cli::Cli::parse_from(line);
        let crate::cli::Command::Tune(args) = command else { panic!("{command:?}") };
        let failure = run(&globals, &args).unwrap_err();
        assert!(failure.error.to_string().contains("undo it with `vfprobe rollback`"), "{failure:?}");
        assert!(session::read(&file).unwrap().tuning.is_some());
        // One that this call has begun is of no use to anybody.
        assert!(discard_empty(&file) && !file.exists());
    }

    fn cpus(list: &str) -> crate::model::CpuSet {
        list.parse().unwrap()
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
