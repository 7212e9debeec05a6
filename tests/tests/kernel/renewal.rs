//! Maps that are full of guests that are gone are made anew, with what was seen of interrupts.

use super::delivery::{IRQ, change_vcpu, run, topology};
use probe_user::app::observe::Observer;
use probe_user::host::HostRoot;
use probe_user::model::IrqNumber;
use probe_user::model::topology::{DeliveryMode, Slot, Topology};
use probe_user::probes::MapReader as _;
use probe_user::probes::vectors::Look;

/// vCPU threads of a process.
fn vcpus(observer: &mut Observer, tgid: u32, tids: std::ops::Range<u32>) {
    for tid in tids {
        let index = u32::try_from(observer.loaded_mut().maps().vcpus().unwrap().len()).unwrap();
        change_vcpu(observer.loaded_mut().ebpf_mut(), index, |vcpu| (vcpu.tid, vcpu.tgid) = (tid, tgid));
    }
}

#[test]
fn maps_full_of_guests_that_are_gone_are_made_anew() {
    let own = std::process::id();
    let mut topology: Topology = topology(&[own]);
    topology.guests[0].vfs[0].slots.push(Slot {
        slot: 1,
        irq: IrqNumber(IRQ),
        affinity: None,
        effective_affinity: None,
        host_vector: None,
        guest_vector: None,
        vcpu: None,
        mode: DeliveryMode::Unknown,
    });
    let mut observer = Observer::start(&HostRoot::live(), &topology).unwrap();
    observer.open(None).unwrap();
    assert!(!observer.is_crowded(&topology).unwrap());
    // Room for 64 on a small host: one of this process, the others of one that is gone.
    vcpus(&mut observer, own, 1..2);
    vcpus(&mut observer, 1_000_000, 2_000_000..2_000_046);
    assert!(!observer.is_crowded(&topology).unwrap());
    vcpus(&mut observer, 1_000_000, 2_000_046..2_000_047);
    assert!(observer.is_crowded(&topology).unwrap());

    run(&mut observer, "irq_vector_raw", &[IRQ.into(), 96, 2, 5]);
    run(&mut observer, "irq_enabled_raw", &[IRQ.into(), 0, 0, 0]);
    assert!(matches!(observer.bell(), Some(Ok(_))));
    assert!(observer.bell().is_none(), "it is given to who asks first");
    let mut next = observer.renewed(&HostRoot::live(), &topology).unwrap();
    drop(observer);
    next.open(None).unwrap();
    assert!(!next.is_crowded(&topology).unwrap());
    next.look(&mut topology, &Look::default()).unwrap();
    assert_eq!(topology.guests[0].vfs[0].slots[0].host_vector, Some(96), "seen before");
    let enabler = super::vectors::known_irq(&mut next).enabler;
    assert_eq!(enabler, own);
    assert!(matches!(next.bell(), Some(Ok(_))), "another one rings from here on");
}
