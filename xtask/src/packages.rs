//! Programs this machine must have: found on PATH, else installed by apt-get when root, else named with the exact
//! command. Knows no command of xtask.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process::{self, find_on_path, stdout_of};

/// A program and the Debian package that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
}

/// Makes sure that every one of `programs` can be started.
pub(crate) fn ensure(programs: &[Program]) -> Result<()> {
    let missing: Vec<Program> =
        programs.iter().copied().filter(|program| find_on_path(program.name).is_none()).collect();
    install(&missing)
}

/// Debian's Python, whose modules are Debian packages; another one that comes first on PATH does not see them.
pub(crate) const PYTHON: &str = "/usr/bin/python3";
/// SciPy for [`PYTHON`].
const SCIPY: Program = Program { name: "SciPy", package: "python3-scipy" };

/// Makes sure that [`PYTHON`] has SciPy.
pub(crate) fn ensure_scipy() -> Result<()> {
    let mut import = Command::new(PYTHON);
    import.args(["-c", "import scipy"]).stdout(Stdio::null()).stderr(Stdio::null());
    match import.status() {
        Ok(status) if status.success() => Ok(()),
        // Python itself comes along.
        _ => install(&[SCIPY]),
    }
}

fn install(missing: &[Program]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    if find_on_path("apt-get").is_none() || !is_root()? {
        bail!("{}", advice(missing));
    }
    eprintln!("xtask: installing {}", package_list(missing));
    // An image without package lists knows no package; a failed update still leaves the lists it has.
    if let Err(error) = process::run(Command::new("apt-get").args(["update", "-qq"])) {
        eprintln!("xtask: {error:#}; trying with the package lists this machine has");
    }
    process::run(
        Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(missing.iter().map(|program| program.package))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(std::io::stderr()),
    )
    .with_context(|| advice(missing))
}

/// Whether xtask runs as root, as far as this user namespace is concerned.
pub(crate) fn is_root() -> Result<bool> {
    Ok(stdout_of(Command::new("id").arg("-u"))? == "0")
}

fn package_list(programs: &[Program]) -> String {
    let mut packages: Vec<&str> = programs.iter().map(|program| program.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages.join(" ")
}

/// What to tell a user without root rights.
fn advice(missing: &[Program]) -> String {
    let names: Vec<&str> = missing.iter().map(|program| program.name).collect();
    format!(
        "missing on this machine: {}; run `sudo apt-get install {}`",
        names.join(", "),
        package_list(missing)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_is_one_command_with_each_package_once() {
        let programs = [
            Program { name: "newuidmap", package: "uidmap" },
            Program { name: "mmdebstrap", package: "mmdebstrap" },
            Program { name: "newgidmap", package: "uidmap" },
        ];
        assert_eq!(
            advice(&programs),
            "missing on this machine: newuidmap, mmdebstrap, newgidmap; \
             run `sudo apt-get install mmdebstrap uidmap`"
        );
    }

    #[test]
    fn programs_that_are_there_need_nothing() {
        ensure(&[Program { name: "sh", package: "dash" }]).unwrap();
    }
}
