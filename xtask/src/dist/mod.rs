//! `cargo xtask dist`: a tarball, a Debian and an RPM package, from the sources as they are. This file builds the program, has
//! it write its own manual pages and completions, and names the results; what goes where is `layout`, the formats are
//! `archive`, `deb` and `rpm`, what is due to the authors of libraries is `licences`.

mod archive;
mod deb;
#[cfg(test)]
mod deployment;
mod layout;
mod licences;
mod needs;
mod rpm;
#[cfg(test)]
mod testing;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::packages::{self, Program};
use crate::process::{cargo, run as run_command, stdout_of};
use crate::workspace::Workspace;
use layout::Made;
use needs::Needs;

const SUMMARY: &str = "interrupts and exits of SR-IOV guests, traced, tuned and proved";
const DESCRIPTION: &str = "\
vfprobe runs on a KVM host beside guests that own SR-IOV virtual functions. It
traces with eBPF how their interrupts travel and why vCPUs leave their guest,
applies direct interrupt routing and CPU pinning as a transaction that can be
undone, and shows the effect as distributions, also to Prometheus.
";
/// The processor that all packages are for, as Rust has it in the target's name.
const ARCHITECTURE: &str = "x86_64";
/// `EM_X86_64` (elf.h), in the header's bytes 18 and 19.
const ELF_X86_64: [u8; 2] = [62, 0];
/// Its C library is linked into the program, so that one program starts on every distribution.
const STATIC_TARGET: &str = "x86_64-unknown-linux-musl";
/// Compiles the C code of libraries for it.
const STATIC_COMPILER: Program = Program { name: "musl-gcc", package: "musl-tools" };
const DYNAMIC_TARGET: &str = "x86_64-unknown-linux-gnu";

const MAINTAINER: &str = "vfprobe maintainers <maintainers@vfprobe.invalid>";

/// Arguments of `cargo xtask dist`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Package this program instead of building one; it must be able to run here
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where to leave the packages [default: dist in cargo's build folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Who stands for the packages, as `NAME <ADDRESS>`
    #[arg(long, env = "DEB_MAINTAINER", default_value = MAINTAINER)]
    maintainer: String,
}

/// What the packages say of their making.
#[derive(Debug)]
struct Release {
    version: String,
    /// `NAME <ADDRESS>`.
    maintainer: String,
    /// Of all files, in seconds since 1970.
    time: u32,
    /// The same as RFC 5322 has it.
    date: String,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let Args { binary, out, maintainer } = args;
    let program = match binary {
        Some(file) => file.clone(),
        None => build(workspace)?,
    };
    let release = release(workspace, maintainer)?;
    let out = out.clone().unwrap_or_else(|| workspace.target.join("dist"));
    let made = made(workspace, &program)?;
    let root = &workspace.root;
    let name = format!("vfprobe-{}-{ARCHITECTURE}-linux", release.version);
    let tarball = archive::tar_gz(&layout::tarball(root, &made)?, &name, release.time.into())?;
    let mut files = vec![(format!("{name}.tar.gz"), tarball)];
    files.extend(installable(workspace, &made, &release)?);
    write(&files, &out)?;
    for (file, bytes) in &files {
        println!("{:>6} KiB  {}", bytes.len().div_ceil(1024), out.join(file).display());
    }
    let mut sums = Command::new("sha256sum");
    sums.current_dir(&out).args(files.iter().map(|(file, _)| file));
    let path = out.join("SHA256SUMS");
    fs::write(&path, stdout_of(&mut sums)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("            {}", path.display());
    let needs = Needs::of(&made.binary);
    if needs.is_static() {
        println!("the program needs no library of the system");
    } else {
        println!("the program needs {}", needs.debian().join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

fn release(workspace: &Workspace, maintainer: &str) -> Result<Release> {
    let time = source_time(workspace)?;
    Ok(Release {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        maintainer: maintainer.to_owned(),
        time,
        date: stdout_of(Command::new("date").args(["--utc", "--rfc-email", "--date", &format!("@{time}")]))?,
    })
}

/// Names and bytes of the packages for package managers.
fn installable(workspace: &Workspace, made: &Made, release: &Release) -> Result<[(String, Vec<u8>); 2]> {
    let root = &workspace.root;
    Ok([
        (deb::name(release), deb::package(root, made, release)?),
        (rpm::name(release), rpm::package(root, made, release)?),
    ])
}

fn write(files: &[(String, Vec<u8>)], out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    for (file, bytes) in files {
        let path = out.join(file);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Builds the program, static where the toolchain has the target for it, and the same in every folder.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let sysroot = workspace.sysroot()?;
    let target = if sysroot.join("lib/rustlib").join(STATIC_TARGET).join("lib").is_dir() {
        packages::ensure(&[STATIC_COMPILER])?;
        STATIC_TARGET
    } else {
        eprintln!("dist: not static, for want of a target: `rustup target add {STATIC_TARGET}` adds it");
        DYNAMIC_TARGET
    };
    let mut command = cargo();
    command.current_dir(&workspace.root).args(["build", "--release", "--locked", "--target", target]);
    command.args(["-p", "probe-user", "--bin", "vfprobe"]);
    command.env("CARGO_ENCODED_RUSTFLAGS", workspace.remaps(&sysroot)?.join("\x1f")).env_remove("RUSTFLAGS");
    run_command(&mut command)?;
    Ok(workspace.target.join(target).join("release/vfprobe"))
}

/// The program and everything that is written by it or about it.
fn made(workspace: &Workspace, program: &Path) -> Result<Made> {
    let binary = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    if !binary.starts_with(b"\x7fELF") || binary.get(18..20) != Some(&ELF_X86_64) {
        bail!("{} is not a program for {}", program.display(), ARCHITECTURE);
    }
    let program = fs::canonicalize(program)?;
    let pages = tempfile::tempdir()?;
    run_command(Command::new(&program).args(["man", "--output"]).arg(pages.path()))?;
    let mut manual = Vec::new();
    for entry in fs::read_dir(pages.path())? {
        let entry = entry?;
        manual.push((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?));
    }
    manual.sort();
    let completion = |shell: &str| -> Result<Vec<u8>> {
        Ok((stdout_of(Command::new(&program).args(["completions", shell]))? + "\n").into_bytes())
    };
    Ok(Made {
        bash: completion("bash")?,
        zsh: completion("zsh")?,
        fish: completion("fish")?,
        third_party: licences::of_libraries(workspace)?,
        binary,
        manual,
    })
}

/// The time that all files in the packages get: `SOURCE_DATE_EPOCH` where it is set, else that of the last commit, so
/// that the same sources give the same packages.
fn source_time(workspace: &Workspace) -> Result<u32> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => {
            let mut git = Command::new("git");
            stdout_of(git.current_dir(&workspace.root).args(["log", "-1", "--format=%ct"]))
                .context("no time for the packages: set SOURCE_DATE_EPOCH, or build from a git clone")?
        }
    };
    text.trim().parse().with_context(|| format!("{text:?} is no time: seconds since 1970 are"))
}
