//! `vfprobe trace` on this kernel: real MSIs through /dev/kvm, between a made-up handler and a made-up guest entry, as
//! this kernel has neither vfio nor the events of a hardware guest; and a ring that is too small.

use super::delivery::machine;
use super::slow_path::stay_here;
use aya::maps::{HashMap, PerCpuArray, PerCpuValues};
use aya::programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _};
use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;
use probe_ebpf::control::Window;
use probe_ebpf::layout::IRQFD_INJECT;
use probe_ebpf::probes::trace::{EVERY_SLOT, Id, Inside, TracedVcpu, Wanted};
use probe_ebpf::vcpu::VcpuKey;
use probe_user::app::observe::monotonic_ns;
use probe_user::bpf::facts::read_facts;
use probe_user::bpf::{TraceSizes, Tracer};
use probe_user::host::HostRoot;
use probe_user::model::PciAddress;
use probe_user::probes::Verdict;
use probe_user::probes::trace::event_of;
use probe_user::stats::timeline::{Event, Joiner, Keep, Outcome, What, Who};
use std::collections::BTreeMap;

const VECTOR: u32 = 0x51;
const VF: &str = "0000:01:10.0";

struct Rig {
    tracer: Tracer,
    vm: VmFd,
    _vcpus: Vec<kvm_ioctls::VcpuFd>,
    /// An address that programs can read a vCPU's number at.
    pointer: u64,
}

impl Rig {
    /// A machine with one vCPU, which this thread passes for.
    fn new(ring: u32) -> Self {
        stay_here();
        let (vm, vcpus) = machine(1);
        let own = std::process::id();
        let vf = VF.parse::<PciAddress>().unwrap().packed();
        let wanted = [(vf, Wanted { tgid: own, slot: EVERY_SLOT })];
        let sizes = TraceSizes { ring, vcpus: 64, slots: 64 };
        let root = HostRoot::live();
        let mut tracer = Tracer::new(&root, &wanted, sizes).unwrap();
        let Verdict::Ready { missing } = &tracer.report().verdict else { panic!("{:?}", tracer.report()) };
        // This kernel has all the events, though not the code behind each.
        assert_eq!(missing, &[], "{missing:?}");
        tracer.open(Window { from_ns: 0, until_ns: u64::MAX }).unwrap();
        let pointer = read_facts(&root).globals[IRQFD_INJECT];
        let mut rig = Self { tracer, vm, _vcpus: vcpus, pointer };
        // The entry makes the thread known, under a number that is not the vCPU's.
        rig.run("trace_entry_raw", &[pointer]);
        let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let vcpus: HashMap<_, u32, TracedVcpu> =
            rig.tracer.ebpf_mut().map_mut("TRACE_VCPUS").unwrap().try_into().unwrap();
        assert_eq!(vcpus.get(&tid, 0).unwrap().tgid, own);
        let mut tids: HashMap<_, VcpuKey, u32> =
            rig.tracer.ebpf_mut().map_mut("TRACE_TIDS").unwrap().try_into().unwrap();
        tids.insert(VcpuKey { tgid: own, vcpu_id: 0 }, tid, 0).unwrap();
        rig
    }

    fn run(&mut self, program: &str, args: &[u64]) {
        let mut context = [0u64; 12];
        context[..args.len()].copy_from_slice(args);
        let program: &mut RawTracePoint =
            self.tracer.ebpf_mut().program_mut(program).unwrap().try_into().unwrap();
        program.test_run(RawTracePointRunOptions { args: context, cpu: None }).unwrap();
    }

    /// As the handler's beginning leaves it; this kernel has no handler whose name could be read.
    fn raise(&mut self) -> u64 {
        let raise_ns = monotonic_ns();
        let vf = VF.parse::<PciAddress>().unwrap().packed();
        let inside = Inside { id: Id { raise_ns, vf, slot: 1 }, tgid: std::process::id(), tid: 0 };
        let cpus = aya::util::nr_cpus().unwrap();
        let mut map: PerCpuArray<_, Inside> =
            self.tracer.ebpf_mut().map_mut("TRACE_IRQ").unwrap().try_into().unwrap();
        map.set(0, PerCpuValues::try_from(vec![inside; cpus]).unwrap(), 0).unwrap();
        raise_ns
    }

    fn msi(&self) {
        let msi = kvm_msi { address_lo: 0xfee0_0000, data: VECTOR, ..kvm_msi::default() };
        assert_eq!(self.vm.signal_msi(msi).unwrap(), 1, "KVM delivered it");
    }

    fn events(&mut self) -> Vec<Event> {
        self.tracer.drain().unwrap().iter().map(|record| event_of(record).unwrap()).collect()
    }
}

#[test]
fn an_interrupts_hops_come_in_order() {
    let mut rig = Rig::new(1 << 20);
    // A real interrupt of this CPU ends the made-up one early: once more then.
    for _ in 0..20 {
        let raised = rig.raise();
        rig.msi();
        // A second one while the first is pending.
        rig.msi();
        rig.run("trace_handled_raw", &[0, 0, 1]);
        rig.run("trace_entry_raw", &[rig.pointer]);
        rig.run("trace_inject_raw", &[VECTOR.into(), 0, 0]);
        rig.run("trace_inject_raw", &[VECTOR.into(), 0, 1]);
        rig.run("trace_entry_raw", &[rig.pointer]);
        rig.run("trace_eoi_raw", &[0, VECTOR.into()]);
        rig.run("trace_eoi_raw", &[0, VECTOR.into()]);
        let events = rig.events();
        let own: Vec<&What> = events
            .iter()
            .filter(|e| e.id.is_some_and(|id| id.raise_ns == raised))
            .map(|e| &e.hop.what)
            .collect();
        let accepts = own.iter().filter(|what| matches!(what, What::Accepted { .. })).count();
        if accepts < 2 {
            continue;
        }
        let pending: Vec<bool> = own
            .iter()
            .filter_map(|what| match what {
                What::Accepted { vector: VECTOR, pending, running: Some(true), vcpu_id: 0, .. } => {
                    Some(*pending)
                }
                _ => None,
            })
            .collect();
        assert_eq!(pending, [false, true], "{own:?}");
        assert_eq!(
            own[2..],
            [&What::Handled, &What::Injected { vector: VECTOR }, &What::Entered, &What::Ended]
        );
        let times: Vec<u64> = events.iter().map(|event| event.hop.ns).collect();
        assert!(times.is_sorted() && times[0] >= raised, "{times:?} {raised}");
        let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        assert!(events.iter().filter(|e| e.id.is_some()).all(|event| event.hop.tid == tid));

        let who = Who { guests: [(VF.parse().unwrap(), "test".to_owned())].into(), vcpus: BTreeMap::new() };
        let mut joiner = Joiner::new(who, Keep::First(1), None);
        joiner.add(events);
        let joined = joiner.finish();
        let [timeline] = joined.timelines.as_slice() else { panic!("{joined:?}") };
        assert_eq!((timeline.outcome, timeline.vector()), (Outcome::Delivered, Some(VECTOR)));
        assert!(!timeline.complete, "the handler's beginning is not among the hops");
        let passed_by = timeline.hops.iter().filter(|hop| hop.what == What::PassedBy).count();
        assert_eq!(passed_by, 1, "the entry before the injection: {:?}", timeline.hops);
        return;
    }
    panic!("a real interrupt came between the steps each time");
}

#[test]
fn what_the_ring_has_no_room_for_is_counted() {
    const CALLS: usize = 100;
    let mut rig = Rig::new(4096);
    let mut accepts = 0;
    for _ in 0..CALLS {
        rig.raise();
        rig.msi();
        accepts += 1;
    }
    let records = rig.events().len();
    let dropped: BTreeMap<&str, u64> = rig.tracer.dropped().unwrap().into_iter().collect();
    let lost = usize::try_from(dropped["ring_full"]).unwrap();
    // Besides the accepts there can be ends of real interrupts, and what happened to this thread meanwhile; an interrupt
    // that a real one ended early has no accept.
    assert!(records > 0 && records < 4096 / 96, "{records}");
    assert!(records + lost > accepts / 2, "{records} + {lost}");
    // Room again.
    rig.raise();
    rig.msi();
    assert!(!rig.events().is_empty());
}

#[test]
fn nothing_is_recorded_of_what_nobody_wants() {
    let mut rig = Rig::new(1 << 20);
    // Outside an interrupt of a VF: a guest's own timer or IPI.
    rig.msi();
    rig.run("trace_inject_raw", &[VECTOR.into(), 0, 0]);
    rig.run("trace_entry_raw", &[rig.pointer]);
    rig.run("trace_eoi_raw", &[0, VECTOR.into()]);
    assert_eq!(rig.events(), []);
}
