//! `packet_path`: the way of guests' packets through the host's network stack, hop by hop (docs/probes.md).

use super::{Hook, MapReader, Names, Needs, ProbeReport, ProbeSpec, ReadError, Role, hook};
use crate::model::nic::PathKind;
use crate::model::path::{PathDevice, PathRole};
use crate::stats::{Counter, Histogram, Labels, Observability, Series, Snapshot};
use probe_ebpf::probes::packet_path::{
    Counts, Device, DropKey, ENTERED, GIVEN, HOPS, Hop, Point, QUEUED, Role as DeviceRole, Sampling,
};

/// What every program that looks at a packet's device needs.
const AT_DEVICE: &[&str] =
    &["OFF_SKB_DEV", "OFF_SKB_LEN", "OFF_SKB_HEAD", "OFF_SKB_END", "OFF_NETDEV_IFINDEX"];

const fn packet(event: &'static str, program: &'static str, needs: &'static [&'static str]) -> Hook {
    Hook { event, role: Role::Required, raw: hook::raw(program, needs), classic: None }
}

const fn cost(event: &'static str, program: &'static str) -> Hook {
    Hook { event, role: Role::Figure("softirq"), raw: hook::raw(program, &[]), classic: None }
}

/// The specification. What ends the following of a packet is attached before what begins it.
pub static SPEC: ProbeSpec = ProbeSpec {
    name: "packet_path",
    about: "the way of packets between guests on taps and the rest of the host",
    needs: Needs::Taps,
    hooks: &[
        packet("skb/consume_skb", "path_consume", &[]),
        Hook {
            event: "skb/kfree_skb",
            role: Role::Required,
            // Without a reason (before 5.17) the classic one does.
            raw: Some(super::Variant { program: "path_drop", needs: &[], fits: |params| params.len() >= 3 }),
            classic: hook::classic("path_drop_tp", &["REC_KFREE_SKB"]),
        },
        packet("net/net_dev_xmit", "path_xmit", &["OFF_NETDEV_IFINDEX"]),
        packet("net/net_dev_start_xmit", "path_start", &[]),
        packet("net/net_dev_queue", "path_queue", AT_DEVICE),
        packet("net/netif_receive_skb", "path_receive", AT_DEVICE),
        cost("irq/softirq_exit", "path_soft_out"),
        cost("irq/softirq_entry", "path_soft_in"),
        cost("napi/napi_poll", "path_poll"),
    ],
    collect,
};

fn collect(
    maps: &dyn MapReader,
    names: &Names<'_>,
    report: &ProbeReport,
    out: &mut Snapshot,
) -> Result<(), ReadError> {
    let devices: Vec<(Device, &PathDevice)> = maps
        .path_devices()?
        .into_iter()
        .filter_map(|(ifindex, device)| Some((device, names.paths?.device(ifindex)?)))
        .collect();
    for (device, known) in &devices {
        let counts = maps.path_counts(device.index())?;
        counters(known, &counts, out);
        if matches!(known.role, PathRole::Tap { .. }) {
            series(maps, *device, known, out)?;
        }
    }
    for (key, value) in maps.path_drops()? {
        if let Some(labels) = place(&devices, &key, &maps.drop_reason(key.reason)) {
            out.counters.push(counter("dropped", labels, value));
        }
    }
    if devices.is_empty() {
        return Ok(());
    }
    let Sampling { seen, followed, clones, left, most, .. } = maps.path_sampling()?;
    for (name, value) in [
        ("seen", seen),
        ("followed", followed),
        ("clones", clones),
        ("left", left),
        ("one_in_most", u64::from(most.max(1))),
    ] {
        out.counters.push(counter(name, Labels::new(), value));
    }
    if report.loses("softirq").is_none() {
        let softirqs = maps.path_softirqs()?;
        for (kind, ns) in [("net_rx", softirqs.rx_ns), ("net_tx", softirqs.tx_ns)] {
            let labels = Labels::from([("kind".into(), kind.into())]);
            out.counters.push(counter("softirq_ns", labels, ns));
        }
        out.counters.push(counter("polls", Labels::new(), softirqs.polls));
        out.counters.push(counter("polled", Labels::new(), softirqs.polled));
    }
    Ok(())
}

fn counter(name: &str, labels: Labels, value: u64) -> Counter {
    Counter { probe: SPEC.name.into(), name: name.into(), labels, value }
}

/// Labels that name a device.
fn device_labels(device: &PathDevice) -> Labels {
    let mut labels = Labels::from([("netdev".into(), device.netdev.clone())]);
    let path = match &device.role {
        PathRole::Tap { guest, path, .. } => {
            labels.insert("guest".into(), guest.clone());
            path.as_str()
        }
        PathRole::Bridge => "bridge",
        PathRole::Uplink => "uplink",
    };
    labels.insert("path".into(), path.into());
    labels
}

fn with(labels: &Labels, more: &[(&str, &str)]) -> Labels {
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    labels.clone().into_iter().chain(more).collect()
}

fn counters(device: &PathDevice, counts: &Counts, out: &mut Snapshot) {
    let labels = device_labels(device);
    let tap = matches!(device.role, PathRole::Tap { .. });
    // What a tap sends goes to its guest; what a macvtap sends comes from it.
    let (in_by, out_by) = match device.role {
        PathRole::Tap { path: PathKind::Macvtap, .. } => ("to_guest", "from_guest"),
        _ => ("from_guest", "to_guest"),
    };
    for (point, word, direction) in [
        (Point::Received, "received", in_by),
        (Point::Queued, "queued", out_by),
        (Point::Sent, "sent", out_by),
        (Point::Read, "read", "to_guest"),
    ] {
        let mut labels = with(&labels, &[("point", word)]);
        if tap {
            labels.insert("direction".into(), direction.into());
        } else if point == Point::Read {
            continue;
        }
        let index = point as usize;
        out.counters.push(counter("packets", labels.clone(), counts.packets[index]));
        out.counters.push(counter("bytes", labels, counts.bytes[index]));
    }
    if tap {
        for (direction, merged, segments) in [
            ("from_guest", counts.merged_in, counts.segments_in),
            ("to_guest", counts.merged_out, counts.segments_out),
        ] {
            let labels = with(&labels, &[("direction", direction)]);
            out.counters.push(counter("merged", labels.clone(), merged));
            out.counters.push(counter("segments", labels, segments));
        }
    }
    out.counters.push(counter("busy", labels, counts.busy));
}

fn series(
    maps: &dyn MapReader,
    device: Device,
    known: &PathDevice,
    out: &mut Snapshot,
) -> Result<(), ReadError> {
    let labels = device_labels(known);
    for (hop, direction, word) in Hop::ALL {
        let hidden = hidden(device, hop);
        let seen = hidden.is_none();
        let observable = hidden.map_or(Observability::Yes, |why| Observability::No(why.to_owned()));
        let histogram = if seen {
            Histogram::from(&maps.hist("PATH_HIST", device.index() * HOPS + hop as u32)?)
        } else {
            Histogram::default()
        };
        let labels = with(&labels, &[("direction", direction), ("hop", word)]);
        out.series.push(Series { probe: SPEC.name.into(), labels, observable, histogram });
    }
    Ok(())
}

/// Why a hop of a device has no times.
fn hidden(device: Device, hop: Hop) -> Option<&'static str> {
    // What a routed packet passes before its tap, and after it, is none of these devices.
    if device.is(DeviceRole::LoneTap) && !matches!(hop, Hop::InQdisc | Hop::InRing | Hop::InTotal) {
        return Some("the tap is no port of a bridge");
    }
    if device.is(DeviceRole::Macvtap) && matches!(hop, Hop::InBridge | Hop::InQdisc) {
        return Some("a macvtap has no such hop: macvlan puts packets into its ring at once");
    }
    None
}

/// Labels that say where a packet was dropped: at the guest's tap it was on its way to, else that it came from.
fn place(devices: &[(Device, &PathDevice)], key: &DropKey, reason: &str) -> Option<Labels> {
    let known =
        |wanted: Device| devices.iter().find(|(device, _)| *device == wanted).map(|(_, known)| *known);
    let (device, direction) = if key.to.is_tap() {
        (known(key.to)?, Some("to_guest"))
    } else if key.from.is_tap() {
        (known(key.from)?, Some("from_guest"))
    } else {
        // On its way through the bridge, to whom was not decided yet.
        (known(key.from)?, None)
    };
    let hop = match key.state {
        ENTERED => "bridge",
        QUEUED => "qdisc",
        GIVEN => "ring",
        _ => return None,
    };
    let mut labels = with(&device_labels(device), &[("hop", hop), ("reason", reason)]);
    if let Some(direction) = direction {
        labels.insert("direction".into(), direction.into());
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_that_a_device_does_not_have_are_hidden() {
        for (role, expected) in [
            (DeviceRole::Tap, 0),
            // All from the guest, and the bridge to it.
            (DeviceRole::LoneTap, 4),
            (DeviceRole::Macvtap, 2),
        ] {
            let device = Device::new(role, 0);
            let n = Hop::ALL.iter().filter(|(hop, ..)| hidden(device, *hop).is_some()).count();
            assert_eq!(n, expected, "{role:?}");
        }
    }

    #[test]
    fn drops_are_named_by_the_guest_they_concern() {
        let tap = |guest: &str, path| PathDevice {
            ifindex: 1,
            netdev: format!("tap-{guest}"),
            role: PathRole::Tap { guest: guest.into(), path, bridged: true },
        };
        let (a, b) = (tap("a", PathKind::Virtio), tap("b", PathKind::Vhost));
        let uplink = PathDevice { ifindex: 3, netdev: "eth0".into(), role: PathRole::Uplink };
        let [at_a, at_b] = [0, 1].map(|index| Device::new(DeviceRole::Tap, index));
        let at_uplink = Device::new(DeviceRole::Uplink, 2);
        let (at_m, m) = (Device::new(DeviceRole::Macvtap, 3), tap("m", PathKind::Macvtap));
        let devices = [(at_a, &a), (at_b, &b), (at_uplink, &uplink), (at_m, &m)];
        for (from, to, state, expected) in [
            (at_uplink, at_a, GIVEN, Some("a to_guest ring")),
            (at_uplink, at_a, QUEUED, Some("a to_guest qdisc")),
            (at_a, at_b, GIVEN, Some("b to_guest ring")),
            (at_a, at_uplink, QUEUED, Some("a from_guest qdisc")),
            (at_a, Device::NONE, ENTERED, Some("a from_guest bridge")),
            (at_uplink, at_m, GIVEN, Some("m to_guest ring")),
            (at_m, Device::NONE, ENTERED, Some("m from_guest bridge")),
            (at_uplink, Device::NONE, ENTERED, Some("- - bridge")),
            (Device::new(DeviceRole::Tap, 9), Device::NONE, ENTERED, None),
        ] {
            let labels = place(&devices, &DropKey { from, to, state, reason: 0 }, "X");
            let words = labels.map(|l| {
                ["guest", "direction", "hop"].map(|n| l.get(n).map_or("-", String::as_str)).join(" ")
            });
            assert_eq!(words.as_deref(), expected);
        }
    }
}
