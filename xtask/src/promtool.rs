//! promtool for the tests of rules and dashboards: from PATH, else unpacked from Debian's package into the cache.
//!
//! The package is not installed: it would start a Prometheus on this machine, and needs root.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{self, find_on_path};
use crate::workspace::Workspace;

const PACKAGE: &str = "prometheus";
const NAME: &str = "promtool";

/// The PATH under which promtool is found.
pub(crate) fn path(workspace: &Workspace) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    if find_on_path(NAME).is_some() {
        return Ok(path);
    }
    let dir = workspace.cache.join(PACKAGE);
    let programs = dir.join("usr/bin");
    if !programs.join(NAME).is_file() {
        unpack(&dir).with_context(|| format!("cannot fetch {NAME}; run `sudo apt-get install {PACKAGE}`"))?;
    }
    let paths = [programs].into_iter().chain(env::split_paths(&path));
    env::join_paths(paths).context("PATH holds a folder with a colon in its name")
}

fn unpack(dir: &Path) -> Result<()> {
    let part = dir.with_extension("part");
    if part.is_dir() {
        fs::remove_dir_all(&part)?;
    }
    fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
    // An image without package lists knows no package.
    if download(&part).is_err() {
        process::run(Command::new("apt-get").args(["update", "-qq"]))?;
        download(&part)?;
    }
    let archive = archive(&part)?;
    process::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&part))?;
    fs::remove_file(&archive)?;
    if dir.is_dir() {
        fs::remove_dir_all(dir)?;
    }
    fs::rename(&part, dir).with_context(|| format!("cannot make {}", dir.display()))
}

fn download(dir: &Path) -> Result<()> {
    process::run(
        Command::new("apt-get").args(["download", "-qq", PACKAGE]).current_dir(dir).stdout(std::io::stderr()),
    )
}

fn archive(dir: &Path) -> Result<PathBuf> {
    let mut files = fs::read_dir(dir)?.filter_map(Result::ok).map(|entry| entry.path());
    files.find(|path| path.extension().is_some_and(|e| e == "deb")).context("no package was downloaded")
}
