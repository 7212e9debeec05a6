//! The slow path with a real irqfd and a real work queue: an IOAPIC pin cannot be set from an interrupt, so KVM leaves
//! it to the queue, as it does with an MSI that it cannot route at once.
//!
//! The hard interrupt around the eventfd's signal is made up, as in `delivery`.

use super::delivery::{ACTION, IRQ, machine, run, teach, topology, total};
use kvm_bindings::{KVM_IRQCHIP_IOAPIC, kvm_irqchip};
use kvm_ioctls::VmFd;
use probe_user::app::observe::Observer;
use probe_user::host::HostRoot;
use probe_user::model::topology::Topology;
use probe_user::stats::Snapshot;
use std::process::Command;
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// An IOAPIC pin that no PIC shares.
const PIN: u32 = 20;
const VECTOR: u64 = 0x51;

/// An eventfd on that pin, which is unmasked, edge-triggered, and goes to APIC 0.
fn irqfd(vm: &VmFd) -> EventFd {
    let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..kvm_irqchip::default() };
    vm.get_irqchip(&mut chip).unwrap();
    // SAFETY: the IOAPIC was asked for above, so that is the member in use.
    let ioapic = unsafe { &mut chip.chip.ioapic };
    ioapic.redirtbl[PIN as usize].bits = VECTOR;
    vm.set_irqchip(&chip).unwrap();
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    vm.register_irqfd(&event, PIN).unwrap();
    event
}

/// Keeps this thread on the CPU it is on: the made-up interrupt and what is nested in it belong to one CPU.
pub(super) fn stay_here() {
    let mut set = rustix::thread::CpuSet::new();
    set.set(rustix::thread::sched_getcpu());
    rustix::thread::sched_setaffinity(None, &set).unwrap();
}

/// Lets nothing but real interrupts come between what this thread does: a hard interrupt is not preempted either, and
/// the queue's thread runs on the same CPU.
fn like_an_interrupt(tid: u32) {
    let status = Command::new("chrt").args(["-f", "-p", "1", &tid.to_string()]).status();
    assert!(status.expect("chrt is needed (util-linux)").success());
}

/// Interrupts of the slow path that have come to an end.
fn settled(snapshot: &Snapshot) -> u64 {
    let unjoined = snapshot.lost.get("irq_delivery.slow_path_unjoined").copied().unwrap_or(0);
    total(snapshot, "slow_accepted", None) + total(snapshot, "slow_merged", None) + unjoined
}

/// Waits until the queue has done all its work.
fn wait(observer: &mut Observer, topology: &Topology) -> Snapshot {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let snapshot = observer.snapshot(topology).unwrap();
        if settled(&snapshot) == total(&snapshot, "slow_path", None) {
            return snapshot;
        }
        let counters = &snapshot.counters;
        assert!(Instant::now() < deadline, "not done: {counters:?} {:?}", snapshot.lost);
        // Not a yield: the queue's thread has the lower priority.
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_the_work_queue_injects_belongs_to_its_interrupt() {
    const ROUNDS: u64 = 100;
    stay_here();
    let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    let topology = topology(&[tid]);
    let (vm, _vcpus) = machine(1);
    let event = irqfd(&vm);
    let mut observer = Observer::start(&HostRoot::live(), &topology).unwrap();
    teach(&mut observer, &[tid]);
    observer.open(None).unwrap();
    like_an_interrupt(tid);
    let interrupt = |observer: &mut Observer| {
        run(observer, "irq_entry_raw", &[IRQ.into(), ACTION]);
        event.write(1).unwrap();
        run(observer, "irq_exit_raw", &[IRQ.into(), ACTION, 1]);
    };

    for _ in 0..ROUNDS {
        interrupt(&mut observer);
        wait(&mut observer, &topology);
    }
    let apart = wait(&mut observer, &topology);
    let (slow, ended_early) = (total(&apart, "slow_path", None), total(&apart, "userspace", None));
    assert_eq!(slow + ended_early, ROUNDS, "each is handed over, or was ended by a real interrupt");
    assert!(slow > ROUNDS / 2, "only {slow} of {ROUNDS} were handed over");
    assert_eq!(total(&apart, "slow_merged", None), 0, "each waited for the one before");
    assert_eq!(total(&apart, "slow_accepted", None), slow, "{:?}", apart.lost);
    assert_eq!(total(&apart, "accepted", None), slow);

    // Without waiting in between they are raised while the work is waiting: each has exactly one end all the same.
    for _ in 0..ROUNDS {
        interrupt(&mut observer);
    }
    // The signal of an interrupt that was ended early may be the last to be injected; it is nobody's.
    let all = wait(&mut observer, &topology);
    assert_eq!(total(&all, "raised", None), 2 * ROUNDS);
    assert!(total(&all, "slow_merged", None) > 0, "{:?}", all.counters);
    assert_eq!(total(&all, "slow_path", None) + total(&all, "userspace", None), 2 * ROUNDS);
    let accepted = total(&all, "slow_accepted", None);
    let dispatch =
        all.series.iter().find(|s| s.labels.get("stage").is_some_and(|s| s == "dispatch")).unwrap();
    assert_eq!(dispatch.histogram.n(), accepted, "one dispatch per accept");
    assert_eq!(total(&all, "accepted", None), accepted, "nothing but the queue accepts here");

    // Outside an interrupt of the VF, the same work is nobody's.
    event.write(1).unwrap();
    // Waits for its work.
    vm.unregister_irqfd(&event, PIN).unwrap();
    let after = observer.snapshot(&topology).unwrap();
    assert_eq!(total(&after, "accepted", None), accepted);
}
