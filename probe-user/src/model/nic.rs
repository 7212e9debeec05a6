//! A guest's network cards that the host's network stack serves, and the way their packets take through it.
//!
//! VFs are not here: their packets take no way through the host.

use serde::{Deserialize, Serialize};

/// A card of a guest behind an interface of the host. What is not a kernel interface (vhost-user, QEMU's own user-mode
/// network) is no `Nic`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The host's interface (`tap0`, `macvtap0`).
    pub netdev: String,
    /// Its index; `None` when it is not in the network namespace that was read.
    pub ifindex: Option<u32>,
    /// Who moves the packets between that interface and the guest.
    pub path: PathKind,
    /// The card as the guest sees it, by the VMM's name for it (`virtio-net-pci`, `e1000`), when its command line says.
    pub card: Option<String>,
    /// Queues: files of the interface that the VMM holds open.
    pub queues: u32,
    /// Whether a vhost-net file is open for it; `None` when the VMM holds such files for some of its cards only and does
    /// not say for which.
    pub vhost: Option<bool>,
    /// The bridge (or other master) it is a port of.
    pub bridge: Option<String>,
    /// Hardware interfaces below that bridge, or below a macvtap; a bond or VLAN is followed down. By name.
    pub uplinks: Vec<String>,
}

/// The way of packets between a guest and the host's network stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// tap; the VMM copies packets and emulates the card's registers.
    Emulated,
    /// tap; the VMM copies packets from and to virtio rings.
    Virtio,
    /// tap; a thread of the kernel copies packets from and to virtio rings.
    Vhost,
    /// macvtap or ipvtap: a tap directly on a hardware interface, without a bridge.
    Macvtap,
    /// tap; what serves it, and as which card, is not known.
    Tap,
}

impl PathKind {
    /// The word used in tables, labels and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Emulated => "emulated",
            Self::Virtio => "virtio",
            Self::Vhost => "vhost",
            Self::Macvtap => "macvtap",
            Self::Tap => "tap",
        }
    }

    /// The path behind a tap, by the card and by whether vhost-net serves it. A vhost-net file that is open for another
    /// card than virtio stays unused (hw/net/vhost_net.c of QEMU: only virtio-net starts it).
    #[must_use]
    pub fn of_tap(card: Option<&str>, vhost: Option<bool>) -> Self {
        match (card.map(|name| name.starts_with("virtio")), vhost) {
            (Some(false), _) => Self::Emulated,
            (_, Some(true)) => Self::Vhost,
            (Some(true), Some(false)) => Self::Virtio,
            (Some(true), None) | (None, Some(false) | None) => Self::Tap,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_taps() {
        for (card, vhost, expected) in [
            (Some("e1000"), Some(false), "emulated"),
            (Some("e1000"), Some(true), "emulated"),
            (Some("e1000"), None, "emulated"),
            (Some("virtio-net-pci"), Some(false), "virtio"),
            (Some("virtio-net-pci"), Some(true), "vhost"),
            (Some("virtio-net-pci"), None, "tap"),
            (None, Some(true), "vhost"),
            (None, Some(false), "tap"),
            (None, None, "tap"),
        ] {
            let path = PathKind::of_tap(card, vhost);
            assert_eq!(path.as_str(), expected, "{card:?} {vhost:?}");
            assert_eq!(serde_json::to_value(path).unwrap(), expected);
        }
        assert_eq!(serde_json::to_value(PathKind::Macvtap).unwrap(), PathKind::Macvtap.as_str());
    }
}
