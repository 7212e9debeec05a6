//! tests/lab/path.sh: packets per point and times per hop agree with tracefs, packets and drops with the interfaces' own
//! counters also under load, drops are where and for what they were provoked, and the ways to and from a guest are no
//! longer than the round trip that they are part of.

use super::left;
use probe_user::session::{self, Run};
use probe_user::stats::{Series, Summary};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use vfprobe_tests::oracle::path::{Devices, evaluate};
use vfprobe_tests::oracle::{Span, trace, verdict};

const TAPS: [&str; 3] = ["tap-vm2", "tap-vm3", "tap-vm4"];

/// Packets of a device under way at an end of the window.
const EDGES: u64 = 4;

/// Packets that neighbours' discovery and the like may add between the window's ends and the reading of the counters.
const BESIDE: u64 = 12;

fn run(name: &str) -> Run {
    session::read(&left(name)).unwrap().runs.remove(0)
}

fn text(name: &str) -> String {
    fs::read_to_string(left(name)).unwrap()
}

/// Counters of `packet_path` by the words of these labels.
fn counters(run: &Run, name: &str, labels: &[&str]) -> BTreeMap<String, u64> {
    let ours =
        run.snapshot.counters.iter().filter(|c| c.probe == "packet_path" && c.name == name && c.value > 0);
    ours.map(|c| {
        let words = labels.iter().map(|label| c.labels.get(*label).map_or("-", String::as_str));
        (words.collect::<Vec<_>>().join(" "), c.value)
    })
    .collect()
}

fn hop<'a>(run: &'a Run, wanted: &str) -> &'a Series {
    let name = |s: &Series| ["netdev", "direction", "hop"].map(|label| s.labels[label].clone()).join(" ");
    let mut ours = run.snapshot.series.iter().filter(|s| s.probe == "packet_path");
    ours.find(|s| name(s) == wanted).unwrap_or_else(|| panic!("no series {wanted}"))
}

/// What `counters` of the script wrote: packets from the guest, packets to it, drops, by tap.
fn interface(name: &str) -> BTreeMap<String, [u64; 3]> {
    let text = text(name);
    let line = |line: &str| {
        let (tap, rest) = line.split_once(' ').unwrap();
        let numbers: Vec<u64> = rest.split(' ').map(|n| n.parse().unwrap()).collect();
        (tap.to_owned(), numbers.try_into().unwrap())
    };
    text.lines().map(line).collect()
}

#[test]
fn packets_and_times_agree_with_tracefs() {
    let run = run("path.vfprobe");
    let text = text("path.trace");
    let events = trace::parse(&text).unwrap();
    let devices = Devices { taps: &TAPS, bridge: "br0", uplinks: &["eth0"] };
    let span = Span { from_ns: run.snapshot.from_ns, until_ns: run.snapshot.to_ns };
    let expected = evaluate(&events, &devices, span);
    let lost: Vec<_> = run.snapshot.lost.keys().filter(|cause| cause.starts_with("packet_path")).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let mut differ = Vec::new();
    let packets = counters(&run, "packets", &["netdev", "point"]);
    let points: BTreeSet<&String> =
        packets.keys().filter(|key| !key.ends_with(" read")).chain(expected.packets.keys()).collect();
    for point in points {
        let of = |all: &BTreeMap<String, u64>| all.get(point).copied().unwrap_or(0);
        if !verdict::count_agrees(of(&expected.packets), of(&packets), EDGES) {
            differ.push(format!(
                "{point}: {} packets, the oracle has {}",
                of(&packets),
                of(&expected.packets)
            ));
        }
    }
    for (name, times) in &expected.hops {
        let histogram = &hop(&run, name).histogram;
        let (ours, n, sum) = (u64::try_from(times.len()).unwrap(), histogram.n(), histogram.sum());
        if !verdict::count_agrees(ours, n, EDGES) {
            differ.push(format!("{name}: n {n}, the oracle has {ours}"));
        }
        // Both observers' own work lies between the stamps, which emulation makes a hundred times longer.
        let oracle: u64 = times.iter().sum();
        if n == ours && oracle.abs_diff(sum) > 300_000 * n + oracle / 5 {
            differ.push(format!("{name}: {sum} ns in all, the oracle has {oracle} (n {n})"));
        }
        println!(
            "{name}: n {n}, mean {} us, oracle {} us",
            sum / n.max(1) / 1000,
            oracle / ours.max(1) / 1000
        );
    }
    assert!(expected.hops.len() >= 3 * 6, "too few hops: {:?}", expected.hops.keys());
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn packets_agree_with_the_interfaces() {
    let run = run("path.vfprobe");
    let (before, after) = (interface("before"), interface("after"));
    let packets = counters(&run, "packets", &["netdev", "point"]);
    for tap in TAPS {
        for (index, point) in ["received", "sent"].into_iter().enumerate() {
            let counted = after[tap][index] - before[tap][index];
            let ours = packets[&format!("{tap} {point}")];
            assert!(
                counted >= 120 && counted.abs_diff(ours) <= BESIDE,
                "{tap} {point}: {ours}, it has {counted}"
            );
        }
    }
    let (seen, followed) = (counters(&run, "seen", &[]), counters(&run, "followed", &[]));
    assert_eq!(seen, followed, "at this load every packet is followed");
}

#[test]
fn both_ways_together_are_no_longer_than_the_round_trip() {
    let run = run("path.vfprobe");
    for guest in ["vm2", "vm3", "vm4"] {
        let text = text(&format!("ping-{guest}"));
        // `rtt min/avg/max/mdev = 0.518/0.823/1.127/0.304 ms`
        let figures = text.split(" = ").nth(1).unwrap();
        let us = |field: usize| figures.split('/').nth(field).unwrap().parse::<f64>().unwrap() * 1000.0;
        let (mean_us, longest_us) = (us(1), us(2));
        let mut both_us = 0.0;
        for direction in ["to_guest", "from_guest"] {
            let total = &hop(&run, &format!("tap-{guest} {direction} total")).histogram;
            let way_us = (total.sum() / total.n()) as f64 / 1000.0;
            let p90_us = Summary::of(total).p90_ns.unwrap() as f64 / 1000.0;
            println!("{guest} {direction}: mean {way_us} us, p90 {p90_us} us (n {})", total.n());
            assert!(total.n() >= 120 && p90_us <= longest_us, "{guest} {direction}");
            both_us += way_us;
        }
        println!("{guest}: round trip {mean_us} us, at most {longest_us} us");
        assert!(both_us < mean_us, "{guest}: {both_us} us both ways, {mean_us} us the round trip");
    }
}

#[test]
fn throughput_is_counted_packet_by_packet() {
    let run = run("throughput.vfprobe");
    let (before, after) = (interface("throughput-before"), interface("throughput-after"));
    let packets = counters(&run, "packets", &["netdev", "point"]);
    let bytes = counters(&run, "bytes", &["netdev", "point"]);
    for (guest, tap) in ["vm2", "vm3", "vm4"].into_iter().zip(TAPS) {
        for (index, point) in ["received", "sent"].into_iter().enumerate() {
            let counted = after[tap][index] - before[tap][index];
            let ours = packets[&format!("{tap} {point}")];
            println!("{tap} {point}: {ours}, it has {counted}");
            assert!(counted.abs_diff(ours) <= BESIDE, "{tap} {point}: {ours}, it has {counted}");
        }
        let (taken, sent) = (iperf_bytes(guest), bytes[&format!("{tap} sent")]);
        assert!(taken > 0 && sent >= taken, "{guest} took {taken} bytes, {sent} were sent to it");
    }
    assert!(iperf_bytes("vm1") > 0);
    let (seen, followed) = (counters(&run, "seen", &[])[""], counters(&run, "followed", &[])[""]);
    let one_in = counters(&run, "one_in_most", &[])[""];
    println!("{followed} of {seen} followed, at least one in {one_in}");
    assert!(followed <= seen && followed >= seen / one_in);
}

/// What iperf3 says that its server in the guest took.
fn iperf_bytes(guest: &str) -> u64 {
    let all: serde_json::Value = serde_json::from_str(&text(&format!("iperf3-{guest}.json"))).unwrap();
    all["end"]["sum_received"]["bytes"].as_u64().unwrap()
}

#[test]
fn drops_have_their_place_and_reason() {
    let run = run("drops.vfprobe");
    let capture = text("drops.trace");
    let events = trace::parse(&capture).unwrap();
    let devices = Devices { taps: &TAPS, bridge: "br0", uplinks: &["eth0"] };
    let span = Span { from_ns: run.snapshot.from_ns, until_ns: run.snapshot.to_ns };
    let expected = evaluate(&events, &devices, span).drops;
    let drops = counters(&run, "dropped", &["netdev", "direction", "hop", "reason"]);
    println!("{drops:?}, the oracle has {expected:?}");
    for key in drops.keys().chain(expected.keys()).collect::<BTreeSet<_>>() {
        let of = |all: &BTreeMap<String, u64>| all.get(key).copied().unwrap_or(0);
        assert!(verdict::count_agrees(of(&expected), of(&drops), EDGES), "{key}: {drops:?}, {expected:?}");
    }
    let ours = |key: &str| drops.get(key).copied().unwrap_or(0);
    let full = ours("tap-vm2 to_guest ring FULL_RING");
    let counted = interface("drops-after")["tap-vm2"][2] - interface("drops-before")["tap-vm2"][2];
    assert!(counted >= 15 && counted.abs_diff(full) <= EDGES, "{drops:?}, the interface has {counted}");
    // To an address that no port has: the bridge has nowhere to send it, and names no reason.
    assert!(ours("br0 - bridge NOT_SPECIFIED") >= 15, "{drops:?}");
    // A generic program of XDP drops without a reason on the lab's kernels (bpf_prog_run_generic_xdp).
    let xdp = ["XDP", "NOT_SPECIFIED"].map(|reason| ours(&format!("tap-vm4 from_guest bridge {reason}")));
    assert!(xdp.iter().sum::<u64>() >= 20, "{drops:?}");
}

#[test]
fn the_command_tells_all_four_paths() {
    let all: serde_json::Value = serde_json::from_str(&text("path.json")).unwrap();
    let taps = all["taps"].as_array().unwrap();
    let paths: Vec<_> = taps.iter().map(|tap| tap["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["virtio", "vhost", "emulated"]);
    for tap in taps {
        let cost = &tap["cost"];
        assert!(cost["per_packet_ns"].as_f64().is_some_and(|ns| ns > 0.0), "{tap}");
        assert_eq!(cost["vhost_ns"].as_u64().unwrap() > 0, tap["path"] == "vhost", "{cost}");
    }
    // iperf3 sends large packets to a card that takes them.
    assert!(taps[1]["to_guest"]["merged"].as_u64().unwrap() > 0, "{}", taps[1]["to_guest"]);
    for gain in all["gain"].as_array().unwrap() {
        let (now, vf) = (&gain["now"], &gain["vf"]);
        assert_eq!((&vf["guest"], &vf["hops_to_guest"]), (&"vm1".into(), &0.into()), "{gain}");
        assert!(now["hops_to_guest"].as_u64().unwrap() == 3 && now["to_guest_p50_ns"].is_u64(), "{gain}");
        assert!(vf["to_guest_p50_ns"].is_u64() && vf["cpu_per_interrupt_ns"].is_f64(), "{gain}");
    }
    let vf = &all["vfs"][0];
    let raised: u64 = vf["slots"].as_array().unwrap().iter().map(|s| s["raised"].as_u64().unwrap()).sum();
    assert!(raised > 50 && vf["delivery"]["n"].as_u64().unwrap() > 50, "{vf}");
    assert!(vf["traffic"]["rx_packets"].is_null() && vf["cost"]["vcpu_ns"].as_u64().unwrap() > 0, "{vf}");
}
