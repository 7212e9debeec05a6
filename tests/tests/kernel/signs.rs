//! What a controller is woken by: signs are counted, and the bell rings for them. Other guests of this machine may ring it too,
//! so what is asserted is that it does ring, and that counts grow by what was done here at least.

use super::delivery::{IRQ, machine, run};
use super::vectors::{interrupt, scene, to};
use probe_ebpf::signs::Sign;
use probe_user::app::observe::Observer;
use probe_user::bpf::Bell;
use probe_user::host::HostRoot;
use probe_user::model::topology::{DeliveryMode, Topology};
use probe_user::probes::MapReader as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

fn count(observer: &mut Observer, sign: Sign) -> u64 {
    observer.loaded_mut().maps().sign(sign).unwrap()
}

/// Waits for it, long enough for a very busy machine.
#[track_caller]
fn rings(bell: &Bell) {
    let mut fds = [PollFd::new(bell, PollFlags::IN)];
    let ready = poll(&mut fds, Some(&Timespec { tv_sec: 60, tv_nsec: 0 })).unwrap();
    assert_eq!(ready, 1, "it does not ring");
}

#[test]
fn the_bell_rings_for_interrupts_that_are_set_up() {
    let mut observer = Observer::start(&HostRoot::live(), &Topology::default()).unwrap();
    let before = count(&mut observer, Sign::Setup);
    // Counted also while nobody listens.
    run(&mut observer, "irq_enabled_raw", &[IRQ.into(), 0, 0, 0]);
    assert!(count(&mut observer, Sign::Setup) > before);
    let mut bell = observer.bell().unwrap().unwrap();
    for _ in 0..3 {
        bell.silence();
        let before = count(&mut observer, Sign::Setup);
        run(&mut observer, "irq_enabled_raw", &[IRQ.into(), 0, 0, 0]);
        rings(&bell);
        assert!(count(&mut observer, Sign::Setup) > before);
    }
}

#[test]
fn a_full_ring_loses_nothing() {
    const TIMES: u64 = 1000;
    let mut observer = Observer::start(&HostRoot::live(), &Topology::default()).unwrap();
    let mut bell = observer.bell().unwrap().unwrap();
    for _ in 0..3 {
        let before = count(&mut observer, Sign::Setup);
        // More than a page holds.
        for _ in 0..TIMES {
            run(&mut observer, "irq_enabled_raw", &[IRQ.into(), 0, 0, 0]);
        }
        rings(&bell);
        bell.silence();
        assert!(count(&mut observer, Sign::Setup) >= before + TIMES);
    }
    run(&mut observer, "irq_enabled_raw", &[IRQ.into(), 0, 0, 0]);
    rings(&bell);
}

#[test]
fn the_bell_rings_for_vcpus_and_for_vectors_that_move() {
    let (_topology, mut observer, _) = scene(2, DeliveryMode::Remapped);
    let (vm, _vcpus) = machine(2);
    let mut bell = observer.bell().unwrap().unwrap();
    // A real interrupt of this CPU may end ours early; then it goes to no vCPU.
    let mut send = |apic: u32| {
        let before = count(&mut observer, Sign::Destination);
        for _ in 0..20 {
            interrupt(&mut observer, &vm, to(apic, 0x41));
            if count(&mut observer, Sign::Destination) > before {
                return true;
            }
        }
        false
    };
    for (apic, moves) in [(0, true), (0, false), (1, true), (1, false), (0, true)] {
        bell.silence();
        assert_eq!(send(apic), moves, "to {apic}");
        if moves {
            rings(&bell);
        }
    }
    // Freed, as it is when the guest is reset.
    bell.silence();
    let before = count(&mut observer, Sign::Setup);
    run(&mut observer, "irq_freed_raw", &[IRQ.into(), 0, 0, 0]);
    rings(&bell);
    assert!(count(&mut observer, Sign::Setup) > before);
}
