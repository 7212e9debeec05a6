//! The `vfprobe` command: parse, run, exit code.

use clap::Parser;
use probe_user::cli::{self, Cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli::run(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("vfprobe: {failure}");
            failure.exit.into()
        }
    }
}
