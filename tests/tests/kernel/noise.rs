//! Noise of a real CPU of this machine, with a tracefs capture of the same time beside it.

use super::capture::Capture;
use probe_user::app::observe::Observer;
use probe_user::host::{HostRoot, read_topology};
use probe_user::model::topology::Topology;
use probe_user::stats::Snapshot;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use vfprobe_tests::oracle::{Span, noise, trace};

/// Everything that can take the CPU. `None` when tracefs is not mounted.
fn capture(cpu: u32) -> Option<Capture> {
    let capture = Capture::prepare("vfprobe-noise-test")?;
    capture.write("tracing_cpumask", &format!("{:x}", 1u64 << cpu));
    for event in ["irq/irq_handler_entry", "irq/irq_handler_exit", "irq/softirq_entry", "irq/softirq_exit"] {
        capture.write(&format!("events/{event}/enable"), "1");
    }
    capture.write("events/irq_vectors/enable", "1");
    capture.write("events/sched/sched_switch/enable", "1");
    capture.write("tracing_on", "1");
    Some(capture)
}

/// Two threads on `cpu` that hand a token to and fro until they are told to stop: switches all the time.
fn ping_pong<R>(cpu: usize, run: impl FnOnce() -> R) -> R {
    let stop = AtomicBool::new(false);
    let pinned = || {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        rustix::thread::sched_setaffinity(None, &set).unwrap();
    };
    let (to, from_first) = mpsc::sync_channel::<()>(1);
    let (back, from_second) = mpsc::sync_channel::<()>(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            pinned();
            while from_first.recv().is_ok() && back.send(()).is_ok() {}
        });
        let stop = &stop;
        scope.spawn(move || {
            pinned();
            while !stop.load(Ordering::Relaxed) && to.send(()).is_ok() && from_second.recv().is_ok() {}
        });
        let result = run();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

fn noise_intervals(snapshot: &Snapshot) -> u64 {
    snapshot.series.iter().filter(|s| s.probe == "cpu_noise").map(|s| s.histogram.n()).sum()
}

/// vfprobe's sources in the oracle's words; kernel and user threads are both threads to ftrace.
fn reported(snapshot: &Snapshot, irqs: &BTreeMap<String, String>) -> BTreeMap<String, (u64, u64)> {
    let mut out: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for series in snapshot.series.iter().filter(|s| s.probe == "cpu_noise") {
        let source = &series.labels["source"];
        let source = match series.labels["kind"].as_str() {
            "irq" => format!("irq {}", irqs.get(source).unwrap_or(source)),
            "softirq" => format!("softirq {source}"),
            "kernel-thread" | "user-thread" => format!("thread {source}"),
            _ => source.clone(),
        };
        let sum = out.entry(source).or_default();
        sum.0 += series.histogram.n();
        sum.1 += series.histogram.sum();
    }
    out
}

#[test]
fn noise_agrees_with_tracefs() {
    let root = HostRoot::live();
    let topology = read_topology(&root);
    let cpu = topology.online().iter().last().unwrap();
    let mut observer = Observer::start_anywhere(&root, &Topology::default()).unwrap();
    observer.guard(&cpu.into()).unwrap();
    let Some(capture) = capture(cpu.0) else {
        println!("SKIP noise_agrees_with_tracefs: tracefs is not mounted on /sys/kernel/tracing");
        return;
    };
    observer.open(None).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    ping_pong(usize::try_from(cpu.0).unwrap(), || {
        while noise_intervals(&observer.snapshot(&topology).unwrap()) < 2000 {
            assert!(Instant::now() < deadline, "too little happens on CPU {cpu}");
            std::thread::yield_now();
        }
    });
    observer.close().unwrap();
    let text = capture.end();
    let snapshot = observer.snapshot(&topology).unwrap();
    let lost: Vec<_> = snapshot.lost.keys().filter(|cause| cause.starts_with("cpu_noise")).collect();
    assert!(lost.is_empty(), "{lost:?}");

    let events = trace::parse(&text).unwrap();
    let span = Span { from_ns: snapshot.from_ns, until_ns: snapshot.to_ns };
    let expected = noise::evaluate(&events, cpu.0, &BTreeSet::new(), span);
    let names = topology.irqs.iter().map(|irq| (irq.actions.clone(), irq.number.to_string())).collect();
    let reported = reported(&snapshot, &names);
    assert!(expected.len() > 2, "too few sources: {expected:?}");
    let mut differ = Vec::new();
    let all: BTreeSet<&String> = expected.keys().chain(reported.keys()).collect();
    for source in all {
        let ours = expected.get(source).cloned().unwrap_or_default();
        let (n, sum_ns) = reported.get(source).copied().unwrap_or_default();
        // One interval may fall on different sides of each end of the window.
        if ours.n.abs_diff(n) > 2 {
            differ.push(format!("{source}: n {n}, the oracle has {}", ours.n));
        }
        // ftrace's text is cut to microseconds, and each observer's own work lies between the two stamps.
        let slack = 3_000 * (n + 2) + ours.net_ns / 20;
        if n > 2 && ours.n == n && ours.net_ns.abs_diff(sum_ns) > slack {
            differ.push(format!("{source}: {sum_ns} ns in all, the oracle has {} (n {n})", ours.net_ns));
        }
    }
    println!("{} sources, {} intervals compared", expected.len(), noise_intervals(&snapshot));
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
