//! Numbers of threads and processes that are used again: what a thread does is no vCPU's any more once the vCPU's thread
//! has ended, and a guest does not go on in the figures of another one.

use super::delivery::{IRQ, run, teach, topology};
use super::exits::Scene;
use aya::maps::{Array, HashMap, PerCpuArray, PerCpuValues};
use probe_ebpf::layout::IRQFD_INJECT;
use probe_ebpf::probes::irq_delivery::SlotKey;
use probe_ebpf::probes::vcpu_sched::UNKNOWN;
use probe_ebpf::probes::vm_exit::{ExitVector, ISA_VMX};
use probe_ebpf::vcpu::{Vcpu, VcpuKey};
use probe_user::app::observe::Observer;
use probe_user::bpf::facts::read_facts;
use probe_user::host::HostRoot;
use probe_user::model::topology::Topology;
use probe_user::probes::MapReader as _;
use probe_user::stats::Snapshot;
use std::time::{Duration, Instant};

/// `EXIT_REASON_CPUID` of VMX.
const CPUID: u64 = 10;
const TASK_DEAD: u64 = 0x80;

fn own_tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}

fn pointer() -> u64 {
    read_facts(&HostRoot::live()).globals[IRQFD_INJECT]
}

impl Scene {
    fn vcpus(&self) -> Vec<Vcpu> {
        let mut all: Vec<Vcpu> = self.loaded.maps().vcpus().unwrap().into_iter().map(|(_, v)| v).collect();
        all.sort_by_key(|vcpu| vcpu.index);
        all
    }

    /// This thread is switched away from in a state.
    fn leave(&mut self, state: u64) {
        let task = self.task;
        self.run("vcpu_switch_raw", &[0, task, task, state]);
    }

    /// What this CPU remembers of the vCPU's thread, as one does on which it ran before.
    fn remember(&mut self, index: u64) {
        let mut map: PerCpuArray<_, u64> =
            self.loaded.ebpf_mut().map_mut("HERE").unwrap().try_into().unwrap();
        let cpus = map.get(&0, 0).unwrap().len();
        let here = (index + 1) << 32 | u64::from(own_tid());
        map.set(0, PerCpuValues::try_from(vec![here; cpus]).unwrap(), 0).unwrap();
    }
}

#[test]
fn a_thread_that_ended_is_no_vcpu_any_more() {
    let mut scene = Scene::new();
    scene.run("vcpu_entry_raw", &[pointer()]);
    scene.leave(TASK_DEAD);
    let [ended] = scene.vcpus()[..] else { panic!("one vCPU") };
    assert_eq!((ended.tid, ended.live, ended.sched.state), (own_tid(), 0, UNKNOWN));
    assert!(ended.sched.running_ns > 0, "its last state counts");
    {
        let ids: HashMap<_, u32, u32> =
            scene.loaded.ebpf_mut().map_mut("VCPU_IDS").unwrap().try_into().unwrap();
        assert!(ids.get(&own_tid(), 0).is_err(), "cpu_noise takes the number for a vCPU's");
        let key = VcpuKey { tgid: std::process::id(), vcpu_id: ended.vcpu_id };
        let tids: HashMap<_, VcpuKey, u32> =
            scene.loaded.ebpf_mut().map_mut("VCPU_TIDS").unwrap().try_into().unwrap();
        assert!(tids.get(&key, 0).is_err(), "interrupts go to the number");
    }

    // Another thread has the number, on a CPU that remembers the vCPU.
    scene.remember(0);
    for state in [1, 0] {
        scene.leave(state);
    }
    scene.run("exit_raw", &[CPUID, 0, ISA_VMX.into()]);
    scene.run("user_exit_raw", &[2, 0]);
    let [after] = scene.vcpus()[..] else { panic!("still one vCPU") };
    assert_eq!(after.sched.running_ns, ended.sched.running_ns);
    assert_eq!((after.sched.state, after.switches, after.exit.exit_ns), (UNKNOWN, ended.switches, 0));
    assert_eq!(after.exit.user[2], ended.exit.user[2]);

    // It comes to run a vCPU.
    scene.remember(0);
    scene.run("vcpu_entry_raw", &[pointer()]);
    let [former, present] = scene.vcpus()[..] else { panic!("two vCPUs") };
    assert_eq!((former.index, former.live, present.index, present.live), (0, 0, 1, own_tid()));
    assert_eq!(present.sched.running_ns, 0);
}

#[test]
fn a_vcpu_of_another_process_gets_a_place_of_its_own() {
    let mut scene = Scene::new();
    scene.run("vcpu_entry_raw", &[pointer()]);
    // The end of the one before was not seen.
    super::delivery::change_vcpu(scene.loaded.ebpf_mut(), 0, |vcpu| vcpu.tgid += 1);
    scene.run("vcpu_entry_raw", &[pointer()]);
    let found: Vec<_> = scene.vcpus().iter().map(|vcpu| (vcpu.index, vcpu.tgid)).collect();
    assert_eq!(found, [(0, std::process::id() + 1), (1, std::process::id())]);
}

/// A thread that runs a vCPU with an exit, and ends. The kernel's own switch tells that.
fn run_a_vcpu(observer: &mut Observer) {
    let pointer = pointer();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            run(observer, "vcpu_entry_raw", &[pointer]);
            run(observer, "vcpu_entry_raw", &[pointer]);
        });
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    while observer.loaded_mut().maps().vcpus().unwrap().iter().any(|(_, vcpu)| vcpu.live != 0) {
        assert!(Instant::now() < deadline, "the end of the thread is not seen");
        std::thread::yield_now();
    }
}

/// What a snapshot says of the guest.
fn figures(snapshot: &Snapshot) -> usize {
    let named = |labels: &probe_user::stats::Labels| labels.contains_key("guest");
    snapshot.series.iter().filter(|s| named(&s.labels)).count()
        + snapshot.counters.iter().filter(|c| named(&c.labels)).count()
}

#[test]
fn a_guest_does_not_go_on_in_the_figures_of_a_former_one() {
    // What the topology says next: the guest as it was, gone, or another one with its number.
    let same: fn(&mut Topology) = |_| {};
    let gone: fn(&mut Topology) = |topology| topology.guests.clear();
    let another: fn(&mut Topology) = |topology| topology.guests[0].start_time += 1;
    for (what, change, stay) in [("same", same, true), ("gone", gone, false), ("another", another, false)] {
        let mut topology = topology(&[]);
        let mut observer = Observer::start(&HostRoot::live(), &topology).unwrap();
        teach(&mut observer, &[]);
        observer.open(None).unwrap();
        run_a_vcpu(&mut observer);
        let ebpf = observer.loaded_mut().ebpf_mut();
        let mut vectors: HashMap<_, ExitVector, u64> =
            ebpf.map_mut("EXIT_VECTORS").unwrap().try_into().unwrap();
        vectors.insert(ExitVector { vcpu: 0, vector: 96 }, 7, 0).unwrap();
        let before = figures(&observer.snapshot(&topology).unwrap());
        assert!(before > 8, "{what}: {before} figures of the slot and of the vCPU");

        change(&mut topology);
        observer.forget_gone(&topology).unwrap();
        let after = observer.snapshot(&topology).unwrap();
        assert_eq!(figures(&after), if stay { before } else { 0 }, "{what}: {after:?}");
        let ebpf = observer.loaded_mut().ebpf_mut();
        let slots: HashMap<_, SlotKey, u32> = ebpf.map_mut("SLOT_IDS").unwrap().try_into().unwrap();
        assert_eq!(slots.keys().count(), usize::from(stay), "{what}");
        let known: Array<_, probe_ebpf::probes::irq_delivery::KnownIrq> =
            ebpf.map_mut("KNOWN_IRQS").unwrap().try_into().unwrap();
        assert_eq!(known.get(&IRQ, 0).unwrap().slot, u32::from(stay), "{what}");

        // The next one of that number begins with nothing.
        if !stay {
            run_a_vcpu(&mut observer);
            let next = observer.snapshot(&topology).unwrap();
            let vectors = next.counters.iter().filter(|c| c.name == "host_vector_exits").count();
            assert_eq!(vectors, 0, "{what}");
        }
    }
}
