//! The verdict in one line.

use super::{assess::Assessment, format, paths};
use crate::stats::compare::{Compared, Estimate, MARGIN, Verdict, more_repeats};

/// `better: irq_delivery p99 of vm1: 8.31 ms (baseline) -> 2.21 ms (own), ratio 0.266, 90 % interval 0.21 to 0.34, 3 and 3 runs`.
#[must_use]
pub fn verdict(assessment: &Assessment<'_>) -> String {
    let Assessment { before, after, headline, .. } = assessment;
    let Compared { before: b, after: a, estimate, verdict, reason, .. } = &headline.compared;
    let subject =
        before.load.map_or_else(|| headline.subject(), |load| format!("{} under {load}", headline.subject()));
    let Some(estimate) = estimate else {
        let reason = reason.as_deref().unwrap_or("no figures");
        return format!("{verdict}: {subject}, {} against {}: {reason}", before.name, after.name);
    };
    let mut text = format!(
        "{verdict}: {subject}: {} ({}) -> {} ({}), {}, {} and {} runs",
        format::time_or_dash(b.value),
        before.name,
        format::time_or_dash(a.value),
        after.name,
        ratio(estimate),
        b.runs,
        a.runs
    );
    if let Some(visible) = headline.compared.smallest_visible().filter(|_| *verdict == Verdict::NoDifference)
    {
        text += &format!("; a change by {} would have been seen", format::percent(visible));
        if let Some(more) = more_repeats(&headline.compared) {
            text += &format!("; about {more} more repeats would show one by {}", format::percent(MARGIN));
        }
    }
    text
}

/// `ratio 0.266, 90 % interval 0.21 to 0.34`.
#[must_use]
pub fn ratio(estimate: &Estimate) -> String {
    let Estimate { ratio, low, high, level, .. } = *estimate;
    format!(
        "ratio {}, {:.0} % interval {} to {}",
        format::ratio(ratio),
        level * 100.0,
        format::ratio(low),
        format::ratio(high)
    )
}

/// What qualifies a verdict, one line each: the headline's remarks, runs left out, guests whose packets take another path, and
/// notes on the files.
#[must_use]
pub fn remarks(assessment: &Assessment<'_>) -> Vec<String> {
    let Assessment { before, after, headline, .. } = assessment;
    let mut lines = headline.remarks.clone();
    for unfit in before.unfit.iter().chain(&after.unfit) {
        lines.push(format!("left out: {unfit}"));
    }
    for run in before.runs.iter().chain(&after.runs) {
        for remark in run.end.iter().flat_map(|end| &end.remarks) {
            lines.push(format!("run {} ({}): {remark}", run.start.order, run.config()));
        }
    }
    lines.extend(paths::changed(assessment).into_iter().map(|line| format!("another path: {line}")));
    lines.extend(notes_of_workloads(assessment));
    let boots = [before, after].map(|group| group.session.host.boot_id.as_deref());
    if let [Some(one), Some(other)] = boots
        && one != other
    {
        lines.push("recorded in different boots of the host, or on different hosts".to_owned());
    }
    lines
}

/// What was wrong with figures of the workload, said once with the number of runs that it holds for.
fn notes_of_workloads(assessment: &Assessment<'_>) -> Vec<String> {
    let Assessment { before, after, .. } = assessment;
    let runs = || before.runs.iter().chain(&after.runs);
    let mut notes: Vec<(&str, usize)> = Vec::new();
    for note in runs().filter_map(|run| run.workload()?.note.as_deref()) {
        match notes.iter_mut().find(|(known, _)| *known == note) {
            Some((_, count)) => *count += 1,
            None => notes.push((note, 1)),
        }
    }
    let of = runs().count();
    notes.into_iter().map(|(note, count)| format!("workload in {count} of {of} runs: {note}")).collect()
}

/// What the verdicts of a table's rows hold for. The verdict in the first line is about one figure, and needs no correction.
#[must_use]
pub fn family(assessment: &Assessment<'_>) -> Option<String> {
    let Assessment { comparison, workloads, .. } = assessment;
    let all =
        comparison.rows.iter().map(|row| &row.compared).chain(workloads.iter().map(|row| &row.compared));
    let levels: Vec<f64> =
        all.filter(|c| c.p_holm.is_some()).filter_map(|c| Some(c.estimate?.level)).collect();
    let level = levels.iter().copied().min_by(f64::total_cmp)?;
    Some(format!(
        "verdicts of these {} rows hold together at {:.0} % (Holm's correction); intervals are those of each row alone",
        levels.len(),
        level * 100.0
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::assess::{Named, assess, pairs_within},
        session::{Session, decode, sample},
        stats::compare::Detail,
    };

    #[test]
    fn what_is_said_of_workloads_is_said_once() {
        let mut session = decode(sample::lines(3, &[("own", 0.3)]).as_bytes()).unwrap();
        for run in session.runs.iter_mut().skip(2) {
            run.end.as_mut().unwrap().workload.as_mut().unwrap().note = Some("no figures".to_owned());
        }
        let pairs = pairs_within(Named { file: "f", session: &session }, None, None).unwrap();
        let found = remarks(&assess(pairs[0].clone(), Detail::Folded, None));
        assert_eq!(found.iter().filter(|line| line.contains("workload")).count(), 1);
        assert!(found.contains(&"workload in 4 of 6 runs: no figures".to_owned()), "{found:?}");
    }

    fn sentence(session: &Session) -> String {
        let pairs = pairs_within(Named { file: "f", session }, None, None).unwrap();
        verdict(&assess(pairs[0].clone(), Detail::Folded, None))
    }

    #[test]
    fn verdicts_are_one_line() {
        for (repeats, factor, parts) in [
            (
                3,
                0.3,
                &[
                    "better: irq_delivery p99 of vm1: ",
                    " (baseline) -> ",
                    " (own), ratio 0.",
                    "90 % interval",
                    "3 and 3 runs",
                ][..],
            ),
            (
                5,
                1.0,
                &[
                    "no difference: ",
                    "95 % interval",
                    "; a change by ",
                    " would have been seen; about ",
                    " more repeats would show one by 5 %",
                ],
            ),
            (4, 3.0, &["worse: ", "95 % interval"]),
            (
                2,
                0.3,
                &["not enough data: irq_delivery p99 of vm1, baseline against own: 3 runs a side are needed"],
            ),
        ] {
            let session = decode(sample::lines(repeats, &[("own", factor)]).as_bytes()).unwrap();
            let text = sentence(&session);
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
            assert!(!text.contains('\n'));
        }
    }
}
