//! A CPU that is guarded, let go and guarded again: what was open when it was let go ended unseen, and is no noise of the
//! time after. The programs run with arguments of our own and are not attached.

use super::exits::Scene;
use aya::maps::{PerCpuArray, PerCpuValues};
use probe_ebpf::control::Table;
use probe_ebpf::probes::cpu_noise::NoiseCpu;
use probe_user::model::{CpuId, CpuSet};
use probe_user::probes::MapReader as _;
use probe_user::stats::Histogram;
use std::collections::BTreeMap;

const TIMER: u64 = 0xec;

impl Scene {
    fn here() -> usize {
        rustix::thread::sched_getcpu()
    }

    fn guard_here(&mut self) {
        let cpu = CpuId(u32::try_from(Self::here()).unwrap());
        self.loaded.guard(&CpuSet::from_iter([cpu])).unwrap();
    }

    /// A thread that is no vCPU's is given this CPU.
    fn switch(&mut self) {
        let task = self.task;
        self.run("noise_switch", &[0, task, task, 0]);
    }

    /// Has begun as long ago as this host runs whatever is open here.
    fn age(&mut self) {
        let mut map: PerCpuArray<_, NoiseCpu> =
            self.loaded.ebpf_mut().map_mut("NOISE_CPU").unwrap().try_into().unwrap();
        let mut states: Vec<NoiseCpu> = map.get(&0, 0).unwrap().iter().copied().collect();
        let state = &mut states[Self::here()];
        (state.thread.start_ns, state.frames[0].start_ns) = (1, 1);
        map.set(0, PerCpuValues::try_from(states).unwrap(), 0).unwrap();
    }

    /// Intervals in histograms.
    fn intervals(&self) -> u64 {
        let maps = self.loaded.maps();
        let hists = (0..maps.used(Table::Noise).unwrap()).map(|at| maps.hist("NOISE_HIST", at).unwrap());
        hists.map(|hist| Histogram::from(&hist).n()).sum()
    }
}

#[test]
fn what_was_open_when_a_cpu_was_let_go_is_forgotten() {
    type Step = fn(&mut Scene);
    let (guard, switch, age): (Step, Step, Step) = (Scene::guard_here, Scene::switch, Scene::age);
    let free: Step = |s| s.loaded.guard(&CpuSet::new()).unwrap();
    let enter: Step = |s| s.run("noise_vec_in", &[TIMER]);
    let leave: Step = |s| s.run("noise_vec_out", &[TIMER]);
    // Steps, and intervals counted.
    let cases: [(&[Step], u64); 7] = [
        (&[guard, switch, switch], 1),
        (&[guard, switch, guard, switch], 1),
        (&[guard, switch, age, free, guard, switch], 0),
        (&[guard, switch, age, free, guard, switch, switch], 1),
        (&[guard, enter, leave], 1),
        (&[guard, enter, age, free, guard, leave], 0),
        // The timer's beginning is of the time before, what is nested in it is not, and its end finds nothing open.
        (&[guard, enter, free, guard, enter, leave, leave], 1),
    ];
    for (index, (steps, intervals)) in cases.into_iter().enumerate() {
        let mut scene = Scene::new();
        for step in steps {
            step(&mut scene);
        }
        assert_eq!((scene.intervals(), scene.lost()), (intervals, BTreeMap::new()), "case {index}");
    }
}
