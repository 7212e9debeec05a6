//! `cargo xtask bpf`: builds the BPF object that is committed and embedded in `vfprobe`, so that users need no BPF
//! toolchain. The object is the same to the byte on every machine: one compiler version, one codegen unit, and no
//! path of this machine in it. Knows nothing of what the programs do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{self, cargo, find_on_path, merged_output, shown, stdout_of};
use crate::workspace::Workspace;

/// bpf-linker up to 0.10 uses the LLVM that rustc brings; later ones want an LLVM of the system.
const LINKER_VERSION: &str = "0.10.4";
const TARGET: &str = "bpfel-unknown-none";
/// The committed object, below the repository.
const OBJECT: &str = "probe-user/bpf/vfprobe.bpf.o";

/// Arguments of `cargo xtask bpf`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rebuild in a separate folder and compare with the committed object, byte for byte
    #[arg(long)]
    check: bool,
    /// Build the object with debug logging (aya-log) into the build folder; it is never committed
    #[arg(long, conflicts_with = "check")]
    log: bool,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let toolchain = Toolchain::ready(workspace)?;
    if args.check {
        println!("{}", check(workspace, &toolchain, &mut |line| eprintln!("{line}"))?);
    } else if args.log {
        let built = toolchain.build(workspace, "bpf-log", "object,log", &mut |line| eprintln!("{line}"))?;
        println!("{}: {} bytes, with debug logging", built.display(), fs::metadata(&built)?.len());
    } else {
        let built = toolchain.build(workspace, "bpf", "object", &mut |line| eprintln!("{line}"))?;
        let committed = workspace.root.join(OBJECT);
        let dir = committed.parent().context("the object's path has a folder")?;
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::copy(&built, &committed).with_context(|| format!("cannot write {}", committed.display()))?;
        println!("{OBJECT}: {} bytes", fs::metadata(&committed)?.len());
    }
    Ok(())
}

/// Rebuilds the object in a folder of its own and compares it with the committed one; an error says what to run.
pub(crate) fn check(
    workspace: &Workspace,
    toolchain: &Toolchain,
    line: &mut dyn FnMut(&str),
) -> Result<String> {
    let built = toolchain.build(workspace, "bpf-check", "object", line)?;
    let expected = fs::read(workspace.root.join(OBJECT))
        .with_context(|| format!("{OBJECT}: cannot read it; run `cargo xtask bpf` and commit the file"))?;
    let actual = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    if let Some(difference) = difference(&expected, &actual) {
        bail!(
            "{OBJECT} is not what the sources give ({difference}): run `cargo xtask bpf` and commit the file; \
             the rebuilt object is {}",
            built.display()
        );
    }
    Ok(format!("{OBJECT}: {} bytes, as the sources give", expected.len()))
}

/// Where two objects differ first, in words; `None` when they are the same.
fn difference(expected: &[u8], actual: &[u8]) -> Option<String> {
    if let Some(at) = expected.iter().zip(actual).position(|(left, right)| left != right) {
        return Some(format!("first difference at byte {at}"));
    }
    (expected.len() != actual.len())
        .then(|| format!("{} bytes committed, {} built", expected.len(), actual.len()))
}

/// What building for BPF needs, checked and installed.
#[derive(Debug)]
pub(crate) struct Toolchain {
    sysroot: PathBuf,
    host: String,
    linker: PathBuf,
}

impl Toolchain {
    /// Checks the compiler's version, and adds rust-src and bpf-linker where they are missing.
    pub(crate) fn ready(workspace: &Workspace) -> Result<Self> {
        let pinned = pinned_channel(&workspace.root.join("rust-toolchain.toml"))?;
        let verbose = stdout_of(Command::new("rustc").arg("-vV").current_dir(&workspace.root))?;
        let release = field(&verbose, "release: ").context("`rustc -vV` names no release")?;
        ensure!(
            release == pinned,
            "the BPF object needs rustc {pinned} (rust-toolchain.toml), this is {release}: \
             run `rustup toolchain install {pinned}`"
        );
        let host = field(&verbose, "host: ").context("`rustc -vV` names no host")?.to_owned();
        let sysroot = workspace.sysroot()?;
        let toolchain = Self { sysroot, host, linker: linker(workspace)? };
        toolchain.ensure_rust_src(&pinned)?;
        Ok(toolchain)
    }

    /// The sources of `core`, which `-Z build-std` compiles. rustup ignores the `components` line of
    /// rust-toolchain.toml where automatic installation is off, so they are asked for here.
    fn ensure_rust_src(&self, version: &str) -> Result<()> {
        let lock = self.sysroot.join("lib/rustlib/src/rust/library/Cargo.lock");
        if lock.is_file() {
            return Ok(());
        }
        eprintln!("xtask: adding the component rust-src to the toolchain {version}");
        process::run(Command::new("rustup").args(["component", "add", "rust-src", "--toolchain", version]))
            .context("rust-src is missing: install Rust by rustup, or put the sources into the sysroot")?;
        ensure!(lock.is_file(), "rust-src is still missing: {} does not exist", lock.display());
        Ok(())
    }

    /// A cargo command for probe-ebpf on the BPF target; used for building and for clippy, with its own build
    /// folder, since `-Z build-std` and the flags would otherwise fight with the host's builds.
    pub(crate) fn cargo(&self, workspace: &Workspace, subcommand: &str, folder: &str) -> Result<Command> {
        let mut command = cargo();
        command
            .current_dir(&workspace.root)
            .arg(subcommand)
            .args(["--package", "probe-ebpf", "--release", "--locked"])
            .args(["--target", TARGET, "-Z", "build-std=core"])
            .arg("--target-dir")
            .arg(workspace.target.join(folder))
            // -Z on the pinned stable compiler; nightly moves under one's feet.
            .env("RUSTC_BOOTSTRAP", "1")
            // By environment, not by -Clinker: its path differs between machines, and flags enter cargo's hashes.
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            .env("CARGO_ENCODED_RUSTFLAGS", self.rustflags(workspace)?.join("\x1f"))
            // The profile by environment too, so that the host's release profile can change without the object.
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
            .env("CARGO_PROFILE_RELEASE_STRIP", "none")
            .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
            .env_remove("RUSTFLAGS");
        Ok(command)
    }

    fn rustflags(&self, workspace: &Workspace) -> Result<Vec<String>> {
        Ok(rustflags(&workspace.remaps(&self.sysroot)?))
    }

    /// Builds the object in its own build folder and strips its debug information; returns the file.
    fn build(
        &self,
        workspace: &Workspace,
        folder: &str,
        features: &str,
        line: &mut dyn FnMut(&str),
    ) -> Result<PathBuf> {
        let mut command = self.cargo(workspace, "build", folder)?;
        command.args(["--bin", "vfprobe-bpf", "--features", features]);
        let (status, _) = merged_output(&mut command, line)?;
        ensure!(
            status.success(),
            "`{}` failed: {status}; the compiler's messages are above",
            shown(&command)
        );
        let release = workspace.target.join(folder).join(TARGET).join("release");
        let object = workspace.target.join(folder).join("vfprobe.bpf.o");
        let tool = self.sysroot.join("lib/rustlib").join(&self.host).join("bin/rust-objcopy");
        ensure!(
            tool.is_file(),
            "{} does not exist: it comes with rustup's rustc; reinstall the toolchain",
            tool.display()
        );
        // DWARF goes, .BTF and .BTF.ext stay: only those are read by the kernel.
        process::run(
            Command::new(tool)
                .env("LD_LIBRARY_PATH", self.sysroot.join("lib"))
                .arg("--strip-debug")
                .arg(release.join("vfprobe-bpf"))
                .arg(&object),
        )?;
        Ok(object)
    }
}

/// Compiler flags for the BPF target; `remaps` as [`Workspace::remaps`] gives them.
fn rustflags(remaps: &[String]) -> Vec<String> {
    // v3 (Linux 5.12) has atomic operations that return the old value, and 32-bit registers.
    let flags = ["--cfg=bpf_target_arch=\"x86_64\"", "-Ctarget-cpu=v3", "-Cdebuginfo=2", "-Clink-arg=--btf"];
    flags.map(str::to_owned).into_iter().chain(remaps.iter().cloned()).collect()
}

/// The bpf-linker of exactly the version that made the committed object: from the cache, from PATH, else installed
/// into the cache.
fn linker(workspace: &Workspace) -> Result<PathBuf> {
    let root = workspace.cache.join(format!("bpf-linker-{LINKER_VERSION}"));
    let cached = root.join("bin/bpf-linker");
    let candidates = [Some(cached.clone()), find_on_path("bpf-linker")];
    for candidate in candidates.into_iter().flatten().filter(|file| file.is_file()) {
        let version = stdout_of(Command::new(&candidate).arg("--version"))?;
        if version.trim() == format!("bpf-linker {LINKER_VERSION}") {
            return Ok(candidate);
        }
    }
    eprintln!("xtask: installing bpf-linker {LINKER_VERSION} into {} (about two minutes)", root.display());
    fs::create_dir_all(&workspace.cache)
        .with_context(|| format!("cannot make {}", workspace.cache.display()))?;
    let build = tempfile::tempdir_in(&workspace.cache)?;
    process::run(
        cargo()
            .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--quiet", "--root"])
            .arg(&root)
            .arg("--target-dir")
            .arg(build.path())
            .env_remove("CARGO_TARGET_DIR"),
    )?;
    Ok(cached)
}

/// The channel of rust-toolchain.toml.
fn pinned_channel(file: &Path) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    parse_channel(&text)
        .map(str::to_owned)
        .with_context(|| format!("{}: no line `channel = \"VERSION\"`", file.display()))
}

fn parse_channel(text: &str) -> Option<&str> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix("channel"))?;
    value
        .trim_start()
        .strip_prefix('=')?
        .trim()
        .strip_prefix('"')?
        .split_once('"')
        .map(|(version, _)| version)
}

fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named() {
        assert_eq!(difference(b"abc", b"abc"), None);
        assert_eq!(difference(b"abc", b"abd").unwrap(), "first difference at byte 2");
        assert_eq!(difference(b"abc", b"ab").unwrap(), "3 bytes committed, 2 built");
    }

    #[test]
    fn the_pinned_channel_is_read() {
        let cases = [
            ("[toolchain]\nchannel = \"1.95.0\"\n", Some("1.95.0")),
            ("channel=\"stable\"", Some("stable")),
            ("[toolchain]\n", None),
            ("channel = 1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_channel(text), expected, "{text}");
        }
    }
}
