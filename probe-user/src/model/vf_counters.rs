//! What a PF's driver counts for one of its VFs: packets, bytes and drops that no program of the host sees.

use serde::{Deserialize, Serialize};
use std::num::NonZeroU64;

/// Figures of one VF since its PF's driver began to count, from the VF's side: *rx* is what its guest receives.
///
/// `None` is a figure that is 0, or that the driver does not count: the kernel sets all of them to 0, asks the driver if
/// it can be asked, and sends what is there then (net/core/rtnetlink.c, `rtnl_fill_vfinfo`, v6.12). So igb, which counts
/// nothing, looks like an idle VF, and ixgbe, which counts packets and bytes, like one without drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfCounters {
    /// Packets received.
    pub rx_packets: Option<NonZeroU64>,
    /// Bytes received.
    pub rx_bytes: Option<NonZeroU64>,
    /// Packets for the VF that were dropped.
    pub rx_dropped: Option<NonZeroU64>,
    /// Broadcast packets received.
    pub broadcast: Option<NonZeroU64>,
    /// Multicast packets received.
    pub multicast: Option<NonZeroU64>,
    /// Packets sent.
    pub tx_packets: Option<NonZeroU64>,
    /// Bytes sent.
    pub tx_bytes: Option<NonZeroU64>,
    /// Packets from the VF that were dropped.
    pub tx_dropped: Option<NonZeroU64>,
}

impl VfCounters {
    /// Whether any figure is known.
    #[must_use]
    pub fn reported(&self) -> bool {
        *self != Self::default()
    }
}
