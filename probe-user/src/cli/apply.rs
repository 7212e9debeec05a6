//! `vfprobe apply`.

use super::policy::{LookArgs, PolicyArgs};
use super::{Exit, Failure, Globals, failures, plan, print, rollback};
use crate::app::{control, interrupt::Interrupts, text_file};
use crate::apply::{Applied, ApplyError, Options, Skipped, StateDir};
use crate::host::HostRoot;
use crate::plan::{PLAN_SCHEMA, Plan, Target};
use anyhow::{Context as _, anyhow};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

/// Arguments of `apply`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    look: LookArgs,
    /// A plan saved by `plan --json`; refused when the host has changed since
    #[arg(value_name = "PLAN", conflicts_with_all = ["policy", "guest", "look", "no_look"])]
    file: Option<PathBuf>,
    /// Change the host without asking
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Only show what would be changed
    #[arg(long)]
    dry_run: bool,
    /// JSON instead of tables (docs/json.md)
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    config: &'a str,
    changes: usize,
    skipped: &'a [Skipped],
    pending: &'a [Target],
}

/// Plans, asks, and applies.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let (root, state) = (HostRoot::live(), StateDir::new(globals.state_dir()));
    let plan = match &args.file {
        Some(path) => read_plan(path)?,
        None => {
            let policy = args.policy.policy()?;
            let looked = args.look.look(globals, &root, &[&policy])?;
            control::make_plan(&root, &state, &policy, &looked).map_err(failures::plan)?
        }
    };
    if args.dry_run {
        let text = if args.json { plan::to_json(&plan)? } else { plan::to_text(&plan) };
        return print(text.as_bytes());
    }
    if !globals.quiet && !args.json {
        print(plan::to_text(&plan).as_bytes())?;
    }
    if !plan.steps.is_empty() && !args.yes && !confirmed("Change the host?")? {
        return print(b"nothing was changed\n");
    }
    let interrupts =
        Interrupts::listen().context("cannot listen for signals").map_err(Failure::cannot_run)?;
    let options = Options { interrupted: &|| interrupts.raised(), ..Options::new() };
    match control::apply_plan(&root, &state, &plan, &options) {
        Ok(applied) if args.json => print(to_json(&plan, &applied)?.as_bytes()),
        Ok(_) if globals.quiet => Ok(Exit::Fine),
        Ok(applied) => print(to_text(&plan, &applied).as_bytes()),
        Err(error) => Err(failure(error)),
    }
}

/// The failure with its exit code; what rolling back found is printed beside it.
fn failure(error: ApplyError) -> Failure {
    let exit = match &error {
        ApplyError::State(_) | ApplyError::Host(_) | ApplyError::Unfinished(_) | ApplyError::Stale(_) => {
            Exit::CannotRun
        }
        ApplyError::RolledBack(failed) => {
            rollback::warn_about(&failed.report);
            Exit::RolledBack
        }
        ApplyError::Incomplete(failed) => {
            rollback::warn_about(&failed.report);
            Exit::RollbackIncomplete
        }
    };
    Failure::new(exit, error)
}

fn to_json(plan: &Plan, applied: &Applied) -> Result<String, Failure> {
    let Applied { steps, skipped, pending } = applied;
    let report = Report { schema: 1, config: &plan.config, changes: *steps, skipped, pending };
    Ok(serde_json::to_string_pretty(&report).map_err(Failure::cannot_run)? + "\n")
}

fn to_text(plan: &Plan, applied: &Applied) -> String {
    let Applied { steps, skipped, pending } = applied;
    let mut text = String::new();
    for skipped in skipped {
        let _ = writeln!(text, "  left: {}: {}", skipped.target, skipped.why);
    }
    for target in pending {
        let _ = writeln!(text, "  pending: {target} moves when it fires next");
    }
    let changes = if *steps == 1 { "1 change" } else { &format!("{steps} changes") };
    let _ = match plan.steps.len() {
        0 => writeln!(text, "{} is in force already", plan.config),
        _ => writeln!(text, "{} is in force: {changes} made; `vfprobe rollback` undoes them", plan.config),
    };
    text
}

fn read_plan(path: &Path) -> Result<Plan, Failure> {
    let text = text_file::read(path)
        .with_context(|| format!("cannot read the plan {}", path.display()))
        .map_err(Failure::usage)?;
    let read = || -> anyhow::Result<Plan> {
        let plan: Plan = serde_json::from_str(&text)?;
        match plan.schema {
            PLAN_SCHEMA => Ok(plan),
            other => Err(anyhow!("it has schema {other}, this vfprobe knows {PLAN_SCHEMA}; plan again")),
        }
    };
    read()
        .with_context(|| format!("{} is not a plan, as plan --json writes it", path.display()))
        .map_err(Failure::usage)
}

/// Asks on the terminal; without one nobody can answer, so that is a usage error.
pub(super) fn confirmed(question: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Failure::usage(anyhow!("there is no terminal to ask on; give --yes to change the host")));
    }
    let mut out = io::stdout().lock();
    let mut answer = String::new();
    write!(out, "{question} [y/N] ")
        .and_then(|()| out.flush())
        .and_then(|()| io::stdin().read_line(&mut answer))
        .context("cannot ask on the terminal")
        .map_err(Failure::cannot_run)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::documented;

    #[test]
    fn the_documented_example_is_what_is_printed() {
        let (text, example) = documented("vfprobe apply --json");
        let plan: Plan = serde_json::from_value(documented("vfprobe plan --json").1).unwrap();
        let moved = plan.steps[2].target.clone();
        let timer = serde_json::from_value(example["skipped"][0]["target"].clone()).unwrap();
        let why = example["skipped"][0]["why"].as_str().unwrap().to_owned();
        let applied = Applied {
            steps: 3,
            skipped: vec![Skipped { target: timer, why, refused: true }],
            pending: vec![moved],
        };
        let printed: serde_json::Value = serde_json::from_str(&to_json(&plan, &applied).unwrap()).unwrap();
        assert_eq!(printed, example);
        for field in example.as_object().unwrap().keys() {
            assert!(text.contains(&format!("`{field}`")), "{field} is not explained");
        }
    }
}
