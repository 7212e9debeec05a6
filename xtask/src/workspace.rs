//! Where things are: the repository, cargo's build folder, the user's caches. Knows no command.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{cargo, stdout_of};

/// The package with the tests that need a kernel: this machine's or the lab's.
pub(crate) const TESTS_PACKAGE: &str = "vfprobe-tests";

/// The folders every command starts from.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    /// The repository's top folder.
    pub(crate) root: PathBuf,
    /// Cargo's build folder: `CARGO_TARGET_DIR`, else `target` below the root.
    pub(crate) target: PathBuf,
    /// vfprobe's folder in the user's cache folder: tools and the lab, shared by all clones.
    pub(crate) cache: PathBuf,
}

impl Workspace {
    /// Finds the folders from the environment: `cargo xtask` runs it for the checkout it is called in, which need not be the
    /// one it was built in when build folders are copied. Started without cargo, it is for the latter.
    pub(crate) fn locate() -> Result<Self> {
        let own = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&own)
            .parent()
            .context("xtask has no parent folder: build it inside the repository")?
            .to_path_buf();
        let target = env::var_os("CARGO_TARGET_DIR")
            .filter(|dir| !dir.is_empty())
            .map_or_else(|| root.join("target"), |dir| root.join(dir));
        let cache = cache_dir(env::var_os("XDG_CACHE_HOME"), env::var_os("HOME"))
            .context("no cache folder: neither XDG_CACHE_HOME nor HOME is set; set one of them")?;
        Ok(Self { root, target, cache })
    }

    /// The folder of the compiler that builds the workspace.
    pub(crate) fn sysroot(&self) -> Result<PathBuf> {
        let mut rustc = Command::new("rustc");
        Ok(stdout_of(rustc.current_dir(&self.root).args(["--print", "sysroot"]))?.into())
    }

    /// Compiler flags by which nothing that is built names a folder of this machine.
    pub(crate) fn remaps(&self, sysroot: &Path) -> Result<Vec<String>> {
        let cargo_home = env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
            .context("neither CARGO_HOME nor HOME is set")?;
        Ok(remaps(&[(&self.root, "/vfprobe"), (&cargo_home, "/cargo"), (sysroot, "/rust")]))
    }

    /// Names of the integration test targets of the `tests` package.
    pub(crate) fn test_targets(&self) -> Result<Vec<String>> {
        let mut command = cargo();
        command.current_dir(&self.root).args(["metadata", "--no-deps", "--format-version", "1", "--locked"]);
        parse_test_targets(&stdout_of(&mut command)?)
    }
}

/// Folders, and the names they get instead.
fn remaps(folders: &[(&Path, &str)]) -> Vec<String> {
    folders.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect()
}

/// `$XDG_CACHE_HOME/vfprobe`, else `$HOME/.cache/vfprobe` (XDG Base Directory Specification: relative paths are
/// to be ignored).
fn cache_dir(xdg: Option<std::ffi::OsString>, home: Option<std::ffi::OsString>) -> Option<PathBuf> {
    let absolute = |dir: std::ffi::OsString| Some(PathBuf::from(dir)).filter(|dir| dir.is_absolute());
    xdg.and_then(absolute)
        .or_else(|| home.and_then(absolute).map(|home| home.join(".cache")))
        .map(|cache| cache.join("vfprobe"))
}

/// Test targets of the `tests` package in the output of `cargo metadata` (format version 1).
fn parse_test_targets(metadata: &str) -> Result<Vec<String>> {
    let metadata: serde_json::Value =
        serde_json::from_str(metadata).context("`cargo metadata` gives JSON")?;
    let packages = metadata["packages"].as_array().context("`cargo metadata` names no packages")?;
    let package = packages
        .iter()
        .find(|package| package["name"] == TESTS_PACKAGE)
        .with_context(|| format!("the workspace has no package {TESTS_PACKAGE}"))?;
    let targets = package["targets"].as_array().context("a package has targets")?;
    let is_test = |target: &&serde_json::Value| {
        target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "test"))
    };
    let names = targets.iter().filter(is_test).filter_map(|target| target["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_targets_are_read_from_cargo_s_metadata() {
        let metadata = r#"{"packages": [
            {"name": "other", "targets": [{"kind": ["test"], "name": "x"}]},
            {"name": "vfprobe-tests", "targets": [
                {"kind": ["lib"], "name": "vfprobe_tests"}, {"kind": ["test"], "name": "kernel"}]}]}"#;
        assert_eq!(parse_test_targets(metadata).unwrap(), ["kernel"]);
        assert!(parse_test_targets(r#"{"packages": []}"#).is_err());
        assert!(parse_test_targets("no").is_err());
    }

    #[test]
    fn folders_get_other_names_in_what_is_built() {
        assert_eq!(remaps(&[(Path::new("/a b"), "/vfprobe")]), ["--remap-path-prefix=/a b=/vfprobe"]);
    }

    #[test]
    fn the_cache_folder_follows_the_xdg_specification() {
        let cases = [
            (Some("/c"), Some("/home/u"), Some("/c/vfprobe")),
            (Some(""), Some("/home/u"), Some("/home/u/.cache/vfprobe")),
            (Some("relative"), Some("/home/u"), Some("/home/u/.cache/vfprobe")),
            (None, Some("/home/u"), Some("/home/u/.cache/vfprobe")),
            (None, None, None),
        ];
        for (xdg, home, expected) in cases {
            assert_eq!(
                cache_dir(xdg.map(Into::into), home.map(Into::into)),
                expected.map(PathBuf::from),
                "{xdg:?} {home:?}"
            );
        }
    }
}
