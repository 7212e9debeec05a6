//! `vfprobe status` and `vfprobe verify`: the configuration in force beside what is found on the host, and what cannot be
//! observed here.

use super::{Exit, Failure, Globals, print};
use crate::app::control;
use crate::apply::{Check, InForce, Left, Reality, StateDir};
use crate::bpf::facts::read_facts;
use crate::host::HostRoot;
use crate::model::owners::Owner;
use crate::probes::{Hidden, PROBES};
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
    not_observable: &'a [Hidden],
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
    let found = control::status(&HostRoot::live(), &StateDir::new(globals.state_dir()));
    let in_force = found.map_err(Failure::cannot_run)?;
    let holds = in_force.as_ref().is_none_or(InForce::holds);
    let hidden = read_facts(&HostRoot::live()).hidden(PROBES);
    let text = if args.json {
        to_json(in_force.as_ref(), &hidden)?
    } else {
        let none = || "no configuration is in force\n".to_owned();
        let mut text = in_force.as_ref().map_or_else(none, |f| to_text(f, lists));
        if lists == Lists::All {
            text.push_str(&hidden_text(&hidden));
        }
        text
    };
    print(text.as_bytes())?;
    Ok(if holds { Exit::Fine } else { Exit::Finding })
}

fn to_json(in_force: Option<&InForce>, not_observable: &[Hidden]) -> Result<String, Failure> {
    let report = Report { schema: 1, holds: in_force.is_none_or(InForce::holds), in_force, not_observable };
    Ok(serde_json::to_string_pretty(&report).map_err(Failure::cannot_run)? + "\n")
}

const HEAD: [&str; 5] = ["setting", "asked", "effective", "owner", "drift"];

fn to_text(in_force: &InForce, lists: Lists) -> String {
    let InForce { configs, guests, guarded, kept_by: _, since: _, settled, checks, left } = in_force;
    let mut text = format!("{} for {}, guarded CPUs {guarded}\n", configs.join(" + "), guests.join(", "));
    let listed = checks.iter().filter(|check| lists == Lists::All || check.is_drift());
    let mut rows: Vec<[String; 5]> = listed.map(row).collect();
    if lists == Lists::All {
        rows.extend(left.iter().map(left_row));
    }
    if !rows.is_empty() {
        rows.insert(0, HEAD.map(str::to_owned));
    }
    let widths: [usize; 4] =
        std::array::from_fn(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("  {cell:<width$}"));
        let _ = writeln!(text, "{}  {}", cells.collect::<String>(), row[4]);
    }
    if !settled {
        text.push_str("a change was cut short: run `vfprobe rollback`\n");
    }
    let _ = match checks.iter().filter(|check| check.is_drift()).count() {
        0 => write!(text, "{} settings, all as asked", checks.len()),
        n => write!(text, "{} settings, {n} not as asked", checks.len()),
    };
    if !left.is_empty() {
        let _ = write!(text, "; {} left as they were", left.len());
    }
    text.push('\n');
    text
}

/// What the probes cannot see here; nothing when they see everything.
fn hidden_text(hidden: &[Hidden]) -> String {
    if hidden.is_empty() {
        return String::new();
    }
    let head = ["probe", "figure", "event", "why"].map(str::to_owned);
    let row = |hidden: &Hidden| {
        let Hidden { probe, figure, event, reason } = hidden;
        let figure = figure.clone().unwrap_or_else(|| "all of it".to_owned());
        [probe.clone(), figure, event.clone(), reason.clone()]
    };
    let rows: Vec<[String; 4]> = std::iter::once(head).chain(hidden.iter().map(row)).collect();
    let widths: [usize; 3] =
        std::array::from_fn(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
    let mut text = "\nnot observable here (`vfprobe doctor` says what mends it):\n".to_owned();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("  {cell:<width$}"));
        let _ = writeln!(text, "{}  {}", cells.collect::<String>(), row[3]);
    }
    text
}

/// A setting in the columns of [`HEAD`].
fn row(check: &Check) -> [String; 5] {
    let Check { target, asked, reality, need: _, owner } = check;
    let (effective, drift) = match reality {
        Reality::AsAsked { effective: None } => (asked.to_string(), "no".to_owned()),
        Reality::AsAsked { effective: Some(effective) } => (effective.to_string(), "no".to_owned()),
        Reality::Pending { effective } => {
            (effective.to_string(), "no: pending, it moves when it fires next".to_owned())
        }
        Reality::Drifted { found } => {
            let who = match owner {
                None | Some(Owner::Unknown) => "somebody else".to_owned(),
                Some(owner) => owner.to_string(),
            };
            (found.to_string(), format!("DRIFT: {found}, set by {who}"))
        }
        Reality::Gone if check.is_drift() => ("-".to_owned(), "DRIFT: gone".to_owned()),
        Reality::Gone => ("-".to_owned(), "no: gone, and with it what was set".to_owned()),
        Reality::Unreadable { error } => ("?".to_owned(), format!("DRIFT: cannot be read: {error}")),
    };
    let owner = owner.map_or_else(|| "-".to_owned(), |owner| owner.to_string());
    [target.to_string(), asked.to_string(), effective, owner, drift]
}

/// A setting that was left as it was.
fn left_row(left: &Left) -> [String; 5] {
    let Left { target, asked, found, effective, owner, why } = left;
    let effective = effective.as_ref().map_or_else(|| found.to_string(), ToString::to_string);
    [target.to_string(), asked.to_string(), effective, owner.to_string(), format!("left at {found}: {why}")]
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
        let owners = [Some(Owner::Vfprobe), Some(Owner::Vfprobe), Some(Owner::Unknown), None, None];
        let checks = checks.zip(owners).map(|((check, reality), owner)| Check {
            owner,
            target: serde_json::from_value(check["target"].clone()).unwrap(),
            asked: serde_json::from_value(check["asked"].clone()).unwrap(),
            reality,
            need: serde_json::from_value(check["need"].clone()).unwrap(),
        });
        let in_force = InForce {
            configs: vec!["own".to_owned()],
            guests: vec!["vm1".to_owned()],
            guarded: cpus("2-3"),
            kept_by: None,
            since: 1_767_225_600,
            settled: true,
            checks: checks.collect(),
            left: vec![Left {
                target: serde_json::from_value(example["in_force"]["left"][0]["target"].clone()).unwrap(),
                asked: cpus("0-1").into(),
                found: cpus("2").into(),
                effective: Some(cpus("2")),
                owner: Owner::KernelManaged,
                why: example["in_force"]["left"][0]["why"].as_str().unwrap().to_owned(),
            }],
        };
        let hidden: Vec<Hidden> = serde_json::from_value(example["not_observable"].clone()).unwrap();
        let printed: serde_json::Value =
            serde_json::from_str(&to_json(Some(&in_force), &hidden).unwrap()).unwrap();
        assert_eq!(printed, example);
        let of = |pointer: &str| example.pointer(pointer).unwrap().as_object().unwrap().keys().cloned();
        let all = of("").chain(of("/in_force")).chain(of("/in_force/checks/0")).chain(of("/in_force/left/0"));
        let all = all.chain(of("/not_observable/0"));
        for field in all.chain(in_force.checks.iter().map(printed_state)) {
            assert!(text.contains(&format!("`{field}`")), "{field} is not explained");
        }
    }

    fn printed_state(check: &Check) -> String {
        serde_json::to_value(check).unwrap()["state"].as_str().unwrap().to_owned()
    }

    #[test]
    fn what_is_hidden_stands_below() {
        assert_eq!(hidden_text(&[]), "");
        let hidden = |figure: Option<&str>, event: &str| Hidden {
            probe: "irq_delivery".to_owned(),
            figure: figure.map(str::to_owned),
            event: event.to_owned(),
            reason: "no such event".to_owned(),
        };
        assert_eq!(
            hidden_text(&[hidden(Some("service"), "kvm/kvm_eoi"), hidden(None, "kvm/kvm_entry")]),
            "\nnot observable here (`vfprobe doctor` says what mends it):\n  \
             probe         figure     event          why\n  \
             irq_delivery  service    kvm/kvm_eoi    no such event\n  \
             irq_delivery  all of it  kvm/kvm_entry  no such event\n"
        );
    }

    #[test]
    fn tables() {
        let cpus = |list: &str| list.parse::<CpuSet>().unwrap();
        let check = |reality, need, owner| Check {
            target: Target::DefaultAffinity,
            asked: cpus("2").into(),
            reality,
            need,
            owner,
        };
        let own = Some(Owner::Vfprobe);
        let mut in_force = InForce {
            configs: vec!["own".to_owned()],
            guests: vec!["vm1".to_owned()],
            guarded: cpus("2"),
            kept_by: None,
            since: 0,
            settled: true,
            checks: vec![
                check(Reality::AsAsked { effective: Some(cpus("2")) }, Need::Required, own),
                check(Reality::Gone, Need::WhilePresent, None),
            ],
            left: vec![],
        };
        assert!(in_force.holds());
        assert_eq!(
            to_text(&in_force, Lists::All),
            "own for vm1, guarded CPUs 2\n  \
             setting                         asked  effective  owner    drift\n  \
             default mask of new interrupts  2      2          vfprobe  no\n  \
             default mask of new interrupts  2      -          -        no: gone, and with it what was set\n\
             2 settings, all as asked\n"
        );
        assert_eq!(
            to_text(&in_force, Lists::Drift),
            "own for vm1, guarded CPUs 2\n2 settings, all as asked\n"
        );
        let drifted = |owner| check(Reality::Drifted { found: cpus("1").into() }, Need::Required, owner);
        in_force.checks = vec![drifted(Some(Owner::Unknown)), drifted(Some(Owner::Irqbalance))];
        in_force.left = vec![Left {
            target: Target::DefaultAffinity,
            asked: cpus("0").into(),
            found: cpus("2-3").into(),
            effective: Some(cpus("3")),
            owner: Owner::KernelManaged,
            why: "refused".to_owned(),
        }];
        assert!(!in_force.holds());
        assert_eq!(
            to_text(&in_force, Lists::All),
            "own for vm1, guarded CPUs 2\n  \
             setting                         asked  effective  owner       drift\n  \
             default mask of new interrupts  2      1          unknown     DRIFT: 1, set by somebody else\n  \
             default mask of new interrupts  2      1          irqbalance  DRIFT: 1, set by irqbalance\n  \
             default mask of new interrupts  0      3          the kernel  left at 2-3: refused\n\
             2 settings, 2 not as asked; 1 left as they were\n"
        );
        assert!(!to_text(&in_force, Lists::Drift).contains("left at"));
    }
}
