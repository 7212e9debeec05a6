//! Maps that are full, or would be if they did not grow with the host: what does not fit is counted. The programs run with
//! arguments of our own and are not attached.

use super::delivery::topology;
use super::exits::Scene;
use aya::maps::HashMap;
use probe_ebpf::probes::irq_delivery::{Apicv, Posted};
use probe_user::app::observe::sizes_for;
use probe_user::bpf::Loaded;
use probe_user::host::HostRoot;
use probe_user::model::PciAddress;
use probe_user::model::topology::{Topology, Vf};
use std::collections::BTreeMap;

/// More interrupts and guests than `Scene` has room for.
const MANY: u32 = 20;

#[test]
fn what_hardware_delivery_has_no_room_for_is_counted() {
    let mut scene = Scene::new();
    for irq in 0..MANY {
        scene.run("irq_posted_raw", &[irq.into(), 0, 0, 0x41, 1, 1]);
    }
    let posted: HashMap<_, u32, Posted> =
        scene.loaded.ebpf_mut().map_mut("POSTED").unwrap().try_into().unwrap();
    let left = u64::from(MANY) - u64::try_from(posted.keys().count()).unwrap();
    assert!(left > 0, "room for {MANY}");
    assert_eq!(scene.lost(), BTreeMap::from([("irq_delivery.posted_full".to_owned(), left)]));

    let mut scene = Scene::new();
    let mut apicv: HashMap<_, u32, Apicv> =
        scene.loaded.ebpf_mut().map_mut("APICV").unwrap().try_into().unwrap();
    let others = (1_000_000..1_000_000 + MANY).take_while(|tgid| {
        let other = Apicv { inhibits: 0, changes: 0 };
        apicv.insert(tgid, other, 0).is_ok()
    });
    assert!(others.count() < usize::try_from(MANY).unwrap(), "room for {MANY}");
    scene.run("irq_inhibit_raw", &[1, 1, 2]);
    assert_eq!(scene.lost(), BTreeMap::from([("irq_delivery.apicv_full".to_owned(), 1)]));
}

#[test]
fn a_host_with_hundreds_of_vfs_is_observed() {
    for vfs in [10, 256, 257, 600, 2000] {
        let packed = (0..vfs).map(|index: u32| 0x1_0000 + index);
        let one = topology(&[1]).guests.remove(0).vfs.remove(0);
        let free_vfs = packed.clone().map(|vf| Vf { address: PciAddress::from_packed(vf), ..one.clone() });
        let topology = Topology { free_vfs: free_vfs.collect(), ..Topology::default() };
        let mut loaded = Loaded::detached(&HostRoot::live(), sizes_for(&topology)).unwrap();
        let owners = packed.map(|vf| (vf, 1)).collect();
        loaded.set_owners(&owners).unwrap_or_else(|error| panic!("{vfs} VFs: {error}"));
    }
}
