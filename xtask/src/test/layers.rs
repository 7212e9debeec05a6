//! The layers of `cargo xtask test`, from the quick to the slow. Each runs to its end and returns what it found;
//! each gives its output line by line to a sink. Adding a layer is one entry in `LAYERS`.

use std::process::Command;

use anyhow::Result;

use super::is_ci;
use crate::bpf::{self, Toolchain};
use crate::lab::{Kernel, Lab, suite};
use crate::packages::{self, Program, is_root};
use crate::process::{cargo, merged_output};
use crate::promtool;
use crate::python;
use crate::tally::{Tally, parse_libtest};
use crate::workspace::{TESTS_PACKAGE, Workspace};

/// Gets every line a layer writes.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(&str);

/// A named part of the test run.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Workspace, Sink<'_>) -> Result<Outcome>,
}

/// How a layer ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Ran(Tally),
    /// This machine or user cannot run it; the reason names what is missing and what to do.
    CannotRun(String),
}

/// What opens the HTML report in its tests, and what fetches the checker of its accessibility.
const BROWSER: [Program; 2] =
    [Program { name: "chromium", package: "chromium" }, Program { name: "npm", package: "npm" }];

/// Grafana's own model of a dashboard; the number before the `!` is a date.
const GRAFANA: &str = "grafana-foundation-sdk==1769699998!10.1.0";

/// Test targets of the `tests` package that are layers of their own or belong to the lab.
const KERNEL_TARGET: &str = "kernel";
const LAB_TARGET: &str = "lab_eval";

/// With it, tests can have vfprobe killed between two effects of a transaction; without it, those tests are not built.
const FAULTS: [&str; 2] = ["--features", "probe-user/faults"];

pub(crate) const LAYERS: &[Layer] = &[
    Layer { name: "format", run: format },
    Layer { name: "clippy", run: clippy },
    Layer { name: "clippy-bpf", run: clippy_bpf },
    Layer { name: "unit", run: unit },
    Layer { name: "schemas", run: schemas },
    Layer { name: "object", run: object },
    Layer { name: "fixtures", run: fixtures },
    Layer { name: "kernel", run: kernel },
    Layer { name: "lab-6.1", run: |workspace, sink| lab(workspace, "6.1", sink) },
    Layer { name: "lab-6.12", run: |workspace, sink| lab(workspace, "6.12", sink) },
];

fn format(workspace: &Workspace, sink: Sink<'_>) -> Result<Outcome> {
    one(workspace, "cargo fmt --all --check", cargo().args(["fmt", "--all", "--check"]), sink)
}

fn clippy(workspace: &Workspace, sink: Sink<'_>) -> Result<Outcome> {
    let mut words = vec!["clippy", "--workspace", "--all-targets", "--locked"];
    words.extend(FAULTS);
    words.extend(["--", "-D", "warnings"]);
    one(workspace, "cargo clippy", cargo().args(words), sink)
}

fn clippy_bpf(workspace: &Workspace, sink: Sink<'_>) -> Result<Outcome> {
    let toolchain = match Toolchain::ready(workspace) {
        Ok(toolchain) => toolchain,
        Err(error) => return Ok(Outcome::CannotRun(format!("{error:#}"))),
    };
    let mut tally = Tally::default();
    for features in ["object", "object,log"] {
        let mut command = toolchain.cargo(workspace, "clippy", "bpf-clippy")?;
        command.args(["--lib", "--bin", "vfprobe-bpf", "--features", features, "--", "-D", "warnings"]);
        tally.add(run_one(workspace, &format!("clippy with features {features}"), &mut command, sink)?);
    }
    Ok(Outcome::Ran(tally))
}

/// The default members: everything that needs no root and no other kernel; dashboards and documents are tests too.
fn unit(workspace: &Workspace, sink: Sink<'_>) -> Result<Outcome> {
    let mut command = cargo();
    command.args(["test", "--locked", "--no-fail-fast"]).args(FAULTS);
    match promtool::path(workspace) {
        Ok(path) => drop(command.env("PATH", path)),
        // The tests that need it say so themselves.
        Err(error) => sink(&format!("{error:#}")),
    }
    // A developer's machine is not filled with a browser for a few tests.
    if is_ci()
        && let Err(error) = packages::ensure(&BROWSER)
    {
        sink(&format!("{error:#}"));
    }
    libtest(workspace, command.args(["--", "--show-output"]), sink)
}

/// Dashboards, read by Grafana's own model.
fn schemas(workspace: &Workspace, sink: Sink<'_>) -> Result<Outcome> {
    match python::with(workspace, "schemas", GRAFANA) {
        Ok(python) => one(
            workspace,
            "tests/schemas/grafana.py",
            Command::new(python).arg("tests/schemas/grafana.py"),
            sink,
        ),
        Err(error) => Ok(Outcome::CannotRun(format!("{error:#}"))),
    }
}

fn object(workspace: &Workspace, sink: Sink<'_>) -> Result<Outcome> {
    let toolchain = match Toolchain::ready(workspace) {
        Ok(toolchain) => toolchain,
        Err(error) => return Ok(Outcome::CannotRun(format!("{error:#}"))),
    };
    Ok(Outcome::Ran(match bpf::check(workspace, &toolchain, sink) {
        Ok(_) => Tally::one(),
        Err(error) => Tally::failure(format!("{error:#}")),
    }))
}

/// What the `tests` package can check without root: captured host trees, its own evaluators.
fn fixtures(workspace: &Workspace, sink: Sink<'_>) -> Result<Outcome> {
    let mut command = cargo();
    command.args(["test", "--locked", "--no-fail-fast", "--package", TESTS_PACKAGE, "--lib"]);
    for target in workspace.test_targets()? {
        if target != KERNEL_TARGET && target != LAB_TARGET {
            command.args(["--test", &target]);
        }
    }
    libtest(workspace, command.args(["--", "--show-output"]), sink)
}

/// BPF programs on this machine's kernel. One test at a time: they load programs that see the whole machine.
fn kernel(workspace: &Workspace, sink: Sink<'_>) -> Result<Outcome> {
    if !is_root()? {
        return Ok(Outcome::CannotRun("needs root: `sudo -E cargo xtask test kernel`".into()));
    }
    let mut command = cargo();
    command.args(["test", "--locked", "--package", TESTS_PACKAGE, "--test", KERNEL_TARGET]);
    libtest(workspace, command.args(["--", "--test-threads=1", "--show-output"]), sink)
}

fn lab(workspace: &Workspace, name: &str, sink: Sink<'_>) -> Result<Outcome> {
    let kernel: Kernel = name.parse()?;
    let lab = Lab::new(workspace);
    // Images come from the network and need programs and rights of this machine: without them no test can say more.
    if let Err(error) = lab.images.ready(std::slice::from_ref(&kernel), false) {
        return Ok(Outcome::CannotRun(format!("{error:#}")));
    }
    let groups = suite::groups(workspace, &[])?;
    Ok(Outcome::Ran(suite::run(&lab, &kernel, &groups, false, sink)?))
}

/// A command that is one check by itself.
fn one(workspace: &Workspace, name: &str, command: &mut Command, sink: Sink<'_>) -> Result<Outcome> {
    run_one(workspace, name, command, sink).map(Outcome::Ran)
}

fn run_one(workspace: &Workspace, name: &str, command: &mut Command, sink: Sink<'_>) -> Result<Tally> {
    let (status, _) = merged_output(command.current_dir(&workspace.root), sink)?;
    Ok(if status.success() { Tally::one() } else { Tally::failure(format!("{name}: {status}")) })
}

fn libtest(workspace: &Workspace, command: &mut Command, sink: Sink<'_>) -> Result<Outcome> {
    let (status, output) = merged_output(command.current_dir(&workspace.root), sink)?;
    let mut tally = parse_libtest(&output);
    // A test binary that does not compile, or dies, names no failed test.
    if !status.success() && tally.failed.is_empty() {
        tally.add(Tally::failure(format!("cargo test: {status}")));
    }
    Ok(Outcome::Ran(tally))
}
