//! Recording rules and alerts.

use crate::{
    dashboards,
    promql::{Recorded, check},
};
use probe_user::export::bounds::{self, Bounds};
use std::{collections::BTreeSet, fs};

/// One rule as its file has it.
struct Rule {
    kind: &'static str,
    name: String,
    expression: String,
    /// Label names between `{{ $labels.` and `}}` in its annotations.
    shown: Vec<String>,
    /// Where it is said what to do.
    runbook: Option<String>,
}

/// Reads the rules of a file. YAML as it is written here: `- record:` or `- alert:`, then `expr:` on one line or as
/// a folded block.
fn read(file: &str) -> Vec<Rule> {
    let text = fs::read_to_string(dashboards(file)).unwrap();
    let mut rules: Vec<Rule> = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let trimmed = line.trim_start();
        for (start, kind) in [("- record: ", "record"), ("- alert: ", "alert")] {
            if let Some(name) = trimmed.strip_prefix(start) {
                rules.push(Rule {
                    kind,
                    name: name.to_owned(),
                    expression: String::new(),
                    shown: vec![],
                    runbook: None,
                });
            }
        }
        let Some(rule) = rules.last_mut() else { continue };
        if let Some(expression) = trimmed.strip_prefix("expr: ") {
            assert_eq!(rule.expression, "", "{}: two expressions", rule.name);
            rule.expression = expression.to_owned();
            if expression == ">-" {
                let indent = line.len() - trimmed.len();
                let inside = |l: &&str| l.len() - l.trim_start().len() > indent;
                let mut block = Vec::new();
                while let Some(line) = lines.next_if(inside) {
                    block.push(line.trim());
                }
                rule.expression = block.join(" ");
            }
        }
        if let Some(place) = trimmed.strip_prefix("runbook: ") {
            rule.runbook = Some(place.to_owned());
        }
        let labels = trimmed.split("$labels.").skip(1);
        rule.shown.extend(
            labels
                .filter_map(|l| l.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next())
                .map(str::to_owned),
        );
    }
    assert!(!rules.is_empty(), "{file} has no rules");
    rules
}

/// Names of the recording rules, with the labels their results have.
pub(crate) fn recorded() -> Recorded {
    let mut all = Recorded::new();
    for rule in read("prometheus/vfprobe.rules.yml") {
        assert_eq!(rule.kind, "record");
        let checked = check(&rule.expression, &all).unwrap_or_else(|e| panic!("{}: {e}", rule.name));
        // A quantile of recorded buckets keeps their labels, except the bound.
        let labels = checked.grouped_by.unwrap_or_else(|| {
            let mut labels = checked.labels;
            assert!(rule.expression.starts_with("histogram_quantile("), "{}: labels unknown", rule.name);
            labels.remove("le");
            labels
        });
        assert!(all.insert(rule.name.clone(), labels).is_none(), "{} twice", rule.name);
    }
    all
}

#[test]
fn recording_rules_are_named_by_level_metric_and_operation() {
    for (name, labels) in recorded() {
        let parts: Vec<&str> = name.split(':').collect();
        let [level, metric, _] = parts[..] else { panic!("{name}: not level:metric:operation") };
        let of_the_scrape: BTreeSet<&str> = ["instance", "job", "le"].into();
        let kept: BTreeSet<&str> =
            labels.iter().map(String::as_str).filter(|l| !of_the_scrape.contains(l)).collect();
        assert_eq!(level.split('_').collect::<BTreeSet<_>>(), kept, "{name}");
        assert!(metric.starts_with("vfprobe_"), "{name}");
    }
}

/// A bucket that is asked for by its bound is there at every setting of `--bounds`.
#[test]
fn bounds_that_rules_name_are_always_exported() {
    let texts = |bounds: Bounds| -> BTreeSet<String> {
        bounds.nanoseconds().map(|ns| bounds::seconds(ns).to_string()).collect()
    };
    let mut named = 0;
    for rule in read("prometheus/vfprobe.rules.yml").into_iter().chain(read("prometheus/vfprobe.alerts.yml"))
    {
        for part in rule.expression.split("le=\"").skip(1) {
            let bound = part.split('"').next().unwrap();
            for bounds in [Bounds::Normal, Bounds::Coarse, Bounds::Fine] {
                assert!(texts(bounds).contains(bound), "{}: {bound} is not among {bounds:?}", rule.name);
            }
            named += 1;
        }
    }
    assert!(named > 0, "nothing left to check");
}

#[test]
fn every_alert_has_a_chapter_on_what_to_do() {
    let guide = fs::read_to_string(dashboards("../docs/operations.md")).unwrap();
    let chapters: Vec<&str> = guide.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let alerts = read("prometheus/vfprobe.alerts.yml");
    let names: Vec<&str> = alerts.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(chapters, names, "docs/operations.md, in the order of the alerts");
    for Rule { name, runbook, .. } in &alerts {
        // The anchor that Markdown gives a chapter of one word.
        let place = format!("docs/operations.md#{}", name.to_lowercase());
        assert_eq!(runbook.as_ref(), Some(&place), "{name}");
    }
}

#[test]
fn alerts_ask_for_what_exists_and_say_what_to_do() {
    let recorded = recorded();
    let mut seen = BTreeSet::new();
    for rule in read("prometheus/vfprobe.alerts.yml") {
        let Rule { kind, name, expression, shown, runbook: _ } = rule;
        assert_eq!(kind, "alert");
        assert!(name.starts_with("Vfprobe") && seen.insert(name.clone()), "{name}");
        let checked = check(&expression, &recorded).unwrap_or_else(|e| panic!("{name}: {e}"));
        let labels = checked.grouped_by.unwrap_or(checked.labels);
        assert!(!shown.is_empty(), "{name}: says nothing");
        for label in shown {
            assert!(labels.contains(&label), "{name} shows {label}, which its result has not");
        }
    }
}
