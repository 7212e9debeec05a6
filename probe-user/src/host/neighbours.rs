//! Under which address of the network a guest was last seen: by the MACs of its VFs, which their PFs know, in the host's
//! table of neighbours.
//!
//! IPv4 only: `/proc/net/arp` has no IPv6, and a table that asks nothing of the network says nothing of silent guests.

use super::{HostError, HostRoot, Malformed, read_vf_counters, reader::read_text};
use crate::model::topology::{Guest, Topology};
use std::{collections::BTreeSet, net::Ipv4Addr};

/// Flag of an entry whose MAC is known (`ATF_COM`, include/uapi/linux/if_arp.h).
const COMPLETE: u32 = 2;

/// The IPv4 addresses at which this host reached the guest's VFs, in ascending order; none when it never did, or when
/// the PFs' drivers do not know their VFs' MACs.
///
/// # Errors
/// [`HostError`] when the table cannot be read.
pub fn read_guest_addresses(root: &HostRoot, guest: &Guest) -> Result<Vec<Ipv4Addr>, HostError> {
    let only = Topology { guests: vec![guest.clone()], ..Topology::default() };
    let macs: BTreeSet<[u8; 6]> = read_vf_counters(&only).macs.into_values().collect();
    addresses(root, &macs)
}

fn addresses(root: &HostRoot, macs: &BTreeSet<[u8; 6]>) -> Result<Vec<Ipv4Addr>, HostError> {
    let path = root.proc.join("net/arp");
    let Some(text) = read_text(&path)? else { return Ok(Vec::new()) };
    let known = parse_arp(&text).map_err(|source| HostError::Parse { path, source })?;
    let found: BTreeSet<Ipv4Addr> =
        known.into_iter().filter(|(_, mac)| macs.contains(mac)).map(|(address, _)| address).collect();
    Ok(found.into_iter().collect())
}

/// The complete entries of `/proc/net/arp` (net/ipv4/arp.c, `arp_format_neigh_entry`).
fn parse_arp(text: &str) -> Result<Vec<(Ipv4Addr, [u8; 6])>, Malformed> {
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate().skip(1) {
        let malformed = || Malformed::new(number + 1, "an entry of the ARP table", line);
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [address, _kind, flags, mac, ..] = fields[..] else { return Err(malformed()) };
        let address = address.parse().map_err(|_| malformed())?;
        let flags = flags.strip_prefix("0x").and_then(|hex| u32::from_str_radix(hex, 16).ok());
        // Entries of networks without Ethernet addresses are nobody's VF.
        let Some(mac) = parse_mac(mac).filter(|mac| *mac != [0; 6]) else { continue };
        if flags.ok_or_else(malformed)? & COMPLETE != 0 {
            entries.push((address, mac));
        }
    }
    Ok(entries)
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Tree;

    const ARP: &str = "\
IP address       HW type     Flags       HW address            Mask     Device
192.168.0.102    0x1         0x2         52:54:00:aa:00:01     *        eth0
192.168.0.101    0x1         0x6         52:54:00:AA:00:01     *        eth0
192.168.0.103    0x1         0x0         52:54:00:aa:00:01     *        eth0
192.168.0.104    0x1         0x2         52:54:00:aa:00:02     *        eth0
10.0.0.1         0x1         0x0         00:00:00:00:00:00     *        eth0
10.9.0.1         0x200       0x2         *                     *        ppp0
";

    #[test]
    fn a_guest_is_found_by_its_mac() {
        let tree = Tree::new();
        let macs = |last: u8| BTreeSet::from([[0x52, 0x54, 0, 0xaa, 0, last]]);
        assert_eq!(addresses(&tree.root(), &macs(1)).unwrap(), [Ipv4Addr::UNSPECIFIED; 0]);
        tree.file("proc/net/arp", ARP);
        for (last, expected) in
            [(1, &["192.168.0.101", "192.168.0.102"][..]), (2, &["192.168.0.104"]), (3, &[])]
        {
            let found: Vec<String> =
                addresses(&tree.root(), &macs(last)).unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(found, expected);
        }
        assert_eq!(addresses(&tree.root(), &BTreeSet::from([[0; 6]])).unwrap(), [Ipv4Addr::UNSPECIFIED; 0]);
    }

    #[test]
    fn what_is_no_table_is_refused() {
        for text in
            ["\n192.168.0.101\n", "\nx 0x1 0x2 52:54:00:aa:00:01\n", "\n10.0.0.1 0x1 2 52:54:00:aa:00:01\n"]
        {
            assert_eq!(parse_arp(text).unwrap_err().line, 2, "{text}");
        }
        assert_eq!(parse_arp(""), Ok(Vec::new()));
    }
}
