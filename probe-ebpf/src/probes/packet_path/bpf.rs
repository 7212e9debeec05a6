//! The programs of `packet_path`: what each event says of a packet.

use super::{
    Config, Counts, DEVICES, Device, DropKey, ENTERED, FLIGHTS, Flight, GIVEN, HOPS, Hop, Point, QUEUED,
    Role, SMALL, STRETCH_NS, Sampling,
};
use crate::control::{Lost, Table};
use crate::hist::Hist;
use crate::kernel::{
    SEEN, add, element, in_window, lost, next_index, now, own_element, read_field, read_record, record_shared,
};
use aya_ebpf::{
    macros::{map, raw_tracepoint},
    maps::{Array, HashMap, PerCpuArray},
    programs::{RawTracePointContext, TracePointContext},
};

/// Devices on guests' paths, by interface number. Written by user space.
#[map]
static PATH_DEVICES: HashMap<u32, Device> = HashMap::with_max_entries(DEVICES, 0);

/// The same for small numbers, which most are: it is asked three times for every packet of the host.
#[map]
static PATH_SMALL: Array<Device> = Array::with_max_entries(SMALL, 0);

#[map]
static PATH_CONFIG: Array<Config> = Array::with_max_entries(1, 0);

/// The address of the network namespace that `Config` names, once one of its devices was seen. vfprobe is inside, so it
/// lives as long as the programs.
#[map]
static PATH_NETNS: Array<u64> = Array::with_max_entries(1, 0);

#[map]
static PATH_COUNTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(64, 0);

/// Written by all CPUs, by atomic additions.
#[map]
static PATH_HIST: Array<Hist> = Array::with_max_entries(64 * HOPS, 0);

/// Followed packets, by the address of their `sk_buff`.
#[map]
static FLIGHT: HashMap<u64, Flight> = HashMap::with_max_entries(FLIGHTS * 2, 0);

/// Addresses in the order in which they were taken up; the oldest makes place.
#[map]
static FLIGHT_RING: Array<u64> = Array::with_max_entries(FLIGHTS, 0);

#[map]
static PATH_DROPS: HashMap<DropKey, u64> = HashMap::with_max_entries(1024, 0);

#[map]
static PATH_SAMPLING: PerCpuArray<Sampling> = PerCpuArray::with_max_entries(1, 0);

crate::kernel::offsets!(
    OFF_SKB_DEV,
    OFF_SKB_LEN,
    OFF_SKB_HEAD,
    OFF_SKB_END,
    OFF_SHINFO_GSO_SIZE,
    OFF_SHINFO_GSO_SEGS,
    OFF_NETDEV_IFINDEX,
    OFF_NETDEV_NET,
    OFF_NET_INUM,
    REC_KFREE_SKB,
);

/// The device on a guest's path that a `struct net_device` is.
#[inline(always)]
fn device(dev: u64) -> Option<Device> {
    let ifindex: u32 = read_field(dev, &OFF_NETDEV_IFINDEX)?;
    let device = if ifindex < SMALL {
        *PATH_SMALL.get(ifindex)?
    } else {
        // SAFETY: a copy of a u32 that is written whole.
        unsafe { PATH_DEVICES.get(ifindex) }.copied()?
    };
    if device == Device::NONE {
        return None;
    }
    if in_our_namespace(dev) { Some(device) } else { None }
}

/// Interface numbers are used anew in every network namespace.
#[inline(always)]
fn in_our_namespace(dev: u64) -> bool {
    let Some(config) = PATH_CONFIG.get(0) else { return false };
    if config.netns == 0 {
        return true;
    }
    let Some(known) = element(&PATH_NETNS, 0) else { return false };
    let Some(net) = read_field::<u64>(dev, &OFF_NETDEV_NET) else { return true };
    if *known == net {
        return true;
    }
    let ours = read_field::<u32>(net, &OFF_NET_INUM) == Some(config.netns);
    if ours {
        *known = net;
    }
    ours
}

/// The device that a packet is at.
#[inline(always)]
fn device_of(skb: u64) -> Option<Device> {
    device(read_field(skb, &OFF_SKB_DEV)?)
}

#[inline(always)]
fn flight(skb: u64) -> Option<&'static mut Flight> {
    // SAFETY: elements of a preallocated map stay valid memory; a packet is at one point at a time.
    FLIGHT.get_ptr_mut(skb).map(|p| unsafe { &mut *p })
}

#[inline(always)]
fn counts(device: Device) -> Option<&'static mut Counts> {
    // SAFETY: this CPU's copy, changed by atomic additions only.
    PATH_COUNTS.get_ptr_mut(device.index()).map(|p| unsafe { &mut *p })
}

#[inline(always)]
fn count(device: Device, point: Point, bytes: u64) -> Option<&'static mut Counts> {
    let counts = counts(device)?;
    add(&mut counts.packets[point as usize], 1);
    add(&mut counts.bytes[point as usize], bytes);
    Some(counts)
}

/// How many packets a merged one stands for; `None` for a plain one.
#[inline(always)]
fn segments(skb: u64, len: u32) -> Option<u64> {
    let head: u64 = read_field(skb, &OFF_SKB_HEAD)?;
    let end: u32 = read_field(skb, &OFF_SKB_END)?;
    let shared = head + u64::from(end);
    let size: u16 = read_field(shared, &OFF_SHINFO_GSO_SIZE)?;
    if size == 0 {
        return None;
    }
    match read_field::<u16>(shared, &OFF_SHINFO_GSO_SEGS)? {
        // Not counted yet, as of packets that a guest made: every segment but the last is full.
        0 => Some(u64::from(len.div_ceil(u32::from(size)))),
        segments => Some(u64::from(segments)),
    }
}

#[inline(never)]
fn record(device: u32, hop: u32, from: u64, to: u64) -> u32 {
    if to < from {
        lost(Lost::PathNegative);
    } else if let Some(hist) = element(&PATH_HIST, (device & 0xffff) * HOPS + hop) {
        record_shared(hist, to - from);
    }
    0
}

#[inline(always)]
fn hop(device: Device, hop: Hop, from: u64, to: u64) {
    record(device.0, hop as u32, from, to);
}

/// Whether the packet that enters now is to be followed. The share adapts to the load: each doubling halves the cost.
#[inline(always)]
fn to_be_followed(sampling: &mut Sampling, ns: u64) -> bool {
    add(&mut sampling.seen, 1);
    if sampling.skip > 0 {
        sampling.skip -= 1;
        return false;
    }
    let limit = PATH_CONFIG.get(0).map_or(0, |config| config.limit);
    let every = sampling.every.max(1);
    sampling.since += 1;
    let mut next = every;
    if limit == 0 {
        next = 1;
    } else if sampling.since >= limit {
        next = every.saturating_mul(2).min(1 << 20);
        sampling.since = 0;
        sampling.since_ns = ns;
    } else if ns.wrapping_sub(sampling.since_ns) >= STRETCH_NS {
        if sampling.since < limit / 4 {
            next = (every / 2).max(1);
        }
        sampling.since = 0;
        sampling.since_ns = ns;
    }
    sampling.every = next;
    sampling.most = sampling.most.max(next);
    sampling.skip = next - 1;
    true
}

/// Follows a packet from here on.
#[inline(never)]
fn follow(skb: u64, begun: &Flight) -> u32 {
    let mut begun = *begun;
    begun.seq = next_index(Table::Flights);
    let Some(place) = element(&FLIGHT_RING, begun.seq & (FLIGHTS - 1)) else { return 0 };
    let oldest = *place;
    if oldest != 0
        && oldest != skb
        && let Some(old) = flight(oldest)
        && begun.seq.wrapping_sub(old.seq) == FLIGHTS
    {
        let _ = FLIGHT.remove(oldest);
        lost(Lost::FlightEvicted);
    }
    *place = skb;
    if FLIGHT.insert(skb, begun, 0).is_err() {
        lost(Lost::FlightsFull);
        return 0;
    }
    1
}

/// A packet enters a path; whether it is followed. Whatever was followed at its address has gone.
#[inline(always)]
fn enter(skb: u64, from: Device, to: Device, ns: u64) -> bool {
    let Some(sampling) = own_element(&PATH_SAMPLING) else { return false };
    if !to_be_followed(sampling, ns) {
        let _ = FLIGHT.remove(skb);
        sampling.current = 0;
        return false;
    }
    let state = if to == Device::NONE { ENTERED } else { QUEUED };
    let begun = Flight { first_ns: ns, last_ns: ns, seq: 0, state, from, to };
    if follow(skb, &begun) == 0 {
        return false;
    }
    add(&mut sampling.followed, 1);
    sampling.current = skb;
    true
}

// match-proto:v5.15:include/trace/events/net.h:netif_receive_skb(struct sk_buff *skb)
#[raw_tracepoint(tracepoint = "netif_receive_skb")]
fn path_receive(ctx: RawTracePointContext) -> i32 {
    let skb = ctx.arg::<u64>(0);
    let Some(device) = device_of(skb) else { return 0 };
    let ns = now();
    if !in_window(ns) {
        return 0;
    }
    let len = read_field::<u32>(skb, &OFF_SKB_LEN).unwrap_or(0);
    // The link-layer header has been taken off by now (eth_type_trans).
    let counts = count(device, Point::Received, u64::from(len) + 14);
    // A copy that macvlan made for it of a packet to many: what it was made of was seen at the device below. A packet that
    // had this address before has gone unseen.
    if device.is(Role::Macvtap) {
        let _ = FLIGHT.remove(skb);
        return 0;
    }
    if !device.is(Role::Bridge) {
        if enter(skb, device, Device::NONE, ns) && device.is_tap() {
            merged_in(counts, skb, len);
        }
        return 0;
    }
    // Up to the host itself.
    if let Some(flight) = flight(skb) {
        let flight = *flight;
        let _ = FLIGHT.remove(skb);
        if flight.state == ENTERED && flight.from.is_tap() {
            hop(flight.from, Hop::OutBridge, flight.last_ns, ns);
            hop(flight.from, Hop::OutTotal, flight.first_ns, ns);
        }
    }
    0
}

/// The followed packet that `skb` was cloned from, if it was: both live, and share their data.
#[inline(always)]
fn original(sampling: &Sampling, skb: u64) -> Option<Flight> {
    let current = sampling.current;
    if current == 0 || current == skb {
        return None;
    }
    let flight = *flight(current)?;
    let (one, other) = (read_field::<u64>(current, &OFF_SKB_HEAD)?, read_field::<u64>(skb, &OFF_SKB_HEAD)?);
    if one == other { Some(flight) } else { None }
}

#[inline(always)]
fn merged_in(counts: Option<&mut Counts>, skb: u64, len: u32) {
    if let Some(counts) = counts
        && let Some(segments) = segments(skb, len)
    {
        add(&mut counts.merged_in, 1);
        add(&mut counts.segments_in, segments);
    }
}

#[inline(always)]
fn merged_out(counts: Option<&mut Counts>, skb: u64, len: u32) {
    if let Some(counts) = counts
        && let Some(segments) = segments(skb, len)
    {
        add(&mut counts.merged_out, 1);
        add(&mut counts.segments_out, segments);
    }
}

// match-proto:v5.15:include/trace/events/net.h:net_dev_queue(struct sk_buff *skb)
#[raw_tracepoint(tracepoint = "net_dev_queue")]
fn path_queue(ctx: RawTracePointContext) -> i32 {
    let skb = ctx.arg::<u64>(0);
    let Some(device) = device_of(skb) else { return 0 };
    let ns = now();
    if !in_window(ns) {
        return 0;
    }
    let len = read_field::<u32>(skb, &OFF_SKB_LEN).unwrap_or(0);
    let counts = count(device, Point::Queued, u64::from(len));
    if device.is(Role::Bridge) {
        // From the host itself.
        enter(skb, device, Device::NONE, ns);
        return 0;
    }
    if device.is(Role::Macvtap) {
        // From the guest.
        if enter(skb, device, Device::NONE, ns) {
            merged_in(counts, skb, len);
        }
        return 0;
    }
    if device.is(Role::LoneTap) {
        if enter(skb, device, device, ns) {
            merged_out(counts, skb, len);
        }
        return 0;
    }
    let mut begun = match flight(skb) {
        Some(flight) if flight.state == ENTERED => *flight,
        // An address used again: whatever was there has gone unseen.
        Some(_) => {
            let _ = FLIGHT.remove(skb);
            return 0;
        }
        None => {
            let Some(sampling) = own_element(&PATH_SAMPLING) else { return 0 };
            let Some(begun) = original(sampling, skb) else { return 0 };
            if follow(skb, &begun) == 0 {
                return 0;
            }
            add(&mut sampling.clones, 1);
            begun
        }
    };
    if begun.from.is_tap() {
        hop(begun.from, Hop::OutBridge, begun.last_ns, ns);
    }
    if device.is_tap() {
        merged_out(counts, skb, len);
        hop(device, Hop::InBridge, begun.last_ns, ns);
    } else if !begun.from.is_tap() {
        // Between the host and its uplink: no guest's.
        let _ = FLIGHT.remove(skb);
        return 0;
    }
    if let Some(flight) = flight(skb) {
        begun.seq = flight.seq;
        begun.last_ns = ns;
        begun.state = QUEUED;
        begun.to = device;
        *flight = begun;
    }
    0
}

// match-proto:v5.15:include/trace/events/net.h:net_dev_start_xmit(const struct sk_buff *skb, const struct net_device *dev)
#[raw_tracepoint(tracepoint = "net_dev_start_xmit")]
fn path_start(ctx: RawTracePointContext) -> i32 {
    let skb = ctx.arg::<u64>(0);
    let Some(flight) = flight(skb) else { return 0 };
    // The way through the bridge's own device to its ports.
    if flight.state != QUEUED {
        return 0;
    }
    let ns = now();
    if flight.from.is_tap() && flight.from != flight.to {
        hop(flight.from, Hop::OutQdisc, flight.last_ns, ns);
        hop(flight.from, Hop::OutTotal, flight.first_ns, ns);
    }
    if flight.to.is_tap() {
        hop(flight.to, Hop::InQdisc, flight.last_ns, ns);
        flight.last_ns = ns;
        flight.state = GIVEN;
    } else {
        let _ = FLIGHT.remove(skb);
    }
    0
}

/// include/linux/netdevice.h, `enum netdev_tx`.
const NETDEV_TX_OK: i32 = 0;
const NETDEV_TX_BUSY: i32 = 0x10;

// match-proto:v5.15:include/trace/events/net.h:net_dev_xmit(struct sk_buff *skb, int rc, struct net_device *dev, unsigned int skb_len)
#[raw_tracepoint(tracepoint = "net_dev_xmit")]
fn path_xmit(ctx: RawTracePointContext) -> i32 {
    // The packet may be gone by now; the device is not.
    let Some(device) = device(ctx.arg::<u64>(2)) else { return 0 };
    if !in_window(now()) {
        return 0;
    }
    match ctx.arg::<u64>(1) as i32 {
        NETDEV_TX_OK => {
            count(device, Point::Sent, u64::from(ctx.arg::<u64>(3) as u32));
        }
        NETDEV_TX_BUSY => {
            if let Some(counts) = counts(device) {
                add(&mut counts.busy, 1);
            }
        }
        _ => {}
    }
    0
}

/// The macvtap that a packet has got to since it was received from the device below: macvlan says so only by the packet's
/// device (drivers/net/macvlan.c, `macvlan_handle_frame`).
#[inline(always)]
fn macvtap(skb: u64, flight: &Flight) -> Option<Device> {
    if flight.state != ENTERED || !flight.from.is(Role::Uplink) {
        return None;
    }
    device_of(skb).filter(|device| device.is(Role::Macvtap))
}

// match-proto:v5.15:include/trace/events/skb.h:consume_skb(struct sk_buff *skb)
// match-proto:v6.6:include/trace/events/skb.h:consume_skb(struct sk_buff *skb, void *location)
#[raw_tracepoint(tracepoint = "consume_skb")]
fn path_consume(ctx: RawTracePointContext) -> i32 {
    let skb = ctx.arg::<u64>(0);
    let Some(flight) = flight(skb) else { return 0 };
    let ns = now();
    let flight = *flight;
    let _ = FLIGHT.remove(skb);
    let to = if flight.state == GIVEN { Some(flight.to) } else { macvtap(skb, &flight) };
    if let Some(to) = to {
        hop(to, Hop::InRing, flight.last_ns, ns);
        hop(to, Hop::InTotal, flight.first_ns, ns);
        let len = read_field::<u32>(skb, &OFF_SKB_LEN).unwrap_or(0);
        let counts = count(to, Point::Read, u64::from(len));
        if to.is(Role::Macvtap) {
            merged_out(counts, skb, len);
        }
    } else if let Some(sampling) = own_element(&PATH_SAMPLING) {
        add(&mut sampling.left, 1);
    }
    0
}

#[inline(always)]
fn dropped(skb: u64, reason: u32) {
    let Some(flight) = flight(skb) else { return };
    let mut key = DropKey { from: flight.from, to: flight.to, state: flight.state, reason };
    if let Some(to) = macvtap(skb, flight) {
        key.to = to;
        key.state = GIVEN;
    }
    let _ = FLIGHT.remove(skb);
    let known = PATH_DROPS.get_ptr_mut(key).or_else(|| {
        // Another CPU may be first; its zero is as good.
        if PATH_DROPS.insert(key, 0, 1).is_err() && PATH_DROPS.get_ptr_mut(key).is_none() {
            lost(Lost::PathDropsFull);
        }
        PATH_DROPS.get_ptr_mut(key)
    });
    if let Some(n) = known {
        // SAFETY: an element of a preallocated map, changed by atomic additions only.
        add(unsafe { &mut *n }, 1);
    }
}

// match-proto:v6.1:include/trace/events/skb.h:kfree_skb(struct sk_buff *skb, void *location, enum skb_drop_reason reason)
// match-proto:v6.12:include/trace/events/skb.h:kfree_skb(struct sk_buff *skb, void *location, enum skb_drop_reason reason, struct sock *rx_sk)
#[raw_tracepoint(tracepoint = "kfree_skb")]
fn path_drop(ctx: RawTracePointContext) -> i32 {
    dropped(ctx.arg(0), ctx.arg::<u64>(2) as u32);
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "tracepoint/skb/kfree_skb")]
fn path_drop_tp(ctx: *mut core::ffi::c_void) -> u32 {
    let ctx = TracePointContext::new(ctx);
    if let Some(skb) = read_record(&ctx, &REC_KFREE_SKB) {
        dropped(skb, 0);
    }
    SEEN
}
