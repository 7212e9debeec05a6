//! Packets through a bridge and taps of a network namespace of its own, with a tracefs capture and the interfaces' own
//! counters of the same time beside them.

use super::capture::Capture;
use probe_user::app::observe::Observer;
use probe_user::host::HostRoot;
use probe_user::model::nic::PathKind;
use probe_user::model::path::{PathDevice, PathRole, Paths};
use probe_user::model::topology::Topology;
use probe_user::stats::Snapshot;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use vfprobe_tests::net::{Tap, counter, frame, index, ip, new_namespace};
use vfprobe_tests::oracle::path::{Devices, evaluate};
use vfprobe_tests::oracle::{Span, trace};

/// For experiments on a link (IEEE 802): nothing of the host answers it.
const PROTOCOL: u16 = 0x88b5;
const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const BROADCAST: [u8; 6] = [0xff; 6];

/// Two guests, an uplink that is a tap too, and the bridge between them; observed.
struct Net {
    a: Tap,
    b: Tap,
    up: Tap,
    observer: Observer,
}

impl Net {
    /// Has to run in a thread of its own, which it moves to another network namespace.
    fn new() -> Self {
        let netns = new_namespace();
        ip("link add br0 type bridge forward_delay 0 mcast_snooping 0");
        let [a, b, up] = ["tapa", "tapb", "up0"].map(|name| {
            let tap = Tap::new(name);
            // Nothing of the host's own speaks here.
            ip(&format!("link set {name} master br0 up"));
            tap
        });
        ip("link set br0 up");
        let tap = |tap: &Tap, name: &str| {
            let role = PathRole::Tap { guest: name.into(), path: PathKind::Virtio, bridged: true };
            PathDevice { ifindex: tap.ifindex, netdev: format!("tap{name}"), role }
        };
        let devices = vec![
            tap(&a, "a"),
            tap(&b, "b"),
            PathDevice { ifindex: up.ifindex, netdev: "up0".into(), role: PathRole::Uplink },
            PathDevice { ifindex: index("br0"), netdev: "br0".into(), role: PathRole::Bridge },
        ];
        let mut observer = Observer::start_anywhere(&HostRoot::live(), &Topology::default()).unwrap();
        observer.follow_paths(Paths { netns, devices }).unwrap();
        let mut net = Self { a, b, up, observer };
        // The bridge learns where everybody is.
        net.a.send(&frame(BROADCAST, GUEST, PROTOCOL));
        net.b.send(&frame(BROADCAST, OTHER, PROTOCOL));
        net.up.send(&frame(BROADCAST, OUTSIDE, PROTOCOL));
        net.drain();
        net
    }

    fn drain(&mut self) -> [u64; 3] {
        [&mut self.a, &mut self.b, &mut self.up].map(|tap| tap.take(PROTOCOL))
    }

    fn snapshot(&self) -> Snapshot {
        let snapshot = self.observer.snapshot(&Topology::default()).unwrap();
        let lost: Vec<_> = snapshot.lost.keys().filter(|cause| cause.starts_with("packet_path")).collect();
        assert!(lost.is_empty(), "{lost:?}");
        snapshot
    }
}

/// Runs a test in a thread of its own; its network namespace goes with it.
fn in_own_net(test: impl FnOnce(Net) + Send) {
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(|| test(Net::new())).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Counters of that name by their labels' words.
fn counters(snapshot: &Snapshot, name: &str, labels: &[&str]) -> BTreeMap<String, u64> {
    let words = |all: &BTreeMap<String, String>| {
        labels.iter().map(|label| all.get(*label).map_or("-", String::as_str)).collect::<Vec<_>>().join(" ")
    };
    let ours = snapshot.counters.iter().filter(|c| c.probe == "packet_path" && c.name == name && c.value > 0);
    ours.map(|c| (words(&c.labels), c.value)).collect()
}

fn drops(snapshot: &Snapshot) -> BTreeMap<String, u64> {
    counters(snapshot, "dropped", &["netdev", "direction", "hop", "reason"])
}

const EVENTS: [&str; 6] = [
    "net/netif_receive_skb",
    "net/net_dev_queue",
    "net/net_dev_start_xmit",
    "net/net_dev_xmit",
    "skb/consume_skb",
    "skb/kfree_skb",
];

#[test]
fn hops_agree_with_tracefs_and_with_the_interfaces() {
    if !Path::new("/dev/net/tun").exists() {
        println!("SKIP hops_agree_with_tracefs_and_with_the_interfaces: no /dev/net/tun");
        return;
    }
    in_own_net(|mut net| {
        let Some(capture) = Capture::on("vfprobe-path-test", &EVENTS) else {
            println!("SKIP hops_agree_with_tracefs_and_with_the_interfaces: tracefs is not mounted");
            return;
        };
        let before = ["tapa", "tapb", "up0"]
            .map(|name| [counter(name, "/stats64/rx/packets"), counter(name, "/stats64/tx/packets")]);
        net.observer.open(None).unwrap();
        for _ in 0..200 {
            net.up.send(&frame(GUEST, OUTSIDE, PROTOCOL));
            net.a.send(&frame(OUTSIDE, GUEST, PROTOCOL));
            net.a.send(&frame(OTHER, GUEST, PROTOCOL));
            // Flooded: a clone for each port but one.
            net.up.send(&frame(BROADCAST, OUTSIDE, PROTOCOL));
            net.drain();
        }
        net.observer.close().unwrap();
        let text = capture.end();
        let snapshot = net.snapshot();

        let events = trace::parse(&text).unwrap();
        let span = Span { from_ns: snapshot.from_ns, until_ns: snapshot.to_ns };
        let devices = Devices { taps: &["tapa", "tapb"], bridge: "br0", uplinks: &["up0"] };
        let expected = evaluate(&events, &devices, span);
        let packets = counters(&snapshot, "packets", &["netdev", "point"]);
        let but_read: BTreeMap<_, _> =
            packets.iter().filter(|(key, _)| !key.ends_with(" read")).map(|(k, n)| (k.clone(), *n)).collect();
        assert_eq!(but_read, expected.packets, "packets by device and point");
        assert_eq!(drops(&snapshot), expected.drops);
        let series = snapshot.series.iter().filter(|s| s.probe == "packet_path" && !s.histogram.is_empty());
        let told: BTreeMap<String, (u64, u64)> = series
            .map(|s| {
                let key = ["netdev", "direction", "hop"].map(|label| s.labels[label].as_str()).join(" ");
                (key, (s.histogram.n(), s.histogram.sum()))
            })
            .collect();
        let all: BTreeSet<&String> = expected.hops.keys().chain(told.keys()).collect();
        for hop in all {
            let times = expected.hops.get(hop).cloned().unwrap_or_default();
            let (n, sum) = told.get(hop).copied().unwrap_or_default();
            assert_eq!(n, u64::try_from(times.len()).unwrap(), "{hop}");
            // ftrace's text is cut to microseconds, and each observer's own work lies between the two stamps.
            let oracle: u64 = times.iter().sum();
            assert!(
                oracle.abs_diff(sum) <= 3_000 * n + oracle / 10,
                "{hop}: {sum} ns, the oracle has {oracle}"
            );
        }
        println!("{} hops compared: {told:?}", told.len());
        assert_eq!((told["tapa to_guest ring"].0, told["tapa from_guest total"].0), (400, 400));
        assert_eq!(told["tapb to_guest bridge"].0, 400);

        for (name, [rx, tx]) in ["tapa", "tapb", "up0"].into_iter().zip(before) {
            let of = |point: &str| packets.get(&format!("{name} {point}")).copied().unwrap_or(0);
            assert_eq!(counter(name, "/stats64/rx/packets") - rx, of("received"), "{name} received");
            // A tap counts what its reader took, not what it was given.
            assert_eq!(counter(name, "/stats64/tx/packets") - tx, of("sent"), "{name} sent");
            if name != "up0" {
                assert_eq!(of("read"), of("sent"), "{name} read");
            }
        }
        let seen = counters(&snapshot, "seen", &[]);
        assert_eq!((&seen, seen[""]), (&counters(&snapshot, "followed", &[]), 800));
    });
}

#[test]
fn drops_show_at_their_place_with_the_kernel_s_reason() {
    if !Path::new("/dev/net/tun").exists() {
        println!("SKIP drops_show_at_their_place_with_the_kernel_s_reason: no /dev/net/tun");
        return;
    }
    in_own_net(|mut net| {
        // The ring of a tap is as long as its queue; without a queueing discipline nothing waits before it.
        ip("link set tapa txqueuelen 16");
        let dropped = counter("tapa", "/stats64/tx/dropped");
        net.observer.open(None).unwrap();
        for _ in 0..40 {
            net.up.send(&frame(GUEST, OUTSIDE, PROTOCOL));
        }
        let dropped = counter("tapa", "/stats64/tx/dropped") - dropped;
        assert_eq!((net.drain(), dropped), ([16, 0, 0], 24));
        // A sender that is a group cannot be: the bridge refuses the frame.
        for _ in 0..5 {
            net.a.send(&frame(OUTSIDE, [3, 0, 0, 0, 0, 9], PROTOCOL));
        }
        // Nobody has this address, and no port is to be flooded: nowhere to go.
        for port in ["tapb", "up0"] {
            ip(&format!("link set {port} type bridge_slave flood off"));
        }
        for _ in 0..3 {
            net.a.send(&frame([2, 0, 0, 0, 0, 0x99], GUEST, PROTOCOL));
        }
        net.observer.close().unwrap();
        let snapshot = net.snapshot();
        let drops = drops(&snapshot);
        println!("{drops:?}");
        assert_eq!(drops.get("tapa to_guest ring FULL_RING"), Some(&24), "{drops:?}");
        // The bridge gives reasons only in later kernels.
        let at_bridge: u64 =
            drops.iter().filter(|(key, _)| key.starts_with("tapa from_guest bridge ")).map(|(_, n)| n).sum();
        assert_eq!((at_bridge, drops.values().sum::<u64>()), (8, 32), "{drops:?}");
        let packets = counters(&snapshot, "packets", &["netdev", "point"]);
        assert_eq!((packets["tapa queued"], packets["tapa sent"], packets["tapa read"]), (40, 16, 16));
    });
}

#[test]
fn under_load_one_packet_in_n_is_followed_and_all_are_counted() {
    if !Path::new("/dev/net/tun").exists() {
        println!("SKIP under_load_one_packet_in_n_is_followed_and_all_are_counted: no /dev/net/tun");
        return;
    }
    in_own_net(|mut net| {
        net.observer.loaded_mut().follow_at_most(Some(50)).unwrap();
        net.observer.open(None).unwrap();
        const PACKETS: u64 = 20_000;
        for _ in 0..PACKETS {
            net.up.send(&frame(GUEST, OUTSIDE, PROTOCOL));
            net.a.take(PROTOCOL);
        }
        net.observer.close().unwrap();
        let snapshot = net.snapshot();
        let packets = counters(&snapshot, "packets", &["netdev", "point"]);
        assert_eq!((packets["tapa sent"], counters(&snapshot, "seen", &[])[""]), (PACKETS, PACKETS));
        let followed = counters(&snapshot, "followed", &[])[""];
        let one_in = counters(&snapshot, "one_in_most", &[])[""];
        println!("{followed} of {PACKETS} followed, at least one in {one_in}");
        assert!(
            one_in > 1 && followed < PACKETS && followed >= PACKETS / one_in,
            "{followed}, 1 in {one_in}"
        );
        assert_eq!(packets["tapa read"], followed);
        let hop = |hop: &str| {
            let found = snapshot.series.iter().find(|s| {
                s.labels.get("hop").is_some_and(|h| h == hop)
                    && s.labels["netdev"] == "tapa"
                    && s.labels["direction"] == "to_guest"
            });
            found.unwrap().histogram.n()
        };
        assert_eq!(["bridge", "qdisc", "ring", "total"].map(hop), [followed; 4]);
    });
}
