//! `vfprobe plan`.

use super::policy::{LookArgs, PolicyArgs};
use super::{Exit, Failure, Globals, failures, print};
use crate::app::control::make_plan;
use crate::apply::StateDir;
use crate::host::HostRoot;
use crate::plan::{Plan, Step};
use std::fmt::Write as _;

/// Arguments of `plan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    look: LookArgs,
    /// JSON instead of a table (docs/json.md); `apply FILE` takes it later
    #[arg(long)]
    json: bool,
}

/// Plans and prints.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let policy = args.policy.policy()?;
    let root = HostRoot::live();
    let looked = args.look.look(globals, &root, &[&policy])?;
    let plan = make_plan(&root, &StateDir::new(globals.state_dir()), &policy, &looked);
    let plan = plan.map_err(failures::plan)?;
    let text = if args.json { to_json(&plan)? } else { to_text(&plan) };
    print(text.as_bytes())
}

/// The plan as JSON, with a line feed.
pub(super) fn to_json(plan: &Plan) -> Result<String, Failure> {
    let json = serde_json::to_string_pretty(plan).map_err(Failure::cannot_run)?;
    Ok(json + "\n")
}

/// The plan as people read it: one line for each change, in columns.
pub(super) fn to_text(plan: &Plan) -> String {
    let Plan { schema: _, config, guests, guarded, housekeeping, steps, notes } = plan;
    let guests = guests.join(", ");
    let mut text =
        format!("{config} for {guests}: guarded CPUs {guarded}, housekeeping CPUs {housekeeping}\n");
    if guarded.is_empty() {
        text = format!("{config} for {guests}: no CPU is guarded, housekeeping CPUs {housekeeping}\n");
    }
    let rows: Vec<[String; 4]> = steps
        .iter()
        .map(|Step { target, now, new, reason, effective: _, need: _ }| {
            [target.to_string(), now.to_string(), new.to_string(), reason.clone()]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (target, now, new) = (width(0), width(1), width(2));
    for row in &rows {
        let _ = writeln!(text, "  {:<target$}  {:>now$} -> {:<new$}  {}", row[0], row[1], row[2], row[3]);
    }
    for note in notes {
        let _ = writeln!(text, "  note: {note}");
    }
    let _ = match rows.len() {
        0 => writeln!(text, "nothing to change"),
        1 => writeln!(text, "1 change"),
        n => writeln!(text, "{n} changes"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::documented;
    use crate::model::CpuSet;
    use crate::plan::{Need, PLAN_SCHEMA, Target};

    #[test]
    fn the_documented_example_is_what_is_printed() {
        let (text, example) = documented("vfprobe plan --json");
        let plan: Plan = serde_json::from_value(example.clone()).unwrap();
        let printed: serde_json::Value = serde_json::from_str(&to_json(&plan).unwrap()).unwrap();
        assert_eq!(printed, example);
        let objects = ["", "/steps/0", "/steps/2", "/steps/0/target", "/steps/1/target", "/steps/2/target"];
        for pointer in objects {
            for field in example.pointer(pointer).unwrap().as_object().unwrap().keys() {
                assert!(text.contains(&format!("`{field}`")), "{field} of {pointer:?} is not explained");
            }
        }
    }

    #[test]
    fn a_plan_in_columns() {
        let step = |now: &str, new: &str| Step {
            target: Target::DefaultAffinity,
            now: now.parse::<CpuSet>().unwrap().into(),
            effective: None,
            new: new.parse::<CpuSet>().unwrap().into(),
            need: Need::Required,
            reason: "why".to_owned(),
        };
        let mut plan = Plan {
            schema: PLAN_SCHEMA,
            config: "own".to_owned(),
            guests: vec!["vm1".to_owned()],
            guarded: "2".parse().unwrap(),
            housekeeping: "0-1,3".parse().unwrap(),
            steps: vec![step("0-3", "0-1,3"), step("1", "2")],
            notes: vec!["n".to_owned()],
        };
        let expect = "\
own for vm1: guarded CPUs 2, housekeeping CPUs 0-1,3
  default mask of new interrupts  0-3 -> 0-1,3  why
  default mask of new interrupts    1 -> 2      why
  note: n
2 changes
";
        assert_eq!(to_text(&plan), expect);
        let json = to_json(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
        plan.steps.clear();
        plan.notes.clear();
        plan.guarded = "".parse().unwrap();
        assert_eq!(
            to_text(&plan),
            "own for vm1: no CPU is guarded, housekeeping CPUs 0-1,3\nnothing to change\n"
        );
    }
}
