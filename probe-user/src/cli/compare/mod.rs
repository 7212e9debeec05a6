//! `vfprobe compare`.

mod table;

use super::{Exit, Failure, Globals, failures, paint::Paint, print};
use crate::{
    report::{
        assess::{Assessment, Named, assess, pairs_between, pairs_within},
        html, json,
    },
    session,
    stats::{
        compare::{Detail, Verdict},
        gate::{Gate, Outcome},
    },
};
use anyhow::Context;
use std::{
    fs,
    path::{Path, PathBuf},
};

pub(super) use table::render;

/// Arguments of `compare`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Session file before; alone, its configurations are compared with its baseline
    #[arg(value_name = "BEFORE")]
    first: PathBuf,
    /// Session file after
    #[arg(value_name = "AFTER")]
    second: Option<PathBuf>,
    /// Configuration before [default: the only one, else baseline, else each of the same name]
    #[arg(long, value_name = "CONFIG")]
    before: Option<String>,
    /// Configuration after
    #[arg(long, value_name = "CONFIG")]
    after: Option<String>,
    /// Only this guest
    #[arg(long, value_name = "NAME")]
    guest: Option<String>,
    /// Every vector slot and vCPU by itself, and rows without enough data
    #[arg(long)]
    full: bool,
    /// JSON instead of tables (docs/json.md)
    #[arg(long)]
    json: bool,
    /// Write a report with drawings: one HTML file that needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Exit with 1 when this holds, such as 'irq_delivery.p99 > +5%'; decides alone, may be repeated
    #[arg(long, value_name = "CONDITION")]
    fail_if: Vec<Gate>,
}

/// Compares and prints.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let Args { first, second, before, after, guest, full, json, html, fail_if } = args;
    let (before, after) = (before.as_deref(), after.as_deref());
    let (one, two) = (
        session::read(first).map_err(failures::session)?,
        second.as_ref().map(|path| session::read(path)).transpose().map_err(failures::session)?,
    );
    let (first_name, second_name) =
        (first.display().to_string(), second.as_ref().map(|path| path.display().to_string()));
    let first = Named { file: &first_name, session: &one };
    let pairs = match (&two, &second_name) {
        (Some(two), Some(name)) => pairs_between(first, Named { file: name, session: two }, before, after),
        _ => pairs_within(first, before, after),
    };
    let detail = if *full { Detail::Full } else { Detail::Folded };
    let assessments: Vec<Assessment<'_>> = pairs
        .map_err(Failure::usage)?
        .into_iter()
        .map(|pair| assess(pair, detail, guest.as_deref()))
        .collect();
    let notes: Vec<String> = one.notes.iter().chain(two.iter().flat_map(|two| &two.notes)).cloned().collect();
    if let Some(path) = html {
        write_report(path, &assessments, &notes)?;
    }
    if *json {
        let text = json::compare(&assessments).map_err(Failure::cannot_run)?;
        print((text + "\n").as_bytes())?;
    } else {
        let mut text = render(&assessments, *full, Paint::stdout(globals.color));
        for note in &notes {
            text += &format!("note: {note}\n");
        }
        print(text.as_bytes())?;
    }
    Ok(exit(&assessments, fail_if))
}

/// Writes the HTML report.
pub(super) fn write_report(
    path: &Path,
    assessments: &[Assessment<'_>],
    notes: &[String],
) -> Result<(), Failure> {
    let page = html::render(assessments, notes).map_err(Failure::cannot_run)?;
    fs::write(path, page)
        .with_context(|| format!("cannot write the report {}", path.display()))
        .map_err(Failure::usage)
}

/// Conditions decide alone when there are any; else a headline that is worse is a finding.
fn exit(assessments: &[Assessment<'_>], fail_if: &[Gate]) -> Exit {
    let mut exit = Exit::Fine;
    for gate in fail_if {
        for assessment in assessments {
            match gate.judge(&assessment.comparison.rows) {
                Outcome::NotMet => {}
                Outcome::Met(text) | Outcome::Unknown(text) => {
                    eprintln!("fail-if {text}");
                    exit = Exit::Finding;
                }
            }
        }
    }
    let worse = assessments.iter().any(|a| a.headline.compared.verdict == Verdict::Worse);
    if fail_if.is_empty() && worse { Exit::Finding } else { exit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Session, decode, sample};

    fn assessed(session: &Session) -> Vec<Assessment<'_>> {
        let pairs = pairs_within(Named { file: "f", session }, None, None).unwrap();
        pairs.into_iter().map(|pair| assess(pair, Detail::Folded, None)).collect()
    }

    #[test]
    fn a_finding_has_its_exit_code() {
        let gates = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<Gate>>();
        for (factor, conditions, expected) in [
            (3.0, &[][..], Exit::Finding),
            (0.3, &[], Exit::Fine),
            (1.0, &[], Exit::Fine),
            (3.0, &["irq_delivery.p99 > +500%"], Exit::Fine),
            (3.0, &["irq_delivery.p99 > +5%"], Exit::Finding),
            (0.3, &["irq_delivery.p99 > +5%", "irq_delivery.p50 > 1us"], Exit::Finding),
            (0.3, &["vm_exit{reason=CPUID}.p50 > +5%"], Exit::Finding),
        ] {
            let session = decode(sample::lines(4, &[("own", factor)]).as_bytes()).unwrap();
            assert_eq!(exit(&assessed(&session), &gates(conditions)), expected, "{factor} {conditions:?}");
        }
    }

    #[test]
    fn the_verdict_comes_first_and_its_table_after() {
        let session = decode(sample::lines(3, &[("own", 0.3), ("near", 1.0)]).as_bytes()).unwrap();
        let text = render(&assessed(&session), false, Paint::default());
        assert!(text.starts_with("better: irq_delivery p99 of vm1: "), "{text}");
        assert_eq!(text.matches("irq_delivery p99 of vm1").count(), 2);
        for part in [
            "3 runs a side cannot support 95 %",
            "vm1 0000:01:10.0 delivery",
            "ping rtt_p99",
            "rows without enough data",
            "vm_exit vm1 HLT: its time is the guest's own idling",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }
}
