//! `cargo xtask bench`: what vfprobe costs, measured with optimised builds. Figures for people, and nothing asserts them.

use std::process::ExitCode;

use anyhow::Result;

use crate::process;
use crate::workspace::Workspace;

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The figures to measure
    #[arg(value_enum, default_value = "report")]
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// A session of 63 guests, 3 vectors and 5 stages: written, read, compared, rendered
    Report,
    /// Time that each BPF program adds to an event, and the memory of the maps by number of CPUs (needs root)
    Probes,
    /// CPU time for each packet between an uplink and a guest's tap, unobserved and observed (needs root)
    Path,
    /// A scrape of 64 guests and 63 VFs in each form: time, bytes, memory; 50 at once; 10,000 guests that come and go
    Export,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let mut cargo = process::cargo();
    cargo.current_dir(&workspace.root);
    match args.what {
        What::Report => cargo.args(["test", "--release", "--quiet", "--package", "probe-user"]).args([
            "--test",
            "report_size",
            "--",
            "--nocapture",
        ]),
        What::Probes => cargo.args(["bench", "--quiet", "--package", "vfprobe-tests", "--bench", "probes"]),
        What::Path => cargo.args(["bench", "--quiet", "--package", "vfprobe-tests", "--bench", "path"]),
        What::Export => cargo.args(["bench", "--quiet", "--package", "probe-user", "--bench", "export"]),
    };
    process::run(&mut cargo)?;
    Ok(ExitCode::SUCCESS)
}
