//! What all programs take on this host as it is: attached as `vfprobe record` attaches them, for a while.

use crate::figures::table;
use crate::rig::{NOTHING, raw};
use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::Program;
use probe_user::app::observe::Observer;
use probe_user::host::{HostRoot, read_topology};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::time::{Duration, Instant};

/// Events at which a program that does nothing runs beside the others.
const BASELINE: &[&str] = &["sched_switch", "irq_handler_entry"];

/// Time and runs of each loaded program.
fn all(ebpf: &mut Ebpf) -> BTreeMap<String, (Duration, u64)> {
    let mut found = BTreeMap::new();
    for (name, program) in ebpf.programs() {
        let info = match program {
            Program::RawTracePoint(program) => program.info().ok(),
            Program::TracePoint(program) => program.info().ok(),
            _ => None,
        };
        if let Some(info) = info {
            found.insert(name.to_owned(), (info.run_time(), info.run_count()));
        }
    }
    found
}

/// Attaches everything, lets `work` go on for `length`, and prints what each program took.
pub(crate) fn report(what: &str, length: Duration, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let root = HostRoot::live();
    let topology = read_topology(&root);
    let mut observer = Observer::start_anywhere(&root, &topology)?;
    observer.guard(&topology.online())?;
    observer.open(None)?;
    let ebpf = observer.loaded_mut().ebpf_mut();
    for event in BASELINE {
        raw(ebpf, NOTHING)?.attach(event).with_context(|| format!("{NOTHING} at {event}"))?;
    }
    let before = all(ebpf);
    let start = Instant::now();
    while start.elapsed() < length {
        work()?;
    }
    let after = all(ebpf);
    println!("{what}: every program attached, every CPU guarded, {:.1} s", start.elapsed().as_secs_f64());
    let mut each: Vec<(f64, f64, u64, &String)> = Vec::new();
    let mut nothing = 0.0;
    for (name, (time, runs)) in &after {
        let (time_before, runs_before) = before.get(name).copied().unwrap_or_default();
        let (time, runs) = (time.saturating_sub(time_before), runs - runs_before);
        if runs == 0 {
            continue;
        }
        let mean = time.as_secs_f64() * 1e9 / crate::as_f64(runs);
        if name == NOTHING {
            nothing = mean;
        } else {
            each.push((time.as_secs_f64(), mean, runs, name));
        }
    }
    each.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut rows =
        vec![crate::figures::row(["program", "runs", "ns per run", "more than nothing", "ratio to nothing"])];
    rows.push(vec![NOTHING.into(), String::new(), format!("{nothing:.0}"), "-".into(), "1".into()]);
    for (_, mean, runs, name) in each {
        let ratio = mean / nothing.max(1.0);
        rows.push(vec![
            name.clone(),
            runs.to_string(),
            format!("{mean:.0}"),
            format!("{:.0}", mean - nothing),
            format!("{ratio:.2}"),
        ]);
    }
    table(&rows);
    Ok(())
}

/// A storm of interrupts on demand: the virtio random number generator; `None` where there is none.
pub(crate) fn storm() -> Option<impl FnMut() -> Result<()>> {
    let mut device = File::open("/dev/hwrng").ok()?;
    let mut bytes = [0; 64];
    device.read_exact(&mut bytes).ok()?;
    Some(move || Ok(device.read_exact(&mut bytes)?))
}
