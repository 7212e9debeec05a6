//! A loaded object whose programs are run with arguments of our own, or attached one by one.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, HashMap, PerCpuArray, PerCpuValues};
use aya::programs::raw_trace_point::RawTracePointLinkId;
use aya::programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _};
use probe_ebpf::control::{Table, Window};
use probe_ebpf::layout::IRQFD_INJECT;
use probe_ebpf::probes::irq_delivery::{InIrq, KnownIrq, Slot};
use probe_ebpf::vcpu::{Vcpu, VcpuKey};
use probe_user::bpf::facts::read_facts;
use probe_user::bpf::{Loaded, Sizes};
use probe_user::host::HostRoot;
use std::time::Duration;

/// Linux number of the first invented interrupt.
pub(crate) const IRQ: u32 = 9_000;
/// `KVM_EXIT_IO` (include/uapi/linux/kvm.h).
const KVM_EXIT_IO: u32 = 2;
/// The program that does nothing.
pub(crate) const NOTHING: &str = "nothing_raw";
/// Room for every scenario.
const SIZES: Sizes = Sizes { vcpus: 64, slots: 64, deliveries: 64, exits: 256, noise: 256, devices: 8 };

/// Runs a program with these arguments.
pub(crate) fn run(ebpf: &mut Ebpf, program: &str, args: &[u64]) -> Result<()> {
    let mut context = [0u64; 12];
    context[..args.len()].copy_from_slice(args);
    raw(ebpf, program)?.test_run(RawTracePointRunOptions { args: context, cpu: None })?;
    Ok(())
}

/// A program, loaded.
pub(crate) fn raw<'a>(ebpf: &'a mut Ebpf, program: &str) -> Result<&'a mut RawTracePoint> {
    let found = ebpf.program_mut(program).with_context(|| format!("no program {program}"))?;
    let found: &mut RawTracePoint = found.try_into().with_context(|| program.to_owned())?;
    if found.fd().is_err() {
        found.load().with_context(|| program.to_owned())?;
    }
    Ok(found)
}

/// How long and how often a program ran so far.
pub(crate) fn ran(ebpf: &mut Ebpf, program: &str) -> Result<(Duration, u64)> {
    let info = raw(ebpf, program)?.info()?;
    Ok((info.run_time(), info.run_count()))
}

/// An object with nothing attached, and addresses that programs can read.
pub(crate) struct Rig {
    pub(crate) loaded: Loaded,
    /// An address of kernel text: what stands there is taken for numbers.
    pub(crate) pointer: u64,
    /// The same as a `struct task_struct`.
    pub(crate) task: u64,
    /// The number that programs read where a vCPU's stands.
    pub(crate) vcpu_id: u32,
}

impl Rig {
    pub(crate) fn new() -> Result<Self> {
        let root = HostRoot::live();
        let facts = read_facts(&root);
        let global = |name: &str| {
            let found = facts.globals.get(name).copied();
            found.with_context(|| format!("{name} is not known here: {:?}", facts.unresolved.get(name)))
        };
        let pointer = global(IRQFD_INJECT)?;
        let task = pointer - global("OFF_TASK_PID")?;
        let mut loaded = Loaded::detached(&root, SIZES)?;
        loaded.open(Window { from_ns: 0, until_ns: u64::MAX })?;
        Ok(Self { loaded, pointer, task, vcpu_id: 0 })
    }

    pub(crate) fn run(&mut self, program: &str, args: &[u64]) -> Result<()> {
        run(self.loaded.ebpf_mut(), program, args)
    }

    /// This thread becomes a vCPU's.
    pub(crate) fn learn_vcpu(&mut self) -> Result<()> {
        self.run("vcpu_entry_raw", &[self.pointer])?;
        // Every guest's vCPU has returned to its VMM at some time.
        self.run("user_exit_raw", &[u64::from(KVM_EXIT_IO), 0])?;
        self.vcpu_id = self.vcpu()?.1.vcpu_id;
        Ok(())
    }

    /// This thread's vCPU, and its index.
    fn vcpu(&mut self) -> Result<(u32, Vcpu)> {
        let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let ebpf = self.loaded.ebpf_mut();
        let ids: HashMap<_, u32, u32> = ebpf.map_mut("VCPU_IDS").context("no map VCPU_IDS")?.try_into()?;
        let index = ids.get(&tid, 0)?;
        let vcpus: Array<_, Vcpu> = ebpf.map_mut("VCPUS").context("no map VCPUS")?.try_into()?;
        Ok((index, vcpus.get(&index, 0)?))
    }

    /// Accepts that name this vCPU are the present thread's.
    pub(crate) fn name_vcpu(&mut self, vcpu_id: u32) -> Result<()> {
        let ebpf = self.loaded.ebpf_mut();
        let mut tids: HashMap<_, VcpuKey, u32> =
            ebpf.map_mut("VCPU_TIDS").context("no map VCPU_TIDS")?.try_into()?;
        let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        tids.insert(VcpuKey { tgid: std::process::id(), vcpu_id }, tid, 0)?;
        // The program holds what the accept names against what it knows of the thread.
        let (index, vcpu) = self.vcpu()?;
        let ebpf = self.loaded.ebpf_mut();
        let mut vcpus: Array<_, Vcpu> = ebpf.map_mut("VCPUS").context("no map VCPUS")?.try_into()?;
        vcpus.set(index, Vcpu { vcpu_id, ..vcpu }, 0)?;
        Ok(())
    }

    /// The invented interrupt of a slot: number and handler.
    pub(crate) fn irq(&self, slot: u32) -> [u64; 2] {
        [u64::from(IRQ + slot), self.pointer + 64 * u64::from(slot)]
    }

    /// Makes interrupts of as many slots of a VF known; the others are of devices of the host.
    pub(crate) fn learn_slots(&mut self, count: u32) -> Result<()> {
        for index in 0..count {
            // What is read of the handler is nonsense, and yet the same each time.
            let irq = self.irq(index);
            self.run("irq_entry_raw", &irq)?;
            let number = IRQ + index;
            let ebpf = self.loaded.ebpf_mut();
            let mut known: Array<_, KnownIrq> = ebpf.map_mut("KNOWN_IRQS").context("no map")?.try_into()?;
            let found = known.get(&number, 0)?;
            known.set(number, KnownIrq { slot: index + 1, enabler: std::process::id(), ..found }, 0)?;
            let mut slots: Array<_, Slot> = ebpf.map_mut("SLOTS").context("no map")?.try_into()?;
            let slot = slots.get(&index, 0)?;
            let owner = std::process::id();
            slots.set(index, Slot { vf: 0x180, slot: index, irq: number, owner, ..slot }, 0)?;
        }
        let ebpf = self.loaded.ebpf_mut();
        let mut next: Array<_, u64> = ebpf.map_mut("NEXT").context("no map NEXT")?.try_into()?;
        next.set(Table::Slots as u32, u64::from(count), 0)?;
        Ok(())
    }

    /// From now on every CPU is inside an interrupt of the first slot.
    pub(crate) fn stay_in_irq(&mut self) -> Result<()> {
        let inside = InIrq {
            raise_ns: 1,
            slot: 1,
            accepts: 0,
            slow: 0,
            series: 0,
            queued: 0,
            tid: 0,
            exit_vector: 0,
            exit_tid: 0,
        };
        let cpus = aya::util::nr_cpus().map_err(|(path, e)| anyhow::anyhow!("{path}: {e}"))?;
        let ebpf = self.loaded.ebpf_mut();
        let mut map: PerCpuArray<_, InIrq> = ebpf.map_mut("IN_IRQ").context("no map IN_IRQ")?.try_into()?;
        map.set(0, PerCpuValues::try_from(vec![inside; cpus])?, 0)?;
        Ok(())
    }

    /// Guards every CPU, without attaching anything.
    pub(crate) fn guard(&mut self) -> Result<()> {
        let ebpf = self.loaded.ebpf_mut();
        let mut map: Array<_, u32> = ebpf.map_mut("GUARDED").context("no map GUARDED")?.try_into()?;
        for cpu in 0..map.len() {
            map.set(cpu, 1, 0)?;
        }
        Ok(())
    }

    pub(crate) fn attach(&mut self, program: &str, event: &str) -> Result<RawTracePointLinkId> {
        raw(self.loaded.ebpf_mut(), program)?.attach(event).with_context(|| format!("{program} at {event}"))
    }

    pub(crate) fn detach(&mut self, program: &str, link: RawTracePointLinkId) -> Result<()> {
        Ok(raw(self.loaded.ebpf_mut(), program)?.detach(link)?)
    }
}

/// Keeps this thread on one CPU.
pub(crate) fn stay_on(cpu: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}
