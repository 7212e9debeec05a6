//! A Python with packages of PyPI: a virtual environment below the cache, made anew when other packages are asked for.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::packages::{self, Program};
use crate::process;
use crate::workspace::Workspace;

const PYTHON: Program = Program { name: "python3", package: "python3" };
/// What `python3 -m venv` needs; Debian has it apart.
const ENSUREPIP: &str = "python3-venv";

/// The Python of the environment `name`, which has `requirement` (`package==version`).
pub(crate) fn with(workspace: &Workspace, name: &str, requirement: &str) -> Result<PathBuf> {
    let dir = workspace.cache.join("python").join(name);
    let (python, made) = (dir.join("bin/python"), dir.join("requirement"));
    // Written last, so that what was cut short is made anew.
    if fs::read_to_string(&made).is_ok_and(|has| has == requirement) {
        return Ok(python);
    }
    packages::ensure(&[PYTHON])?;
    let mut import = Command::new(PYTHON.name);
    import.args(["-c", "import ensurepip"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !import.status().is_ok_and(|status| status.success()) {
        packages::ensure(&[Program { name: "ensurepip", package: ENSUREPIP }])?;
    }
    let mut venv = Command::new(PYTHON.name);
    process::run(venv.args(["-m", "venv", "--clear"]).arg(&dir).stdout(std::io::stderr()))?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]);
    process::run(pip.stdout(std::io::stderr()))
        .with_context(|| format!("cannot install {requirement} from PyPI into {}", dir.display()))?;
    fs::write(&made, requirement).with_context(|| format!("cannot write {}", made.display()))?;
    Ok(python)
}
