//! How interrupts are set up, moved, freed and posted, and destinations of several vCPUs: the programs run with
//! arguments of our own (BPF_PROG_TEST_RUN), the accepts are real ones of /dev/kvm.

use super::delivery::{ACTION, IRQ, machine, run, teach, topology, total};
use super::slow_path::stay_here;
use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;
use probe_ebpf::probes::irq_delivery::{Posted, irte};
use probe_user::app::observe::Observer;
use probe_user::host::HostRoot;
use probe_user::model::topology::{DeliveryMode, Slot, Topology};
use probe_user::model::{CpuId, CpuSet, IrqNumber, VcpuId};
use probe_user::probes::vectors::Look;
use probe_user::stats::{Observability, Snapshot};

/// A guest of this process with an interrupt of its VF, and the programs that know of it.
pub(super) fn scene(vcpus: u32, mode: DeliveryMode) -> (Topology, Observer, Vec<u32>) {
    stay_here();
    let own = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    // Other vCPUs have no thread: nothing but accepts is looked at.
    let tids: Vec<u32> = (0..vcpus).map(|i| own + i * 1_000_000).collect();
    let mut topology = topology(&tids);
    topology.guests[0].vfs[0].slots.push(Slot {
        slot: 1,
        irq: IrqNumber(IRQ),
        affinity: None,
        effective_affinity: Some(CpuSet::from_iter([CpuId(2)])),
        host_vector: None,
        guest_vector: None,
        vcpu: None,
        mode,
    });
    let mut observer = Observer::start(&HostRoot::live(), &topology).unwrap();
    teach(&mut observer, &tids);
    observer.open(None).unwrap();
    (topology, observer, tids)
}

/// An MSI inside a made-up interrupt of the VF.
pub(super) fn interrupt(observer: &mut Observer, vm: &VmFd, msi: kvm_msi) {
    run(observer, "irq_entry_raw", &[IRQ.into(), ACTION]);
    assert!(vm.signal_msi(msi).unwrap() > 0, "KVM delivered it");
    run(observer, "irq_exit_raw", &[IRQ.into(), ACTION, 1]);
}

pub(super) fn to(apic: u32, vector: u32) -> kvm_msi {
    kvm_msi { address_lo: 0xfee0_0000 | apic << 12, data: vector, ..kvm_msi::default() }
}

/// Rounds that a real interrupt of this CPU ended early.
fn ended_early(snapshot: &Snapshot) -> u64 {
    total(snapshot, "userspace", None)
}

#[test]
fn several_destinations() {
    const ROUNDS: u64 = 100;
    let (topology, mut observer, _) = scene(2, DeliveryMode::Remapped);
    let (vm, vcpus) = machine(2);
    for (id, vcpu) in (0..).zip(&vcpus) {
        let mut lapic = vcpu.get_lapic().unwrap();
        // Logical destination 1 << id in the flat model (Intel SDM vol. 3, 11.6.2.2); a byte of the register at 0xd0.
        lapic.regs[0xd3] = 1 << id;
        vcpu.set_lapic(&lapic).unwrap();
    }
    // Destination mode logical is bit 2 of the address, lowest priority is delivery mode 1 (bits 8-10 of the data).
    let both = kvm_msi { address_lo: 0xfee0_0004 | 3 << 12, data: 0x41, ..kvm_msi::default() };
    let lowest = kvm_msi { data: 0x151, ..both };
    for _ in 0..ROUNDS {
        interrupt(&mut observer, &vm, both);
    }
    let multicast = observer.snapshot(&topology).unwrap();
    let whole = ROUNDS - ended_early(&multicast);
    assert!(whole > ROUNDS / 2, "only {whole} of {ROUNDS} were not ended early");
    // One that was ended early may have reached one of the two.
    let reached = total(&multicast, "multicast", None);
    assert!(reached.abs_diff(whole) <= ROUNDS - whole, "{reached} of {whole}");
    for vcpu in ["0", "1"] {
        let mine = total(&multicast, "accepted", Some(vcpu));
        assert!(mine.abs_diff(ROUNDS) <= ROUNDS - reached, "vCPU {vcpu} accepted {mine}");
    }

    for _ in 0..ROUNDS {
        interrupt(&mut observer, &vm, lowest);
    }
    let all = observer.snapshot(&topology).unwrap();
    let accepted = total(&all, "accepted", None) - total(&multicast, "accepted", None);
    let early = ended_early(&all) - ended_early(&multicast);
    assert_eq!(total(&all, "multicast", None), reached, "each went to one vCPU alone");
    assert_eq!(accepted + early, ROUNDS, "and has one series");
}

#[test]
fn what_was_on_its_way_when_the_interrupt_was_freed_is_given_up() {
    let (mut topology, mut observer, _) = scene(1, DeliveryMode::Remapped);
    let (vm, _vcpus) = machine(1);
    let lost = |s: &Snapshot| s.lost.get("irq_delivery.irq_freed").copied().unwrap_or(0);
    // A real interrupt may end ours early; then it is not accepted.
    let pending = |observer: &mut Observer, topology: &Topology| {
        for _ in 0..20 {
            interrupt(observer, &vm, to(0, 0x41));
            let snapshot = observer.snapshot(topology).unwrap();
            if total(&snapshot, "pending", None) == 1 {
                return snapshot;
            }
        }
        panic!("no interrupt of 20 was accepted");
    };
    let before = pending(&mut observer, &topology);
    assert_eq!((total(&before, "freed", None), lost(&before)), (0, 0));

    // The guest is reset: its interrupt is freed, and enabled again under another number, which is a new one to Linux.
    run(&mut observer, "irq_freed_raw", &[IRQ.into(), 0, 0, 0]);
    // The vector's next user in the guest must not end what was pending.
    run(&mut observer, "irq_inject_raw", &[0x41, 0, 0]);
    let freed = observer.snapshot(&topology).unwrap();
    assert_eq!((total(&freed, "freed", None), lost(&freed)), (1, 1));
    assert_eq!((total(&freed, "pending", None), total(&freed, "delivered", None)), (0, 0));
    assert_eq!(total(&freed, "unmatched", None), 1, "the gap is told");

    teach(&mut observer, &[rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()]);
    let after = pending(&mut observer, &topology);
    assert_eq!(total(&after, "coalesced", None), 0, "nothing of the time before is pending");
    assert_eq!(lost(&after), 1);

    // Enabled by this process, which runs a guest: the VF is its, whatever user space was told.
    topology.guests[0].vfs.clear();
    observer.update(&topology).unwrap();
    run(&mut observer, "irq_enabled_raw", &[IRQ.into(), 0, 0, 0]);
    let known = known_irq(&mut observer);
    assert_eq!((known.enabler, known.action, known.slot), (std::process::id(), 0, 0));
    run(&mut observer, "irq_freed_raw", &[IRQ.into(), 0, 0, 0]);
    assert_eq!(known_irq(&mut observer).enabler, 0);
}

pub(super) fn known_irq(observer: &mut Observer) -> probe_ebpf::probes::irq_delivery::KnownIrq {
    let map = observer.loaded_mut().ebpf_mut().map_mut("KNOWN_IRQS").unwrap();
    let known: aya::maps::Array<_, probe_ebpf::probes::irq_delivery::KnownIrq> = map.try_into().unwrap();
    known.get(&IRQ, 0).unwrap()
}

#[test]
fn vectors_and_modes_are_told_as_they_stand() {
    let (mut topology, mut observer, _) = scene(1, DeliveryMode::Unknown);
    let (vm, _vcpus) = machine(1);
    let fresh = topology.clone();
    // Host vector 96 on CPU 2, the paper's; 5 is the destination's APIC id.
    run(&mut observer, "irq_vector_raw", &[IRQ.into(), 96, 2, 5]);
    let look = observer.look(&mut topology, &Look::default()).unwrap();
    let slot = |t: &Topology| t.guests[0].vfs[0].slots[0].clone();
    let told = slot(&topology);
    assert_eq!((told.host_vector, told.guest_vector, told.vcpu), (Some(96), None, None));
    assert_eq!(told.mode, DeliveryMode::Unknown);

    for _ in 0..5 {
        interrupt(&mut observer, &vm, to(0, 42));
    }
    let mut topology = fresh.clone();
    let look = observer.look(&mut topology, &look).unwrap();
    let told = slot(&topology);
    assert_eq!((told.guest_vector, told.vcpu), (Some(42), Some(VcpuId(0))));
    assert_eq!(told.mode, DeliveryMode::Remapped);

    // Moved meanwhile to a CPU that is not where the topology saw it: its vector is not known there.
    run(&mut observer, "irq_vector_raw", &[IRQ.into(), 97, 3, 7]);
    let mut topology = fresh.clone();
    let look = observer.look(&mut topology, &look).unwrap();
    assert_eq!((slot(&topology).host_vector, slot(&topology).mode), (None, DeliveryMode::Remapped));

    // KVM has the IOMMU post it: (host_irq, vcpu, gsi, gvec, set) since 6.18, (.., pi_desc_addr, set) before.
    let layout = super::btf::running_kernel().raw_tracepoint("kvm_pi_irte_update").unwrap().len();
    let update = |observer: &mut Observer, set: u64| match layout {
        5 => run(observer, "irq_posted_raw", &[IRQ.into(), 0, 1, 43, set]),
        _ => run(observer, "irq_posted_raw", &[IRQ.into(), 0, 1, 43, 0, set]),
    };
    update(&mut observer, 1);
    let mut topology = fresh.clone();
    let look = observer.look(&mut topology, &look).unwrap();
    assert_eq!((slot(&topology).guest_vector, slot(&topology).mode), (Some(43), DeliveryMode::Posted));
    update(&mut observer, 0);
    let mut topology = fresh.clone();
    let look = observer.look(&mut topology, &look).unwrap();
    assert_eq!(slot(&topology).mode, DeliveryMode::Remapped);

    // The event says "posted"; what the function for it left in the IOMMU counts more, once it was seen.
    for (left, expected, vector) in [
        (irte::UNSEEN, DeliveryMode::Posted, Some(43)),
        (irte::REMAPPED, DeliveryMode::Remapped, Some(42)),
        (irte::POSTED, DeliveryMode::Posted, Some(43)),
    ] {
        update(&mut observer, 1);
        set_irte(&mut observer, left);
        let mut topology = fresh.clone();
        observer.look(&mut topology, &look).unwrap();
        assert_eq!((slot(&topology).mode, slot(&topology).guest_vector), (expected, vector), "{left}");
    }
}

/// What the program at the function's return leaves: it cannot be run with arguments of our own.
fn set_irte(observer: &mut Observer, left: u64) {
    let map = observer.loaded_mut().ebpf_mut().map_mut("POSTED").unwrap();
    let mut map: aya::maps::HashMap<_, u32, Posted> = map.try_into().unwrap();
    let posted = map.get(&IRQ, 0).unwrap();
    map.insert(IRQ, Posted { irte: left, ..posted }, 0).unwrap();
}

#[test]
fn stages_of_a_posted_vector_are_hidden_not_zero() {
    let (topology, mut observer, _) = scene(1, DeliveryMode::Unknown);
    let layout = super::btf::running_kernel().raw_tracepoint("kvm_pi_irte_update").unwrap().len();
    let set = if layout == 5 { vec![IRQ.into(), 0, 1, 43, 1] } else { vec![IRQ.into(), 0, 1, 43, 0, 1] };
    run(&mut observer, "irq_posted_raw", &set);
    run(&mut observer, "irq_inhibit_raw", &[2, 1, 0b101]);
    let snapshot = observer.snapshot(&topology).unwrap();
    let stages: Vec<_> = snapshot.series.iter().filter(|s| s.probe == "irq_delivery").collect();
    assert_eq!(stages.len(), 5, "{stages:?}");
    for stage in stages {
        assert!(
            matches!(&stage.observable, Observability::No(why) if why.starts_with("posted")),
            "{stage:?}"
        );
        assert_eq!((stage.labels["slot"].as_str(), stage.histogram.n()), ("1", 0));
    }
    assert_eq!(total(&snapshot, "apicv_changes", None), 1);
    assert_eq!(total(&snapshot, "apicv_inhibits", None), 2, "two reasons stand");
}

#[test]
fn the_kernel_s_table_of_vectors_is_read_or_refused() {
    let mut observer = Observer::start(&HostRoot::live(), &Topology::default()).unwrap();
    let cpus: CpuSet = [CpuId(0)].into_iter().collect();
    let vectors = observer.loaded_mut().host_vectors(&cpus);
    if vectors.is_empty() {
        println!("SKIP the table's content: its address is not in /proc/kallsyms");
    }
    // Device vectors begin at 0x20 (FIRST_EXTERNAL_VECTOR).
    assert!(vectors.values().all(|vector| *vector >= 0x20), "{vectors:?}");
    // An address that cannot be read is no table without vectors: the first place would say that it was read.
    let ebpf = observer.loaded_mut().ebpf_mut();
    let program: &mut aya::programs::RawTracePoint =
        ebpf.program_mut("irq_table_raw").unwrap().try_into().unwrap();
    if program.fd().is_err() {
        program.load().unwrap();
    }
    run(&mut observer, "irq_table_raw", &[0, 0, 0]);
    let ebpf = observer.loaded_mut().ebpf_mut();
    let table: aya::maps::Array<_, [u32; 256]> = ebpf.map_mut("VECTOR_TABLE").unwrap().try_into().unwrap();
    assert_eq!(table.get(&0, 0).unwrap()[0], 0);
}
