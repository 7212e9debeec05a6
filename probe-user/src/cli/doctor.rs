//! `vfprobe doctor`.

use super::{
    Exit, Failure, Globals,
    paint::{Cell, Paint, Style, columns},
    print,
};
use crate::{
    host::{
        HostRoot,
        health::{Finding, HealthFacts, Level, examine, read_health},
    },
    model::HostFacts,
};
use serde::Serialize;

/// Version of the JSON shape (docs/json.md).
const SCHEMA: u32 = 1;

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// JSON instead of a table (docs/json.md)
    #[arg(long)]
    json: bool,
}

/// The JSON document.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    host: &'a HostFacts,
    findings: &'a [Finding],
    /// How many findings have the level `fail`.
    blocking: usize,
}

/// Examines the host and prints what was found; exit code 1 when something blocks.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let Args { json } = args;
    let facts = read_health(&HostRoot::live());
    let findings = all_findings(&facts);
    let blocking = count(&findings, Level::Fail);
    let text = if *json {
        let document = Document { schema: SCHEMA, host: &facts.host, findings: &findings, blocking };
        serde_json::to_string_pretty(&document).map_err(Failure::cannot_run)? + "\n"
    } else {
        render(&facts, &findings, Paint::stdout(globals.color))
    };
    print(text.as_bytes())?;
    Ok(if blocking > 0 { Exit::Finding } else { Exit::Fine })
}

/// Everything that doctor says, in the order it is printed.
fn all_findings(facts: &HealthFacts) -> Vec<Finding> {
    examine(facts)
}

fn count(findings: &[Finding], level: Level) -> usize {
    findings.iter().filter(|finding| finding.level == level).count()
}

fn render(facts: &HealthFacts, findings: &[Finding], paint: Paint) -> String {
    let HostFacts { kernel, cpu_model, .. } = &facts.host;
    let online = facts.topology.online().len();
    let mut out = format!("{kernel}, {cpu_model}, {online} CPUs online\n\n");
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for finding in findings {
        let Finding { check, level, found, cost, fix } = finding;
        let style = match level {
            Level::Ok => Style::Good,
            Level::Warn => Style::Warning,
            Level::Fail => Style::Bad,
        };
        rows.push(vec![Cell::new(style, level.as_str()), check.into(), found.into()]);
        for (label, text) in [("costs", cost), ("fix", fix)] {
            if let Some(text) = text {
                rows.push(vec!["".into(), "".into(), Cell::new(Style::Faint, format!("{label:<5}  {text}"))]);
            }
        }
    }
    out.push_str(&columns(paint, "", &rows));
    let [ok, warn, fail] = [Level::Ok, Level::Warn, Level::Fail].map(|level| count(findings, level));
    out.push_str(&format!("\n{ok} ok, {warn} to improve, {fail} blocking\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::{LAB, Tree};

    #[test]
    fn findings_stand_in_columns_with_cost_and_fix_below() {
        let facts = read_health(&Tree::captured(LAB).root());
        let findings = [
            Finding::ok("BTF", "this kernel describes its types"),
            Finding::warn(
                "irqbalance",
                "running (pid 7)",
                "it moves interrupts",
                "systemctl stop irqbalance",
            ),
        ];
        let HostFacts { kernel, cpu_model, .. } = &facts.host;
        let below = " ".repeat(18);
        let expected = format!(
            "{kernel}, {cpu_model}, 4 CPUs online\n\n\
             ok    BTF         this kernel describes its types\n\
             warn  irqbalance  running (pid 7)\n\
             {below}costs  it moves interrupts\n\
             {below}fix    systemctl stop irqbalance\n\n\
             1 ok, 1 to improve, 0 blocking\n"
        );
        assert_eq!(render(&facts, &findings, Paint::default()), expected);
    }

    /// docs/json.md shows a whole document; it must be what is printed, and every field explained.
    #[test]
    fn the_documented_example_is_what_is_printed() {
        let documented = include_str!("../../../docs/json.md");
        let section = documented.split("\n## ").find(|s| s.starts_with("`vfprobe doctor --json`")).unwrap();
        let example = section.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
        let example: serde_json::Value = serde_json::from_str(example).unwrap();
        let host: HostFacts = serde_json::from_value(example["host"].clone()).unwrap();
        let findings: Vec<Finding> = serde_json::from_value(example["findings"].clone()).unwrap();
        let blocking = count(&findings, Level::Fail);
        let document = Document { schema: SCHEMA, host: &host, findings: &findings, blocking };
        assert_eq!(serde_json::to_value(&document).unwrap(), example);
        for pointer in ["", "/host", "/findings/0"] {
            for field in example.pointer(pointer).unwrap().as_object().unwrap().keys() {
                assert!(section.contains(&format!("`{field}`")), "{field} is not explained in docs/json.md");
            }
        }
    }
}
