//! `packet_path`: the way of packets between guests on taps and the rest of the host: when each hop was reached, what was
//! dropped where, and what the softirqs took.
//!
//! A packet is known by the address of its `sk_buff` while it is followed. What frees it ends that, and whatever enters a
//! path anew at the same address begins anew, so an address that is used again joins no two packets.

mod device;

pub use device::{DEVICES, Device, Role, SMALL};

/// Hops of one device, [`Hop`]; histogram of device `d` and hop `h` is `d * HOPS + h`.
pub const HOPS: u32 = 7;

/// An interval between two points of a packet's way. Indices into `PATH_HIST`; never reused.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// To the guest: first seen on the host until queued at the tap.
    InBridge = 0,
    /// To the guest: queued at the tap until given to its driver.
    InQdisc = 1,
    /// To the guest: given to the tap's driver until its reader has taken it. Of a macvtap, which has no queue, received from
    /// the device below until then.
    InRing = 2,
    /// To the guest: first seen until taken.
    InTotal = 3,
    /// From the guest: received from the tap (queued at the macvtap) until queued at another port or handed to the host itself.
    OutBridge = 4,
    /// From the guest: queued at another port until given to its driver.
    OutQdisc = 5,
    /// From the guest: received from the tap until given to the other port's driver, or to the host itself.
    OutTotal = 6,
}

impl Hop {
    /// All hops, by index: direction and name, the words used in labels.
    pub const ALL: [(Self, &'static str, &'static str); HOPS as usize] = [
        (Self::InBridge, "to_guest", "bridge"),
        (Self::InQdisc, "to_guest", "qdisc"),
        (Self::InRing, "to_guest", "ring"),
        (Self::InTotal, "to_guest", "total"),
        (Self::OutBridge, "from_guest", "bridge"),
        (Self::OutQdisc, "from_guest", "qdisc"),
        (Self::OutTotal, "from_guest", "total"),
    ];
}

/// Points at which every packet of a device is counted.
pub const POINTS: usize = 4;

/// A point of a device. Indices into [`Counts`]; never reused.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// `netif_receive_skb`: the network stack got it from the device. On a tap it comes from the guest.
    Received = 0,
    /// `net_dev_queue`: the network stack wants it sent by the device. On a tap it goes to the guest.
    Queued = 1,
    /// `net_dev_xmit` with success: the device's driver took it.
    Sent = 2,
    /// Of the followed ones on a tap: its reader took it.
    Read = 3,
}

/// What passed a device. One copy for each CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets by [`Point`].
    pub packets: [u64; POINTS],
    /// Bytes by [`Point`], link-layer header included.
    pub bytes: [u64; POINTS],
    /// Of the followed ones received from a tap: several packets merged into one (a guest's own large ones).
    pub merged_in: u64,
    /// How many these stand for.
    pub segments_in: u64,
    /// As `merged_in`, of those queued at a tap (GRO, or a sender's large ones).
    pub merged_out: u64,
    /// As `segments_in`, of the queued.
    pub segments_out: u64,
    /// The driver did not take it now; the queue will offer it again.
    pub busy: u64,
    /// Unused.
    pub pad: u64,
}

/// A packet that is followed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// First seen (ns).
    pub first_ns: u64,
    /// At its last point (ns).
    pub last_ns: u64,
    /// Number of its place in the ring of followed packets.
    pub seq: u32,
    /// One of [`ENTERED`], [`QUEUED`], [`GIVEN`].
    pub state: u32,
    /// The device where it was first seen.
    pub from: Device,
    /// The device it leaves by; none while `state` is [`ENTERED`].
    pub to: Device,
}

/// `Flight::state`: seen for the first time.
pub const ENTERED: u32 = 1;
/// `Flight::state`: queued at the device it leaves by.
pub const QUEUED: u32 = 2;
/// `Flight::state`: given to the tap's driver.
pub const GIVEN: u32 = 3;

/// Packets followed at once; the oldest is given up for the next one.
pub const FLIGHTS: u32 = 8192;

/// Drops told apart.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropKey {
    /// The device where it was first seen.
    pub from: Device,
    /// The device it was to leave by; none when it was dropped before that was known.
    pub to: Device,
    /// The packet's state: after which point it was dropped.
    pub state: u32,
    /// The kernel's reason (`enum skb_drop_reason`); 0 where it gives none.
    pub reason: u32,
}

/// What a CPU decides on following. Written by that CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampling {
    /// Packets that entered a path.
    pub seen: u64,
    /// Of these, followed.
    pub followed: u64,
    /// Clones that were followed as well.
    pub clones: u64,
    /// Followed, but freed at no point of a path: handed to the host's own sockets, or on another way.
    pub left: u64,
    /// Start of the present stretch of time (ns).
    pub since_ns: u64,
    /// Followed since then.
    pub since: u32,
    /// One packet in this many is followed; 0 = not decided yet, which is 1.
    pub every: u32,
    /// The largest `every` so far.
    pub most: u32,
    /// Packets to pass by until the next is followed.
    pub skip: u32,
    /// The followed packet that entered a path last: clones are made of it.
    pub current: u64,
}

/// What the softirqs of a CPU took. Written by that CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Softirqs {
    /// Start of the one that runs (ns); 0 = none.
    pub start_ns: u64,
    /// Time of `NET_TX` (ns).
    pub tx_ns: u64,
    /// Time of `NET_RX` (ns).
    pub rx_ns: u64,
    /// Calls of a driver's poll function.
    pub polls: u64,
    /// Packets that these found.
    pub polled: u64,
}

/// What user space decides.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The network namespace (its inode number) whose interface numbers `PATH_DEVICES` holds; 0 = any.
    pub netns: u32,
    /// Packets to follow on a CPU in [`STRETCH_NS`]; 0 = all.
    pub limit: u32,
}

/// How often the share of followed packets is decided anew (ns).
pub const STRETCH_NS: u64 = 100_000_000;

/// Packets that are followed on a CPU in a stretch of time unless user space decides otherwise: 20,000 in a second.
pub const FOLLOWED_PER_STRETCH: u32 = 2_000;

const _: () = assert!(size_of::<Counts>() == 16 * POINTS + 48);
const _: () = assert!(size_of::<Flight>() == 32);
const _: () = assert!(size_of::<DropKey>() == 16);
const _: () = assert!(size_of::<Sampling>() == 64);
const _: () = assert!(size_of::<Softirqs>() == 40);
const _: () = assert!(size_of::<Config>() == 8);

#[cfg(feature = "user")]
mod pod {
    use super::{Config, Counts, DropKey, Sampling, Softirqs};
    // SAFETY: `repr(C)`, integers only, no padding (sizes asserted above), every bit pattern is valid.
    unsafe impl aya::Pod for Counts {}
    // SAFETY: as above.
    unsafe impl aya::Pod for DropKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Sampling {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Softirqs {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Config {}
}

#[cfg(target_arch = "bpf")]
mod bpf;
#[cfg(target_arch = "bpf")]
mod softirq;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_stand_at_their_index() {
        for (i, (hop, _, _)) in Hop::ALL.iter().enumerate() {
            assert_eq!(*hop as usize, i);
        }
    }
}
