//! `vfprobe isolation`: whether guarded CPUs are left alone, as a verdict against a budget.

use super::paint::{Cell, Paint, Style, columns};
use super::{Exit, Failure, Globals, duration, failures, print, progress};
use crate::app::{
    guests,
    isolation::{self, Watched},
    text_file,
};
use crate::host::{HostRoot, read_topology};
use crate::model::CpuSet;
use crate::model::topology::Topology;
use crate::report::format;
use crate::stats::isolation::{Budget, Isolation, judge, parse_budget};
use crate::stats::to_f64;
use crate::workload::Unit;
use anyhow::{Context, anyhow};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Rows of the table of sources; JSON has all.
const ROWS: usize = 20;

/// Arguments of `isolation`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// CPUs to watch [default: those that vCPUs are pinned to]
    #[arg(long, value_name = "LIST", conflicts_with = "guest")]
    cpus: Option<CpuSet>,
    /// Only the CPUs that this guest's vCPUs are pinned to (name, uuid or pid)
    #[arg(long)]
    guest: Option<String>,
    /// How long to watch
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    duration: Duration,
    /// What is allowed (docs/isolation.md) [default: 0.1 % of the time, 50 us at once]
    #[arg(long, value_name = "FILE")]
    budget: Option<PathBuf>,
    /// JSON instead of tables (docs/json.md)
    #[arg(long)]
    json: bool,
}

/// Watches and judges; exit code 1 when something is over budget.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let root = HostRoot::live();
    let budget = budget(args)?;
    let guarded = guarded(args, &read_topology(&root))?;
    let bar = progress::Bar::new(globals, "isolation", Some(args.duration));
    let watched = super::runtime()?
        .block_on(isolation::watch(&root, &guarded, args.duration, &mut |elapsed| bar.at(elapsed)))
        .map_err(failures::record)?;
    bar.clear();
    if let Some(reason) = watched.blind() {
        return Err(Failure::cannot_run(anyhow!("noise cannot be observed: {reason}")));
    }
    let report = judge(&watched.snapshot, &watched.topology, &guarded, &budget);
    let text = if args.json {
        to_json(&report, &watched)?
    } else {
        to_text(&report, &watched, Paint::stdout(globals.color()))
    };
    print(text.as_bytes())?;
    Ok(if report.passed { Exit::Fine } else { Exit::Finding })
}

fn budget(args: &Args) -> Result<Budget, Failure> {
    let Some(path) = &args.budget else { return Ok(Budget::default()) };
    let text = text_file::read(path)
        .with_context(|| format!("cannot read the budget {}", path.display()))
        .map_err(Failure::usage)?;
    parse_budget(&text).with_context(|| path.display().to_string()).map_err(Failure::usage)
}

/// The CPUs to watch: named, or promised to vCPUs.
fn guarded(args: &Args, topology: &Topology) -> Result<CpuSet, Failure> {
    let usage = |text: String| Err(Failure::usage(anyhow!(text)));
    if let Some(cpus) = &args.cpus {
        let absent = cpus.difference(&topology.online());
        return match absent.is_empty() {
            true if cpus.is_empty() => usage("--cpus names no CPU".to_owned()),
            true => Ok(cpus.clone()),
            false => usage(format!("CPUs {absent} are not online (online: {})", topology.online())),
        };
    }
    let mut seen = topology.clone();
    if let Some(wanted) = &args.guest {
        let pid = guests::find(topology, wanted).map_err(failures::guest)?.pid;
        seen.guests.retain(|guest| guest.pid == pid);
    }
    let promised = seen.promised();
    if promised.is_empty() {
        return usage("no vCPU is pinned to a part of the CPUs: name the CPUs by --cpus".to_owned());
    }
    Ok(promised)
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    #[serde(flatten)]
    report: &'a Isolation,
    unseen: BTreeMap<String, String>,
    lost: BTreeMap<&'a str, u64>,
}

fn to_json(report: &Isolation, watched: &Watched) -> Result<String, Failure> {
    let document =
        Document { schema: 1, report, unseen: watched.unseen().into_iter().collect(), lost: lost(watched) };
    Ok(serde_json::to_string_pretty(&document).map_err(Failure::cannot_run)? + "\n")
}

/// What the probe could not count.
fn lost(watched: &Watched) -> BTreeMap<&str, u64> {
    let own = watched.snapshot.lost.iter().filter(|(cause, _)| cause.starts_with("cpu_noise."));
    own.map(|(cause, n)| (cause.as_str(), *n)).collect()
}

fn to_text(report: &Isolation, watched: &Watched, paint: Paint) -> String {
    let mut text = verdict(report, watched, paint) + "\n\n";
    text += &columns(paint, "", &cpu_rows(report, paint_of(report)));
    if !report.sources.is_empty() {
        text += "\n";
        text += &columns(paint, "", &source_rows(report));
    }
    if let Some(more) = report.sources.len().checked_sub(ROWS).filter(|more| *more > 0) {
        text += &format!("and {more} more (--json has all)\n");
    }
    for (what, why) in watched.unseen() {
        text += &format!("{} {what} ({why})\n", paint.text(Style::Warning, "not observable:"));
    }
    for (cause, n) in lost(watched) {
        text += &format!("{} {cause} {n}\n", paint.text(Style::Warning, "lost:"));
    }
    text
}

fn paint_of(report: &Isolation) -> Style {
    if report.passed { Style::Good } else { Style::Bad }
}

/// The one line that matters.
fn verdict(report: &Isolation, watched: &Watched, paint: Paint) -> String {
    let cpus = report.cpus.len();
    let seconds = format::time(to_f64(report.window_ns));
    let blind = watched.unseen();
    let but = match blind.as_slice() {
        [] => String::new(),
        some => {
            let names: Vec<&str> = some.iter().map(|(what, _)| what.as_str()).collect();
            format!(" (not observable: {})", names.join(", "))
        }
    };
    let word = paint.text(paint_of(report), if report.passed { "pass" } else { "fail" });
    if report.passed {
        return format!("{word}: {cpus} guarded CPU{} within budget for {seconds}{but}", plural(cpus));
    }
    let broken = report.cpus.iter().filter(|cpu| !cpu.over.is_empty()).count();
    let worst = report.sources.iter().filter(|source| !source.allowed).max_by_key(|source| {
        // The offender of a broken limit before the biggest source that keeps its own.
        (!source.over.is_empty(), source.total_ns)
    });
    let worst = worst.map_or_else(String::new, |s| {
        format!(
            "; worst: {} {} on CPU {}, {} of the time, longest {}",
            s.kind,
            s.source,
            s.cpu,
            share(s.share),
            format::time(to_f64(s.max_ns))
        )
    });
    format!("{word}: {broken} of {cpus} guarded CPU{} over budget in {seconds}{worst}{but}", plural(cpus))
}

/// A share of the time: `0.006 %`.
fn share(share: f64) -> String {
    format::value(share, Unit::Share)
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn cpu_rows(report: &Isolation, bad: Style) -> Vec<Vec<Cell>> {
    let heads = ["cpu", "n", "rate", "taken", "share", "longest", "over budget"];
    let mut rows = vec![heads.iter().map(|head| Cell::new(Style::Faint, *head)).collect()];
    for cpu in &report.cpus {
        let over = if cpu.over.is_empty() { "-".to_owned() } else { cpu.over.join("; ") };
        rows.push(vec![
            Cell::from(u64::from(cpu.cpu)),
            cpu.n.into(),
            format::rate(cpu.n, report.window_ns).into(),
            format::time(to_f64(cpu.total_ns)).into(),
            share(cpu.share).into(),
            format::time_or_dash(cpu.max_ns.map(to_f64)).into(),
            Cell::new(if cpu.over.is_empty() { Style::Plain } else { bad }, over),
        ]);
    }
    rows
}

fn source_rows(report: &Isolation) -> Vec<Vec<Cell>> {
    let heads = ["cpu", "kind", "source", "n", "taken", "share", "longest", "budget", "what would remove it"];
    let mut rows = vec![heads.iter().map(|head| Cell::new(Style::Faint, *head)).collect()];
    for source in report.sources.iter().take(ROWS) {
        let (style, state) = match (source.allowed, source.over.as_slice()) {
            (true, _) => (Style::Faint, "allowed".to_owned()),
            (false, []) => (Style::Plain, "-".to_owned()),
            (false, over) => (Style::Bad, over.join("; ")),
        };
        rows.push(vec![
            Cell::from(u64::from(source.cpu)),
            source.kind.clone().into(),
            source.source.clone().into(),
            source.n.into(),
            format::time(to_f64(source.total_ns)).into(),
            share(source.share).into(),
            format::time(to_f64(source.max_ns)).into(),
            Cell::new(style, state),
            Cell::new(Style::Faint, source.remedy.clone()),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::{Missing, ProbeReport, Verdict};
    use crate::stats::{Histogram, Labels, Observability, Series, Snapshot};

    fn series(kind: &str, source: &str, value: u64) -> Series {
        let mut histogram = Histogram::default();
        histogram.record(value);
        let labels =
            [("cpu", "2"), ("kind", kind), ("source", source)].map(|(n, v)| (n.to_owned(), v.to_owned()));
        Series {
            probe: "cpu_noise".into(),
            labels: Labels::from(labels),
            observable: Observability::Yes,
            histogram,
        }
    }

    fn watched() -> Watched {
        let missing = Missing {
            event: "nmi/nmi_handler".into(),
            loses: "nmi".into(),
            reason: "raw tracepoint: no such event in BTF".into(),
        };
        let snapshot = Snapshot {
            from_ns: 1_000_000_000,
            to_ns: 2_000_000_000,
            series: vec![series("user-thread", "stress", 60_000), series("vector", "local_timer", 8_000)],
            lost: [("cpu_noise.unmatched_end".to_owned(), 1), ("vcpu.vcpus_full".to_owned(), 1)].into(),
            ..Snapshot::default()
        };
        let verdict = Verdict::Ready { missing: vec![missing] };
        let attached = vec![("irq/irq_handler_exit".to_owned(), "raw tracepoint".to_owned())];
        let report = ProbeReport { probe: "cpu_noise".into(), verdict, attached };
        Watched { snapshot, topology: Topology::default(), report }
    }

    fn report(watched: &Watched) -> Isolation {
        let guarded: CpuSet = "2-3".parse().unwrap();
        judge(&watched.snapshot, &watched.topology, &guarded, &Budget::default())
    }

    #[test]
    fn the_json_is_documented() {
        let (_, example) = crate::cli::documented("vfprobe isolation --json");
        let watched = watched();
        let said: serde_json::Value =
            serde_json::from_str(&to_json(&report(&watched), &watched).unwrap()).unwrap();
        assert_eq!(said, example);
    }

    #[test]
    fn the_verdict_comes_first_and_says_what_it_did_not_see() {
        let watched = watched();
        let text = to_text(&report(&watched), &watched, Paint::default());
        assert_eq!(
            text.lines().next().unwrap(),
            "fail: 1 of 2 guarded CPUs over budget in 1.00 s; worst: user-thread stress on CPU 2, 0.006 % of the time, \
             longest 60.0 us (not observable: nmi)"
        );
        assert!(text.contains("lost: cpu_noise.unmatched_end 1") && !text.contains("vcpus_full"), "{text}");
    }
}
