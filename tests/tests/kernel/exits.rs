//! VM exits with made-up arguments, for what no kernel at hand does: exits whose entry is not seen, clocks that go
//! backward, and the host's vector that a VMX exit tells. The programs are not attached, so that nothing real counts.

use super::delivery::{ACTION, IRQ, change_vcpu, teach_object};
use super::slow_path::stay_here;
use aya::maps::{Array, PerCpuArray, PerCpuValues};
use aya::programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _};
use probe_ebpf::control::{Table, Window};
use probe_ebpf::layout::{IRQFD_INJECT, LAST_GUEST_TSC};
use probe_ebpf::probes::cpu_noise::{Kind, NoiseCpu};
use probe_ebpf::probes::irq_delivery::{InIrq, unpack_vector};
use probe_ebpf::probes::vm_exit::ISA_VMX;
use probe_user::bpf::facts::read_facts;
use probe_user::bpf::{Loaded, Sizes};
use probe_user::host::HostRoot;
use probe_user::model::topology::Topology;
use probe_user::probes::{MapReader as _, Names, vm_exit};
use probe_user::stats::Histogram;
use std::collections::BTreeMap;

/// Later than any clock of this host says, and inside the window.
const LATER: u64 = u64::MAX / 2;
/// `EXIT_REASON_CPUID` and `EXIT_REASON_EXTERNAL_INTERRUPT` of VMX.
const CPUID: u64 = 10;
const EXTERNAL_INTERRUPT: u64 = 1;
/// Addresses of a `struct kvm_vcpu` that are taken for what they are and never read.
const KVM: u64 = 0xdead_0000;

/// A vCPU that this thread runs, and a VF's interrupt, as the programs know them.
pub(super) struct Scene {
    pub(super) loaded: Loaded,
    /// Where a `struct task_struct` could stand: its thread id is some number of kernel text.
    pub(super) task: u64,
    /// Where a `struct kvm_vcpu` could stand: its guest's clock is the same number.
    clock: u64,
}

impl Scene {
    pub(super) fn new() -> Self {
        stay_here();
        let sizes = Sizes { vcpus: 4, slots: 4, deliveries: 4, exits: 8, noise: 8, devices: 1 };
        let root = HostRoot::live();
        let globals = read_facts(&root).globals;
        let loaded = Loaded::detached(&root, sizes).unwrap();
        let [task, clock] =
            ["OFF_TASK_PID", LAST_GUEST_TSC].map(|offset| globals[IRQFD_INJECT] - globals[offset]);
        let mut scene = Self { loaded, task, clock };
        scene.loaded.open(Window { from_ns: 0, until_ns: u64::MAX }).unwrap();
        let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        teach_object(scene.loaded.ebpf_mut(), &[tid]);
        scene
    }

    pub(super) fn run(&mut self, program: &str, args: &[u64]) {
        let program: &mut RawTracePoint =
            self.loaded.ebpf_mut().program_mut(program).unwrap().try_into().unwrap();
        if program.fd().is_err() {
            program.load().unwrap();
        }
        let mut context = [0u64; 12];
        context[..args.len()].copy_from_slice(args);
        program.test_run(RawTracePointRunOptions { args: context, cpu: None }).unwrap();
    }

    /// An exit, by the arguments that the raw tracepoint had up to 5.16, whatever this kernel's are.
    fn exit(&mut self, reason: u64) {
        self.run("exit_raw", &[reason, 0, ISA_VMX.into()]);
    }

    fn enter(&mut self) {
        self.enter_at(KVM);
    }

    fn enter_at(&mut self, kvm: u64) {
        change_vcpu(self.loaded.ebpf_mut(), 0, |vcpu| vcpu.kvm = kvm);
        self.run("vcpu_entry_raw", &[kvm]);
    }

    /// An entry after KVM read the guest's clock, which stands still here: it was another one before.
    fn enter_slowly(&mut self) {
        change_vcpu(self.loaded.ebpf_mut(), 0, |vcpu| vcpu.exit.clock ^= 1);
        self.enter_at(self.clock);
    }

    /// An exit for a vector of the host, and what its record leaves for the handler.
    fn leave_for(&mut self, vector: u32, thread_after: u32) {
        self.exit(EXTERNAL_INTERRUPT);
        let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let mut map: PerCpuArray<_, InIrq> =
            self.loaded.ebpf_mut().map_mut("IN_IRQ").unwrap().try_into().unwrap();
        let mut cpus: Vec<InIrq> = map.get(&0, 0).unwrap().iter().copied().collect();
        for cpu in &mut cpus {
            (cpu.exit_vector, cpu.exit_tid) = (vector, tid + thread_after);
        }
        map.set(0, PerCpuValues::try_from(cpus).unwrap(), 0).unwrap();
    }

    pub(super) fn lost(&self) -> BTreeMap<String, u64> {
        let lost = self.loaded.lost().unwrap().into_iter();
        lost.map(|(probe, cause, n)| (format!("{probe}.{cause}"), n)).collect()
    }

    /// Exits that were followed by a fast path's entry.
    fn fast(&self) -> u64 {
        let maps = self.loaded.maps();
        (0..maps.used(Table::Exits).unwrap()).map(|at| maps.exit(at).unwrap().fast).sum()
    }

    /// Time from exits to entries (ns).
    fn outside_ns(&self) -> u64 {
        let maps = self.loaded.maps();
        let hists = (0..maps.used(Table::Exits).unwrap()).map(|at| maps.hist("EXIT_HIST", at).unwrap());
        hists.map(|hist| Histogram::from(&hist).sum()).sum()
    }

    /// Exits in histograms.
    fn recorded(&self) -> u64 {
        let maps = self.loaded.maps();
        let hists = (0..maps.used(Table::Exits).unwrap()).map(|at| maps.hist("EXIT_HIST", at).unwrap());
        hists.map(|hist| Histogram::from(&hist).n()).sum()
    }
}

#[test]
fn what_cannot_be_timed_is_counted_and_not_recorded() {
    type Step = fn(&mut Scene);
    /// Steps, exits in histograms, and what is lost.
    type Case<'a> = (&'a [Step], u64, &'a [(&'a str, u64)]);
    let leave: Step = |s| s.exit(CPUID);
    let enter: Step = Scene::enter;
    let left_later: Step = |s| change_vcpu(s.loaded.ebpf_mut(), 0, |vcpu| vcpu.exit.exit_ns = LATER);
    let entered_later: Step = |s| change_vcpu(s.loaded.ebpf_mut(), 0, |vcpu| vcpu.exit.entry_ns = LATER);
    let cases: [Case<'_>; 6] = [
        (&[leave, enter], 1, &[]),
        (&[enter, leave, enter, leave, enter], 2, &[]),
        // The guest was entered again where the kernel shows no entry.
        (&[leave, leave, leave, enter], 1, &[("vm_exit.entry_unseen", 2)]),
        (&[leave, left_later, enter], 0, &[("vm_exit.negative_interval", 1)]),
        (&[leave, left_later, enter, leave, enter], 1, &[("vm_exit.negative_interval", 1)]),
        // Time in the guest.
        (&[entered_later, leave, enter], 1, &[("vm_exit.negative_interval", 1)]),
    ];
    for (index, (steps, recorded, lost)) in cases.into_iter().enumerate() {
        let mut scene = Scene::new();
        for step in steps {
            step(&mut scene);
        }
        let expected: BTreeMap<String, u64> = lost.iter().map(|(cause, n)| ((*cause).into(), *n)).collect();
        assert_eq!((scene.recorded(), scene.lost()), (recorded, expected), "case {index}");
        let guest_ns = scene.loaded.maps().vcpus().unwrap()[0].1.exit.guest_ns;
        assert!(guest_ns < LATER, "case {index}: {guest_ns}");
    }
}

/// Whether a vCPU leaves its guest before the figures are read or not: of its stay the part within the window counts.
#[test]
fn a_stay_in_the_guest_counts_as_far_as_it_lies_in_the_window() {
    // All of it long ago, by this clock.
    let (from_ns, until_ns) = (10_000, 20_000);
    for (entered, expected) in [(0, 0), (5_000, 10_000), (12_000, 8_000), (20_000, 0), (25_000, 0)] {
        let mut scene = Scene::new();
        scene.loaded.open(Window { from_ns, until_ns }).unwrap();
        change_vcpu(scene.loaded.ebpf_mut(), 0, |vcpu| vcpu.exit.entry_ns = entered);
        let topology = Topology::default();
        let stays = |scene: &Scene| -> u64 {
            let names = Names::new(&topology);
            let stays = vm_exit::stays(&scene.loaded.maps(), &names, from_ns, until_ns).unwrap();
            stays.iter().map(|stay| stay.value).sum()
        };
        let guest_ns = |scene: &Scene| scene.loaded.maps().vcpus().unwrap()[0].1.exit.guest_ns;
        assert_eq!((stays(&scene), guest_ns(&scene)), (expected, 0), "entered at {entered}");
        scene.exit(CPUID);
        assert_eq!((stays(&scene), guest_ns(&scene)), (0, expected), "entered at {entered}, left");
    }
}

#[test]
fn entries_on_a_fast_path_are_told_apart() {
    type Step = fn(&mut Scene);
    let leave: Step = |s| s.exit(CPUID);
    let fast: Step = |s| s.enter_at(s.clock);
    let slow: Step = Scene::enter_slowly;
    // What stands there cannot be read.
    let hidden: Step = Scene::enter;
    let cases: [(&[Step], u64, u64); 9] = [
        (&[slow], 0, 0),
        (&[slow, leave, slow], 1, 0),
        (&[slow, leave, fast], 1, 1),
        (&[slow, leave, fast, leave, fast, leave, slow, leave, fast], 4, 3),
        (&[slow, leave, hidden], 1, 0),
        (&[slow, leave, hidden, leave, hidden], 2, 0),
        (&[slow, leave, hidden, leave, fast], 2, 0),
        // No exit was seen in between.
        (&[slow, fast], 0, 0),
        // An entry that the kernel did not show: of two exits the one is in no histogram.
        (&[slow, leave, leave, fast], 1, 1),
    ];
    for (index, (steps, recorded, expected)) in cases.into_iter().enumerate() {
        let mut scene = Scene::new();
        for step in steps {
            step(&mut scene);
        }
        assert_eq!((scene.recorded(), scene.fast()), (recorded, expected), "case {index}");
        // The time in the guest goes on from such an entry as from any other.
        let exit = scene.loaded.maps().vcpus().unwrap()[0].1.exit;
        let outside = scene.outside_ns();
        let entered = exit.entry_ns;
        assert!(entered > 0 && exit.exit_ns == 0, "case {index}");
        assert!(
            exit.guest_ns + outside <= entered,
            "case {index}: {} + {outside} of {entered}",
            exit.guest_ns
        );
    }
}

#[test]
fn a_thread_s_state_does_not_end_before_it_began() {
    let mut scene = Scene::new();
    // Has the thread known for a vCPU's at a switch.
    let pointer = scene.task + read_facts(&HostRoot::live()).globals["OFF_TASK_PID"];
    scene.run("vcpu_entry_raw", &[pointer]);
    change_vcpu(scene.loaded.ebpf_mut(), 0, |vcpu| vcpu.sched.since_ns = LATER);
    let task = scene.task;
    scene.run("vcpu_switch_raw", &[0, task, task, 0]);
    assert_eq!(scene.lost().get("vcpu_sched.negative_interval"), Some(&1));
    let (_, vcpu) = scene.loaded.maps().vcpus().unwrap()[0];
    assert_eq!((vcpu.sched.running_ns, vcpu.sched.since_ns), (0, LATER), "the next state goes on there");
}

#[test]
fn noise_does_not_end_before_it_began() {
    const TIMER: u64 = 0xec;
    // A start that lies ahead, and more nested time than there was.
    for (start_ns, nested_ns) in [(LATER, 0), (1, LATER)] {
        let mut scene = Scene::new();
        let mut guarded: Array<_, u32> =
            scene.loaded.ebpf_mut().map_mut("GUARDED").unwrap().try_into().unwrap();
        let here = u32::try_from(rustix::thread::sched_getcpu()).unwrap();
        guarded.set(here, 1, 0).unwrap();
        scene.run("noise_vec_in", &[TIMER]);
        let mut map: PerCpuArray<_, NoiseCpu> =
            scene.loaded.ebpf_mut().map_mut("NOISE_CPU").unwrap().try_into().unwrap();
        let mut states: Vec<NoiseCpu> = map.get(&0, 0).unwrap().iter().copied().collect();
        let frame = &mut states[here as usize].frames[0];
        assert_eq!((frame.kind, u64::from(frame.id)), (Kind::Vector as u32, TIMER));
        (frame.start_ns, frame.nested_ns) = (start_ns, nested_ns);
        map.set(0, PerCpuValues::try_from(states).unwrap(), 0).unwrap();
        scene.run("noise_vec_out", &[TIMER]);
        assert_eq!(scene.lost(), BTreeMap::from([("cpu_noise.negative_interval".to_owned(), 1)]));
        let hist = scene.loaded.maps().hist("NOISE_HIST", 0).unwrap();
        assert_eq!(Histogram::from(&hist).n(), 0);
    }
}

/// What happens around an interrupt of the VF.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The kernel sets the vector 97.
    Config,
    /// A vCPU leaves its guest for vector 96; what the exit's record leaves for the handler is set by hand, since programs
    /// on classic tracepoints cannot be run.
    Exit,
    /// The same of vector 98.
    OtherExit,
    /// Another thread than this one left its guest.
    ElsewhereExit,
    Enter,
    /// The VF's interrupt.
    Vf,
    /// Another device's.
    Other,
}

#[test]
fn the_exit_s_vector_is_its_interrupt_s() {
    use Step::{Config, ElsewhereExit, Enter, Exit, Other, OtherExit, Vf};
    let cases: [(&[Step], Option<u8>); 10] = [
        (&[Vf], None),
        (&[Exit, Vf], Some(96)),
        (&[Exit, Vf, Vf], Some(96)),
        (&[Exit, Vf, Enter, OtherExit, Vf], Some(98)),
        // The vector was another device's: the VF's interrupt came after it.
        (&[Exit, Other, Vf], None),
        // It had no handler that shows, and the guest ran again.
        (&[Exit, Enter, Vf], None),
        (&[ElsewhereExit, Vf], None),
        // What the kernel sets counts more.
        (&[Config, Exit, Vf], Some(97)),
        (&[Exit, Vf, Config], Some(97)),
        (&[Exit, Config, Vf], Some(97)),
    ];
    for (steps, expected) in cases {
        let mut scene = Scene::new();
        let here = u32::try_from(rustix::thread::sched_getcpu()).unwrap();
        for step in steps {
            match step {
                Config => scene.run("irq_vector_raw", &[IRQ.into(), 97, here.into(), 0]),
                Exit => scene.leave_for(96, 0),
                OtherExit => scene.leave_for(98, 0),
                ElsewhereExit => scene.leave_for(96, 1),
                Enter => scene.enter(),
                Vf => {
                    scene.run("irq_entry_raw", &[IRQ.into(), ACTION]);
                    scene.run("irq_exit_raw", &[IRQ.into(), ACTION, 1]);
                }
                Other => {
                    scene.run("irq_entry_raw", &[u64::from(IRQ) - 1, ACTION]);
                    scene.run("irq_exit_raw", &[u64::from(IRQ) - 1, ACTION, 1]);
                }
            }
        }
        let packed = scene.loaded.maps().host_vector(IRQ).unwrap();
        assert_eq!(unpack_vector(packed), expected.map(|vector| (vector, here)), "{steps:?}");
    }
}
