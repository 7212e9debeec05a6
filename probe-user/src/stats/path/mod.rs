//! Packet paths of guests as one table: hops, drops and cost of each tap, and beside them the VFs measured at the same time.
//!
//! Pure: a snapshot and a topology in, a report out.

mod gain;
mod vf;

pub use gain::{Gain, Price, VfPrice};
pub use vf::{VfPath, VfSlot, VfTraffic};

use super::{Counter, Histogram, Labels, Snapshot, Summary, to_f64};
use crate::model::PciAddress;
use crate::model::nic::{Nic, PathKind};
use crate::model::topology::{Guest, Topology};
use serde::Serialize;
use std::collections::BTreeMap;

/// The probe whose figures these are.
const PROBE: &str = "packet_path";

/// All paths of a window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Start of the window (CLOCK_MONOTONIC ns).
    pub from_ns: u64,
    /// Time counted (ns).
    pub window_ns: u64,
    /// Packets that entered a path, and how many of them were followed.
    pub followed: Option<Followed>,
    /// Taps, by guest.
    pub taps: Vec<TapPath>,
    /// VFs, by guest.
    pub vfs: Vec<VfPath>,
    /// What each tap's guest would gain from a VF.
    pub gain: Vec<Gain>,
    /// What the network softirqs took, for all interfaces of the host; `None` when that cannot be seen.
    pub softirq: Option<Softirq>,
}

/// How many packets were followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Followed {
    /// Packets that entered a path.
    pub seen: u64,
    /// Of these, followed.
    pub followed: u64,
    /// At the highest load one in this many was.
    pub one_in_most: u64,
}

/// Time of the network softirqs, host-wide.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Softirq {
    /// NET_RX (ns).
    pub net_rx_ns: u64,
    /// NET_TX (ns).
    pub net_tx_ns: u64,
    /// Packets that drivers found when they were polled.
    pub polled: u64,
    /// Both times for each of these packets (ns); `None` without packets.
    pub per_packet_ns: Option<f64>,
}

/// A tap of a guest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TapPath {
    /// The guest.
    pub guest: String,
    /// The host's interface.
    pub netdev: String,
    /// Who moves packets between it and the guest.
    pub path: PathKind,
    /// The bridge it is a port of.
    pub bridge: Option<String>,
    /// Hardware below that bridge.
    pub uplinks: Vec<String>,
    /// Why nothing of it is followed.
    pub not_followed: Option<String>,
    /// Packets and hops to the guest.
    pub to_guest: Way,
    /// Packets and hops from the guest.
    pub from_guest: Way,
    /// Times that the driver could not take a packet.
    pub busy: u64,
    /// What the host's CPUs did for the guest.
    pub cost: Option<Cost>,
}

/// One direction of a path.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Way {
    /// Packets by point.
    pub points: Vec<Passed>,
    /// Hops in order, the last being all of it.
    pub hops: Vec<HopTime>,
    /// Of the packets, those that stand for several.
    pub merged: u64,
    /// How many these stand for.
    pub segments: u64,
    /// Followed packets that were dropped.
    pub drops: Vec<Drop>,
}

/// Packets at a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Passed {
    /// `received`, `queued`, `sent` or `read`.
    pub point: String,
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Time of a hop. Percentiles that `n` cannot support are `None`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HopTime {
    /// Its name.
    pub hop: String,
    /// Packets whose time is known.
    pub n: u64,
    /// Median (ns).
    pub p50_ns: Option<u64>,
    /// 99th percentile (ns).
    pub p99_ns: Option<u64>,
    /// Longest (ns).
    pub max_ns: Option<u64>,
    /// Mean (ns).
    pub mean_ns: Option<f64>,
    /// Why it cannot be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_observable: Option<String>,
}

/// Packets dropped at one place for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drop {
    /// In which hop.
    pub hop: String,
    /// The kernel's word for it.
    pub reason: String,
    /// Packets.
    pub packets: u64,
}

/// CPU time of the host for one guest, all its network cards and everything else together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// vCPU threads outside the guest (ns): exits, and the emulation they lead to.
    pub vcpu_ns: u64,
    /// Other threads of the VMM (ns).
    pub vmm_ns: u64,
    /// vhost (ns).
    pub vhost_ns: u64,
    /// Packets of the guest in both directions; `None` when nobody counts them.
    pub packets: Option<u64>,
    /// All three for each packet (ns).
    pub per_packet_ns: Option<f64>,
}

impl Cost {
    /// All of it (ns).
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        self.vcpu_ns + self.vmm_ns + self.vhost_ns
    }

    /// For that many packets.
    #[must_use]
    fn shared_by(mut self, packets: Option<u64>) -> Self {
        self.packets = packets;
        let total = to_f64(self.total_ns());
        self.per_packet_ns = packets.filter(|n| *n > 0).map(|n| total / to_f64(n));
        self
    }
}

/// Makes the report. `vfs` is what VFs sent and received meanwhile, where their PF's driver counts that.
#[must_use]
pub fn report(snapshot: &Snapshot, topology: &Topology, vfs: &BTreeMap<PciAddress, VfTraffic>) -> Report {
    let counters = Counters(snapshot);
    let host = |name| counters.sum(name, &[]);
    let seen = counters.of("seen").next().map(|seen| Followed {
        seen: seen.value,
        followed: host("followed"),
        one_in_most: host("one_in_most"),
    });
    let softirq = counters.of("polled").next().map(|polled| {
        let [net_rx_ns, net_tx_ns] =
            ["net_rx", "net_tx"].map(|kind| counters.sum("softirq_ns", &[("kind", kind)]));
        let both = to_f64(net_rx_ns + net_tx_ns);
        let per_packet_ns = (polled.value > 0).then(|| both / to_f64(polled.value));
        Softirq { net_rx_ns, net_tx_ns, polled: polled.value, per_packet_ns }
    });
    let taps: Vec<TapPath> = topology
        .guests
        .iter()
        .flat_map(|guest| guest.nics.iter().map(|nic| tap(&counters, guest, nic)))
        .collect();
    let vfs: Vec<VfPath> =
        topology.guests.iter().flat_map(|guest| vf::paths(&counters, guest, vfs)).collect();
    Report {
        from_ns: snapshot.from_ns,
        window_ns: snapshot.to_ns.saturating_sub(snapshot.from_ns),
        followed: seen,
        gain: gain::gains(&taps, &vfs),
        taps,
        vfs,
        softirq,
    }
}

/// Questions to a snapshot's counters.
struct Counters<'a>(&'a Snapshot);

impl<'a> Counters<'a> {
    fn of(&self, name: &'static str) -> impl Iterator<Item = &'a Counter> {
        self.0.counters.iter().filter(move |c| c.probe == PROBE && c.name == name)
    }

    /// All with these labels together.
    fn sum(&self, name: &'static str, labels: &[(&str, &str)]) -> u64 {
        self.of(name).filter(|c| has(&c.labels, labels)).map(|c| c.value).sum()
    }

    /// CPU time of a guest's threads; `None` when it was not counted.
    fn cost(&self, guest: &str) -> Option<Cost> {
        let kind = |kind| {
            let labels = [("guest", guest), ("kind", kind)];
            self.of("cpu_ns").find(|c| has(&c.labels, &labels)).map(|c| c.value)
        };
        let in_guest =
            self.0.counters.iter().filter(|c| {
                c.probe == "vm_exit" && c.name == "guest_ns" && has(&c.labels, &[("guest", guest)])
            });
        let in_guest: Vec<u64> = in_guest.map(|c| c.value).collect();
        // Without exits nobody knows which part of its threads' time is the guest's own.
        let inside: u64 = if in_guest.is_empty() { return None } else { in_guest.iter().sum() };
        Some(Cost {
            vcpu_ns: kind("vcpu")?.saturating_sub(inside),
            vmm_ns: kind("vmm").unwrap_or(0),
            vhost_ns: kind("vhost").unwrap_or(0),
            packets: None,
            per_packet_ns: None,
        })
    }
}

fn has(labels: &Labels, wanted: &[(&str, &str)]) -> bool {
    wanted.iter().all(|(name, value)| labels.get(*name).is_some_and(|v| v == value))
}

fn tap(counters: &Counters<'_>, guest: &Guest, nic: &Nic) -> TapPath {
    let here = [("guest", guest.name.as_str()), ("netdev", nic.netdev.as_str())];
    let not_followed = nic.ifindex.is_none().then_some("not in this network namespace");
    let [to_guest, from_guest] = ["to_guest", "from_guest"].map(|direction| way(counters, &here, direction));
    let passed =
        |way: &Way, point: &str| way.points.iter().find(|p| p.point == point).map_or(0, |p| p.packets);
    let packets = match nic.path {
        // Those to the guest pass no point at which all are counted.
        PathKind::Macvtap if counters.sum("one_in_most", &[]) > 1 => None,
        PathKind::Macvtap => Some(passed(&to_guest, "read") + passed(&from_guest, "queued")),
        _ => Some(passed(&to_guest, "sent") + passed(&from_guest, "received")),
    };
    let alone = guest.nics.len() + guest.vfs.len() == 1;
    TapPath {
        guest: guest.name.clone(),
        netdev: nic.netdev.clone(),
        path: nic.path,
        bridge: nic.bridge.clone(),
        uplinks: nic.uplinks.clone(),
        not_followed: not_followed.map(str::to_owned),
        busy: counters.sum("busy", &here),
        // The threads serve all cards of the guest; with one only they can be put to its account.
        cost: counters.cost(&guest.name).map(|cost| cost.shared_by(packets.filter(|_| alone))),
        to_guest,
        from_guest,
    }
}

fn way(counters: &Counters<'_>, here: &[(&str, &str)], direction: &str) -> Way {
    let wanted: Vec<(&str, &str)> = here.iter().copied().chain([("direction", direction)]).collect();
    let label = |labels: &Labels, name: &str| labels.get(name).cloned().unwrap_or_default();
    let order = |point: &str| ["received", "queued", "sent", "read"].iter().position(|p| *p == point);
    let mut points: Vec<Passed> = counters
        .of("packets")
        .filter(|c| has(&c.labels, &wanted))
        .map(|c| {
            let point = label(&c.labels, "point");
            let there: Vec<_> = wanted.iter().copied().chain([("point", point.as_str())]).collect();
            Passed { packets: c.value, bytes: counters.sum("bytes", &there), point: point.clone() }
        })
        .collect();
    points.sort_by_key(|passed| order(&passed.point));
    let series = counters.0.series.iter().filter(|s| s.probe == PROBE && has(&s.labels, &wanted));
    let place = |hop: &str| ["bridge", "qdisc", "ring", "total"].iter().position(|h| *h == hop);
    let mut hops: Vec<HopTime> =
        series.map(|s| hop_time(label(&s.labels, "hop"), &s.histogram, s.observable.reason())).collect();
    hops.sort_by_key(|time| place(&time.hop));
    let drops = counters.of("dropped").filter(|c| c.value > 0 && has(&c.labels, &wanted));
    let drops = drops.map(|c| Drop {
        hop: label(&c.labels, "hop"),
        reason: label(&c.labels, "reason"),
        packets: c.value,
    });
    Way {
        points,
        hops,
        merged: counters.sum("merged", &wanted),
        segments: counters.sum("segments", &wanted),
        drops: drops.collect(),
    }
}

fn hop_time(hop: String, histogram: &Histogram, hidden: Option<&str>) -> HopTime {
    let Summary { n, p50_ns, p99_ns, max_ns, mean_ns, .. } = Summary::of(histogram);
    HopTime { hop, n, p50_ns, p99_ns, max_ns, mean_ns, not_observable: hidden.map(str::to_owned) }
}

impl Way {
    /// The time of the whole way.
    #[must_use]
    pub fn total(&self) -> Option<&HopTime> {
        self.hops.iter().find(|time| time.hop == "total" && time.not_observable.is_none())
    }

    /// Hops that packets take: that half of those took at least that took the most frequent one. A few to all, or to another
    /// guest, go other ways.
    #[must_use]
    pub fn hops_taken(&self) -> usize {
        let hops = || self.hops.iter().filter(|time| time.hop != "total" && time.n > 0);
        let most = hops().map(|time| time.n).max().unwrap_or(0);
        hops().filter(|time| time.n >= most.div_ceil(2)).count()
    }
}

#[cfg(test)]
pub(crate) mod tests;
