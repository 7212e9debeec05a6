//! `cargo xtask`: what a developer runs. One file or folder per command; this file only reads the arguments.
//! Nothing here uses vfprobe's own crates: xtask starts cargo, QEMU and the built binaries.

mod bench;
mod bpf;
mod demo;
mod dist;
mod lab;
mod packages;
mod process;
mod progress;
mod promtool;
mod python;
mod tally;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use workspace::Workspace;

/// Build, test, lab and demo commands of vfprobe.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What vfprobe costs, measured
    Bench(bench::Args),
    /// Build the committed BPF object, or check that it is what the sources give
    Bpf(bpf::Args),
    /// From a fresh clone to a verdict: measure direct interrupt routing in an emulated SR-IOV host
    Demo(demo::Args),
    /// Packages for users: a tarball, a Debian and an RPM package, in target/dist
    Dist(dist::Args),
    /// The emulated SR-IOV host: build it, run scripts or tests in it, get a shell in it
    Lab(lab::Args),
    /// Run every check: formatting, lints, unit tests, the BPF object, this kernel, the lab
    Test(test::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    match command {
        Command::Bench(args) => bench::run(&workspace, &args),
        Command::Bpf(args) => bpf::run(&workspace, &args).map(|()| ExitCode::SUCCESS),
        Command::Test(args) => test::run(&workspace, &args),
        Command::Demo(args) => demo::run(&workspace, &args),
        Command::Dist(args) => dist::run(&workspace, &args),
        Command::Lab(args) => lab::run(&workspace, &args),
    }
}
