//! Real MSIs through /dev/kvm, each inside a hard interrupt that the programs are told of: which vCPU and vector
//! they reach is KVM's own doing, seen by the attached programs.
//!
//! This kernel has no vfio, so `irq_handler_entry` and `irq_handler_exit` are run with arguments of our own
//! (BPF_PROG_TEST_RUN); a real interrupt of this CPU may fall between them and end ours early, which the programs
//! count as not accepted. The sums must still be exact.

use aya::Ebpf;
use aya::maps::{Array, HashMap};
use aya::programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _};
use kvm_bindings::kvm_msi;
use kvm_ioctls::{Kvm, VmFd};
use probe_ebpf::control::Table;
use probe_ebpf::probes::irq_delivery::{Delivery, KnownIrq, Slot, SlotKey};
use probe_ebpf::vcpu::{Vcpu, VcpuKey};
use probe_user::app::observe::Observer;
use probe_user::host::HostRoot;
use probe_user::model::topology::{Guest, Thread, Topology, Vcpu as GuestVcpu, Vf, Vmm};
use probe_user::model::{CpuSet, PciAddress, Pid, Tid, VcpuId};
use probe_user::stats::Snapshot;

pub(super) const IRQ: u32 = 9_999;
/// No such address can be read, so the programs see the same (unreadable) handler each time.
pub(super) const ACTION: u64 = 0xdead_0000;
const VF: &str = "0000:01:10.0";

pub(super) fn topology(tids: &[u32]) -> Topology {
    let thread = |tid| Thread { tid: Tid(tid), comm: "vcpu".into(), start_time: 0, affinity: CpuSet::new() };
    let vcpus = (0..)
        .zip(tids)
        .map(|(index, tid)| GuestVcpu { index: VcpuId(index), thread: thread(*tid) })
        .collect();
    let address: PciAddress = VF.parse().unwrap();
    let vf = Vf {
        address,
        index: None,
        pf: address,
        pf_netdev: None,
        numa_node: None,
        local_cpus: CpuSet::new(),
        driver: None,
        iommu_group: None,
        slots: Vec::new(),
        counters: None,
    };
    let guest = Guest {
        name: "test".into(),
        uuid: None,
        pid: Pid(std::process::id()),
        start_time: 0,
        vmm: Vmm::Other,
        libvirt: false,
        vcpus,
        threads: Vec::new(),
        nics: Vec::new(),
        vfs: vec![vf],
    };
    Topology { guests: vec![guest], ..Topology::default() }
}

/// A virtual machine with enabled local APICs.
pub(super) fn machine(vcpus: u64) -> (VmFd, Vec<kvm_ioctls::VcpuFd>) {
    let kvm = Kvm::new().expect("/dev/kvm is needed: modprobe kvm_intel or kvm_amd, and run as root");
    let vm = kvm.create_vm().unwrap();
    vm.create_irq_chip().unwrap();
    let fds: Vec<_> = (0..vcpus).map(|id| vm.create_vcpu(id).unwrap()).collect();
    for fd in &fds {
        let mut lapic = fd.get_lapic().unwrap();
        // Spurious-interrupt vector register, bit 8: APIC software enable (Intel SDM vol. 3, 10.9).
        lapic.regs[0xf1] |= 1;
        fd.set_lapic(&lapic).unwrap();
    }
    (vm, fds)
}

pub(super) fn run(observer: &mut Observer, program: &str, args: &[u64]) {
    let mut context = [0u64; 12];
    context[..args.len()].copy_from_slice(args);
    let program: &mut RawTracePoint =
        observer.loaded_mut().ebpf_mut().program_mut(program).unwrap().try_into().unwrap();
    program.test_run(RawTracePointRunOptions { args: context, cpu: None }).unwrap();
}

/// What the programs learn by themselves where vfio interrupts and guest entries exist.
pub(super) fn teach(observer: &mut Observer, tids: &[u32]) {
    teach_object(observer.loaded_mut().ebpf_mut(), tids);
}

/// The same, of programs that may not be attached.
pub(super) fn teach_object(ebpf: &mut Ebpf, tids: &[u32]) {
    let own = std::process::id();
    let vf = VF.parse::<PciAddress>().unwrap().packed();
    let mut slots: Array<_, Slot> = ebpf.map_mut("SLOTS").unwrap().try_into().unwrap();
    let mut slot = slots.get(&0, 0).unwrap();
    (slot.vf, slot.slot, slot.irq, slot.owner) = (vf, 1, IRQ, own);
    slots.set(0, slot, 0).unwrap();
    let mut ids: HashMap<_, SlotKey, u32> = ebpf.map_mut("SLOT_IDS").unwrap().try_into().unwrap();
    ids.insert(SlotKey { vf, slot: 1, owner: own }, 0, 0).unwrap();
    let mut next: Array<_, u64> = ebpf.map_mut("NEXT").unwrap().try_into().unwrap();
    next.set(0, 1, 0).unwrap();
    let mut known: Array<_, KnownIrq> = ebpf.map_mut("KNOWN_IRQS").unwrap().try_into().unwrap();
    known.set(IRQ, KnownIrq { action: ACTION, dev_id: 0, slot: 1, enabler: 0 }, 0).unwrap();
    for (id, tid) in (0..).zip(tids) {
        change_vcpu(ebpf, id, |vcpu| {
            (vcpu.tid, vcpu.live, vcpu.tgid, vcpu.vcpu_id) = (*tid, *tid, own, id);
            vcpu.index = id;
        });
        let mut ids: HashMap<_, u32, u32> = ebpf.map_mut("VCPU_IDS").unwrap().try_into().unwrap();
        ids.insert(tid, id, 0).unwrap();
        let mut by_id: HashMap<_, VcpuKey, u32> = ebpf.map_mut("VCPU_TIDS").unwrap().try_into().unwrap();
        by_id.insert(VcpuKey { tgid: own, vcpu_id: id }, tid, 0).unwrap();
    }
}

/// Changes what is known of a vCPU, and makes it known when it is not.
pub(super) fn change_vcpu(ebpf: &mut Ebpf, index: u32, change: impl FnOnce(&mut Vcpu)) {
    let mut next: Array<_, u64> = ebpf.map_mut("NEXT").unwrap().try_into().unwrap();
    let table = Table::Vcpus as u32;
    let known = next.get(&table, 0).unwrap().max(u64::from(index) + 1);
    next.set(table, known, 0).unwrap();
    let mut vcpus: Array<_, Vcpu> = ebpf.map_mut("VCPUS").unwrap().try_into().unwrap();
    let mut vcpu = vcpus.get(&index, 0).unwrap();
    change(&mut vcpu);
    vcpus.set(index, vcpu, 0).unwrap();
}

pub(super) fn total(snapshot: &Snapshot, name: &str, vcpu: Option<&str>) -> u64 {
    snapshot
        .counters
        .iter()
        .filter(|c| {
            c.name == name && vcpu.is_none_or(|v| c.labels.get("vcpu").is_some_and(|found| found == v))
        })
        .map(|c| c.value)
        .sum()
}

#[test]
fn every_msi_is_seen_with_its_vector_and_vcpu() {
    const ROUNDS: u64 = 500;
    let own_tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    // The second vCPU has no thread: nothing but accepts is looked at.
    let tids = [own_tid, own_tid + 1_000_000];
    let topology = topology(&tids);
    let (vm, _vcpus) = machine(2);
    let mut observer = Observer::start(&HostRoot::live(), &topology).unwrap();
    teach(&mut observer, &tids);
    observer.open(None).unwrap();
    // The same vector on both vCPUs, and one of its own for each.
    let messages = [(0u32, 0x41u32), (1, 0x41), (0, 0x51), (1, 0x61)];
    for round in 0..ROUNDS {
        let (vcpu, vector) = messages[usize::try_from(round % 4).unwrap()];
        run(&mut observer, "irq_entry_raw", &[IRQ.into(), ACTION]);
        let msi = kvm_msi { address_lo: 0xfee0_0000 | vcpu << 12, data: vector, ..kvm_msi::default() };
        assert_eq!(vm.signal_msi(msi).unwrap(), 1, "KVM delivered it");
        run(&mut observer, "irq_exit_raw", &[IRQ.into(), ACTION, 1]);
    }
    // Outside a VF's interrupt: the guest's own, which must not count.
    let stray = kvm_msi { address_lo: 0xfee0_0000, data: 0x41, ..kvm_msi::default() };
    vm.signal_msi(stray).unwrap();

    let snapshot = observer.snapshot(&topology).unwrap();
    let (accepted, ended_early) = (total(&snapshot, "accepted", None), total(&snapshot, "userspace", None));
    assert_eq!(total(&snapshot, "raised", None), ROUNDS);
    assert_eq!(accepted + ended_early, ROUNDS, "each is accepted, or was ended by a real interrupt");
    assert!(accepted > ROUNDS / 2, "only {accepted} of {ROUNDS} were accepted");
    for vcpu in ["0", "1"] {
        let mine = total(&snapshot, "accepted", Some(vcpu));
        assert!(mine.abs_diff(ROUNDS / 2) <= ended_early, "vCPU {vcpu}: {mine}");
        assert_eq!(
            total(&snapshot, "same_cpu", Some(vcpu)) + total(&snapshot, "cross_cpu", Some(vcpu)),
            mine
        );
        let dispatch = snapshot
            .series
            .iter()
            .find(|s| {
                s.labels["vcpu"] == vcpu && s.labels.get("stage").is_some_and(|stage| stage == "dispatch")
            })
            .unwrap();
        assert_eq!(dispatch.histogram.n(), mine, "one dispatch per accept");
    }
    // Nothing is injected here: one is pending per vCPU, and the rest fell together with it or was given up when the
    // slot changed its vector.
    let replaced = snapshot.lost.get("irq_delivery.pending_replaced").copied().unwrap_or(0);
    assert_eq!(total(&snapshot, "pending", None), 2);
    assert_eq!(total(&snapshot, "coalesced", None) + replaced + 2, accepted);
    let deliveries: Array<_, Delivery> =
        observer.loaded_mut().ebpf_mut().map_mut("DELIVERIES").unwrap().try_into().unwrap();
    let last: Vec<u32> = (0..2).map(|i| deliveries.get(&i, 0).unwrap().vector).collect();
    assert_eq!(last, [0x51, 0x61], "the vector of the last accept of each vCPU");
}

#[test]
fn nothing_counts_outside_the_window() {
    let own_tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    let topology = topology(&[own_tid]);
    let (vm, _vcpus) = machine(1);
    let mut observer = Observer::start(&HostRoot::live(), &topology).unwrap();
    teach(&mut observer, &[own_tid]);
    let one = |observer: &mut Observer| {
        run(observer, "irq_entry_raw", &[IRQ.into(), ACTION]);
        let msi = kvm_msi { address_lo: 0xfee0_0000, data: 0x41, ..kvm_msi::default() };
        vm.signal_msi(msi).unwrap();
        run(observer, "irq_exit_raw", &[IRQ.into(), ACTION, 1]);
    };
    one(&mut observer);
    assert_eq!(total(&observer.snapshot(&topology).unwrap(), "raised", None), 0, "not opened yet");
    observer.open(None).unwrap();
    one(&mut observer);
    observer.close().unwrap();
    one(&mut observer);
    assert_eq!(total(&observer.snapshot(&topology).unwrap(), "raised", None), 1);
}
