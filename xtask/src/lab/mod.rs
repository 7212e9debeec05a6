//! `cargo xtask lab`: a whole SR-IOV host in emulation, with nested guests that own VFs; no hardware, no /dev/kvm.
//! This file holds the arguments and puts the parts together; docs/lab.md tells how to use it.

mod boot;
mod images;
mod initramfs;
mod kernel;
mod qemu;
pub(crate) mod suite;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use self::boot::Limits;
pub(crate) use self::images::Images;
pub(crate) use self::kernel::Kernel;
use self::qemu::{Machine, Share};
use crate::dist;
use crate::process::{self, cargo, stdout_of};
use crate::tally::Tally;
use crate::workspace::Workspace;

/// Arguments of `cargo xtask lab`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Build the root file system and the kernels into the user's cache folder, where they are missing
    Build {
        /// Fetch everything again: the newest packages and kernels of the suites
        #[arg(long)]
        refresh: bool,
        /// Kernels to build for: 6.1, 6.12, or a Debian suite
        kernels: Vec<Kernel>,
    },
    /// Boot the host on KERNEL and run SCRIPT in it as root; the exit status is the script's
    Run(RunArgs),
    /// Run the lab's tests, tests/lab/*.sh, on KERNEL (all tested ones when none is named)
    Test {
        /// 6.1, 6.12, or a Debian suite
        kernel: Option<Kernel>,
        /// Only groups whose name contains this; can be repeated
        #[arg(long, value_name = "NAME")]
        group: Vec<String>,
        /// Hand in the development build of vfprobe instead of the release build: quicker to make
        #[arg(long)]
        dev: bool,
    },
    /// Boot the host on KERNEL with a root shell on this terminal
    Shell {
        /// 6.1, 6.12, or a Debian suite
        kernel: Kernel,
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// 6.1, 6.12, or a Debian suite
    kernel: Kernel,
    /// Script for bash; its folder is seen at /task, and /lab/support/lab.sh has functions for it
    script: PathBuf,
    /// Stop the lab after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    limit: u64,
    #[command(flatten)]
    options: Options,
}

/// What a boot can be given, the same for every action.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Folder to hand in read-only at /share [default: a folder with vfprobe, built for it]
    #[arg(long, value_name = "DIR")]
    pub(crate) share: Option<PathBuf>,
    /// Folder that the script's files in /out end up in [default: lab/out in the build folder, emptied first]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Hand in the development build of vfprobe instead of the release build: quicker to make
    #[arg(long)]
    pub(crate) dev: bool,
    /// CPUs of the emulated host
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) cpus: u32,
    /// Memory of the emulated host, as QEMU reads it
    #[arg(long, value_name = "SIZE", default_value = "4G")]
    pub(crate) memory: String,
    /// Words to append to the host's kernel command line, e.g. 'isolcpus=2-3'
    #[arg(long, value_name = "WORDS", default_value = "")]
    pub(crate) append: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { share: None, out: None, dev: false, cpus: 4, memory: "4G".into(), append: String::new() }
    }
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let lab = Lab::new(workspace);
    match &args.action {
        Action::Build { refresh, kernels } => {
            let kernels = if kernels.is_empty() { Kernel::tested() } else { kernels.clone() };
            lab.images.ready(&kernels, *refresh)?;
            eprintln!("lab: ready in {}", lab.images.dir.display());
            Ok(ExitCode::SUCCESS)
        }
        Action::Run(args) => {
            let limit = Duration::from_secs(args.limit);
            let status = lab.run(&args.kernel, &args.script, limit, &args.options, &mut |line| {
                println!("{line}");
            })?;
            Ok(ExitCode::from(status))
        }
        Action::Test { kernel, group, dev } => {
            let kernels = kernel.clone().map_or_else(Kernel::tested, |kernel| vec![kernel]);
            let groups = suite::groups(workspace, group)?;
            let mut tally = Tally::default();
            for kernel in &kernels {
                let result = suite::run(&lab, kernel, &groups, *dev, &mut |line| println!("{line}"))?;
                tally.add(result.prefixed(&format!("{kernel} ")));
            }
            for name in &tally.failed {
                println!("failed: {name}");
            }
            for name in &tally.skipped {
                println!("skipped: {name}");
            }
            println!(
                "{} passed, {} failed, {} skipped",
                tally.passed,
                tally.failed.len(),
                tally.skipped.len()
            );
            Ok(if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Action::Shell { kernel, options } => lab.shell(kernel, options).map(ExitCode::from),
    }
}

/// The lab of one checkout: shared images, and the checkout's own scripts and binaries.
#[derive(Debug)]
pub(crate) struct Lab<'a> {
    workspace: &'a Workspace,
    pub(crate) images: Images,
}

impl<'a> Lab<'a> {
    /// The lab with its images in `VFPROBE_LAB_DIR`, else in the user's cache folder.
    pub(crate) fn new(workspace: &'a Workspace) -> Self {
        let dir = env::var_os("VFPROBE_LAB_DIR")
            .filter(|dir| !dir.is_empty())
            .map_or_else(|| workspace.cache.join("lab"), |dir| workspace.root.join(dir));
        Self { workspace, images: Images { dir } }
    }

    /// Boots, runs `script`, gives each line of its output to `line`; returns the script's exit status.
    pub(crate) fn run(
        &self,
        kernel: &Kernel,
        script: &Path,
        limit: Duration,
        options: &Options,
        line: &mut dyn FnMut(&str),
    ) -> Result<u8> {
        let files = tempfile::tempdir()?;
        let limits = Limits { whole: limit, silence: None };
        self.run_in(files.path(), kernel, script, limits, options, line)
    }

    /// The same, with the boot's own files (its console among them) in the folder `files`, where they stay.
    pub(crate) fn run_in(
        &self,
        files: &Path,
        kernel: &Kernel,
        script: &Path,
        limits: Limits,
        options: &Options,
        line: &mut dyn FnMut(&str),
    ) -> Result<u8> {
        let script = fs::canonicalize(script)
            .with_context(|| format!("cannot read the script {}", script.display()))?;
        ensure!(script.is_file(), "{} is no file", script.display());
        let _lock = self.images.ready(std::slice::from_ref(kernel), false)?;
        let machine = self.machine(kernel, &script, files, options, None)?;
        eprintln!("lab: booting {kernel} (limit {} s)", limits.whole.as_secs());
        boot::run(&self.images, &machine, limits, line)
    }

    fn shell(&self, kernel: &Kernel, options: &Options) -> Result<u8> {
        let script = self.support("shell");
        let _lock = self.images.ready(std::slice::from_ref(kernel), false)?;
        let files = tempfile::tempdir()?;
        let machine = self.machine(kernel, &script, files.path(), options, Some(&terminal()))?;
        eprintln!("lab: booting {kernel}; this takes about half a minute");
        boot::interact(&self.images, &machine)
    }

    fn support(&self, name: &str) -> PathBuf {
        self.workspace.root.join("tests/lab/support").join(name)
    }

    /// Everything a boot needs: initramfs archives in `files`, folders to share, words for the kernel.
    fn machine(
        &self,
        kernel: &Kernel,
        script: &Path,
        files: &Path,
        options: &Options,
        terminal: Option<&str>,
    ) -> Result<Machine> {
        let kernel_dir = self.images.kernel(kernel);
        for name in ["host", "guest"] {
            let init = self.support(&format!("{name}-init"));
            initramfs::with_init(
                &self.images,
                &kernel_dir,
                name,
                &init,
                &files.join(format!("{name}.cpio")),
            )?;
        }
        let name =
            script.file_name().and_then(|name| name.to_str()).context("the script's name is not UTF-8")?;
        ensure!(!name.contains(char::is_whitespace), "{}: the lab takes no spaces in it", script.display());
        let task = script.parent().context("a script has a folder")?;
        let share = |tag, dir: &Path, writable| Share { tag, dir: dir.to_owned(), writable };
        let shares = vec![
            share("lab", &self.workspace.root.join("tests/lab"), false),
            share("dashboards", &self.workspace.root.join("dashboards"), false),
            share("images", &self.images.dir, false),
            share("run-files", files, false),
            share("task", task, false),
            share("share", &self.share(options)?, false),
            share("out", &self.out(options)?, true),
        ];
        let mut append = format!("lab.kernel={kernel} lab.task=/task/{name}");
        for word in [terminal.unwrap_or_default(), &options.append] {
            if !word.is_empty() {
                append.push(' ');
                append.push_str(word);
            }
        }
        Ok(Machine {
            rootfs: self.images.rootfs(),
            vmlinuz: kernel_dir.join("vmlinuz"),
            initrd: files.join("host.cpio"),
            shares,
            cpus: options.cpus,
            memory: options.memory.clone(),
            console: files.join("console.log"),
            interactive: terminal.is_some(),
            append,
        })
    }

    /// The folder for /share: as asked, else one with vfprobe as the sources are now.
    fn share(&self, options: &Options) -> Result<PathBuf> {
        if let Some(dir) = &options.share {
            return fs::canonicalize(dir)
                .with_context(|| format!("--share {}: cannot open it", dir.display()));
        }
        self.stage(options.dev)
    }

    /// Builds vfprobe and puts it into a folder of its own; returns the folder.
    pub(crate) fn stage(&self, dev: bool) -> Result<PathBuf> {
        eprintln!("lab: building vfprobe ({})", if dev { "development build" } else { "release" });
        self.build_into_share("vfprobe", if dev { &[] } else { &["--release"] })
    }

    /// The same for tests: beside it `vfprobe-faults`, which can be told where to be killed.
    pub(crate) fn stage_for_tests(&self, dev: bool) -> Result<PathBuf> {
        self.stage(dev)?;
        eprintln!("lab: building vfprobe (with faults)");
        self.build_into_share("vfprobe-faults", &["--features", "faults"])
    }

    /// Packages of the vfprobe that is staged, in two versions, in `packages/now` and `packages/next` of its folder.
    pub(crate) fn stage_packages(&self) -> Result<()> {
        eprintln!("lab: packaging vfprobe");
        let dir = self.workspace.target.join("lab/share");
        dist::versions(self.workspace, &dir.join("vfprobe"), &dir.join("packages"), &["now", "next"])
    }

    fn build_into_share(&self, name: &str, words: &[&str]) -> Result<PathBuf> {
        let mut command = cargo();
        command.current_dir(&self.workspace.root);
        command.args(["build", "--quiet", "--locked", "--package", "probe-user", "--bin", "vfprobe"]);
        process::run(command.args(words))?;
        let profile = if words.contains(&"--release") { "release" } else { "debug" };
        let dir = self.workspace.target.join("lab/share");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // Renamed into place: a lab that runs from this folder keeps the file it has open.
        let part = dir.join(format!("{name}.part"));
        fs::copy(self.workspace.target.join(profile).join("vfprobe"), &part)?;
        fs::rename(part, dir.join(name))?;
        Ok(dir)
    }

    fn out(&self, options: &Options) -> Result<PathBuf> {
        let dir = options.out.clone().unwrap_or_else(|| self.workspace.target.join("lab/out"));
        if options.out.is_none() && dir.is_dir() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::canonicalize(&dir).with_context(|| format!("cannot open {}", dir.display()))
    }
}

/// How the emulation of a guest broke down by itself, if it did: lab.sh writes it into the folder `out`.
pub(crate) fn trouble(out: &Path) -> Option<String> {
    let text = fs::read_to_string(out.join("trouble")).ok()?;
    Some(text.trim_end().replace('\n', "; "))
}

/// This terminal's type and size, as words for the lab's kernel command line.
fn terminal() -> String {
    let term = env::var("TERM").ok().filter(|term| !term.is_empty()).unwrap_or_else(|| "dumb".into());
    // Without a terminal stty fails, and the shell inside keeps its default size.
    let size = stdout_of(Command::new("stty").arg("size").stdin(Stdio::inherit())).unwrap_or_default();
    terminal_words(&term, &size)
}

fn terminal_words(term: &str, size: &str) -> String {
    match size.split_once(' ') {
        Some((rows, columns)) if rows != "0" && columns != "0" => {
            format!("lab.term={term} lab.rows={rows} lab.columns={columns}")
        }
        _ => format!("lab.term={term}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_goes_in_by_the_command_line() {
        assert_eq!(terminal_words("xterm", "24 80"), "lab.term=xterm lab.rows=24 lab.columns=80");
        assert_eq!(terminal_words("dumb", ""), "lab.term=dumb");
        assert_eq!(terminal_words("vt100", "0 0"), "lab.term=vt100");
    }
}
