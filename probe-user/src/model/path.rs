//! The network devices that packets of guests pass on the host.

use super::nic::PathKind;
use super::topology::Topology;

/// Devices on guests' paths, and the network namespace in which their numbers hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// Inode number of the namespace; 0 when it is not known.
    pub netns: u32,
    /// Taps, bridges and uplinks, each once, by interface number.
    pub devices: Vec<PathDevice>,
}

/// A network device on the path of one guest or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathDevice {
    /// Its number.
    pub ifindex: u32,
    /// Its name.
    pub netdev: String,
    /// What it is to guests.
    pub role: PathRole,
}

/// What a device is to guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRole {
    /// A tap or macvtap of this guest.
    Tap {
        /// The guest's name.
        guest: String,
        /// Who moves packets between tap and guest.
        path: PathKind,
        /// Whether it is a port of a bridge; a macvtap never is.
        bridged: bool,
    },
    /// A bridge with taps as ports.
    Bridge,
    /// A device with hardware behind it below such a bridge, or below a macvtap.
    Uplink,
}

impl Paths {
    /// The devices of a topology. `index_of` tells the number of a device by its name.
    #[must_use]
    pub fn of(topology: &Topology, netns: u32, mut index_of: impl FnMut(&str) -> Option<u32>) -> Self {
        let mut devices: Vec<PathDevice> = Vec::new();
        let mut add = |device: PathDevice| {
            if !devices.iter().any(|known| known.ifindex == device.ifindex) {
                devices.push(device);
            }
        };
        let nics = || topology.guests.iter().flat_map(|guest| guest.nics.iter().map(move |nic| (guest, nic)));
        for (guest, nic) in nics() {
            let Some(ifindex) = nic.ifindex else { continue };
            let role =
                PathRole::Tap { guest: guest.name.clone(), path: nic.path, bridged: nic.bridge.is_some() };
            add(PathDevice { ifindex, netdev: nic.netdev.clone(), role });
            let bridge = nic.bridge.iter().map(|name| (name, PathRole::Bridge));
            for (name, role) in bridge.chain(nic.uplinks.iter().map(|name| (name, PathRole::Uplink))) {
                if let Some(ifindex) = index_of(name) {
                    add(PathDevice { ifindex, netdev: name.clone(), role });
                }
            }
        }
        devices.sort_by_key(|device| device.ifindex);
        Self { netns, devices }
    }

    /// The device of that number.
    #[must_use]
    pub fn device(&self, ifindex: u32) -> Option<&PathDevice> {
        self.devices.iter().find(|device| device.ifindex == ifindex)
    }
}
