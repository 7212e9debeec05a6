//! docs/coverage.md has a row for every figure, and the tests that it names exist.

use crate::{report, root};
use probe_user::export::registry::{METRICS, Origin};
use std::collections::BTreeMap;

const PROOFS: &[&str] = &["lab", "kernel", "test_run", "unit", "analysis"];

/// A row of a table with a column `proof`.
struct Row {
    subject: String,
    proof: String,
    by: String,
}

fn document() -> String {
    std::fs::read_to_string(root().join("docs/coverage.md")).unwrap()
}

/// Rows of three cells, but for the heads.
fn rows(text: &str) -> Vec<Row> {
    let cells = |line: &str| -> Option<Row> {
        let line = line.strip_prefix("| ")?.strip_suffix('|')?;
        let [subject, proof, by] = line.splitn(3, " | ").collect::<Vec<_>>().try_into().ok()?;
        let plain = |cell: &str| cell.trim().trim_matches('`').to_owned();
        Some(Row { subject: plain(subject), proof: plain(proof), by: by.trim().to_owned() })
    };
    text.lines().filter_map(cells).filter(|row| row.proof != "proof" && row.proof != "---").collect()
}

/// The figures that are measurements, by name.
fn measured() -> impl Iterator<Item = &'static str> {
    METRICS.iter().filter(|metric| metric.origin != Origin::Exporter).map(|metric| metric.name)
}

#[test]
fn every_figure_has_its_row() {
    let text = document();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows(&text) {
        *seen.entry(row.subject).or_default() += 1;
    }
    let stages =
        probe_ebpf::probes::irq_delivery::Stage::ALL.iter().map(|(_, stage)| format!("stage `{stage}"));
    let mut complaints: Vec<String> = measured()
        .map(str::to_owned)
        .chain(stages)
        .filter(|figure| seen.get(figure) != Some(&1))
        .map(|figure| format!("docs/coverage.md needs one row for {figure}: how is it proven?"))
        .collect();
    let gone = seen.keys().filter(|name| name.starts_with("vfprobe_") && !measured().any(|m| m == *name));
    complaints.extend(gone.map(|name| format!("docs/coverage.md: there is no figure {name}")));
    report(&complaints);
}

/// Whether a test of that name is in a file: a function, or a name that a script reports.
fn has_test(text: &str, file: &str, name: &str) -> bool {
    if file.ends_with(".sh") {
        ["check", "equal", "between", "positive"].iter().any(|word| {
            [format!("{word} {name}"), format!("{word} \"{name}")].iter().any(|start| text.contains(start))
        }) || text.contains(&format!("/{name} "))
    } else {
        text.contains(&format!("fn {name}("))
    }
}

#[test]
fn every_proof_is_a_test_that_exists() {
    let mut complaints = Vec::new();
    for Row { subject, proof, by } in rows(&document()) {
        let mut complain = |what: String| complaints.push(format!("docs/coverage.md, {subject}: {what}"));
        if !PROOFS.contains(&proof.as_str()) {
            complain(format!("{proof} is no kind of proof"));
        }
        let mut file: Option<(String, String)> = None;
        let mut tests = 0;
        // What stands in backquotes: paths, and after each the tests in it.
        for word in by.split('`').skip(1).step_by(2) {
            if word.contains('/') {
                match std::fs::read_to_string(root().join(word)) {
                    Ok(text) => file = Some((word.to_owned(), text)),
                    Err(error) => complain(format!("{word}: {error}")),
                }
            } else if let Some((path, text)) = &file {
                tests += 1;
                if !has_test(text, path, word) {
                    complain(format!("{path} has no test {word}"));
                }
            }
        }
        if tests == 0 && proof != "analysis" && by != "the same" {
            complain("names no test".to_owned());
        }
    }
    report(&complaints);
}

#[test]
fn rows_are_read() {
    let text = "| figure | proof | by |\n|---|---|---|\n| `a_b` | `lab` | `x/y.rs` `t` |\n| c | `analysis` | |\nprose | a\n";
    let found: Vec<(String, String, String)> =
        rows(text).into_iter().map(|r| (r.subject, r.proof, r.by)).collect();
    let row = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(found, [row("a_b", "lab", "`x/y.rs` `t`"), row("c", "analysis", "")]);
    assert!(has_test("fn t() {", "x.rs", "t") && !has_test("fn tt() {", "x.rs", "t"));
    assert!(has_test("between raised 1 2", "x.sh", "raised") && !has_test("raised", "x.sh", "raised"));
}
