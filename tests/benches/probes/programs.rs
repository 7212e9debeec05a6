//! What each program takes by itself: run with arguments of our own (BPF_PROG_TEST_RUN), timed by the kernel's own
//! statistics, less what a program takes that does nothing and is run in turn with it.

use crate::figures::{Figure, row, table};
use crate::rig::{NOTHING, Rig, ran, run};
use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{HashMap, PerCpuArray, PerCpuValues};
use probe_ebpf::control::Window;
use probe_ebpf::probes::trace::{EVERY_SLOT, Id, Inside, TracedVcpu, Wanted};
use probe_ebpf::vcpu::VcpuKey;
use probe_user::bpf::{TraceSizes, Tracer};
use probe_user::host::HostRoot;
use std::collections::BTreeMap;
use std::time::Duration;

const BATCHES: u32 = 100;
const ROUNDS: u32 = 64;
/// What "many" series are.
const MANY: u32 = 64;

/// Cost by program (ns per run, on top of nothing).
type Costs = BTreeMap<&'static str, Figure>;

/// A kernel event, and the programs that it runs.
struct Scenario {
    what: &'static str,
    programs: &'static [&'static str],
    prepare: fn(&mut Rig, u32) -> Result<()>,
    round: fn(&mut Rig, u32) -> Result<()>,
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        what: "reading the clock",
        programs: &["clock_raw"],
        prepare: |_, _| Ok(()),
        round: |rig, _| rig.run("clock_raw", &[]),
    },
    Scenario {
        what: "VF interrupt",
        programs: &[
            "irq_entry_raw",
            "irq_accept_raw",
            "irq_exit_raw",
            "irq_inject_raw",
            "vcpu_entry_raw",
            "irq_eoi_raw",
        ],
        prepare: |rig, series| {
            rig.learn_vcpu()?;
            rig.learn_slots(series)
        },
        round: |rig, n| {
            let (irq, vector) = (rig.irq(n), u64::from(0x30 + n));
            rig.run("irq_entry_raw", &irq)?;
            rig.run("irq_accept_raw", &[rig.vcpu_id.into(), 0, 0, vector])?;
            rig.run("irq_exit_raw", &irq)?;
            rig.run("irq_inject_raw", &[vector, 0, 0])?;
            rig.run("vcpu_entry_raw", &[rig.pointer])?;
            rig.run("irq_eoi_raw", &[0, vector])
        },
    },
    Scenario {
        what: "other interrupt, accept, EOI",
        programs: &["irq_entry_raw", "irq_exit_raw", "irq_accept_raw", "irq_eoi_raw"],
        prepare: |rig, _| rig.learn_vcpu(),
        round: |rig, n| {
            let irq = rig.irq(n);
            rig.run("irq_entry_raw", &irq)?;
            rig.run("irq_exit_raw", &irq)?;
            rig.run("irq_accept_raw", &[rig.vcpu_id.into(), 0, 0, 0xec])?;
            rig.run("irq_eoi_raw", &[0, 0xec])
        },
    },
    Scenario {
        what: "exit and entry",
        programs: &["exit_raw", "vcpu_entry_raw"],
        prepare: |rig, _| rig.learn_vcpu(),
        round: |rig, n| {
            rig.run("exit_raw", &[u64::from(0x40 + n), 0, 2])?;
            rig.run("vcpu_entry_raw", &[rig.pointer])
        },
    },
    Scenario {
        what: "switch, wakeup: no vCPU",
        programs: &["vcpu_switch_raw", "sched_wakeup_raw"],
        prepare: |_, _| Ok(()),
        round: |rig, _| {
            rig.run("vcpu_switch_raw", &[0, rig.task, rig.task, 0])?;
            rig.run("sched_wakeup_raw", &[rig.task])
        },
    },
    Scenario {
        what: "switch away from a vCPU",
        programs: &["vcpu_switch_raw"],
        prepare: |rig, _| rig.learn_vcpu(),
        round: |rig, _| rig.run("vcpu_switch_raw", &[0, rig.task, rig.task, 0]),
    },
    Scenario {
        what: "noise, CPU not guarded",
        programs: &["noise_irq_in", "noise_irq_out", "noise_vec_in", "noise_vec_out", "noise_switch"],
        prepare: |_, _| Ok(()),
        round: noise,
    },
    Scenario {
        what: "noise, guarded CPU",
        programs: &["noise_irq_in", "noise_irq_out", "noise_vec_in", "noise_vec_out", "noise_switch"],
        prepare: |rig, _| rig.guard(),
        round: noise,
    },
];

fn noise(rig: &mut Rig, n: u32) -> Result<()> {
    let irq = rig.irq(n);
    rig.run("noise_irq_in", &irq)?;
    rig.run("noise_irq_out", &irq)?;
    rig.run("noise_vec_in", &[0xec])?;
    rig.run("noise_vec_out", &[0xec])?;
    rig.run("noise_switch", &[0, rig.task, rig.task, 0])
}

/// Runs rounds in batches; a batch gives one value per program.
fn measure(
    programs: &[&'static str],
    ebpf: &mut dyn FnMut() -> Result<Vec<(Duration, u64)>>,
    round: &mut dyn FnMut(u32) -> Result<()>,
) -> Result<Costs> {
    let mut values: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for batch in 0..=BATCHES {
        let before = ebpf()?;
        for n in 0..ROUNDS {
            round(n)?;
        }
        let after = ebpf()?;
        let mean = |at: usize| {
            let (time, runs) = (after[at].0 - before[at].0, after[at].1 - before[at].1);
            time.as_secs_f64() * 1e9 / crate::as_f64(runs.max(1))
        };
        // The first batch warms up.
        if batch > 0 {
            for (at, program) in programs.iter().enumerate() {
                values.entry(program).or_default().push(mean(at) - mean(programs.len()));
            }
        }
    }
    Ok(values.into_iter().map(|(program, values)| (program, Figure::of(values))).collect())
}

fn stats(ebpf: &mut Ebpf, programs: &[&'static str]) -> Result<Vec<(Duration, u64)>> {
    programs.iter().chain([&NOTHING]).map(|program| ran(ebpf, program)).collect()
}

fn costs(scenario: &Scenario, series: u32) -> Result<Costs> {
    let rig = std::cell::RefCell::new(Rig::new()?);
    (scenario.prepare)(&mut rig.borrow_mut(), series)?;
    measure(
        scenario.programs,
        &mut || stats(rig.borrow_mut().loaded.ebpf_mut(), scenario.programs),
        &mut |n| {
            let rig = &mut rig.borrow_mut();
            rig.run(NOTHING, &[])?;
            (scenario.round)(rig, n % series)
        },
    )
}

/// The hops of a VF interrupt into the ring of `trace`.
const TRACED: &[&str] =
    &["trace_accept_raw", "trace_handled_raw", "trace_inject_raw", "trace_entry_raw", "trace_eoi_raw"];

fn trace_costs(series: u32) -> Result<Costs> {
    let pointer = Rig::new()?.pointer;
    let own = std::process::id();
    let wanted = [(0x180, Wanted { tgid: own, slot: EVERY_SLOT })];
    let sizes = TraceSizes { ring: 1 << 20, vcpus: 64, slots: 64 };
    let mut tracer = Tracer::new(&HostRoot::live(), &wanted, sizes)?;
    tracer.open(Window { from_ns: 0, until_ns: u64::MAX })?;
    run(tracer.ebpf_mut(), "trace_entry_raw", &[pointer])?;
    let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    let vcpus: HashMap<_, u32, TracedVcpu> =
        tracer.ebpf_mut().map_mut("TRACE_VCPUS").context("no map")?.try_into()?;
    let vcpu_id = vcpus.get(&tid, 0)?.vcpu_id;
    let mut tids: HashMap<_, VcpuKey, u32> =
        tracer.ebpf_mut().map_mut("TRACE_TIDS").context("no map")?.try_into()?;
    tids.insert(VcpuKey { tgid: own, vcpu_id }, tid, 0)?;
    let cpus = aya::util::nr_cpus().map_err(|(path, e)| anyhow::anyhow!("{path}: {e}"))?;
    let tracer = std::cell::RefCell::new(tracer);
    let mut raise_ns = 0;
    measure(
        TRACED,
        &mut || {
            let mut tracer = tracer.borrow_mut();
            tracer.drain()?;
            stats(tracer.ebpf_mut(), TRACED)
        },
        &mut |n| {
            raise_ns += 1;
            let vector = u64::from(0x30 + n % series);
            let inside = Inside { id: Id { raise_ns, vf: 0x180, slot: n % series }, tgid: own, tid: 0 };
            let mut tracer = tracer.borrow_mut();
            let ebpf = tracer.ebpf_mut();
            let mut map: PerCpuArray<_, Inside> = ebpf.map_mut("TRACE_IRQ").context("no map")?.try_into()?;
            map.set(0, PerCpuValues::try_from(vec![inside; cpus])?, 0)?;
            run(ebpf, NOTHING, &[])?;
            run(ebpf, "trace_accept_raw", &[vcpu_id.into(), 0, 0, vector])?;
            run(ebpf, "trace_handled_raw", &[0, 0, 1])?;
            run(ebpf, "trace_inject_raw", &[vector, 0, 0])?;
            run(ebpf, "trace_entry_raw", &[pointer])?;
            run(ebpf, "trace_eoi_raw", &[0, vector])
        },
    )
}

/// Measures and prints all scenarios.
pub(crate) fn report() -> Result<()> {
    println!(
        "programs: ns per run on top of a program that does nothing (median of {BATCHES} batches of {ROUNDS} runs, quartiles)"
    );
    let mut rows = vec![row(["event", "program", "1 series", &format!("{MANY} series"), "ratio"])];
    let mut sums = Vec::new();
    let traced = |series| trace_costs(series).map(|costs| ("trace (hops into the ring)", TRACED, costs));
    let counted = |scenario: &Scenario, series| {
        costs(scenario, series).map(|costs| (scenario.what, scenario.programs, costs))
    };
    let mut all = Vec::new();
    for scenario in SCENARIOS {
        all.push((counted(scenario, 1)?, counted(scenario, MANY)?));
    }
    all.push((traced(1)?, traced(MANY)?));
    for ((what, programs, one), (_, _, many)) in &all {
        let sum = |costs: &Costs| costs.values().map(|figure| figure.median).sum::<f64>();
        for program in *programs {
            let (few, lots) = (one[program], many[program]);
            let ratio = format!("{:.2}", lots.median / few.median.max(1.0));
            rows.push(vec![(*what).into(), (*program).into(), few.to_string(), lots.to_string(), ratio]);
        }
        sums.push((*what, sum(one), sum(many)));
    }
    table(&rows);
    println!();
    let mut rows =
        vec![row(["event, all its programs together", "1 series", &format!("{MANY} series"), "budget"])];
    for (what, one, many) in sums {
        let budget = match what {
            "VF interrupt" => "150",
            "exit and entry" => "60",
            "switch, wakeup: no vCPU" => "40",
            _ => "-",
        };
        rows.push(vec![what.into(), format!("{one:.0}"), format!("{many:.0}"), budget.into()]);
    }
    table(&rows);
    Ok(())
}
