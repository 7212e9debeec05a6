//! The path of a VF: no hop of the host, its interrupts, and what the PF's driver counts.

use super::{Cost, Counters, HopTime, has, hop_time};
use crate::model::PciAddress;
use crate::model::topology::Guest;
use crate::stats::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a VF sent and received in the window; `None` where its PF's driver does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VfTraffic {
    /// Packets received.
    pub rx_packets: Option<u64>,
    /// Bytes received.
    pub rx_bytes: Option<u64>,
    /// Packets for it that were dropped.
    pub rx_dropped: Option<u64>,
    /// Packets sent.
    pub tx_packets: Option<u64>,
    /// Bytes sent.
    pub tx_bytes: Option<u64>,
    /// Packets from it that were dropped.
    pub tx_dropped: Option<u64>,
}

/// A VF of a guest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VfPath {
    /// The guest.
    pub guest: String,
    /// The VF.
    pub address: PciAddress,
    /// The PF's interface.
    pub pf: Option<String>,
    /// What it sent and received; what is `null` is not reported.
    pub traffic: VfTraffic,
    /// Its interrupts by vector slot.
    pub slots: Vec<VfSlot>,
    /// From the interrupt until the guest is entered with it: the host's part of the way to the guest.
    pub delivery: HopTime,
    /// What the host's CPUs did for the guest.
    pub cost: Option<Cost>,
    /// Whether the guest has no other card, so that the cost is this one's.
    #[serde(skip)]
    pub only_card: bool,
}

impl VfPath {
    /// Interrupts of all its slots.
    #[must_use]
    pub fn raised(&self) -> u64 {
        self.slots.iter().map(|slot| slot.raised).sum()
    }
}

/// Interrupts of a vector slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VfSlot {
    /// MSI-X table index.
    pub slot: String,
    /// Interrupts in the window.
    pub raised: u64,
}

/// The VFs of a guest.
pub(super) fn paths(
    counters: &Counters<'_>,
    guest: &Guest,
    traffic: &BTreeMap<PciAddress, VfTraffic>,
) -> Vec<VfPath> {
    let one = |vf: &crate::model::topology::Vf| {
        let address = vf.address.to_string();
        let wanted = [("guest", guest.name.as_str()), ("vf", address.as_str())];
        let snapshot = counters.0;
        let raised = snapshot
            .counters
            .iter()
            .filter(|c| c.probe == "irq_delivery" && c.name == "raised" && has(&c.labels, &wanted));
        let slots = raised
            .map(|c| VfSlot { slot: c.labels.get("slot").cloned().unwrap_or_default(), raised: c.value });
        let deliveries = snapshot.series.iter().filter(|s| {
            s.probe == "irq_delivery"
                && has(&s.labels, &wanted)
                && s.labels.get("stage").is_some_and(|stage| stage == "delivery")
        });
        let (mut all, mut hidden, mut seen) = (Histogram::default(), None, false);
        for series in deliveries {
            all.merge(&series.histogram);
            seen |= series.observable.is_yes();
            hidden = hidden.or(series.observable.reason());
        }
        let traffic = traffic.get(&vf.address).copied().unwrap_or_default();
        let packets = traffic.rx_packets.zip(traffic.tx_packets).map(|(rx, tx)| rx + tx);
        let alone = guest.nics.len() + guest.vfs.len() == 1;
        VfPath {
            guest: guest.name.clone(),
            address: vf.address,
            pf: vf.pf_netdev.clone(),
            traffic,
            slots: slots.collect(),
            delivery: hop_time("delivery".to_owned(), &all, hidden.filter(|_| !seen)),
            cost: counters.cost(&guest.name).map(|cost| cost.shared_by(packets.filter(|_| alone))),
            only_card: alone,
        }
    };
    guest.vfs.iter().map(one).collect()
}
