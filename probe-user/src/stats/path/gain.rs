//! What a guest on a tap would gain from a VF: its path beside that of a VF that was measured on the same host at the same
//! time. No forecast: the VF's figures are another guest's, under that guest's traffic (docs/path.md).

use super::{Report, TapPath, VfPath};
use crate::model::PciAddress;
use crate::stats::to_f64;
use serde::Serialize;

/// A tap, and a VF to compare it with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gain {
    /// The guest.
    pub guest: String,
    /// The host's interface.
    pub netdev: String,
    /// What its path takes.
    pub now: Price,
    /// What a VF's takes; `None` when no guest of the host has one.
    pub vf: Option<VfPrice>,
}

/// What a VF's path takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VfPrice {
    /// The guest that has it.
    pub guest: String,
    /// The VF.
    pub address: PciAddress,
    /// Its price.
    #[serde(flatten)]
    pub price: Price,
}

/// Hops, times and CPU time of a path. What is `None` was not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Price {
    /// Hops of the host that packets to the guest take ([`Way::hops_taken`](super::Way::hops_taken)).
    pub hops_to_guest: Option<usize>,
    /// The same of packets from the guest.
    pub hops_from_guest: Option<usize>,
    /// Median time on the host to the guest (ns).
    pub to_guest_p50_ns: Option<u64>,
    /// 99th percentile (ns).
    pub to_guest_p99_ns: Option<u64>,
    /// Median time on the host from the guest (ns); of a VF always `None`: there is none.
    pub from_guest_p50_ns: Option<u64>,
    /// 99th percentile (ns).
    pub from_guest_p99_ns: Option<u64>,
    /// CPU time of the guest's threads outside the guest and of vhost for each packet (ns).
    pub cpu_per_packet_ns: Option<f64>,
    /// The same for each interrupt of a VF (ns), for where the driver of the PF counts no packets. How many packets an
    /// interrupt stands for depends on driver and load, and may be less than one.
    pub cpu_per_interrupt_ns: Option<f64>,
}

/// One for each tap.
pub(super) fn gains(taps: &[TapPath], vfs: &[VfPath]) -> Vec<Gain> {
    let one = |tap: &TapPath| Gain {
        guest: tap.guest.clone(),
        netdev: tap.netdev.clone(),
        now: of_tap(tap),
        vf: reference(tap, vfs).map(of_vf),
    };
    taps.iter().map(one).collect()
}

/// The VF to compare with: one of the card that the tap's packets leave by, if there is, and of these the busiest.
fn reference<'a>(tap: &TapPath, vfs: &'a [VfPath]) -> Option<&'a VfPath> {
    let same_card = |vf: &VfPath| vf.pf.as_ref().is_some_and(|pf| tap.uplinks.contains(pf));
    // Of equals the last would be taken.
    vfs.iter().rev().max_by_key(|vf| (same_card(vf), vf.delivery.n, vf.raised()))
}

fn of_tap(tap: &TapPath) -> Price {
    if tap.not_followed.is_some() {
        return Price::default();
    }
    let (to, from) = (tap.to_guest.total(), tap.from_guest.total());
    Price {
        hops_to_guest: Some(tap.to_guest.hops_taken()),
        hops_from_guest: Some(tap.from_guest.hops_taken()),
        to_guest_p50_ns: to.and_then(|time| time.p50_ns),
        to_guest_p99_ns: to.and_then(|time| time.p99_ns),
        from_guest_p50_ns: from.and_then(|time| time.p50_ns),
        from_guest_p99_ns: from.and_then(|time| time.p99_ns),
        cpu_per_packet_ns: tap.cost.and_then(|cost| cost.per_packet_ns),
        cpu_per_interrupt_ns: None,
    }
}

fn of_vf(vf: &VfPath) -> VfPrice {
    let time = Some(&vf.delivery).filter(|time| time.not_observable.is_none());
    let price = Price {
        hops_to_guest: Some(0),
        hops_from_guest: Some(0),
        to_guest_p50_ns: time.and_then(|time| time.p50_ns),
        to_guest_p99_ns: time.and_then(|time| time.p99_ns),
        cpu_per_packet_ns: vf.cost.and_then(|cost| cost.per_packet_ns),
        cpu_per_interrupt_ns: vf
            .cost
            .filter(|_| vf.only_card && vf.raised() > 0)
            .map(|cost| to_f64(cost.total_ns()) / to_f64(vf.raised())),
        ..Price::default()
    };
    VfPrice { guest: vf.guest.clone(), address: vf.address, price }
}

impl Report {
    /// Leaves one guest's paths; what its taps are compared with stays, whoever has it.
    pub fn only(&mut self, guest: &str) {
        self.taps.retain(|tap| tap.guest == guest);
        self.vfs.retain(|vf| vf.guest == guest);
        self.gain.retain(|gain| gain.guest == guest);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        report,
        tests::{snapshot, topology},
    };
    use std::collections::BTreeMap;

    #[test]
    fn a_tap_stands_beside_the_busiest_vf_of_its_card() {
        let (snapshot, mut topology) = (snapshot(), topology());
        let told = |topology: &_| report(&snapshot, topology, &BTreeMap::new()).gain[0].clone();
        let gain = told(&topology);
        assert_eq!((gain.guest.as_str(), gain.netdev.as_str()), ("vm2", "tap2"));
        assert_eq!((gain.now.hops_to_guest, gain.now.hops_from_guest), (Some(3), Some(1)));
        assert_eq!((gain.now.to_guest_p50_ns, gain.now.cpu_per_packet_ns), (Some(6016), Some(200.0)));
        let vf = gain.vf.unwrap();
        assert_eq!(
            (vf.guest.as_str(), vf.price.hops_to_guest, vf.price.from_guest_p50_ns),
            ("vm1", Some(0), None)
        );
        // 100 and 20 ns for 3 interrupts; nobody counts this VF's packets.
        assert_eq!((vf.price.cpu_per_packet_ns, vf.price.cpu_per_interrupt_ns), (None, Some(40.0)));

        // A second one: idle, of the same card, of another one.
        let mut second = topology.guests[0].vfs[0].clone();
        second.address = "0000:01:10.4".parse().unwrap();
        for (pf, of_first, expected) in [
            ("eth0", "eth0", "0000:01:10.0"),
            ("eth1", "eth0", "0000:01:10.0"),
            ("eth0", "eth1", "0000:01:10.4"),
        ] {
            second.pf_netdev = Some(pf.to_owned());
            topology.guests[0].vfs[0].pf_netdev = Some(of_first.to_owned());
            let mut both = topology.clone();
            both.guests[0].vfs.push(second.clone());
            let vf = told(&both).vf.unwrap();
            assert_eq!(vf.address.to_string(), expected);
            // The threads serve both of the guest's cards.
            assert_eq!(vf.price.cpu_per_interrupt_ns, None);
        }
        topology.guests[0].vfs.clear();
        assert_eq!(told(&topology).vf, None);
    }

    #[test]
    fn one_guest_is_left_with_what_it_is_compared_with() {
        let mut report = report(&snapshot(), &topology(), &BTreeMap::new());
        report.only("vm2");
        assert_eq!((report.taps.len(), report.vfs.len(), report.gain.len()), (1, 0, 1));
        assert!(report.gain[0].vf.is_some());
        report.only("vm1");
        assert_eq!((report.taps.len(), report.gain.len()), (0, 0));
    }
}
