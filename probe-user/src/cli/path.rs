//! `vfprobe path`: the ways of guests' packets, hop by hop, and what a VF would save.

use super::paint::{Cell, Paint, Style, columns};
use super::{Exit, Failure, Globals, duration, failures, print, progress};
use crate::app::{
    guests,
    path::{self, Watched},
};
use crate::host::{HostRoot, read_topology};
use crate::report::format;
use crate::stats::path::{Cost, Gain, HopTime, Price, Report, TapPath, VfPath, Way};
use crate::stats::to_f64;
use anyhow::anyhow;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Arguments of `path`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this guest (name, uuid or pid)
    #[arg(long)]
    guest: Option<String>,
    /// How long to watch
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    duration: Duration,
    /// Follow every packet, whatever that costs, instead of one in N under load
    #[arg(long)]
    every: bool,
    /// JSON instead of tables (docs/json.md)
    #[arg(long)]
    json: bool,
}

/// Watches and shows.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let root = HostRoot::live();
    let mut topology = read_topology(&root);
    let mut only = None;
    if let Some(wanted) = &args.guest {
        let guest = guests::find(&topology, wanted).map_err(failures::guest)?;
        let (pid, name) = (guest.pid, guest.name.clone());
        only = Some(name);
        // Guests with a VF are what its path is compared with.
        topology.guests.retain(|guest| guest.pid == pid || !guest.vfs.is_empty());
    }
    guests::any(&topology).map_err(failures::guest)?;
    let bar = progress::Bar::new(globals, "paths", Some(args.duration));
    let mut watched = super::runtime()?
        .block_on(path::watch(&root, &topology, args.duration, args.every, &mut |elapsed| bar.at(elapsed)))
        .map_err(failures::record)?;
    bar.clear();
    if let Some(guest) = &only {
        watched.report.only(guest);
    }
    if let Some(reason) = &watched.blind {
        return Err(Failure::cannot_run(anyhow!("packets cannot be followed: {reason}")));
    }
    watched.problems.splice(0..0, topology.problems);
    let text = if args.json { to_json(&watched)? } else { to_text(&watched, Paint::stdout(globals.color())) };
    print(text.as_bytes())
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    #[serde(flatten)]
    report: &'a Report,
    unseen: &'a BTreeMap<String, String>,
    lost: BTreeMap<&'a str, u64>,
    problems: &'a [String],
}

fn to_json(watched: &Watched) -> Result<String, Failure> {
    let Watched { report, unseen, problems, .. } = watched;
    let document = Document { schema: 1, report, unseen, lost: lost(watched), problems };
    Ok(serde_json::to_string_pretty(&document).map_err(Failure::cannot_run)? + "\n")
}

fn lost(watched: &Watched) -> BTreeMap<&str, u64> {
    let own = watched.snapshot.lost.iter().filter(|(cause, _)| cause.starts_with("packet_path."));
    own.map(|(cause, n)| (cause.as_str(), *n)).collect()
}

fn to_text(watched: &Watched, paint: Paint) -> String {
    let report = &watched.report;
    let mut text = verdict(report, paint) + "\n";
    for tap in &report.taps {
        text += "\n";
        text += &tap_text(tap, report.window_ns, paint);
    }
    for vf in &report.vfs {
        text += "\n";
        text += &vf_text(vf, report.window_ns, paint);
    }
    text += "\n";
    text += &columns(paint, "", &gain(report));
    text += &foot(report);
    for (what, why) in &watched.unseen {
        text += &format!("{} {what} ({why})\n", paint.text(Style::Warning, "not observable:"));
    }
    for (cause, n) in lost(watched) {
        text += &format!("{} {cause} {n}\n", paint.text(Style::Warning, "lost:"));
    }
    for problem in &watched.problems {
        text += &format!("{} {problem}\n", paint.text(Style::Warning, "problem:"));
    }
    text
}

/// The one line that matters.
fn verdict(report: &Report, paint: Paint) -> String {
    let seconds = format::time(to_f64(report.window_ns));
    let (taps, vfs) = (count(report.taps.len(), "tap"), count(report.vfs.len(), "VF"));
    let followed = report.followed.map_or_else(String::new, |f| match f.one_in_most {
        1 => format!("; {} packets, all followed", f.seen),
        n => {
            format!("; {} packets, {} of them followed (at the highest load one in {n})", f.seen, f.followed)
        }
    });
    let drops =
        report.taps.iter().flat_map(|tap| [&tap.to_guest, &tap.from_guest]).flat_map(|way| &way.drops);
    let dropped: u64 = drops.map(|drop| drop.packets).sum();
    let dropped = match dropped {
        0 => String::new(),
        n => format!("; {}", paint.text(Style::Warning, &format!("{n} dropped"))),
    };
    format!("{taps} and {vfs} for {seconds}{followed}{dropped}")
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn heads(first: &str, rest: &[&str]) -> Vec<Cell> {
    let first = Cell::new(Style::Faint, first);
    [first].into_iter().chain(rest.iter().map(|head| Cell::new(Style::Faint, *head))).collect()
}

fn tap_text(tap: &TapPath, window_ns: u64, paint: Paint) -> String {
    let outside = match (&tap.bridge, tap.uplinks.as_slice()) {
        (Some(bridge), []) => format!(" - {bridge}"),
        (Some(bridge), uplinks) => format!(" - {bridge} - {}", uplinks.join(", ")),
        (None, []) => String::new(),
        (None, uplinks) => format!(" - {}", uplinks.join(", ")),
    };
    let title = format!("{}  {} path: guest - {}{outside}", tap.guest, tap.path.as_str(), tap.netdev);
    let mut text = paint.text(Style::Strong, &title) + "\n";
    if let Some(reason) = &tap.not_followed {
        return text + &format!("  not observable: {reason}\n");
    }
    for (name, way) in [("to guest", &tap.to_guest), ("from guest", &tap.from_guest)] {
        text += &format!("  {name}: {}\n", points(way, window_ns));
        let mut rows = vec![heads("hop", &["n", "p50", "p99", "max"])];
        rows.extend(way.hops.iter().map(hop_row));
        text += &columns(paint, "    ", &rows);
        for drop in &way.drops {
            let line = format!("dropped in {}: {} ({})", drop.hop, drop.packets, drop.reason);
            text += &format!("    {}\n", paint.text(Style::Bad, &line));
        }
        if way.merged > 0 {
            text += &format!("    merged: {} stand for {}\n", way.merged, way.segments);
        }
    }
    if tap.busy > 0 {
        text += &format!("  packets that the driver could not take at once: {}\n", tap.busy);
    }
    text + &cost_text(tap.cost.as_ref())
}

/// Packets by point: `queued 412 (40.1 /s, 33.0 KB), sent 412`.
fn points(way: &Way, window_ns: u64) -> String {
    let one = |(i, p): (usize, &crate::stats::path::Passed)| {
        let detail = match i {
            0 => format!(" ({}, {} bytes)", format::rate(p.packets, window_ns), p.bytes),
            _ => String::new(),
        };
        format!("{} {}{detail}", p.point, p.packets)
    };
    // What passes first is told in full.
    way.points.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
}

fn hop_row(time: &HopTime) -> Vec<Cell> {
    if let Some(reason) = &time.not_observable {
        return vec![time.hop.as_str().into(), Cell::new(Style::Faint, format!("not observable ({reason})"))];
    }
    let shown = [time.p50_ns, time.p99_ns, time.max_ns].map(|ns| format::time_or_dash(ns.map(to_f64)).into());
    [Cell::from(time.hop.as_str()), time.n.into()].into_iter().chain(shown).collect()
}

fn cost_text(cost: Option<&Cost>) -> String {
    let Some(cost) = cost else { return "  host CPU: not observable\n".to_owned() };
    let [vcpu, vmm, vhost] = [cost.vcpu_ns, cost.vmm_ns, cost.vhost_ns].map(|ns| format::time(to_f64(ns)));
    let each = match (cost.per_packet_ns, cost.packets) {
        (Some(ns), _) => format!("{} for each packet", format::time(ns)),
        (None, Some(_)) => "no packets".to_owned(),
        (None, None) => "its packets are not reported, or shared with another card".to_owned(),
    };
    format!("  host CPU: vCPUs outside the guest {vcpu}, VMM {vmm}, vhost {vhost}; {each}\n")
}

fn vf_text(vf: &VfPath, window_ns: u64, paint: Paint) -> String {
    let pf = vf.pf.as_ref().map_or_else(String::new, |pf| format!(" of {pf}"));
    let title = format!("{}  vf path: guest - {}{pf}", vf.guest, vf.address);
    let mut text = paint.text(Style::Strong, &title) + "\n";
    text += "  no hop of the host: packets go by DMA between card and guest\n";
    let told = |n: Option<u64>| n.map_or_else(|| "not reported".to_owned(), |n| n.to_string());
    let way = |packets, bytes, dropped| {
        format!("packets {}, bytes {}, dropped {}", told(packets), told(bytes), told(dropped))
    };
    let t = &vf.traffic;
    text += &format!("  to guest: {}\n", way(t.rx_packets, t.rx_bytes, t.rx_dropped));
    text += &format!("  from guest: {}\n", way(t.tx_packets, t.tx_bytes, t.tx_dropped));
    let slots: Vec<String> = vf
        .slots
        .iter()
        .map(|s| format!("slot {} {} ({})", s.slot, s.raised, format::rate(s.raised, window_ns)))
        .collect();
    let slots = if slots.is_empty() { "none seen".to_owned() } else { slots.join(", ") };
    text += &format!("  interrupts: {slots}\n");
    let rows = [heads("hop", &["n", "p50", "p99", "max"]), hop_row(&vf.delivery)];
    text += &columns(paint, "    ", &rows);
    text + &cost_text(vf.cost.as_ref())
}

/// What a VF would save each guest on a tap: the figure now, and that of a VF measured at the same time.
fn gain(report: &Report) -> Vec<Vec<Cell>> {
    if report.gain.is_empty() {
        return Vec::new();
    }
    let heads = heads(
        "guest",
        &[
            "tap",
            "with a VF as",
            "host hops in, out",
            "to guest p50",
            "p99",
            "from guest p50",
            "p99",
            "host CPU per packet",
        ],
    );
    let mut rows = vec![heads];
    for Gain { guest, netdev, now, vf } in &report.gain {
        let like = vf.as_ref().map_or_else(|| "-".to_owned(), |vf| format!("{} {}", vf.guest, vf.address));
        let vf = vf.as_ref().map(|vf| &vf.price);
        let figure = |shown: &dyn Fn(&Price) -> String| match vf.map(shown) {
            Some(with_vf) => Cell::from(format!("{} -> {with_vf}", shown(now))),
            None => Cell::from(shown(now)),
        };
        let time = |ns: Option<u64>| format::time_or_dash(ns.map(to_f64));
        // A VF's packets have left the guest when they are with the card.
        let from = |ns: Option<u64>, price: &Price| match price.hops_from_guest {
            Some(0) if ns.is_none() => "none".to_owned(),
            _ => time(ns),
        };
        rows.push(vec![
            guest.as_str().into(),
            netdev.as_str().into(),
            like.into(),
            figure(&|price| match (price.hops_to_guest, price.hops_from_guest) {
                (Some(to), Some(from)) => format!("{to}, {from}"),
                _ => "not observable".to_owned(),
            }),
            figure(&|price| time(price.to_guest_p50_ns)),
            figure(&|price| time(price.to_guest_p99_ns)),
            figure(&|price| from(price.from_guest_p50_ns, price)),
            figure(&|price| from(price.from_guest_p99_ns, price)),
            figure(&|price| match (price.cpu_per_packet_ns, price.cpu_per_interrupt_ns) {
                (None, Some(ns)) => format!("{} per interrupt", format::time(ns)),
                (ns, _) => format::time_or_dash(ns),
            }),
        ]);
    }
    rows
}

/// How to read the table above.
fn foot(report: &Report) -> String {
    let mut text = String::new();
    let vfs: Vec<&Price> =
        report.gain.iter().filter_map(|gain| gain.vf.as_ref()).map(|vf| &vf.price).collect();
    if vfs.is_empty() && !report.gain.is_empty() {
        text += "no guest has a VF: nothing of this host to compare these paths with\n";
    } else if !vfs.is_empty() {
        text += "the way to a VF's guest is from its interrupt until the guest is entered with it; to the others' it ends \
                 when the VMM or vhost has the packet, before the guest's interrupt\n";
    }
    if vfs.iter().any(|vf| vf.cpu_per_packet_ns.is_none() && vf.cpu_per_interrupt_ns.is_some()) {
        text += "per interrupt: the driver of the PF counts no packets, and one interrupt may stand for several or for none\n";
    }
    if let Some(softirq) = &report.softirq {
        let each = softirq.per_packet_ns.map_or_else(
            || "no packets polled".to_owned(),
            |ns| format!("{} for each of {} packets polled", format::time(ns), softirq.polled),
        );
        text += &format!(
            "network softirqs of the host, all interfaces, not in the table: NET_RX {}, NET_TX {}; {each}\n",
            format::time(to_f64(softirq.net_rx_ns)),
            format::time(to_f64(softirq.net_tx_ns))
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::path::{
        report,
        tests::{snapshot, topology},
    };

    fn watched() -> Watched {
        let mut snapshot = snapshot();
        snapshot.lost =
            [("packet_path.followed_evicted".to_owned(), 1), ("vcpu.vcpus_full".to_owned(), 1)].into();
        Watched {
            report: report(&snapshot, &topology(), &BTreeMap::new()),
            snapshot,
            blind: None,
            unseen: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    #[test]
    fn the_json_is_documented() {
        let (_, example) = crate::cli::documented("vfprobe path --json");
        let said: serde_json::Value = serde_json::from_str(&to_json(&watched()).unwrap()).unwrap();
        assert_eq!(said, example, "{}", to_json(&watched()).unwrap());
    }

    #[test]
    fn tables_say_what_was_seen_and_what_was_not() {
        let text = to_text(&watched(), Paint::default());
        for line in [
            "1 tap and 1 VF for 1.00 s; 6 packets, all followed; 1 dropped",
            "vm2  vhost path: guest - tap2 - br0 - eth0",
            "  to guest: queued 4 (4 /s, 240 bytes), sent 3",
            "    ring    2  4.50 us  -    5.50 us",
            "    dropped in ring: 1 (FULL_RING)",
            "    merged: 1 stand for 9",
            "  host CPU: vCPUs outside the guest 500 ns, VMM 100 ns, vhost 400 ns; 200 ns for each packet",
            "vm1  vf path: guest - 0000:01:10.0 of eth0",
            "  from guest: packets not reported, bytes not reported, dropped not reported",
            "  interrupts: slot 0 2 (2 /s), slot 1 1 (1 /s)",
            "vm2    tap2  vm1 0000:01:10.0  3, 1 -> 0, 0       6.02 us -> 1.01 us  - -> -  - -> none       - -> none  200 ns -> 40 ns per interrupt",
            "lost: packet_path.followed_evicted 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line:?} is not in\n{text}");
        }
        assert!(!text.contains("vcpus_full"));
    }
}
