//! What a session's loads were made for, as text: the two rows of the paper's table, with the stages that explain them.

use super::table::style;
use crate::{
    cli::paint::{Cell, Paint, Style, columns},
    report::{
        aims::{Aims, change},
        format, names,
    },
    stats::compare::{Compared, Estimate, Row},
};

/// One block for each pair of configurations; nothing for a session without named loads.
pub(super) fn render(tables: &[Aims<'_>], paint: Paint) -> String {
    tables.iter().map(|table| block(table, paint) + "\n").collect()
}

fn block(table: &Aims<'_>, paint: Paint) -> String {
    let verdict = table.verdict();
    let (line, word) = (table.sentence(), verdict.to_string());
    let rest = line.strip_prefix(&word).unwrap_or(&line);
    let heads = ["", "n", table.before, table.after, "change", "interval", "verdict"];
    let mut rows = vec![heads.map(|head| Cell::new(Style::Faint, head)).to_vec()];
    for aim in &table.rows {
        let compared = &aim.figure.compared;
        let runs = format!("{} {}", compared.before.runs, compared.after.runs);
        rows.push(cells(&aim.name(), Style::Strong, runs, compared, |value| {
            format::value(value, aim.figure.unit)
        }));
        for Row { labels, quantile, compared, .. } in &aim.stages {
            let name = format!("  {} {}", names::of(labels), quantile.title());
            let n = format!("{} {}", compared.before.n, compared.after.n);
            rows.push(cells(&name, Style::Plain, n, compared, format::time));
        }
    }
    format!("{}{rest}\n{}", paint.text(style(verdict), &word), columns(paint, "  ", &rows))
}

fn cells(
    name: &str,
    emphasis: Style,
    n: String,
    compared: &Compared,
    shown: impl Fn(f64) -> String,
) -> Vec<Cell> {
    let value = |value: Option<f64>| Cell::new(emphasis, value.map_or_else(|| "-".to_owned(), &shown));
    let (ratio, interval) = match &compared.estimate {
        Some(Estimate { ratio, low, high, .. }) => {
            (change(*ratio), format!("{} .. {}", change(*low), change(*high)))
        }
        None => ("-".to_owned(), "-".to_owned()),
    };
    let why = compared.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    vec![
        Cell::new(emphasis, name),
        n.into(),
        value(compared.before.value),
        value(compared.after.value),
        Cell::new(emphasis, ratio),
        interval.into(),
        Cell::new(style(compared.verdict), format!("{}{why}", compared.verdict)),
    ]
}
