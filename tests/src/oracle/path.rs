//! `packet_path` by its definition: the points that each packet reaches, by the address of its `sk_buff`.

use super::Span;
use super::trace::Event;
use std::collections::BTreeMap;

/// The devices of a host.
#[derive(Clone, Copy, Debug)]
pub struct Devices<'a> {
    /// Guests' taps, all ports of the bridge.
    pub taps: &'a [&'a str],
    /// The bridge.
    pub bridge: &'a str,
    /// Its ports to the outside.
    pub uplinks: &'a [&'a str],
}

/// What a capture says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Times (ns) by device, direction and hop: `tap0 to_guest ring`.
    pub hops: BTreeMap<String, Vec<u64>>,
    /// Packets by device and point: `tap0 queued`.
    pub packets: BTreeMap<String, u64>,
    /// Drops by device, direction, hop and reason.
    pub drops: BTreeMap<String, u64>,
}

/// A packet that is under way.
#[derive(Clone, Debug)]
struct Packet<'a> {
    first: u64,
    last: u64,
    from: &'a str,
    to: Option<&'a str>,
    given: bool,
}

/// Evaluates a capture with `netif_receive_skb`, `net_dev_queue`, `net_dev_start_xmit`, `net_dev_xmit`, `consume_skb` and
/// `kfree_skb`. A packet counts when it entered inside the span, an event of a device when it is inside.
#[must_use]
pub fn evaluate<'a>(events: &[Event<'a>], devices: &Devices<'a>, span: Span) -> Answer {
    let mut out = Answer::default();
    let mut packets: BTreeMap<&'a str, Packet<'a>> = BTreeMap::new();
    // The packet that entered last on each CPU: what is queued there under another address is a clone of it.
    let mut current: BTreeMap<u32, &'a str> = BTreeMap::new();
    let is_tap = |name: &str| devices.taps.contains(&name);
    let ours = |name: &str| is_tap(name) || name == devices.bridge || devices.uplinks.contains(&name);
    for e in events {
        let dev = e.value("dev").filter(|dev| ours(dev));
        let Some(skb) = e.value("skbaddr") else { continue };
        let mut count = |dev: &str, point: &str| {
            if span.contains(e.ns) {
                *out.packets.entry(format!("{dev} {point}")).or_default() += 1;
            }
        };
        match (e.name, dev) {
            ("netif_receive_skb", Some(dev)) => {
                count(dev, "received");
                if dev == devices.bridge {
                    if let Some(p) = packets.remove(skb).filter(|p| is_tap(p.from) && p.to.is_none()) {
                        out.hop(p.from, "from_guest bridge", e.ns - p.last);
                        out.hop(p.from, "from_guest total", e.ns - p.first);
                    }
                } else {
                    enter(&mut packets, &mut current, e, skb, dev, span);
                }
            }
            ("net_dev_queue", Some(dev)) if dev == devices.bridge => {
                count(dev, "queued");
                enter(&mut packets, &mut current, e, skb, dev, span);
            }
            ("net_dev_queue", Some(dev)) => {
                count(dev, "queued");
                let original = current.get(&e.cpu).filter(|address| **address != skb);
                let found = packets.get(skb).or_else(|| packets.get(*original?)).cloned();
                let Some(mut p) = found.filter(|p| p.to.is_none()) else { continue };
                if is_tap(p.from) {
                    out.hop(p.from, "from_guest bridge", e.ns - p.last);
                }
                if is_tap(dev) {
                    out.hop(dev, "to_guest bridge", e.ns - p.last);
                }
                (p.to, p.last) = (Some(dev), e.ns);
                packets.insert(skb, p);
            }
            ("net_dev_start_xmit", Some(_)) => {
                let Some(p) = packets.get_mut(skb) else { continue };
                let Some(to) = p.to.filter(|_| !p.given) else { continue };
                if is_tap(p.from) {
                    out.hop(p.from, "from_guest qdisc", e.ns - p.last);
                    out.hop(p.from, "from_guest total", e.ns - p.first);
                }
                if is_tap(to) {
                    out.hop(to, "to_guest qdisc", e.ns - p.last);
                    (p.given, p.last) = (true, e.ns);
                } else {
                    packets.remove(skb);
                }
            }
            ("net_dev_xmit", Some(dev)) if e.value("rc") == Some("0") => count(dev, "sent"),
            ("consume_skb", _) => {
                if let Some(p) = packets.remove(skb).filter(|p| p.given)
                    && let Some(to) = p.to
                {
                    out.hop(to, "to_guest ring", e.ns - p.last);
                    out.hop(to, "to_guest total", e.ns - p.first);
                }
            }
            ("kfree_skb", _) => {
                let Some(p) = packets.remove(skb) else { continue };
                let (dev, direction) = match p.to.filter(|to| is_tap(to)) {
                    Some(to) => (to, "to_guest"),
                    None if is_tap(p.from) => (p.from, "from_guest"),
                    None => (p.from, "-"),
                };
                let hop = if p.given {
                    "ring"
                } else if p.to.is_some() {
                    "qdisc"
                } else {
                    "bridge"
                };
                let reason = e.word("reason:").unwrap_or("not told");
                *out.drops.entry(format!("{dev} {direction} {hop} {reason}")).or_default() += 1;
            }
            _ => {}
        }
    }
    out
}

fn enter<'a>(
    packets: &mut BTreeMap<&'a str, Packet<'a>>,
    current: &mut BTreeMap<u32, &'a str>,
    e: &Event<'a>,
    skb: &'a str,
    from: &'a str,
    span: Span,
) {
    packets.remove(skb);
    if span.contains(e.ns) {
        packets.insert(skb, Packet { first: e.ns, last: e.ns, from, to: None, given: false });
        current.insert(e.cpu, skb);
    }
}

impl Answer {
    fn hop(&mut self, device: &str, hop: &str, ns: u64) {
        self.hops.entry(format!("{device} {hop}")).or_default().push(ns);
    }
}

#[cfg(test)]
mod tests {
    use super::super::trace::parse;
    use super::*;

    #[test]
    fn a_flooded_packet_reaches_the_guest_as_a_clone_and_an_address_is_used_again() {
        let line = |us: u32, what: &str| format!("x-8 [001] ..... 1.{us:06}: {what}\n");
        let text = [
            line(1, "netif_receive_skb: dev=eth0 skbaddr=a len=46"),
            line(3, "net_dev_queue: dev=tap0 skbaddr=b len=60"),
            line(4, "net_dev_start_xmit: dev=tap0 queue_mapping=0 skbaddr=b vlan_tagged=0"),
            line(5, "net_dev_xmit: dev=tap0 skbaddr=b len=60 rc=0"),
            line(6, "netif_receive_skb: dev=br0 skbaddr=a len=46"),
            line(9, "consume_skb: skbaddr=b location=tun_do_read"),
            line(10, "netif_receive_skb: dev=tap0 skbaddr=b len=46"),
            line(
                12,
                "kfree_skb: skbaddr=b rx_sk=0 protocol=2048 location=br_handle_frame reason: NOT_SPECIFIED",
            ),
        ];
        let devices = Devices { taps: &["tap0"], bridge: "br0", uplinks: &["eth0"] };
        let text = text.concat();
        let answer = evaluate(&parse(&text).unwrap(), &devices, Span { from_ns: 0, until_ns: u64::MAX });
        let hops: Vec<_> = answer.hops.iter().map(|(hop, ns)| format!("{hop} {ns:?}")).collect();
        assert_eq!(
            hops,
            [
                "tap0 to_guest bridge [2000]",
                "tap0 to_guest qdisc [1000]",
                "tap0 to_guest ring [5000]",
                "tap0 to_guest total [8000]"
            ]
        );
        assert_eq!(answer.packets["tap0 queued"], 1);
        assert_eq!(answer.drops.keys().collect::<Vec<_>>(), ["tap0 from_guest bridge NOT_SPECIFIED"]);
    }
}
