//! `vfprobe doctor`.

use super::{
    Exit, Failure, Globals,
    paint::{Cell, Paint, Style, columns},
    print,
};
use crate::{
    bpf::{Loaded, facts::read_facts},
    host::{
        HostRoot,
        health::{Finding, HealthFacts, Level, examine, read_health},
    },
    model::HostFacts,
    probes::{Hidden, PROBES, Role},
};
use serde::Serialize;
use std::collections::BTreeSet;

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
    let mut findings = all_findings(&facts, &read_facts(&HostRoot::live()).hidden(PROBES));
    insert(&mut findings, functions(Loaded::try_functions(&HostRoot::live()).map_err(|e| e.to_string())));
    let blocking = count(&findings, Level::Fail);
    let text = if *json {
        let document = Document { schema: SCHEMA, host: &facts.host, findings: &findings, blocking };
        serde_json::to_string_pretty(&document).map_err(Failure::cannot_run)? + "\n"
    } else {
        render(&facts, &findings, Paint::stdout(globals.color()))
    };
    print(text.as_bytes())?;
    Ok(if blocking > 0 { Exit::Finding } else { Exit::Fine })
}

/// Everything that doctor says, in the order it is printed.
fn all_findings(facts: &HealthFacts, hidden: &[Hidden]) -> Vec<Finding> {
    let mut findings = examine(facts);
    let missing = facts.events.as_ref().map(|events| tracepoints(events, hidden)).unwrap_or_default();
    insert(&mut findings, missing);
    findings
}

/// Puts findings of hooks behind those of tracefs.
fn insert(findings: &mut Vec<Finding>, hooks: Vec<Finding>) {
    let last =
        findings.iter().rposition(|finding| ["tracefs", "tracepoints"].contains(&finding.check.as_str()));
    let at = last.map_or(0, |last| last + 1);
    findings.splice(at..at, hooks);
}

/// Which functions of the kernel can be hooked, by having tried; the error says why none could be.
fn functions(tried: Result<Vec<(&'static str, Option<String>)>, String>) -> Vec<Finding> {
    const CHECK: &str = "functions";
    const KERNEL: &str =
        "a kernel with CONFIG_FUNCTION_TRACER and CONFIG_DEBUG_INFO_BTF that is not locked down";
    let refused = |found: String, figures: &[&str], fix: &str| {
        let figures = figures.join(", ");
        let cost = format!("the probe irq_delivery works, but these are not observable: {figures}");
        Finding::warn(CHECK, found, cost, fix)
    };
    let hooks = || PROBES.iter().flat_map(|probe| probe.hooks).filter(|hook| hook.is_return());
    let figure = |name: &str| {
        hooks().find(|hook| hook.name() == name).and_then(|hook| match hook.role {
            Role::Required => None,
            Role::Figure(figure) => Some(figure),
        })
    };
    match tried {
        Err(reason) => {
            let figures: Vec<&str> = hooks().filter_map(|hook| figure(hook.name())).collect();
            let fix = "see to it that BPF programs can be loaded, and ask again";
            vec![refused(format!("not tried: {reason}"), &figures, fix)]
        }
        Ok(tried) => tried
            .into_iter()
            .map(|(name, refusal)| match refusal {
                None => Finding::ok(CHECK, format!("{name} can be hooked")),
                Some(reason) => {
                    refused(format!("{name} cannot be hooked: {reason}"), figure(name).as_slice(), KERNEL)
                }
            })
            .collect(),
    }
}

/// Which probes lack events on this kernel, or find them changed.
fn tracepoints(events: &BTreeSet<String>, hidden: &[Hidden]) -> Vec<Finding> {
    const CHECK: &str = "tracepoints";
    // A kernel that tells of APIC vectors, but not of one, was built without it: there is nothing to observe.
    let vectors = events.iter().any(|event| event.starts_with("irq_vectors/"));
    let there = |event: &str| events.contains(event) || vectors && event.starts_with("irq_vectors/");
    let mut findings = Vec::new();
    for probe in PROBES {
        let missing: Vec<_> =
            probe.hooks.iter().filter(|hook| !hook.is_return() && !there(hook.event)).collect();
        if missing.is_empty() {
            continue;
        }
        let names: Vec<&str> = missing.iter().map(|hook| hook.event).collect();
        let figures: BTreeSet<&str> = missing
            .iter()
            .filter_map(|hook| match hook.role {
                Role::Required => None,
                Role::Figure(figure) => Some(figure),
            })
            .collect();
        let cost = if missing.iter().any(|hook| hook.role == Role::Required) {
            format!("the probe {} cannot work", probe.name)
        } else {
            let figures: Vec<&str> = figures.into_iter().collect();
            format!("the probe {} works, but these are not observable: {}", probe.name, figures.join(", "))
        };
        findings.push(Finding::warn(
            CHECK,
            format!("missing: {}", names.join(", ")),
            cost,
            "those of kvm come with its modules (modprobe kvm_intel or kvm_amd), others with a newer kernel",
        ));
    }
    for Hidden { probe, figure, event, reason } in hidden.iter().filter(|h| events.contains(&h.event)) {
        let cost = match figure {
            None => format!("the probe {probe} cannot work"),
            Some(figure) => format!("the probe {probe} works, but this is not observable: {figure}"),
        };
        let fix = "see BTF and tracefs here; what no program fits for, `vfprobe status` lists";
        findings.push(Finding::warn(CHECK, format!("cannot be used: {event} ({reason})"), cost, fix));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "all that the probes use"));
    }
    findings
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

    #[test]
    fn events_that_are_missing_cost_a_figure_or_a_probe() {
        let all: BTreeSet<String> =
            PROBES.iter().flat_map(|probe| probe.hooks).map(|hook| hook.event.to_owned()).collect();
        let without = |gone: &[&str]| -> Vec<(String, Option<String>)> {
            let events = all.iter().filter(|event| !gone.contains(&event.as_str())).cloned().collect();
            tracepoints(&events, &[]).into_iter().map(|finding| (finding.found, finding.cost)).collect()
        };
        assert_eq!(without(&[]), [("all that the probes use".to_owned(), None)]);
        let eoi = "the probe irq_delivery works, but these are not observable: service";
        assert_eq!(without(&["kvm/kvm_eoi"]), [("missing: kvm/kvm_eoi".to_owned(), Some(eoi.to_owned()))]);
        assert_eq!(without(&["irq_vectors/threshold_apic_entry"]), without(&[]));
        let changed = |event: &str, figure: Option<&str>| Hidden {
            probe: "vm_exit".to_owned(),
            figure: figure.map(str::to_owned),
            event: event.to_owned(),
            reason: "its arguments have changed".to_owned(),
        };
        let hidden = [changed("kvm/kvm_exit", None), changed("kvm/not_there", Some("halt_poll"))];
        let findings = tracepoints(&all, &hidden);
        assert_eq!(findings.len(), 1, "an event that is not there is told as missing: {findings:?}");
        assert_eq!(findings[0].found, "cannot be used: kvm/kvm_exit (its arguments have changed)");
        let missing = without(&["irq/irq_handler_entry"]);
        assert_eq!(missing[0].1.as_deref(), Some("the probe irq_delivery cannot work"));
        // The noise probe loses only its interrupts.
        assert!(
            missing[1].1.as_ref().is_some_and(|cost| cost.ends_with("not observable: irq")),
            "{missing:?}"
        );
    }

    #[test]
    fn functions_are_judged_by_having_tried() {
        const NAME: &str = "irq_set_vcpu_affinity";
        let cost = "the probe irq_delivery works, but these are not observable: taken_back";
        for (tried, level, found) in [
            (Ok(vec![(NAME, None)]), Level::Ok, "irq_set_vcpu_affinity can be hooked"),
            (
                Ok(vec![(NAME, Some("fexit: no such function in BTF".to_owned()))]),
                Level::Warn,
                "irq_set_vcpu_affinity cannot be hooked: fexit: no such function in BTF",
            ),
            (Err("no privilege".to_owned()), Level::Warn, "not tried: no privilege"),
        ] {
            let findings = functions(tried);
            let [Finding { level: judged, found: said, cost: costs, .. }] = &findings[..] else {
                panic!("{findings:?}")
            };
            assert_eq!((*judged, said.as_str()), (level, found));
            assert_eq!(costs.as_deref(), (level == Level::Warn).then_some(cost));
        }
    }

    #[test]
    fn events_are_judged_after_tracefs_when_they_can_be_listed() {
        let tree = Tree::captured(LAB);
        let checks = |tree: &Tree| -> Vec<String> {
            all_findings(&read_health(&tree.root()), &[]).into_iter().map(|finding| finding.check).collect()
        };
        assert!(!checks(&tree).contains(&"tracepoints".to_owned()));
        tree.file("sys/kernel/tracing/events/irq/irq_handler_entry/format", "");
        let checks = checks(&tree);
        let at = checks.iter().position(|check| check == "tracefs").unwrap();
        assert_eq!(checks[at + 1], "tracepoints");
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
        let tree = Tree::captured(LAB);
        tree.file("sys/kernel/tracing/events/irq/irq_handler_entry/format", "");
        for Finding { check, .. } in all_findings(&read_health(&tree.root()), &[]) {
            assert!(section.contains(&format!("`{check}`")), "{check} is not explained in docs/json.md");
        }
        for pointer in ["", "/host", "/findings/0"] {
            for field in example.pointer(pointer).unwrap().as_object().unwrap().keys() {
                assert!(section.contains(&format!("`{field}`")), "{field} is not explained in docs/json.md");
            }
        }
    }
}
