//! Numbers of the network devices on guests' paths, and the namespace in which they hold.

use super::HostRoot;
use super::reader::Reader;
use crate::model::path::Paths;
use crate::model::topology::Topology;
use std::os::unix::fs::MetadataExt;

/// Reads the devices on the paths of a topology's guests. A device that has gone since is left out.
#[must_use]
pub fn read_paths(root: &HostRoot, topology: &Topology) -> Paths {
    let netns = std::fs::metadata(root.proc.join("self/ns/net")).ok();
    let netns = netns.and_then(|file| u32::try_from(file.ino()).ok()).unwrap_or(0);
    let mut reader = Reader::new(root);
    Paths::of(topology, netns, |name| {
        let path = root.sys.join("class/net").join(name).join("ifindex");
        reader.value(&path, "an interface index", |text| text.parse().ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::{LAB, Tree};
    use crate::host::read_topology;
    use crate::model::path::PathRole;

    #[test]
    fn a_captured_host_without_taps_has_no_paths() {
        let root = Tree::captured(LAB).root();
        assert_eq!(read_paths(&root, &read_topology(&root)).devices, []);
    }

    #[test]
    fn taps_bridges_and_uplinks_are_listed_once() {
        use crate::model::nic::{Nic, PathKind};
        let tree = Tree::captured(LAB);
        for (name, index) in [("br7", 7), ("eth7", 5)] {
            tree.file(&format!("sys/class/net/{name}/ifindex"), &format!("{index}\n"));
        }
        let root = tree.root();
        let mut topology = read_topology(&root);
        let nic = |netdev: &str, ifindex, path, bridge: Option<&str>| Nic {
            netdev: netdev.to_owned(),
            ifindex,
            path,
            card: None,
            queues: 1,
            vhost: None,
            bridge: bridge.map(str::to_owned),
            uplinks: bridge.iter().map(|_| "eth7".to_owned()).collect(),
        };
        topology.guests[0].nics = vec![
            nic("tap0", Some(9), PathKind::Virtio, Some("br7")),
            nic("tap1", Some(8), PathKind::Vhost, Some("br7")),
            nic("lone", Some(12), PathKind::Tap, None),
            nic("elsewhere", None, PathKind::Tap, None),
            nic("macvtap0", Some(11), PathKind::Macvtap, None),
        ];
        let paths = read_paths(&root, &topology);
        let told: Vec<String> = paths
            .devices
            .iter()
            .map(|d| {
                let role = match &d.role {
                    PathRole::Tap { path, bridged, .. } => format!("{} {bridged}", path.as_str()),
                    PathRole::Bridge => "bridge".to_owned(),
                    PathRole::Uplink => "uplink".to_owned(),
                };
                format!("{} {} {role}", d.ifindex, d.netdev)
            })
            .collect();
        assert_eq!(
            told,
            [
                "5 eth7 uplink",
                "7 br7 bridge",
                "8 tap1 vhost true",
                "9 tap0 virtio true",
                "11 macvtap0 macvtap false",
                "12 lone tap false"
            ]
        );
    }
}
