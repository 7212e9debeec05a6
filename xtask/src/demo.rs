//! `cargo xtask demo`: the experiment vfprobe is for, end to end, on any machine: a verdict on direct interrupt
//! routing, or with `--paths` the paths of packets side by side, measured in the lab by the product itself. This file
//! builds, boots, and shows; what happens inside is tests/lab/support/demo.sh or demo-paths.sh.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lab::{self, Kernel, Lab, Options};
use crate::progress::Progress;
use crate::workspace::Workspace;

/// Three times what it takes on two cores.
const LIMIT: Duration = Duration::from_secs(900);
/// Boots it gets when QEMU's emulation of nested guests breaks down under it.
const ATTEMPTS: u32 = 3;

/// What is shown: the script, where it leaves its results, and what to say about each of them.
struct Show {
    script: &'static str,
    folder: &'static str,
    results: &'static [(&'static str, &'static str)],
}

const TUNING: Show = Show {
    script: "tests/lab/support/demo.sh",
    folder: "out/demo",
    results: &[
        ("verdict.txt", "the verdict as text"),
        ("report.html", "the report: open it in a browser"),
        ("session.vfprobe", "the session: `vfprobe show` and `vfprobe compare` read it"),
        ("topology.txt", "the host as vfprobe saw it"),
        ("rollback.txt", "settings before and after"),
    ],
};

const PATHS: Show = Show {
    script: "tests/lab/support/demo-paths.sh",
    folder: "out/demo-paths",
    results: &[("paths.txt", "the four paths side by side"), ("path.txt", "`vfprobe path` of that host")],
};

/// Arguments of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kernel of the emulated host: 6.1, 6.12, or a Debian suite
    #[arg(long, default_value = "6.12")]
    kernel: Kernel,
    /// Instead: the same traffic over an emulated card, virtio-net, vhost-net and a VF, and what each of them costs
    #[arg(long)]
    paths: bool,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let start = Instant::now();
    let lab = Lab::new(workspace);
    // Held until the end: nobody may replace the images of a running lab.
    let _lock = lab.images.ready(std::slice::from_ref(&args.kernel), false)?;
    let share = lab.stage(false)?;
    let show = if args.paths { PATHS } else { TUNING };
    let out = workspace.root.join(show.folder);
    let options = Options { share: Some(share), out: Some(out.clone()), ..Options::default() };
    let script = workspace.root.join(show.script);
    for attempt in 1.. {
        if out.is_dir() {
            fs::remove_dir_all(&out).with_context(|| format!("cannot empty {}", out.display()))?;
        }
        let mut steps = Steps::new("booting an emulated host with an SR-IOV card");
        let ended = lab.run(&args.kernel, &script, LIMIT, &options, &mut |line| steps.line(line));
        steps.end(matches!(ended, Ok(0)));
        let status = ended?;
        if status == 0 {
            break;
        }
        match lab::trouble(&out) {
            Some(trouble) if attempt < ATTEMPTS => {
                eprintln!("the emulated machine broke down ({trouble}); once more");
            }
            _ => {
                bail!("the demo ended with status {status}; what it wrote is above and in {}", out.display())
            }
        }
    }
    println!("\nDone in {:.0} s. Left in {}:", start.elapsed().as_secs_f64(), out.display());
    println!("{}", results(&show, &out)?);
    Ok(ExitCode::SUCCESS)
}

/// The files that were left, each with its size; one that is missing is an error.
fn results(show: &Show, out: &Path) -> Result<String> {
    let mut lines = Vec::new();
    for (name, what) in show.results {
        let file = out.join(name);
        let size = fs::metadata(&file).with_context(|| format!("the demo left no {}", file.display()))?.len();
        lines.push(format!("  {name:<16} {:>8}  {what}", size_text(size)));
    }
    Ok(lines.join("\n"))
}

fn size_text(bytes: u64) -> String {
    if bytes < 1024 { format!("{bytes} B") } else { format!("{} KiB", bytes.div_ceil(1024)) }
}

/// The script's `STEP` lines as progress, all others as they are.
struct Steps {
    progress: Option<Progress>,
}

impl Steps {
    fn new(first: &str) -> Self {
        Self { progress: Some(Progress::start(first)) }
    }

    fn line(&mut self, line: &str) {
        if let Some(title) = line.strip_prefix("STEP ") {
            self.end(true);
            self.progress = Some(Progress::start(title));
        } else if let Some(progress) = &self.progress {
            progress.print(line);
        }
    }

    fn end(&mut self, fine: bool) {
        if let Some(progress) = self.progress.take() {
            progress.end(if fine { "done" } else { "FAILED" });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_is_named_and_a_missing_one_is_an_error() {
        for show in [TUNING, PATHS] {
            let dir = tempfile::tempdir().unwrap();
            let error = results(&show, dir.path()).unwrap_err().to_string();
            assert!(error.starts_with("the demo left no ") && error.ends_with(show.results[0].0), "{error}");
            for (name, _) in show.results {
                fs::write(dir.path().join(name), "x".repeat(1025)).unwrap();
            }
            let text = results(&show, dir.path()).unwrap();
            assert_eq!(text.lines().count(), show.results.len());
            assert!(text.starts_with(&format!("  {:<16}    2 KiB  ", show.results[0].0)), "{text}");
        }
    }
}
