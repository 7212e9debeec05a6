//! `vfprobe man`: the manual pages, made from the same definitions as `--help`.

use super::{Cli, Exit, Failure, print};
use anyhow::Context;
use clap::CommandFactory;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};
use std::{fs, io, path::PathBuf};

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write the pages of all commands to this directory, instead of printing vfprobe(1)
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// What each exit code means, as README.md has it.
const EXIT_STATUS: [(&str, &str); 6] = [
    ("0", "All is fine."),
    ("1", "A finding: worse, over budget, drift."),
    ("2", "Wrong arguments or input."),
    ("3", "Cannot run here: missing privilege or kernel feature."),
    ("4", "Something went wrong and was rolled back; nothing is left changed."),
    ("5", "Rollback was incomplete: something is left changed."),
];

/// Prints or writes the pages.
pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let Args { output } = args;
    let main = main_page().context("cannot put the manual page together").map_err(Failure::cannot_run)?;
    let Some(dir) = output else {
        return print(&main);
    };
    let cannot = || format!("cannot write manual pages to {}; give --output a directory", dir.display());
    let write = || {
        fs::create_dir_all(dir)?;
        clap_mangen::generate_to(Cli::command(), dir)?;
        fs::write(dir.join("vfprobe.1"), main)
    };
    write().with_context(cannot).map_err(Failure::cannot_run)?;
    Ok(Exit::Fine)
}

fn main_page() -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(Cli::command()).manual("vfprobe manual").render(&mut page)?;
    let mut exit_status = Roff::new();
    exit_status.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXIT_STATUS {
        exit_status.control("TP", []).text([bold(code)]).text([roman(meaning)]);
    }
    exit_status.to_writer(&mut page)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_page_names_commands_and_exit_codes() {
        let page = String::from_utf8(main_page().unwrap()).unwrap();
        for command in Cli::command().get_subcommands() {
            let name = command.get_name().replace('-', "\\-");
            assert!(page.contains(&format!("vfprobe\\-{name}(1)")), "{name}");
        }
        assert!(page.contains("EXIT STATUS"));
        assert!(page.contains("Rollback was incomplete"));
    }

    #[test]
    fn exit_codes_are_those_of_the_program() {
        let all = [
            Exit::Fine,
            Exit::Finding,
            Exit::Usage,
            Exit::CannotRun,
            Exit::RolledBack,
            Exit::RollbackIncomplete,
        ];
        let codes: Vec<String> = all.iter().map(|exit| exit.code().to_string()).collect();
        assert_eq!(codes, EXIT_STATUS.map(|(code, _)| code));
    }

    #[test]
    fn each_command_gets_a_page() {
        let dir = tempfile::tempdir().unwrap();
        run(&Args { output: Some(dir.path().to_owned()) }).unwrap();
        assert!(fs::read_to_string(dir.path().join("vfprobe.1")).unwrap().contains("EXIT STATUS"));
        for command in Cli::command().get_subcommands() {
            assert!(dir.path().join(format!("vfprobe-{}.1", command.get_name())).exists());
        }
    }
}
