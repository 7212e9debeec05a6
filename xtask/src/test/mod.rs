//! `cargo xtask test`: every check of the project, layer by layer, and one table of what ran, passed, failed, and
//! what could not run and why. The layers themselves are in `layers`.

mod layers;
mod summary;

use std::env;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use self::layers::{LAYERS, Layer, Outcome};
use self::summary::Report;
use crate::progress::Progress;
use crate::tally::Tally;
use crate::workspace::Workspace;

/// Arguments of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these layers: format, clippy, clippy-bpf, unit, schemas, object, fixtures, kernel, lab-6.1, lab-6.12
    layers: Vec<String>,
}

/// Runs the layers one after the other. Under CI=true a layer that cannot run is a failure.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let ci = is_ci();
    let logs = workspace.target.join("xtask-test");
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let mut reports = Vec::new();
    for layer in chosen(&args.layers)? {
        let progress = Progress::start(layer.name);
        let log = logs.join(format!("{}.log", layer.name));
        let mut output = String::new();
        let outcome = (layer.run)(workspace, &mut |line| {
            progress.line(line);
            output.push_str(line);
            output.push('\n');
        });
        fs::write(&log, &output).with_context(|| format!("cannot write {}", log.display()))?;
        let report = report(layer, outcome, progress.seconds());
        progress.end(&result_line(&report, ci));
        for name in &report.tally.failed {
            eprintln!("  failed: {name}");
        }
        for name in &report.tally.skipped {
            eprintln!("  skipped: {name}");
        }
        if !report.tally.failed.is_empty() {
            eprintln!("  log: {}; its end:", log.display());
            eprintln!("{}", end_of(&output));
        }
        reports.push(report);
    }
    println!("{}", summary::table(&reports, ci));
    Ok(if summary::failed(&reports, ci) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Whether no developer sits at this machine.
fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}

fn chosen(names: &[String]) -> Result<Vec<&'static Layer>> {
    if names.is_empty() {
        return Ok(LAYERS.iter().collect());
    }
    if let Some(unknown) = names.iter().find(|name| LAYERS.iter().all(|layer| layer.name != **name)) {
        let known: Vec<&str> = LAYERS.iter().map(|layer| layer.name).collect();
        bail!("`{unknown}` is no layer: {}", known.join(", "));
    }
    Ok(LAYERS.iter().filter(|layer| names.iter().any(|name| name == layer.name)).collect())
}

/// An error of the layer itself is a failed test of it: nothing that goes wrong is left out of the table.
fn report(layer: &Layer, outcome: Result<Outcome>, seconds: f64) -> Report {
    let (tally, could_not_run) = match outcome {
        Ok(Outcome::Ran(tally))
            if tally.passed == 0 && tally.failed.is_empty() && !tally.skipped.is_empty() =>
        {
            (tally, Some("every test of it was skipped".to_owned()))
        }
        Ok(Outcome::Ran(tally)) => (tally, None),
        Ok(Outcome::CannotRun(reason)) => (Tally::default(), Some(reason)),
        Err(error) => (Tally::failure(format!("{error:#}")), None),
    };
    Report { layer: layer.name.to_owned(), tally, seconds, could_not_run }
}

fn result_line(report: &Report, ci: bool) -> String {
    let Report { tally, could_not_run, .. } = report;
    match could_not_run {
        Some(reason) if ci => format!("FAILED: could not run: {reason}"),
        Some(reason) => format!("could not run: {reason}"),
        None if tally.failed.is_empty() => format!("ok, {} passed", tally.passed),
        None => format!("FAILED, {} passed, {} failed", tally.passed, tally.failed.len()),
    }
}

/// The last lines of a log, enough to see a compiler's or test's message.
fn end_of(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let from = lines.len().saturating_sub(40);
    lines[from..].iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_chosen_by_name_in_their_own_order() {
        let names = |asked: &[&str]| {
            let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
            chosen(&asked).map(|layers| layers.iter().map(|layer| layer.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap().len(), LAYERS.len());
        assert_eq!(names(&["unit", "format"]).unwrap(), ["format", "unit"]);
        assert!(names(&["unti"]).unwrap_err().to_string().starts_with("`unti` is no layer: format,"));
    }

    #[test]
    fn a_layer_of_which_all_is_skipped_could_not_run() {
        let skipped = Tally { skipped: vec!["a: why".into()], ..Tally::default() };
        let report = report(&LAYERS[0], Ok(Outcome::Ran(skipped)), 0.0);
        assert!(report.could_not_run.is_some());
        assert!(summary::failed(&[report], true));
    }
}
