//! The network interfaces behind a guest: which files of taps its VMM holds, and what hangs below them.

use super::{
    nic_options::TapOption,
    reader::{Reader, link_name},
};
use crate::model::nic::{Nic, PathKind};
use std::collections::{BTreeMap, BTreeSet};

/// A file through which packets go to and from the host's network stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NetFile {
    /// `/dev/net/tun`; the interface is in `fdinfo`.
    Tun,
    /// `/dev/tapN`: a macvtap or ipvtap, N being its interface index (drivers/net/macvtap.c, `macvtap_device_event`).
    Macvtap(u32),
    /// `/dev/vhost-net`.
    Vhost,
}

/// Parses the target of a file descriptor's link. libvirt gives each guest a `/dev` of its own, in which the file may
/// be gone by now.
pub(super) fn parse_net_path(target: &str) -> Option<NetFile> {
    match target.strip_suffix(" (deleted)").unwrap_or(target) {
        "/dev/net/tun" => Some(NetFile::Tun),
        "/dev/vhost-net" => Some(NetFile::Vhost),
        other => other.strip_prefix("/dev/tap")?.parse().ok().map(NetFile::Macvtap),
    }
}

/// The interface in the `fdinfo` of a tun file (`tun_chr_show_fdinfo`); none when it is not attached to one.
fn parse_fdinfo(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("iff:")).map(str::trim).filter(|name| !name.is_empty())
}

/// The cards behind the open files of process `pid`, by interface name. `files` are (descriptor, what it is).
pub(super) fn read_nics(
    reader: &mut Reader<'_>,
    pid: u32,
    files: &[(u32, NetFile)],
    taps: &[TapOption],
) -> Vec<Nic> {
    let mut fds_of: BTreeMap<(String, bool), Vec<u32>> = BTreeMap::new();
    for (fd, file) in files {
        let name = match file {
            NetFile::Tun => {
                let text = reader.text(&reader.proc(format!("{pid}/fdinfo/{fd}")));
                text.as_deref().and_then(parse_fdinfo).map(str::to_owned)
            }
            NetFile::Macvtap(index) => {
                Some(netdev_of(reader, *index).unwrap_or_else(|| format!("tap{index}")))
            }
            NetFile::Vhost => None,
        };
        if let Some(name) = name {
            fds_of.entry((name, matches!(file, NetFile::Macvtap(_)))).or_default().push(*fd);
        }
    }
    let queues: usize = fds_of.values().map(Vec::len).sum();
    let vhosts = files.iter().filter(|(_, file)| *file == NetFile::Vhost).count();
    fds_of
        .into_iter()
        .map(|((netdev, macvtap), fds)| {
            let told = taps.iter().find(|tap| {
                tap.ifname.as_ref() == Some(&netdev) || tap.fds.iter().any(|fd| fds.contains(fd))
            });
            let card = told.and_then(|tap| tap.card.clone());
            // QEMU opens one vhost-net file for each queue (net/tap.c).
            let vhost = match vhosts {
                0 => Some(false),
                n if n == queues => Some(true),
                _ => told.map(|tap| tap.vhost),
            };
            let path = if macvtap { PathKind::Macvtap } else { PathKind::of_tap(card.as_deref(), vhost) };
            let ifindex = read_index(reader, &netdev, macvtap);
            // A name alone may be that of something else in this namespace.
            let bridge = ifindex.and_then(|_| link_name(&reader.sys(format!("class/net/{netdev}/master"))));
            let uplinks = match &bridge {
                Some(bridge) => hardware_below(reader, bridge),
                None if macvtap && ifindex.is_some() => hardware_below(reader, &netdev),
                None => BTreeSet::new(),
            };
            Nic {
                netdev,
                ifindex,
                path,
                card,
                queues: u32::try_from(fds.len()).unwrap_or(u32::MAX),
                vhost,
                bridge,
                uplinks: uplinks.into_iter().collect(),
            }
        })
        .collect()
}

/// The interface's index, if it is one of that kind in this network namespace: only tun interfaces have `tun_flags`.
fn read_index(reader: &mut Reader<'_>, netdev: &str, macvtap: bool) -> Option<u32> {
    let dir = reader.sys(format!("class/net/{netdev}"));
    if !macvtap && !dir.join("tun_flags").exists() {
        return None;
    }
    reader.value(&dir.join("ifindex"), "an interface index", |text| text.parse().ok())
}

fn netdev_of(reader: &mut Reader<'_>, index: u32) -> Option<String> {
    let net = reader.sys("class/net");
    let names = reader.names(&net);
    names.into_iter().find(|name| {
        let path = net.join(name).join("ifindex");
        std::fs::read_to_string(path).is_ok_and(|text| text.trim().parse() == Ok(index))
    })
}

/// Interfaces with hardware behind them (`device`) that are reached through `lower_*` links: ports of a bridge, slaves
/// of a bond, the parent of a VLAN.
fn hardware_below(reader: &mut Reader<'_>, netdev: &str) -> BTreeSet<String> {
    let net = reader.sys("class/net");
    let (mut found, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let mut open = vec![netdev.to_owned()];
    while let Some(name) = open.pop() {
        let dir = net.join(&name);
        let below = reader.names(&dir);
        let below = below.iter().filter_map(|entry| entry.strip_prefix("lower_"));
        open.extend(below.filter(|below| seen.insert((*below).to_owned())).map(str::to_owned));
        if name != netdev && dir.join("device").exists() {
            found.insert(name);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        for (target, expected) in [
            ("/dev/net/tun", Some(NetFile::Tun)),
            ("/dev/tap12", Some(NetFile::Macvtap(12))),
            ("/dev/tap12 (deleted)", Some(NetFile::Macvtap(12))),
            ("/dev/vhost-net", Some(NetFile::Vhost)),
            ("/dev/vhost-vsock", None),
            ("/dev/tap", None),
            ("/dev/tapx", None),
        ] {
            assert_eq!(parse_net_path(target), expected, "{target}");
        }
    }

    #[test]
    fn fdinfo() {
        for (text, expected) in [
            ("pos:\t0\nflags:\t0104002\nmnt_id:\t25\nino:\t7\niff:\ttap-vm2\n", Some("tap-vm2")),
            ("pos:\t0\niff:\t\n", None),
            ("pos:\t0\n", None),
            ("", None),
        ] {
            assert_eq!(parse_fdinfo(text), expected, "{text:?}");
        }
    }
}
