//! Packets of a macvtap in a network namespace of its own: the device below is a tap, whose other side is the wire.

use super::capture::Capture;
use probe_user::app::observe::Observer;
use probe_user::host::HostRoot;
use probe_user::model::nic::PathKind;
use probe_user::model::path::{PathDevice, PathRole, Paths};
use probe_user::model::topology::Topology;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use vfprobe_tests::net::{Tap, counter, frame, ip, new_namespace};
use vfprobe_tests::oracle::trace;

/// For experiments on a link (IEEE 802).
const PROTOCOL: u16 = 0x88b5;
const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const BROADCAST: [u8; 6] = [0xff; 6];

#[test]
fn a_macvtap_is_followed_from_and_to_the_device_below() {
    let devices = fs::read_to_string("/proc/devices").unwrap();
    if !Path::new("/dev/net/tun").exists() || !devices.contains(" macvtap\n") {
        println!(
            "SKIP a_macvtap_is_followed_from_and_to_the_device_below: this kernel has no tap or no macvtap"
        );
        return;
    }
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(follow).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// In a thread of its own, which it moves to another network namespace.
fn follow() {
    let netns = new_namespace();
    let mut wire = Tap::new("up0");
    ip("link set up0 up");
    ip("link add link up0 name mv0 address 02:00:00:00:00:01 type macvtap mode bridge");
    // The ring is as long as the device's queue.
    ip("link set mv0 txqueuelen 16 up");
    let mut guest = Tap::of_macvtap("mv0");
    let role = PathRole::Tap { guest: "a".into(), path: PathKind::Macvtap, bridged: false };
    let devices = vec![
        PathDevice { ifindex: wire.ifindex, netdev: "up0".into(), role: PathRole::Uplink },
        PathDevice { ifindex: guest.ifindex, netdev: "mv0".into(), role },
    ];
    let mut observer = Observer::start_anywhere(&HostRoot::live(), &Topology::default()).unwrap();
    observer.follow_paths(Paths { netns, devices }).unwrap();
    let capture = Capture::on("vfprobe-macvtap-test", &["net/netif_receive_skb", "skb/consume_skb"]);
    let before = [counter("mv0", "/stats64/rx/dropped"), counter("mv0", "/stats64/tx/packets")];
    observer.open(None).unwrap();
    for _ in 0..100 {
        wire.send(&frame(GUEST, OUTSIDE, PROTOCOL));
        assert_eq!(guest.take(PROTOCOL), 1);
        guest.send(&frame(OUTSIDE, GUEST, PROTOCOL));
        assert_eq!(wire.take(PROTOCOL), 1);
    }
    // To all: copies come by a work queue.
    let (mut copies, deadline) = (0, Instant::now() + Duration::from_secs(10));
    for _ in 0..5 {
        wire.send(&frame(BROADCAST, OUTSIDE, PROTOCOL));
    }
    while copies < 5 {
        copies += guest.take(PROTOCOL);
        assert!(Instant::now() < deadline, "{copies} of 5 copies");
        std::thread::yield_now();
    }
    // More than the ring holds, while nobody reads.
    for _ in 0..40 {
        wire.send(&frame(GUEST, OUTSIDE, PROTOCOL));
    }
    assert_eq!(guest.take(PROTOCOL), 16);
    observer.close().unwrap();
    let text = capture.map(|capture| capture.end());
    let snapshot = observer.snapshot(&Topology::default()).unwrap();

    let ours = |name: &str, words: &[&str]| -> BTreeMap<String, u64> {
        let all =
            snapshot.counters.iter().filter(|c| c.probe == "packet_path" && c.name == name && c.value > 0);
        all.map(|c| {
            let word = |label: &&str| c.labels.get(*label).map_or("-", String::as_str);
            (words.iter().map(word).collect::<Vec<_>>().join(" "), c.value)
        })
        .collect()
    };
    let packets = ours("packets", &["netdev", "direction", "point"]);
    for (point, expected) in [
        ("mv0 from_guest queued", 100),
        ("mv0 from_guest sent", 100),
        ("mv0 to_guest received", 5),
        ("mv0 to_guest read", 116),
        ("up0 - received", 145),
        ("up0 - queued", 100),
    ] {
        assert_eq!(packets.get(point), Some(&expected), "{point}: {packets:?}");
    }
    let drops = ours("dropped", &["netdev", "direction", "hop", "reason"]);
    assert_eq!(drops.get("mv0 to_guest ring FULL_RING"), Some(&24), "{drops:?}");
    let now = [counter("mv0", "/stats64/rx/dropped"), counter("mv0", "/stats64/tx/packets")];
    assert_eq!([now[0] - before[0], now[1] - before[1]], [24, 100]);

    let hops: BTreeMap<String, (u64, u64)> = snapshot
        .series
        .iter()
        .filter(|s| s.probe == "packet_path" && s.observable.is_yes())
        .map(|s| {
            (format!("{} {}", s.labels["direction"], s.labels["hop"]), (s.histogram.n(), s.histogram.sum()))
        })
        .collect();
    let counts: Vec<_> = hops.iter().map(|(hop, (n, _))| (hop.as_str(), *n)).collect();
    assert_eq!(
        counts,
        [
            ("from_guest bridge", 100),
            ("from_guest qdisc", 100),
            ("from_guest total", 100),
            ("to_guest ring", 116),
            ("to_guest total", 116)
        ]
    );
    let Some(text) = text else {
        println!("SKIP the times of a_macvtap_is_followed: tracefs is not mounted");
        return;
    };
    // By the capture: from the wire until the reader has it.
    let (mut entered, mut times) = (BTreeMap::new(), Vec::new());
    for event in trace::parse(&text).unwrap() {
        let Some(skb) = event.value("skbaddr") else { continue };
        match (event.name, event.value("dev")) {
            ("netif_receive_skb", Some("up0")) => drop(entered.insert(skb, event.ns)),
            ("netif_receive_skb", _) => drop(entered.remove(skb)),
            ("consume_skb", _) => times.extend(entered.remove(skb).map(|from| event.ns - from)),
            _ => {}
        }
    }
    let (n, sum) = hops["to_guest ring"];
    let oracle: u64 = times.iter().sum();
    // The five to all are used up by macvlan's copying.
    assert!(times.len() >= 116 && times.len() <= 121, "{}", times.len());
    println!("{n} to the guest: {} ns on average, the capture has {}", sum / n, oracle / 116);
}
