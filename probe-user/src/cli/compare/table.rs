//! Comparisons as text: the verdict in one line, then everything it rests on.

use crate::{
    cli::paint::{Cell, Paint, Style, columns},
    report::{assess::Assessment, format, names, sentence},
    stats::compare::{Compared, Verdict},
};

/// One block for each pair of configurations. `full` also lists rows without enough data.
pub(super) fn render(assessments: &[Assessment<'_>], full: bool, paint: Paint) -> String {
    let block = |assessment| block(assessment, full, paint);
    assessments.iter().map(block).collect::<Vec<_>>().join("\n")
}

fn block(assessment: &Assessment<'_>, full: bool, paint: Paint) -> String {
    let verdict = assessment.headline.compared.verdict;
    let line = sentence::verdict(assessment);
    let word = verdict.to_string();
    let rest = line.strip_prefix(&word).unwrap_or(&line);
    let mut text = format!("{}{rest}\n", paint.text(style(verdict), &word));
    for remark in sentence::remarks(assessment) {
        text += &format!("  {}\n", paint.text(Style::Faint, &remark));
    }
    let (others, own) = assessment.after.runs.first().map(|run| run.changes()).unwrap_or_default();
    if !others.is_empty() && !full {
        text += &format!(
            "  {}: {} changes that keep other work off the guest's CPUs (--full lists them)\n",
            assessment.after.name,
            others.len()
        );
    }
    for change in others.iter().filter(|_| full).chain(own) {
        text += &format!("  {}: {change}\n", assessment.after.name);
    }
    let (rows, hidden) = rows(assessment, full);
    text += &columns(paint, "  ", &rows);
    if let Some(line) = sentence::family(assessment) {
        text += &format!("  {line}\n");
    }
    if hidden > 0 {
        text += &format!("  {hidden} rows without enough data are not shown (--full shows them)\n");
    }
    for left in &assessment.comparison.left_out {
        text += &format!("  {} {}: {}\n", left.probe, names::of(&left.labels), left.reason);
    }
    text
}

pub(super) fn style(verdict: Verdict) -> Style {
    match verdict {
        Verdict::Better => Style::Good,
        Verdict::Worse => Style::Bad,
        Verdict::NoDifference => Style::Strong,
        Verdict::NotEnoughData => Style::Warning,
    }
}

/// All rows, and how many are not among them.
fn rows(assessment: &Assessment<'_>, full: bool) -> (Vec<Vec<Cell>>, usize) {
    let (listed, hidden) = assessment.listed(full);
    let heads = [
        "",
        "n",
        assessment.before.name.as_str(),
        assessment.after.name.as_str(),
        "ratio",
        "interval",
        "verdict",
    ];
    let heading = |first: &str| -> Vec<Cell> {
        [first]
            .into_iter()
            .chain(heads)
            .enumerate()
            .map(|(n, head)| Cell::new(if n == 0 { Style::Strong } else { Style::Faint }, head))
            .collect()
    };
    let mut rows = Vec::new();
    let mut probe = None;
    let mut series = None;
    for row in listed {
        if probe != Some(&row.probe) {
            probe = Some(&row.probe);
            rows.push(heading(&row.probe));
        }
        // The name of a series once, its percentiles below each other.
        let name = if series == Some(&row.labels) { String::new() } else { names::of(&row.labels) };
        series = Some(&row.labels);
        let n = format!("{} {}", row.compared.before.n, row.compared.after.n);
        rows.push(line(name, row.quantile.title(), n, &row.compared, format::time));
    }
    if !assessment.workloads.is_empty() {
        rows.push(heading("workload"));
    }
    for metric in &assessment.workloads {
        let runs = format!("{} {}", metric.compared.before.runs, metric.compared.after.runs);
        let name = format!("{} {}", metric.tool, metric.name);
        rows.push(line(name, "", runs, &metric.compared, |value| format::value(value, metric.unit)));
    }
    (rows, hidden)
}

fn line(
    name: String,
    quantile: &str,
    n: String,
    compared: &Compared,
    shown: impl Fn(f64) -> String,
) -> Vec<Cell> {
    let value = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), &shown);
    let mut cells: Vec<Cell> = vec![
        name.into(),
        quantile.into(),
        n.into(),
        value(compared.before.value).into(),
        value(compared.after.value).into(),
    ];
    match &compared.estimate {
        Some(e) => cells.extend([
            Cell::from(format::ratio(e.ratio)),
            format!("{} .. {}", format::ratio(e.low), format::ratio(e.high)).into(),
        ]),
        None => cells.extend(["-", "-"].map(Cell::from)),
    }
    let why = compared.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    cells.push(Cell::new(style(compared.verdict), format!("{}{why}", compared.verdict)));
    cells
}
