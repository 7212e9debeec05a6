//! Prometheus' own judgement: `promtool` on an answer of the exporter, the rules, and every dashboard expression.
//!
//! Where promtool is missing, each test says so on a line that `cargo xtask test` counts; with `CI=true` it fails.

#[expect(dead_code, clippy::unwrap_used, reason = "shared with the test `export`, which uses all of it")]
#[path = "export/made_up.rs"]
mod made_up;

use anyhow::{Context, Result, ensure};
use probe_user::export::{
    bounds::Bounds,
    families::{Fold, Scrape, families},
    prometheus,
};
use std::{
    fs,
    io::{ErrorKind, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

/// Whether promtool is there; a missing one is said in the name of `test`.
fn there(test: &str) -> bool {
    let found =
        Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !found.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return true;
    }
    let why = "promtool is not installed (Debian: apt-get install prometheus)";
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
    println!("SKIP {test}: {why}");
    false
}

/// Runs promtool in `dashboards/prometheus`; it must have nothing to say against its input.
fn promtool(arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(dashboards().join("prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start promtool")?;
    child.stdin.take().context("no stdin")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "promtool {}: {said}", arguments.join(" "));
    // The lint of metrics only complains, without a bad status.
    ensure!(arguments != ["check", "metrics"] || said.is_empty(), "promtool check metrics: {said}");
    Ok(())
}

fn dashboards() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../dashboards"))
}

#[test]
fn an_answer_of_the_exporter_has_no_lint() -> Result<()> {
    if !there("an_answer_of_the_exporter_has_no_lint") {
        return Ok(());
    }
    let (figures, status) = (made_up::snapshot().into(), made_up::status());
    let scrape =
        Scrape { figures: Some(&figures), status: &status, vfs: &made_up::counted_vfs(), read_seconds: 0.25 };
    promtool(&["check", "metrics"], &prometheus::text(&families(&scrape, &Fold::default()), Bounds::Normal)?)
}

#[test]
fn rules_and_alerts_pass_their_tests() -> Result<()> {
    if !there("rules_and_alerts_pass_their_tests") {
        return Ok(());
    }
    promtool(&["check", "config", "prometheus.yml"], "")?;
    promtool(&["test", "rules", "vfprobe.tests.yml"], "")
}

/// Given to promtool as recording rules.
#[test]
fn every_dashboard_expression_is_promql() -> Result<()> {
    if !there("every_dashboard_expression_is_promql") {
        return Ok(());
    }
    let mut rules = String::from("groups:\n  - name: dashboards\n    rules:\n");
    for entry in fs::read_dir(dashboards().join("grafana"))? {
        let dashboard: serde_json::Value = serde_json::from_str(&fs::read_to_string(entry?.path())?)?;
        let mut found = Vec::new();
        collect(&dashboard, &mut found);
        ensure!(!found.is_empty(), "a dashboard without expressions");
        for (i, expression) in found.iter().enumerate() {
            let expression = expression.replace("$__rate_interval", "5m").replace("$__range", "1h");
            rules.push_str(&format!(
                "      - record: dashboard:expression:{i}\n        expr: {}\n",
                serde_json::to_string(&expression)?
            ));
        }
    }
    let file = tempfile::Builder::new().suffix(".yml").tempfile()?;
    fs::write(file.path(), rules)?;
    promtool(&["check", "rules", "--lint=none", file.path().to_str().context("odd temporary path")?], "")
}

/// All texts under a key `expr`, wherever it is.
fn collect(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                match value {
                    serde_json::Value::String(text) if key == "expr" => found.push(text.clone()),
                    value => collect(value, found),
                }
            }
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}
