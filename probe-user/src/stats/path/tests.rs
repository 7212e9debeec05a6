//! A report of two guests: one on a tap, one with a VF.

use super::*;
use crate::model::topology::{Vcpu, Vf, Vmm};
use crate::model::{CpuSet, Pid};
use crate::stats::{Observability, Series};

pub(crate) fn labels(text: &str) -> Labels {
    text.split(',').filter_map(|pair| pair.split_once('=')).map(|(n, v)| (n.into(), v.into())).collect()
}

fn counter(probe: &str, name: &str, text: &str, value: u64) -> Counter {
    Counter { probe: probe.into(), name: name.into(), labels: labels(text), value }
}

fn series(probe: &str, text: &str, values: &[u64]) -> Series {
    let mut histogram = Histogram::default();
    values.iter().for_each(|v| histogram.record(*v));
    Series { probe: probe.into(), labels: labels(text), observable: Observability::Yes, histogram }
}

fn guest(name: &str, pid: u32) -> Guest {
    Guest {
        name: name.into(),
        uuid: None,
        pid: Pid(pid),
        start_time: 1,
        vmm: Vmm::Qemu,
        libvirt: false,
        vcpus: Vec::<Vcpu>::new(),
        threads: Vec::new(),
        vfs: Vec::new(),
        nics: Vec::new(),
    }
}

pub(crate) fn topology() -> Topology {
    let mut vm1 = guest("vm1", 100);
    vm1.vfs.push(Vf {
        address: "0000:01:10.0".parse().unwrap(),
        index: None,
        pf: "0000:01:00.0".parse().unwrap(),
        pf_netdev: Some("eth0".into()),
        numa_node: None,
        local_cpus: CpuSet::new(),
        driver: None,
        iommu_group: None,
        slots: Vec::new(),
        counters: None,
    });
    let mut vm2 = guest("vm2", 200);
    vm2.nics.push(Nic {
        netdev: "tap2".into(),
        ifindex: Some(7),
        path: PathKind::Vhost,
        card: Some("virtio-net-pci".into()),
        queues: 1,
        vhost: Some(true),
        bridge: Some("br0".into()),
        uplinks: vec!["eth0".into()],
    });
    Topology { guests: vec![vm1, vm2], ..Topology::default() }
}

pub(crate) fn snapshot() -> Snapshot {
    let tap = "guest=vm2,path=vhost,netdev=tap2";
    let to = |more: &str| format!("{tap},direction=to_guest,{more}");
    let from = |more: &str| format!("{tap},direction=from_guest,{more}");
    let own = |name, text: &str, value| counter(PROBE, name, text, value);
    Snapshot {
        from_ns: 1_000_000_000,
        to_ns: 2_000_000_000,
        series: vec![
            series("irq_delivery", "guest=vm1,vf=0000:01:10.0,slot=0,vcpu=0,stage=delivery", &[900, 1100]),
            series("irq_delivery", "guest=vm1,vf=0000:01:10.0,slot=1,vcpu=0,stage=delivery", &[1000]),
            series("irq_delivery", "guest=vm1,vf=0000:01:10.0,slot=1,vcpu=0,stage=wake", &[7]),
            series(PROBE, &to("hop=total"), &[6000, 8000]),
            series(PROBE, &to("hop=bridge"), &[1000, 2000]),
            series(PROBE, &to("hop=qdisc"), &[500, 500]),
            series(PROBE, &to("hop=ring"), &[4500, 5500]),
            series(PROBE, &from("hop=bridge"), &[1500]),
        ],
        counters: vec![
            counter("irq_delivery", "raised", "guest=vm1,vf=0000:01:10.0,slot=0", 2),
            counter("irq_delivery", "raised", "guest=vm1,vf=0000:01:10.0,slot=1", 1),
            counter("vm_exit", "guest_ns", "guest=vm1,vcpu=0", 900),
            counter("vm_exit", "guest_ns", "guest=vm2,vcpu=0", 300),
            own("packets", &to("point=sent"), 3),
            own("packets", &to("point=queued"), 4),
            own("bytes", &to("point=queued"), 240),
            own("packets", &from("point=received"), 2),
            own("bytes", &from("point=received"), 120),
            own("merged", &format!("{tap},direction=from_guest"), 1),
            own("segments", &format!("{tap},direction=from_guest"), 9),
            own("dropped", &to("hop=ring,reason=FULL_RING"), 1),
            own("busy", tap, 1),
            own("seen", "", 6),
            own("followed", "", 6),
            own("one_in_most", "", 1),
            own("polled", "", 4),
            own("softirq_ns", "kind=net_rx", 800),
            own("softirq_ns", "kind=net_tx", 200),
            own("cpu_ns", "guest=vm1,kind=vcpu", 1000),
            own("cpu_ns", "guest=vm1,kind=vmm", 20),
            own("cpu_ns", "guest=vm2,kind=vcpu", 800),
            own("cpu_ns", "guest=vm2,kind=vhost", 400),
            own("cpu_ns", "guest=vm2,kind=vmm", 100),
        ],
        ..Snapshot::default()
    }
}

#[test]
fn a_tap_has_hops_in_order_and_a_price() {
    let report = report(&snapshot(), &topology(), &BTreeMap::new());
    let tap = &report.taps[0];
    let points: Vec<_> = tap.to_guest.points.iter().map(|p| (p.point.as_str(), p.packets, p.bytes)).collect();
    assert_eq!(points, [("queued", 4, 240), ("sent", 3, 0)]);
    let hops: Vec<_> = tap.to_guest.hops.iter().map(|h| (h.hop.as_str(), h.n, h.max_ns)).collect();
    assert_eq!(
        hops,
        [
            ("bridge", 2, Some(2000)),
            ("qdisc", 2, Some(500)),
            ("ring", 2, Some(5500)),
            ("total", 2, Some(8000))
        ]
    );
    assert_eq!((tap.to_guest.hops_taken(), tap.from_guest.hops_taken()), (3, 1));
    assert_eq!(tap.to_guest.total().map(|t| t.n), Some(2));
    let drop = Drop { hop: "ring".into(), reason: "FULL_RING".into(), packets: 1 };
    assert_eq!((&tap.to_guest.drops[..], tap.busy), (&[drop][..], 1));
    assert_eq!((tap.from_guest.merged, tap.from_guest.segments), (1, 9));
    // 500 outside the guest, 100 and 400 of other threads, for 3 packets in and 2 out.
    let cost = tap.cost.unwrap();
    assert_eq!((cost.total_ns(), cost.packets, cost.per_packet_ns), (1000, Some(5), Some(200.0)));
    assert_eq!(report.softirq.unwrap().per_packet_ns, Some(250.0));
    assert_eq!(report.followed, Some(Followed { seen: 6, followed: 6, one_in_most: 1 }));
}

#[test]
fn hops_of_single_packets_are_not_the_path_s() {
    for (n, expected) in
        [(&[170, 170, 0][..], 2), (&[170, 1, 170], 2), (&[5, 3, 2], 2), (&[1, 1], 2), (&[], 0)]
    {
        let hops = ["bridge", "qdisc", "ring"].into_iter().zip(n);
        let mut hops: Vec<_> = hops
            .map(|(hop, n)| HopTime { n: *n, ..hop_time(hop.into(), &Histogram::default(), None) })
            .collect();
        hops.push(HopTime { n: 500, ..hop_time("total".into(), &Histogram::default(), None) });
        assert_eq!(Way { hops, ..Way::default() }.hops_taken(), expected, "{n:?}");
    }
}

#[test]
fn a_vf_has_interrupts_and_what_its_driver_tells() {
    let address: PciAddress = "0000:01:10.0".parse().unwrap();
    let told = VfTraffic { rx_packets: Some(6), tx_packets: Some(4), ..VfTraffic::default() };
    for (traffic, packets, per_packet) in
        [(BTreeMap::new(), None, None), (BTreeMap::from([(address, told)]), Some(10), Some(12.0))]
    {
        let report = report(&snapshot(), &topology(), &traffic);
        let vf = &report.vfs[0];
        let slots: Vec<_> = vf.slots.iter().map(|s| (s.slot.as_str(), s.raised)).collect();
        assert_eq!(slots, [("0", 2), ("1", 1)]);
        assert_eq!((vf.delivery.n, vf.delivery.max_ns), (3, Some(1100)));
        let cost = vf.cost.unwrap();
        assert_eq!((cost.packets, cost.per_packet_ns), (packets, per_packet));
    }
}

#[test]
fn what_was_not_counted_has_no_price() {
    let mut snapshot = snapshot();
    snapshot.counters.retain(|c| c.name != "guest_ns" && c.name != "seen" && c.name != "polled");
    let report = report(&snapshot, &topology(), &BTreeMap::new());
    assert_eq!((report.taps[0].cost, report.followed, report.softirq), (None, None, None));
    let mut elsewhere = topology();
    elsewhere.guests[1].nics[0].ifindex = None;
    let report = super::report(&Snapshot::default(), &elsewhere, &BTreeMap::new());
    assert_eq!(report.taps[0].not_followed.as_deref(), Some("not in this network namespace"));
}

#[test]
fn packets_of_a_macvtap_are_known_when_all_are_followed() {
    let mut topology = topology();
    topology.guests[1].nics[0].path = PathKind::Macvtap;
    for (one_in, packets) in [(1, Some(12)), (2, None)] {
        let mut snapshot = snapshot();
        let tap = "guest=vm2,path=macvtap,netdev=tap2";
        snapshot.counters.retain(|c| c.name != "packets" && c.name != "one_in_most");
        snapshot.counters.extend([
            counter(PROBE, "packets", &format!("{tap},direction=to_guest,point=read"), 5),
            counter(PROBE, "packets", &format!("{tap},direction=to_guest,point=received"), 2),
            counter(PROBE, "packets", &format!("{tap},direction=from_guest,point=queued"), 7),
            counter(PROBE, "packets", &format!("{tap},direction=from_guest,point=sent"), 7),
            counter(PROBE, "one_in_most", "", one_in),
        ]);
        let report = report(&snapshot, &topology, &BTreeMap::new());
        assert_eq!(report.taps[0].cost.unwrap().packets, packets);
    }
}
