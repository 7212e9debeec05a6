//! The kernel's answer about one interface: bytes in, counters of its VFs out.
//!
//! Attributes are walked one by one and only those of VFs are looked into, so that nothing else a newer kernel says of an
//! interface can spoil the answer. Layout: include/uapi/linux/if_link.h, `IFLA_VFINFO_LIST`.

use crate::model::vf_counters::VfCounters;
use netlink_packet_core::{NetlinkBuffer, NlaBuffer, NlasIterator, Parseable};
use netlink_packet_route::link::{VfInfo, VfInfoMac, VfStats};
use std::{collections::BTreeMap, num::NonZeroU64};

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
/// Size of `struct ifinfomsg`, which comes before the attributes.
const IFINFOMSG: usize = 16;
const IFLA_NUM_VF: u16 = 21;
const IFLA_VFINFO_LIST: u16 = 22;
const IFLA_VF_INFO: u16 = 1;
const IFLA_VF_MAC: u16 = 1;
const IFLA_VF_STATS: u16 = 8;

/// What the kernel answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It refused, with this error number.
    Refused(i32),
    /// The interface is there.
    Vfs(LinkVfs),
}

/// The VFs of one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LinkVfs {
    /// How many there are.
    pub(super) announced: u32,
    /// Those that were told of, by their number.
    pub(super) counters: BTreeMap<u32, VfCounters>,
    /// Their hardware addresses.
    pub(super) macs: BTreeMap<u32, [u8; 6]>,
}

/// An answer that is not laid out as the kernel does it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's answer is malformed: {place}: {problem}")]
pub struct MalformedAnswer {
    /// The part of the message.
    pub place: String,
    /// What is wrong with it.
    pub problem: String,
}

impl MalformedAnswer {
    fn new(place: impl Into<String>, problem: impl ToString) -> Self {
        Self { place: place.into(), problem: problem.to_string() }
    }
}

/// Parses the first message in `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Result<Answer, MalformedAnswer> {
    let message =
        NetlinkBuffer::new_checked(bytes).map_err(|error| MalformedAnswer::new("message header", error))?;
    let payload = message.payload();
    match message.message_type() {
        NLMSG_ERROR => {
            let code = payload.first_chunk().ok_or_else(|| {
                MalformedAnswer::new("error number", format!("{} of 4 bytes", payload.len()))
            })?;
            Ok(Answer::Refused(i32::from_ne_bytes(*code).wrapping_neg()))
        }
        RTM_NEWLINK => {
            let attributes = payload.get(IFINFOMSG..).ok_or_else(|| {
                MalformedAnswer::new("struct ifinfomsg", format!("{} of {IFINFOMSG} bytes", payload.len()))
            })?;
            link(attributes).map(Answer::Vfs)
        }
        other => Err(MalformedAnswer::new("message header", format!("unexpected message type {other}"))),
    }
}

fn link(bytes: &[u8]) -> Result<LinkVfs, MalformedAnswer> {
    let mut vfs = LinkVfs::default();
    for attribute in attributes(bytes, "attributes of the interface") {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            IFLA_NUM_VF => vfs.announced = u32_at_start(value, "IFLA_NUM_VF")?,
            IFLA_VFINFO_LIST => list(value, &mut vfs)?,
            _ => {}
        }
    }
    Ok(vfs)
}

fn list(bytes: &[u8], vfs: &mut LinkVfs) -> Result<(), MalformedAnswer> {
    for (entry, attribute) in attributes(bytes, "IFLA_VFINFO_LIST").enumerate() {
        let attribute = attribute?;
        if attribute.kind() != IFLA_VF_INFO {
            continue;
        }
        let place = format!("entry {entry} of IFLA_VFINFO_LIST");
        let (number, mac, read) = entry_of(attribute.value(), &place)?;
        vfs.macs.insert(number, mac);
        if vfs.counters.insert(number, read).is_some() {
            return Err(MalformedAnswer::new(place, format!("VF {number} is told of twice")));
        }
    }
    Ok(())
}

/// One VF: its number, which every part of the entry but the counters begins with, its hardware address and its counters.
fn entry_of(bytes: &[u8], place: &str) -> Result<(u32, [u8; 6], VfCounters), MalformedAnswer> {
    let mut told = None;
    let mut counters = VfCounters::default();
    for attribute in attributes(bytes, place) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            IFLA_VF_MAC => {
                let place = format!("IFLA_VF_MAC in {place}");
                match VfInfo::parse(&attribute) {
                    Ok(VfInfo::Mac(VfInfoMac { vf_id, mac: [a, b, c, d, e, f, ..], .. })) => {
                        told = Some((vf_id, [a, b, c, d, e, f]));
                    }
                    _ => return Err(MalformedAnswer::new(place, format!("{} of 36 bytes", value.len()))),
                }
            }
            IFLA_VF_STATS => stats(value, &mut counters, &format!("IFLA_VF_STATS in {place}"))?,
            _ => {}
        }
    }
    let (number, mac) = told.ok_or_else(|| MalformedAnswer::new(place, "no IFLA_VF_MAC, so no VF number"))?;
    Ok((number, mac, counters))
}

fn stats(bytes: &[u8], counters: &mut VfCounters, place: &str) -> Result<(), MalformedAnswer> {
    for attribute in attributes(bytes, place) {
        let attribute = attribute?;
        let figure = VfStats::parse(&attribute).map_err(|_| {
            let problem = format!("figure {} has {} of 8 bytes", attribute.kind(), attribute.value().len());
            MalformedAnswer::new(place, problem)
        })?;
        let (known, value) = match figure {
            VfStats::RxPackets(value) => (&mut counters.rx_packets, value),
            VfStats::TxPackets(value) => (&mut counters.tx_packets, value),
            VfStats::RxBytes(value) => (&mut counters.rx_bytes, value),
            VfStats::TxBytes(value) => (&mut counters.tx_bytes, value),
            VfStats::Broadcast(value) => (&mut counters.broadcast, value),
            VfStats::Multicast(value) => (&mut counters.multicast, value),
            VfStats::RxDropped(value) => (&mut counters.rx_dropped, value),
            VfStats::TxDropped(value) => (&mut counters.tx_dropped, value),
            // Padding (6), and what newer kernels may add.
            _ => continue,
        };
        *known = NonZeroU64::new(value);
    }
    Ok(())
}

fn u32_at_start(bytes: &[u8], place: &str) -> Result<u32, MalformedAnswer> {
    let first = bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    first.ok_or_else(|| MalformedAnswer::new(place, format!("{} of 4 bytes", bytes.len())))
}

/// The attributes in a part of the message, in order.
fn attributes<'a>(
    bytes: &'a [u8],
    place: &str,
) -> impl Iterator<Item = Result<NlaBuffer<&'a [u8]>, MalformedAnswer>> {
    NlasIterator::new(bytes).map(move |attribute| attribute.map_err(|e| MalformedAnswer::new(place, e)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An attribute as netlink(7) lays it out: length without padding, kind, value, padding to four bytes.
    pub(in crate::host) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend([kind, 0].into_iter().flat_map(u16::to_ne_bytes));
        bytes.extend([0; 8]);
        bytes.extend(payload);
        bytes
    }

    /// What the kernel says of a PF (rtnl_fill_ifinfo): other attributes, the number of VFs, the list.
    pub(in crate::host) fn pf(announced: u32, entries: &[Vec<u8>]) -> Vec<u8> {
        let list: Vec<u8> = entries.iter().flat_map(|entry| attribute(1, entry)).collect();
        let parts = [
            vec![0; 16],
            attribute(3, b"eth0\0"),
            attribute(21, &announced.to_ne_bytes()),
            attribute(22, &list),
            // IFLA_AF_SPEC with the flag of a nest and nothing in it.
            attribute(26 | 0x8000, &[]),
        ];
        message(16, &parts.concat())
    }

    /// An entry of the list with these figures, padded to eight bytes as `nla_put_u64_64bit` does it.
    pub(in crate::host) fn entry(vf: u32, figures: &[(u16, u64)]) -> Vec<u8> {
        let figures = figures
            .iter()
            .flat_map(|(kind, value)| [attribute(6, &[]), attribute(*kind, &value.to_ne_bytes())].concat());
        let figures: Vec<u8> = figures.collect();
        [mac(vf), attribute(7, &[0; 8]), attribute(8, &figures)].concat()
    }

    fn mac(vf: u32) -> Vec<u8> {
        attribute(1, &[vf.to_ne_bytes().as_slice(), &[0x52; 6], &[0; 26]].concat())
    }

    fn some(n: u64) -> Option<NonZeroU64> {
        NonZeroU64::new(n)
    }

    #[test]
    fn answers() {
        let all = |offset: u64| [0, 1, 2, 3, 4, 5, 7, 8].map(|kind| (kind, u64::from(kind) * 10 + offset));
        let zeroes = [0, 1, 2, 3, 4, 5, 7, 8].map(|kind| (kind, 0));
        let full = VfCounters {
            rx_packets: some(1),
            tx_packets: some(11),
            rx_bytes: some(21),
            tx_bytes: some(31),
            broadcast: some(41),
            multicast: some(51),
            rx_dropped: some(71),
            tx_dropped: some(81),
        };
        // ixgbe_ndo_get_vf_stats.
        let ixgbe = [(0, 7), (1, u64::MAX), (2, 8), (3, 9), (4, 0), (5, 1), (7, 0), (8, 0)];
        let of_ixgbe = VfCounters {
            rx_packets: some(7),
            tx_packets: some(u64::MAX),
            rx_bytes: some(8),
            tx_bytes: some(9),
            multicast: some(1),
            ..VfCounters::default()
        };
        let none = VfCounters::default();
        for (what, bytes, announced, expected) in [
            ("no VFs", pf(0, &[]), 0, vec![]),
            ("no attributes", message(16, &[0; 16]), 0, vec![]),
            ("a driver that tells nothing of its VFs", pf(2, &[]), 2, vec![]),
            ("all figures", pf(2, &[entry(0, &all(1)), entry(1, &all(1))]), 2, vec![(0, full), (1, full)]),
            ("igb: zeroes", pf(1, &[entry(0, &zeroes)]), 1, vec![(0, none)]),
            ("ixgbe", pf(2, &[entry(0, &ixgbe), entry(1, &zeroes)]), 2, vec![(0, of_ixgbe), (1, none)]),
            ("no drops: an older kernel", pf(1, &[entry(3, &all(1)[..6])]), 1, {
                vec![(3, VfCounters { rx_dropped: None, tx_dropped: None, ..full })]
            }),
            ("no statistics", pf(1, &[mac(9)]), 1, vec![(9, none)]),
            ("a figure of a newer kernel", pf(1, &[entry(0, &[(9, 5), (0, 1)])]), 1, {
                vec![(0, VfCounters { rx_packets: some(1), ..none })]
            }),
        ] {
            let macs = expected.iter().map(|(vf, _)| (*vf, [0x52; 6])).collect();
            let expected = LinkVfs { announced, counters: expected.into_iter().collect(), macs };
            assert_eq!(parse(&bytes), Ok(Answer::Vfs(expected)), "{what}");
        }
        let refused = message(2, &[(-19_i32).to_ne_bytes().as_slice(), &[0; 16]].concat());
        assert_eq!(parse(&refused), Ok(Answer::Refused(19)));
    }

    #[test]
    fn what_is_malformed_is_named_with_its_place() {
        let short = |entries: &[Vec<u8>]| {
            let mut bytes = pf(1, entries);
            bytes.truncate(bytes.len() - 5);
            bytes
        };
        let stats = |value: &[u8]| pf(1, &[entry(0, &[]), [mac(4), attribute(8, value)].concat()]);
        for (bytes, place, problem) in [
            (vec![], "message header", ""),
            (short(&[]), "message header", ""),
            (message(3, &[]), "message header", "unexpected message type 3"),
            (message(2, &[1, 2]), "error number", "2 of 4 bytes"),
            (message(16, &[0; 12]), "struct ifinfomsg", "12 of 16 bytes"),
            (message(16, &[0; 19]), "attributes of the interface", ""),
            (
                message(16, &[&[0; 16], attribute(21, &[1]).as_slice()].concat()),
                "IFLA_NUM_VF",
                "1 of 4 bytes",
            ),
            (
                message(16, &[&[0; 16], attribute(22, &[9, 0, 1, 0]).as_slice()].concat()),
                "IFLA_VFINFO_LIST",
                "",
            ),
            (pf(1, &[vec![]]), "entry 0 of IFLA_VFINFO_LIST", "no IFLA_VF_MAC, so no VF number"),
            (pf(1, &[vec![3, 0, 1, 0]]), "entry 0 of IFLA_VFINFO_LIST", ""),
            (
                pf(1, &[mac(0), attribute(1, &[0; 10])]),
                "IFLA_VF_MAC in entry 1 of IFLA_VFINFO_LIST",
                "10 of 36 bytes",
            ),
            (
                stats(&attribute(2, &[1; 4])),
                "IFLA_VF_STATS in entry 1 of IFLA_VFINFO_LIST",
                "figure 2 has 4 of 8 bytes",
            ),
            (stats(&[40, 0, 2, 0]), "IFLA_VF_STATS in entry 1 of IFLA_VFINFO_LIST", ""),
            (pf(2, &[mac(6), mac(6)]), "entry 1 of IFLA_VFINFO_LIST", "VF 6 is told of twice"),
        ] {
            let error = parse(&bytes).unwrap_err();
            assert_eq!(error.place, place, "{error}");
            assert!(error.problem.contains(problem) && !error.problem.is_empty(), "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }

    proptest! {
        /// Any bytes, and a good answer with some bytes changed: an answer or a refusal, never a panic.
        #[test]
        fn any_bytes_are_answered(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&noise);
            let _ = parse(&message(16, &noise));
            let _ = parse(&pf(1, std::slice::from_ref(&noise)));
            let _ = parse(&pf(1, &[[mac(0), attribute(8, &noise)].concat()]));
        }

        #[test]
        fn damaged_answers_are_answered(
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<proptest::sample::Index>(),
        ) {
            let mut bytes = pf(2, &[entry(0, &[(0, 1), (7, 2)]), entry(1, &[(1, 3)])]);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _ = parse(&bytes);
            let _ = parse(&bytes[..cut.index(bytes.len())]);
        }

        /// What was put in comes out.
        #[test]
        fn figures_survive(figures in proptest::collection::btree_map(any::<u32>(), any::<[u64; 2]>(), 0..20)) {
            let entries: Vec<_> =
                figures.iter().map(|(vf, [rx, tx])| entry(*vf, &[(0, *rx), (1, *tx)])).collect();
            let Ok(Answer::Vfs(vfs)) = parse(&pf(0, &entries)) else { panic!("refused") };
            let read = |n: Option<NonZeroU64>| n.map_or(0, NonZeroU64::get);
            let read = vfs.counters.into_iter().map(|(vf, c)| (vf, [read(c.rx_packets), read(c.tx_packets)]));
            prop_assert_eq!(read.collect::<BTreeMap<_, _>>(), figures);
        }
    }
}
