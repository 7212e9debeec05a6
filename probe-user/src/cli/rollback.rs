//! `vfprobe rollback`.

use super::{Exit, Failure, Globals, print};
use crate::app::{control, interrupt::Interrupts};
use crate::apply::{Outcome, RollbackOptions, RollbackReport, StateDir, Undone};
use crate::host::HostRoot;
use crate::model::{CpuSet, Value};
use crate::plan::Target;
use anyhow::{Context as _, anyhow};
use serde::Serialize;
use std::fmt::Write as _;

/// Arguments of `rollback`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Use a damaged journal as far as it can be read
    #[arg(long)]
    salvage: bool,
    /// Only show what is on record
    #[arg(long)]
    dry_run: bool,
    /// JSON instead of a table (docs/json.md)
    #[arg(long, conflicts_with = "dry_run")]
    json: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    complete: bool,
    undone: Vec<Line<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    lost: &'a [u64],
    notes: &'a [String],
}

/// One target.
#[derive(Serialize)]
struct Line<'a> {
    target: &'a Target,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus: Option<&'a CpuSet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fires_on: Option<&'a CpuSet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Undoes everything on record.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let (root, state) = (HostRoot::live(), StateDir::new(globals.state_dir()));
    if args.dry_run {
        return dry_run(&state);
    }
    // A half-undone host is no place to stop at; rollback takes a moment and runs to its end.
    let _interrupts =
        Interrupts::listen().context("cannot listen for signals").map_err(Failure::cannot_run)?;
    let options = RollbackOptions { salvage: args.salvage, ..RollbackOptions::default() };
    let report = control::roll_back(&root, &state, &options).map_err(Failure::cannot_run)?;
    if args.json {
        print(to_json(&report)?.as_bytes())?;
    } else if !globals.quiet {
        print(to_text(&report).as_bytes())?;
    }
    let failures = report.failures().join("; ");
    if !failures.is_empty() {
        let error = anyhow!("not all could be undone, run `vfprobe rollback` again: {failures}");
        return Err(Failure::new(Exit::RollbackIncomplete, error));
    }
    if !report.is_complete() {
        let error = anyhow!(
            "what {} of the journal told of may still be in force; it was put away as {}, and `vfprobe topology` shows \
             where the interrupts of VFs and the threads of guests are: compare with \
             /proc/irq/default_smp_affinity, the masks in /proc/irq and the knobs of the policy",
            lines_of(&report.lost),
            state.archive_path().display()
        );
        return Err(Failure::new(Exit::RollbackIncomplete, error));
    }
    let foreign = report.foreign().next().is_some();
    Ok(if foreign { Exit::Finding } else { Exit::Fine })
}

fn dry_run(state: &StateDir) -> Result<Exit, Failure> {
    let standing = control::on_record(state).map_err(Failure::cannot_run)?;
    let mut text = String::new();
    for item in &standing {
        let _ = writeln!(text, "  {}: {} -> {}", item.target, item.asked(), item.old);
    }
    let _ = match standing.len() {
        0 => writeln!(text, "nothing to undo"),
        n => writeln!(text, "{n} settings would be undone where they are still as written"),
    };
    print(text.as_bytes())
}

fn to_json(report: &RollbackReport) -> Result<String, Failure> {
    let RollbackReport { undone, lost, notes } = report;
    let undone = undone.iter().map(line).collect();
    let report = Report { schema: 1, complete: report.is_complete(), undone, lost, notes };
    Ok(serde_json::to_string_pretty(&report).map_err(Failure::cannot_run)? + "\n")
}

fn line(undone: &Undone) -> Line<'_> {
    fn of<'a>(target: &'a Target, outcome: &'static str, value: Option<&'a Value>) -> Line<'a> {
        let (cpus, text) = match value {
            Some(Value::Cpus(cpus)) => (Some(cpus), None),
            Some(Value::Text { text }) => (None, Some(text.as_str())),
            None => (None, None),
        };
        Line { target, outcome, cpus, text, fires_on: None, error: None }
    }
    let Undone { target, outcome } = undone;
    let line = |outcome, value| of(target, outcome, value);
    match outcome {
        Outcome::Restored(value) => line("restored", Some(value)),
        Outcome::Elsewhere { mask, fires_on } => {
            Line { fires_on: Some(fires_on), ..line("elsewhere", Some(mask)) }
        }
        Outcome::Untouched => line("untouched", None),
        Outcome::Gone => line("gone", None),
        Outcome::Foreign(value) => line("foreign", Some(value)),
        Outcome::Failed(error) => Line { error: Some(error.to_string()), ..line("failed", None) },
    }
}

/// What became of everything: one line for each target that is not simply restored, and a summary.
fn to_text(report: &RollbackReport) -> String {
    let mut text: String = lines(report).into_iter().map(|line| format!("  {line}\n")).collect();
    let count = |wanted: fn(&Outcome) -> bool| report.undone.iter().filter(|u| wanted(&u.outcome)).count();
    let restored = count(|o| matches!(o, Outcome::Restored(_) | Outcome::Elsewhere { .. }));
    let gone = count(|o| matches!(o, Outcome::Gone));
    let untouched = count(|o| matches!(o, Outcome::Untouched));
    if report.undone.is_empty() {
        let readable = if report.lost.is_empty() { "nothing to undo\n" } else { "nothing else to undo\n" };
        text.push_str(readable);
    } else {
        let _ = writeln!(text, "{restored} restored, {untouched} as they were already, {gone} gone");
    }
    text
}

fn lines(report: &RollbackReport) -> Vec<String> {
    let mut lines = report.notes.clone();
    if !report.lost.is_empty() {
        lines.push(format!("{} of the journal damaged and passed over", lines_of(&report.lost)));
    }
    for Undone { target, outcome } in &report.undone {
        match outcome {
            Outcome::Restored(_) | Outcome::Untouched | Outcome::Gone | Outcome::Failed(_) => {}
            Outcome::Elsewhere { mask, fires_on } => {
                lines.push(format!(
                    "{target}: has its mask {mask} again, and goes on firing on CPU {fires_on}"
                ));
            }
            Outcome::Foreign(found) => {
                lines.push(format!("{target}: left at {found}, which somebody else has set since"));
            }
        }
    }
    lines
}

/// `line 3`, `lines 3, 7`.
fn lines_of(numbers: &[u64]) -> String {
    let list: Vec<String> = numbers.iter().map(u64::to_string).collect();
    format!("line{} {}", if numbers.len() == 1 { "" } else { "s" }, list.join(", "))
}

/// Prints what there is to know about a rollback that a failure caused.
pub(super) fn warn_about(report: &RollbackReport) {
    for line in lines(report) {
        tracing::warn!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{Refusal, TargetError};
    use crate::cli::documented;

    #[test]
    fn the_documented_example_is_what_is_printed() {
        let (text, example) = documented("vfprobe rollback --json");
        let cpus = |list: &str| list.parse::<CpuSet>().unwrap();
        let call = "writing 0-3 to /proc/irq/default_smp_affinity".to_owned();
        let outcomes = [
            Outcome::Restored(cpus("0-3").into()),
            Outcome::Elsewhere { mask: cpus("0-3").into(), fires_on: cpus("2") },
            Outcome::Untouched,
            Outcome::Gone,
            Outcome::Foreign(cpus("1").into()),
            Outcome::Failed(TargetError::Refused { call, refusal: Refusal::Offline }),
        ];
        let undone = example["undone"].as_array().unwrap().iter().zip(outcomes).map(|(line, outcome)| {
            Undone { target: serde_json::from_value(line["target"].clone()).unwrap(), outcome }
        });
        let report = RollbackReport { undone: undone.collect(), ..RollbackReport::default() };
        let printed: serde_json::Value = serde_json::from_str(&to_json(&report).unwrap()).unwrap();
        assert_eq!(printed, example);
        for line in &report.undone {
            let word = super::line(line).outcome;
            assert!(text.contains(&format!("`{word}`")), "{word} is not explained");
        }
    }

    #[test]
    fn reports() {
        let report = |outcomes: Vec<Outcome>| RollbackReport {
            undone: outcomes
                .into_iter()
                .map(|outcome| Undone { target: Target::DefaultAffinity, outcome })
                .collect(),
            ..RollbackReport::default()
        };
        let cpus = |list: &str| list.parse::<CpuSet>().unwrap();
        assert_eq!(to_text(&report(vec![])), "nothing to undo\n");
        let all = report(vec![
            Outcome::Restored(cpus("0-3").into()),
            Outcome::Foreign(cpus("1").into()),
            Outcome::Gone,
            Outcome::Elsewhere { mask: cpus("0-3").into(), fires_on: cpus("2") },
        ]);
        assert_eq!(
            to_text(&all),
            "  default mask of new interrupts: left at 1, which somebody else has set since\n  \
             default mask of new interrupts: has its mask 0-3 again, and goes on firing on CPU 2\n\
             2 restored, 0 as they were already, 1 gone\n"
        );
        for (lost, expected) in [
            (vec![3], "  line 3 of the journal damaged and passed over\nnothing else to undo\n"),
            (vec![3, 7], "  lines 3, 7 of the journal damaged and passed over\nnothing else to undo\n"),
        ] {
            let report = RollbackReport { lost, ..RollbackReport::default() };
            assert_eq!(to_text(&report), expected);
            let printed: serde_json::Value = serde_json::from_str(&to_json(&report).unwrap()).unwrap();
            assert_eq!(
                (&printed["complete"], &printed["lost"]),
                (&false.into(), &report.lost.clone().into())
            );
        }
    }
}
