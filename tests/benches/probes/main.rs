//! `cargo xtask bench probes`: what vfprobe's programs cost. Needs root. Everything is compared within one run, in
//! turn, as machines differ and change; nothing is asserted.

mod beside;
mod figures;
mod live;
mod loads;
mod memory;
mod programs;
mod rig;

use anyhow::{Context, Result, bail};
use aya::sys::{Stats, enable_stats};
use std::time::Duration;

/// As a number with a fraction; counts and byte sizes are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "below 2^53")]
pub(crate) fn as_f64(count: u64) -> f64 {
    count as f64
}

fn main() -> Result<()> {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [] => here(),
        ["live", seconds] => live(seconds.parse().context("seconds")?),
        _ => bail!("usage: probes [live SECONDS]"),
    }
}

/// Everything that any machine can measure.
fn here() -> Result<()> {
    let cpu = rustix::thread::sched_getcpu();
    rig::stay_on(cpu)?;
    {
        let _counting = enable_stats(Stats::RunTime).context("root is needed")?;
        programs::report()?;
        println!();
        match live::storm() {
            Some(mut work) => {
                live::report("interrupts of the random number generator", Duration::from_secs(2), &mut work)?;
            }
            None => println!("storm of interrupts: skipped, /dev/hwrng cannot be read"),
        }
    }
    // Without statistics, whose clocks cost more than most programs.
    println!();
    loads::switches(cpu)?;
    println!();
    loads::msis(cpu)?;
    println!();
    memory::report()
}

/// What the host's own load has the programs take.
fn live(seconds: u64) -> Result<()> {
    let _counting = enable_stats(Stats::RunTime).context("root is needed")?;
    let wait = Duration::from_millis(100);
    live::report("this host's load", Duration::from_secs(seconds), &mut || {
        std::thread::sleep(wait);
        Ok(())
    })
}
