//! `vfprobe compare`.

mod aims;
pub(super) mod condition;
mod output;
mod table;

use super::{Exit, Failure, Globals, failures, names, paint::Paint, print};
use crate::{
    report::aims::aims as aims_of,
    report::assess::{Assessment, Named, assess, pairs_between, pairs_within},
    session,
    stats::compare::{Detail, Verdict},
};
use std::path::PathBuf;

pub(super) use output::Output;

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
    #[command(flatten)]
    output: Output,
}

/// Compares and prints.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let Args { first, second, before, after, guest, full, output } = args;
    let (before, after) = (before.as_deref(), after.as_deref());
    let (one, two) = (
        session::read(first).map_err(failures::session)?,
        second.as_ref().map(|path| session::read(path)).transpose().map_err(failures::session)?,
    );
    // A guest may be in one file only: then there is nothing to compare, which the verdict says.
    if let Some(wanted) = guest {
        let mut names = names::guests(&one);
        names.extend(two.iter().flat_map(names::guests));
        names::known(first, "guest", wanted, &names)?;
    }
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
    output.write_report(&assessments, &notes)?;
    print(output.text(&assessments, &notes, *full, Paint::stdout(globals.color()))?.as_bytes())?;
    Ok(exit(&assessments, output))
}

/// Conditions decide alone when there are any; else a headline that is worse is a finding, or what the loads were made
/// for where a session has several.
fn exit(assessments: &[Assessment<'_>], output: &Output) -> Exit {
    // Comparisons of the same configurations under several loads follow each other.
    let broken: Vec<String> = assessments.chunk_by(same_pair).flat_map(|pair| output.broken(pair)).collect();
    for line in &broken {
        eprintln!("{line}");
    }
    let tables = aims_of(assessments);
    let worse = match tables.is_empty() {
        true => assessments.iter().any(|a| a.headline.compared.verdict == Verdict::Worse),
        false => tables.iter().any(|table| table.verdict() == Verdict::Worse),
    };
    let finding = if output.has_conditions() { !broken.is_empty() } else { worse };
    if finding { Exit::Finding } else { Exit::Fine }
}

fn same_pair(one: &Assessment<'_>, other: &Assessment<'_>) -> bool {
    (&one.before.name, &one.after.name) == (&other.before.name, &other.after.name)
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
        for (factor, conditions, expected) in [
            (3.0, &[][..], Exit::Finding),
            (0.3, &[], Exit::Fine),
            (1.0, &[], Exit::Fine),
            (3.0, &["irq_delivery.p99 > +500%"], Exit::Fine),
            (3.0, &["irq_delivery.p99 > +5%"], Exit::Finding),
            (0.3, &["irq_delivery.p99 > +5%", "irq_delivery.p50 > 1us"], Exit::Finding),
            (0.3, &["vm_exit{reason=CPUID}.p50 > +5%"], Exit::Finding),
            (3.0, &["workload.rtt_p99 > +5%"], Exit::Finding),
            (0.3, &["workload{tool=ping}.rtt_p99 > +5%", "workload.loss > 1%"], Exit::Fine),
            (0.3, &["workload.throughput < -5%"], Exit::Finding),
        ] {
            let session = decode(sample::lines(4, &[("own", factor)]).as_bytes()).unwrap();
            assert_eq!(
                exit(&assessed(&session), &Output::with_conditions(conditions)),
                expected,
                "{factor} {conditions:?}"
            );
        }
    }

    #[test]
    fn the_verdict_comes_first_and_its_table_after() {
        let session = decode(sample::lines(3, &[("own", 0.3), ("near", 1.0)]).as_bytes()).unwrap();
        let text = table::render(&assessed(&session), false, Paint::default());
        assert!(text.starts_with("better: irq_delivery p99 of vm1: "), "{text}");
        assert_eq!(text.matches("irq_delivery p99 of vm1").count(), 2);
        for part in [
            "3 runs a side cannot support 95 %",
            "vm1 0000:01:10.0 delivery",
            "ping rtt_p99",
            "rows hold together at 90 % (Holm's correction)",
            "rows without enough data",
            "vm_exit vm1 HLT: its time is the guest's own idling",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }
}
