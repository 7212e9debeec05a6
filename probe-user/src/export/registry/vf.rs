//! Metrics of VFs as their PFs' drivers count them.

use super::{Kind, Metric, Origin, Unit};

const fn vf(name: &'static str, unit: Unit, help: &'static str) -> Metric {
    let labels = &["pf", "vf", "pci_address"];
    Metric { name, kind: Kind::Counter, unit, labels, help, origin: Origin::Driver }
}

pub(super) const ROWS: &[Metric] = &[
    vf(
        "vfprobe_vf_receive_packets_total",
        Unit::None,
        "Packets that the VF received; absent while 0 or not reported",
    ),
    vf(
        "vfprobe_vf_receive_bytes_total",
        Unit::Bytes,
        "Bytes that the VF received; absent while 0 or not reported",
    ),
    vf(
        "vfprobe_vf_receive_dropped_total",
        Unit::None,
        "Packets for the VF that were dropped; absent while 0 or not reported",
    ),
    vf(
        "vfprobe_vf_transmit_packets_total",
        Unit::None,
        "Packets that the VF sent; absent while 0 or not reported",
    ),
    vf(
        "vfprobe_vf_transmit_bytes_total",
        Unit::Bytes,
        "Bytes that the VF sent; absent while 0 or not reported",
    ),
    vf(
        "vfprobe_vf_transmit_dropped_total",
        Unit::None,
        "Packets from the VF that were dropped; absent while 0 or not reported",
    ),
];
