//! What the loads of a session were made for: the first table of its page.

use super::table::{Cell, Table, class_of, figure, sign_of};
use crate::{
    report::{
        aims::{Aims, change},
        format, names,
    },
    stats::compare::Compared,
};

/// One pair of configurations under all loads.
pub(super) struct AimsView {
    pub(super) class: &'static str,
    pub(super) sign: &'static str,
    pub(super) verdict: String,
    /// `own against baseline`.
    pub(super) pair: String,
    pub(super) sentence: String,
    pub(super) table: Table,
}

impl AimsView {
    pub(super) fn new(table: &Aims<'_>) -> Self {
        let verdict = table.verdict();
        let heads = ["figure", "n", table.before, table.after, "change", "interval", "verdict"];
        let caption = format!("What the loads were made for: {} against {}", table.after, table.before);
        let mut rows = Table::new(caption, &heads);
        for aim in &table.rows {
            let compared = &aim.figure.compared;
            let runs = format!("{} / {} runs", compared.before.runs, compared.after.runs);
            rows.push(row(aim.name(), runs, compared, |value| format::value(value, aim.figure.unit)));
            for stage in &aim.stages {
                let name =
                    format!("under {}: {} {}", aim.load, names::of(&stage.labels), stage.quantile.title());
                let n = format!("{} / {}", stage.compared.before.n, stage.compared.after.n);
                rows.push(row(name, n, &stage.compared, format::time));
            }
        }
        Self {
            class: class_of(verdict),
            sign: sign_of(verdict),
            verdict: verdict.to_string(),
            pair: format!("{} against {}", table.after, table.before),
            sentence: table.sentence(),
            table: rows,
        }
    }
}

fn row(name: String, n: String, compared: &Compared, shown: impl Fn(f64) -> String) -> Vec<Cell> {
    let mut cells = super::table::compared(compared, shown);
    if let Some(estimate) = &compared.estimate {
        cells[2] = figure(change(estimate.ratio));
        cells[3] = figure(format!("{} to {}", change(estimate.low), change(estimate.high)));
    }
    [name.into(), figure(n)].into_iter().chain(cells).collect()
}
