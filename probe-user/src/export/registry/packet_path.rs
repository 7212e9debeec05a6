//! Metrics of the probe `packet_path`: the way of guests' packets through the host's network stack.

use super::{Kind, Metric, Origin, Unit};

const DEVICE: &[&str] = &["guest", "path", "netdev", "direction", "point", "config"];
const DIRECTION: &[&str] = &["guest", "path", "netdev", "direction", "config"];
const HOST: &[&str] = &["config"];

const fn counter(
    name: &'static str,
    counter: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Counter, unit, labels, help, origin: Origin::Counter("packet_path", counter) }
}

pub(super) const ROWS: &[Metric] = &[
    Metric {
        name: "vfprobe_path_hop_seconds",
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        labels: &["guest", "path", "netdev", "direction", "hop", "config"],
        help: "Time that followed packets between a guest's tap and the rest of the host took for a hop",
        origin: Origin::Series("packet_path"),
    },
    counter(
        "vfprobe_path_packets_total",
        "packets",
        Unit::None,
        DEVICE,
        "Packets that passed a point of a device on a guest's path; at the point `read` only followed ones",
    ),
    counter("vfprobe_path_bytes_total", "bytes", Unit::Bytes, DEVICE, "Bytes of these packets"),
    counter(
        "vfprobe_path_dropped_total",
        "dropped",
        Unit::None,
        &["guest", "path", "netdev", "direction", "hop", "reason", "config"],
        "Followed packets that were dropped, by the hop and the kernel's reason",
    ),
    counter(
        "vfprobe_path_merged_total",
        "merged",
        Unit::None,
        DIRECTION,
        "Packets that stand for several (GRO, GSO)",
    ),
    counter(
        "vfprobe_path_segments_total",
        "segments",
        Unit::None,
        DIRECTION,
        "How many packets these stand for",
    ),
    counter(
        "vfprobe_path_busy_total",
        "busy",
        Unit::None,
        &["guest", "path", "netdev", "config"],
        "Times that a device's driver could not take a packet and it went back to the queue",
    ),
    counter("vfprobe_path_seen_total", "seen", Unit::None, HOST, "Packets that entered a path"),
    counter(
        "vfprobe_path_followed_total",
        "followed",
        Unit::None,
        HOST,
        "Of these, packets that were followed",
    ),
    counter(
        "vfprobe_path_clones_total",
        "clones",
        Unit::None,
        HOST,
        "Clones of these that were followed as well",
    ),
    counter(
        "vfprobe_path_left_total",
        "left",
        Unit::None,
        HOST,
        "Followed packets that were freed elsewhere than on a path",
    ),
    Metric {
        name: "vfprobe_path_follow_interval",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: HOST,
        help: "The largest N so far where one packet in N was followed; 1 while all are",
        origin: Origin::Level("packet_path", "one_in_most"),
    },
    counter(
        "vfprobe_path_softirq_seconds_total",
        "softirq_ns",
        Unit::Seconds,
        &["kind", "config"],
        "Time of the network softirqs of all CPUs",
    ),
    counter(
        "vfprobe_path_polls_total",
        "polls",
        Unit::None,
        HOST,
        "Calls of network drivers' poll functions",
    ),
    counter("vfprobe_path_polled_total", "polled", Unit::None, HOST, "Packets that these found"),
];
