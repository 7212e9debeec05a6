//! `vfprobe trace`.

use super::paint::{Cell, Paint, Style, columns};
use super::{Exit, Failure, Globals, duration, failures, print, progress};
use crate::app::guests;
use crate::app::trace::{Request, Traced, trace};
use crate::host::{HostRoot, read_topology};
use crate::model::PciAddress;
use crate::model::topology::Topology;
use crate::report::format;
use crate::report::timeline::{Document, chrome_trace, document};
use crate::stats::timeline::{Keep, Timeline};
use crate::stats::to_f64;
use anyhow::{Context, anyhow};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Interrupts shown when nobody says how many.
const SHOWN: usize = 10;
/// The same for a viewer.
const WRITTEN: usize = 10_000;

/// Arguments of `trace`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this guest (name, uuid or pid)
    #[arg(long)]
    guest: Option<String>,
    /// Only this VF
    #[arg(long, value_name = "ADDRESS")]
    vf: Option<PciAddress>,
    /// Only this vector slot (MSI-X table index)
    #[arg(long, value_name = "N")]
    slot: Option<u32>,
    /// Only interrupts that take longer than this to arrive in the guest
    #[arg(long, value_name = "TIME", value_parser = duration::parse_short)]
    longer_than: Option<Duration>,
    /// Those that take longest, slowest first, instead of the first ones
    #[arg(long)]
    slowest: bool,
    /// At most so many interrupts; without --slowest, tracing ends with them [default: 10; 10000 with --perfetto]
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<usize>,
    /// How long to trace
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = duration::parse)]
    duration: Duration,
    /// Write a trace (JSON) for ui.perfetto.dev or chrome://tracing instead of showing interrupts
    #[arg(short = 'o', long, value_name = "FILE", conflicts_with = "json")]
    perfetto: Option<PathBuf>,
    /// JSON instead of text (docs/json.md)
    #[arg(long)]
    json: bool,
}

/// Traces and shows.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let root = HostRoot::live();
    let topology = read_topology(&root);
    let request = request(args, &topology)?;
    let bar = progress::Bar::new(globals, "trace", Some(args.duration));
    let traced = super::runtime()?
        .block_on(trace(&root, &topology, &request, &mut |elapsed| bar.at(elapsed)))
        .map_err(failures::record)?;
    bar.clear();
    if let Some(reason) = traced.blind() {
        return Err(Failure::cannot_run(anyhow!("interrupts cannot be traced: {reason}")));
    }
    let paint = Paint::stdout(globals.color());
    let text = match &args.perfetto {
        Some(path) => {
            write(path, &traced)?;
            format!("{}\nwritten to {}\n{}", verdict(&traced), path.display(), remarks(&traced, paint))
        }
        None if args.json => to_json(&traced)?,
        None => to_text(&traced, paint),
    };
    print(text.as_bytes())
}

fn request(args: &Args, topology: &Topology) -> Result<Request, Failure> {
    let guest = match &args.guest {
        Some(wanted) => Some(guests::find(topology, wanted).map_err(failures::guest)?.pid.0),
        None => None,
    };
    let count = args.count.unwrap_or(if args.perfetto.is_some() { WRITTEN } else { SHOWN });
    if count == 0 {
        return Err(Failure::usage(anyhow!("-n 0 shows nothing")));
    }
    let request = Request {
        guest,
        vf: args.vf,
        slot: args.slot,
        longer_than: args.longer_than,
        keep: if args.slowest { Keep::Slowest(count) } else { Keep::First(count) },
        duration: args.duration,
    };
    if request.wanted(topology).is_empty() {
        guests::any(topology).map_err(failures::guest)?;
        let of = args.guest.as_ref().map_or_else(String::new, |guest| format!(" of guest {guest:?}"));
        let which = args.vf.map_or_else(|| "no VF".to_owned(), |vf| format!("no VF {vf}"));
        let text = format!("{which}{of} is held by a running guest; vfprobe topology lists them");
        return Err(Failure::usage(anyhow!(text)));
    }
    Ok(request)
}

fn write(path: &Path, traced: &Traced) -> Result<(), Failure> {
    let text = chrome_trace(&traced.joined.timelines, traced.window.from_ns).to_string();
    std::fs::write(path, text)
        .with_context(|| format!("cannot write {}", path.display()))
        .map_err(Failure::usage)
}

fn to_json(traced: &Traced) -> Result<String, Failure> {
    let document = Document {
        schema: 1,
        from_ns: traced.window.from_ns,
        to_ns: traced.window.until_ns,
        seen: traced.joined.seen,
        matched: traced.joined.matched,
        incomplete: traced.joined.incomplete,
        dropped: &traced.dropped,
        unseen: &traced.unseen(),
        interrupts: document(&traced.joined.timelines),
    };
    Ok(serde_json::to_string_pretty(&document).map_err(Failure::cannot_run)? + "\n")
}

fn to_text(traced: &Traced, paint: Paint) -> String {
    let mut text = verdict(traced) + "\n";
    for timeline in &traced.joined.timelines {
        text += &format!("\n{}\n", paint.text(Style::Strong, &heading(timeline)));
        text += &stages(timeline);
        text += &columns(paint, "  ", &rows(timeline));
    }
    let remarks = remarks(traced, paint);
    if !remarks.is_empty() {
        text += &format!("\n{remarks}");
    }
    text
}

/// The one line that matters.
fn verdict(traced: &Traced) -> String {
    let joined = &traced.joined;
    let window = traced.window.until_ns.saturating_sub(traced.window.from_ns);
    let mut text =
        format!("{} interrupt{} seen in {}", joined.seen, plural(joined.seen), format::time(to_f64(window)));
    if joined.matched < joined.seen {
        text += &format!(", {} let through", joined.matched);
    }
    text += &format!(", {} kept", joined.timelines.len());
    if joined.incomplete > 0 {
        text += &format!(", {} with a gap", joined.incomplete);
    }
    let slowest = joined.timelines.iter().filter_map(|t| t.stages().delivery.map(|ns| (ns, t)));
    match slowest.max_by_key(|(ns, _)| *ns) {
        Some((ns, timeline)) => {
            text += &format!("; slowest {} ({})", format::time(to_f64(ns)), route(timeline));
        }
        None if joined.seen > 0 => text += "; no delivery among them",
        None => {}
    }
    text
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn route(timeline: &Timeline) -> String {
    let to = timeline.vcpu.as_ref().map_or_else(String::new, |vcpu| format!(" to vCPU {vcpu}"));
    format!("{} {} slot {}{to}", timeline.guest, timeline.id.vf, timeline.id.slot)
}

fn heading(timeline: &Timeline) -> String {
    let gap = if timeline.complete { "" } else { ", with a gap" };
    format!("{}: {}{gap}", route(timeline), timeline.outcome.as_str())
}

fn stages(timeline: &Timeline) -> String {
    let named = timeline.stages().named();
    let known: Vec<String> = named
        .iter()
        .filter_map(|(name, ns)| ns.map(|ns| format!("{name} {}", format::time(to_f64(ns)))))
        .collect();
    if known.is_empty() { String::new() } else { format!("  {}\n", known.join(", ")) }
}

fn rows(timeline: &Timeline) -> Vec<Vec<Cell>> {
    let heads = ["at", "step", "cpu", "thread", "what"];
    let mut rows = vec![heads.iter().map(|head| Cell::new(Style::Faint, *head)).collect()];
    let mut before = timeline.id.raise_ns;
    for hop in &timeline.hops {
        rows.push(vec![
            Cell::from(format::time(to_f64(hop.ns.saturating_sub(timeline.id.raise_ns)))),
            Cell::new(Style::Faint, format::time(to_f64(hop.ns.saturating_sub(before)))),
            hop.cpu.into(),
            format!("{}-{}", hop.comm, hop.tid).into(),
            hop.what.to_string().into(),
        ]);
        before = hop.ns;
    }
    rows
}

/// What was not seen and what was lost.
fn remarks(traced: &Traced, paint: Paint) -> String {
    let mut text = String::new();
    for (what, why) in traced.unseen() {
        text += &format!("{} {what} ({why})\n", paint.text(Style::Warning, "not observable:"));
    }
    for (cause, times) in &traced.dropped {
        text += &format!("{} {cause} {times}\n", paint.text(Style::Warning, "dropped:"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::{Missing, ProbeReport, Verdict};
    use crate::stats::timeline::{Hop, Id, Joined, Outcome, What};
    use probe_ebpf::control::Window;

    fn traced() -> Traced {
        let hop = |ns, cpu, tid, comm: &str, what| Hop { ns, cpu, tid, comm: comm.to_owned(), what };
        let accepted = What::Accepted {
            vector: 38,
            pending: false,
            running: Some(false),
            vcpu_id: 0,
            vcpu_cpu: Some(1),
        };
        let hops = vec![
            hop(1_000_000, 0, 0, "swapper/0", What::Raised { irq: 32, busy: false }),
            hop(1_004_200, 0, 0, "swapper/0", accepted),
            hop(1_006_000, 0, 0, "swapper/0", What::Waking),
            hop(1_007_000, 0, 0, "swapper/0", What::Handled),
            hop(1_020_000, 1, 0, "swapper/1", What::SwitchedIn),
            hop(1_031_000, 1, 212, "CPU 0/KVM", What::Injected { vector: 38 }),
            hop(1_033_000, 1, 212, "CPU 0/KVM", What::Entered),
        ];
        let timeline = Timeline {
            id: Id { raise_ns: 1_000_000, vf: "0000:01:10.0".parse().unwrap(), slot: 1 },
            guest: "vm1".into(),
            vcpu: Some("0".into()),
            hops,
            outcome: Outcome::Delivered,
            complete: true,
        };
        let missing = Missing {
            event: "kvm/kvm_eoi".into(),
            loses: "service".into(),
            reason: "raw tracepoint: no such event in BTF".into(),
        };
        Traced {
            joined: Joined { timelines: vec![timeline], seen: 3, matched: 1, incomplete: 0 },
            dropped: [("ring_full".to_owned(), 2)].into(),
            window: Window { from_ns: 500_000, until_ns: 1_000_500_000 },
            report: ProbeReport {
                probe: "trace".into(),
                verdict: Verdict::Ready { missing: vec![missing] },
                attached: Vec::new(),
            },
        }
    }

    #[test]
    fn the_json_is_documented() {
        let (_, example) = crate::cli::documented("vfprobe trace --json");
        let said: serde_json::Value = serde_json::from_str(&to_json(&traced()).unwrap()).unwrap();
        assert_eq!(said, example, "{said:#}");
    }

    #[test]
    fn the_text_is_documented() {
        let document = include_str!("../../../docs/trace.md");
        let text = to_text(&traced(), Paint::default());
        assert!(document.contains(&text), "docs/trace.md does not show:\n{text}");
    }

    #[test]
    fn nothing_seen_is_said() {
        let mut traced = traced();
        traced.joined = Joined::default();
        traced.dropped.clear();
        assert!(to_text(&traced, Paint::default()).starts_with("0 interrupts seen in 1.00 s, 0 kept\n\n"));
    }
}
