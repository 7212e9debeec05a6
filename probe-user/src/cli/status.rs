//! `vfprobe status` and `vfprobe verify`: the configuration in force beside what is found on the host.

use super::{Exit, Failure, Globals, print};
use crate::app::control;
use crate::apply::{Check, InForce, Reality, StateDir};
use crate::host::HostRoot;
use serde::Serialize;
use std::fmt::Write as _;

/// Arguments of `status` and `verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// JSON instead of a table (docs/json.md)
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    holds: bool,
    in_force: Option<&'a InForce>,
}

/// Which targets a table lists.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lists {
    /// All of them.
    All,
    /// Those that are not as asked.
    Drift,
}

/// Prints every target with what is asked and what is found.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    show(globals, args, Lists::All)
}

pub(super) fn show(globals: &Globals, args: &Args, lists: Lists) -> Result<Exit, Failure> {
    let found = control::in_force(&HostRoot::live(), &StateDir::new(globals.state_dir()));
    let in_force = found.map_err(Failure::cannot_run)?;
    let holds = in_force.as_ref().is_none_or(InForce::holds);
    let text = if args.json {
        to_json(in_force.as_ref())?
    } else {
        in_force.as_ref().map_or_else(|| "no configuration is in force\n".to_owned(), |f| to_text(f, lists))
    };
    print(text.as_bytes())?;
    Ok(if holds { Exit::Fine } else { Exit::Finding })
}

fn to_json(in_force: Option<&InForce>) -> Result<String, Failure> {
    let report = Report { schema: 1, holds: in_force.is_none_or(InForce::holds), in_force };
    Ok(serde_json::to_string_pretty(&report).map_err(Failure::cannot_run)? + "\n")
}

fn to_text(in_force: &InForce, lists: Lists) -> String {
    let InForce { configs, guests, guarded, since: _, settled, checks } = in_force;
    let mut text = format!("{} for {}, guarded CPUs {guarded}\n", configs.join(" + "), guests.join(", "));
    let rows: Vec<[String; 3]> = checks
        .iter()
        .filter(|check| lists == Lists::All || check.is_drift())
        .map(|check| [check.target.to_string(), check.asked.to_string(), found(check)])
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (target, asked) = (width(0), width(1));
    for row in &rows {
        let _ = writeln!(text, "  {:<target$}  asked {:<asked$}  {}", row[0], row[1], row[2]);
    }
    let drifted = checks.iter().filter(|check| check.is_drift()).count();
    if !settled {
        text.push_str("a change was cut short: run `vfprobe rollback`\n");
    }
    let _ = match drifted {
        0 => writeln!(text, "{} settings, all as asked", checks.len()),
        n => writeln!(text, "{} settings, {n} not as asked", checks.len()),
    };
    text
}

fn found(check: &Check) -> String {
    match &check.reality {
        Reality::AsAsked { effective: None } => "as asked".to_owned(),
        Reality::AsAsked { effective: Some(effective) } => format!("as asked, fires on {effective}"),
        Reality::Pending { effective } => format!("pending, fires on {effective} until the next time"),
        Reality::Drifted { found } => format!("DRIFT: {found}, set by somebody else"),
        Reality::Gone if check.is_drift() => "DRIFT: gone".to_owned(),
        Reality::Gone => "gone".to_owned(),
        Reality::Unreadable { error } => format!("DRIFT: cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::documented;
    use crate::model::CpuSet;
    use crate::plan::{Need, Target};

    #[test]
    fn the_documented_example_is_what_is_printed() {
        let (text, example) = documented("vfprobe status --json, vfprobe verify --json");
        let cpus = |list: &str| list.parse::<CpuSet>().unwrap();
        let realities = [
            Reality::AsAsked { effective: Some(cpus("2")) },
            Reality::Pending { effective: cpus("0") },
            Reality::Drifted { found: cpus("0-3").into() },
            Reality::Gone,
            Reality::Unreadable { error: "cannot read /proc/257/task/257/stat".to_owned() },
        ];
        let checks = example["in_force"]["checks"].as_array().unwrap().iter().zip(realities);
        let checks = checks.map(|(check, reality)| Check {
            target: serde_json::from_value(check["target"].clone()).unwrap(),
            asked: serde_json::from_value(check["asked"].clone()).unwrap(),
            reality,
            need: serde_json::from_value(check["need"].clone()).unwrap(),
        });
        let in_force = InForce {
            configs: vec!["own".to_owned()],
            guests: vec!["vm1".to_owned()],
            guarded: cpus("2-3"),
            since: 1_767_225_600,
            settled: true,
            checks: checks.collect(),
        };
        let printed: serde_json::Value = serde_json::from_str(&to_json(Some(&in_force)).unwrap()).unwrap();
        assert_eq!(printed, example);
        let of = |pointer: &str| example.pointer(pointer).unwrap().as_object().unwrap().keys().cloned();
        let all = of("").chain(of("/in_force")).chain(of("/in_force/checks/0"));
        for field in all.chain(in_force.checks.iter().map(printed_state)) {
            assert!(text.contains(&format!("`{field}`")), "{field} is not explained");
        }
    }

    fn printed_state(check: &Check) -> String {
        serde_json::to_value(check).unwrap()["state"].as_str().unwrap().to_owned()
    }

    #[test]
    fn tables() {
        let cpus = |list: &str| list.parse::<CpuSet>().unwrap();
        let check =
            |reality, need| Check { target: Target::DefaultAffinity, asked: cpus("2").into(), reality, need };
        let mut in_force = InForce {
            configs: vec!["own".to_owned()],
            guests: vec!["vm1".to_owned()],
            guarded: cpus("2"),
            since: 0,
            settled: true,
            checks: vec![
                check(Reality::AsAsked { effective: Some(cpus("2")) }, Need::Required),
                check(Reality::Gone, Need::WhilePresent),
            ],
        };
        assert!(in_force.holds());
        assert_eq!(
            to_text(&in_force, Lists::All),
            "own for vm1, guarded CPUs 2\n  default mask of new interrupts  asked 2  as asked, fires on 2\n  \
             default mask of new interrupts  asked 2  gone\n2 settings, all as asked\n"
        );
        in_force.checks.push(check(Reality::Drifted { found: cpus("1").into() }, Need::Required));
        assert!(!in_force.holds());
        assert_eq!(
            to_text(&in_force, Lists::Drift),
            "own for vm1, guarded CPUs 2\n  default mask of new interrupts  asked 2  DRIFT: 1, set by somebody else\n\
             3 settings, 1 not as asked\n"
        );
    }
}
