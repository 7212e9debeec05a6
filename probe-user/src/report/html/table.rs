//! Tables of a page.

use crate::{
    report::format,
    stats::compare::{Compared, Verdict},
};
use askama::Template;

/// One cell; `class` names its look, never its meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) class: &'static str,
}

/// A table with a heading row; the first cell of each row names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Template)]
#[template(path = "report/table.html")]
pub(super) struct Table {
    pub(super) caption: String,
    pub(super) heads: Vec<String>,
    pub(super) rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(caption: impl Into<String>, heads: &[&str]) -> Self {
        let heads = heads.iter().map(|head| (*head).to_owned()).collect();
        Self { caption: caption.into(), heads, rows: Vec::new() }
    }

    pub(super) fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), class: "" }
    }
}

/// A cell with a figure.
pub(super) fn figure(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), class: "figure" }
}

/// Class of a verdict's colour.
pub(super) fn class_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::NoDifference => "same",
        Verdict::NotEnoughData => "unknown",
    }
}

/// The sign beside a verdict's word, so that it does not rest on colour.
pub(super) fn sign_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "\u{2713}",
        Verdict::Worse => "\u{2717}",
        Verdict::NoDifference => "=",
        Verdict::NotEnoughData => "?",
    }
}

/// The cells of a comparison: before, after, ratio, interval, verdict.
pub(super) fn compared(compared: &Compared, shown: impl Fn(f64) -> String) -> Vec<Cell> {
    let value = |value: Option<f64>| figure(value.map_or_else(|| "-".to_owned(), &shown));
    let (ratio, interval) = match &compared.estimate {
        Some(e) => (format::ratio(e.ratio), format!("{} to {}", format::ratio(e.low), format::ratio(e.high))),
        None => ("-".to_owned(), "-".to_owned()),
    };
    let verdict = Cell {
        text: match (&compared.reason, compared.verdict) {
            (Some(reason), Verdict::NotEnoughData) => reason.clone(),
            (Some(reason), verdict) => format!("{verdict}: {reason}"),
            (None, verdict) => verdict.to_string(),
        },
        class: class_of(compared.verdict),
    };
    vec![value(compared.before.value), value(compared.after.value), figure(ratio), figure(interval), verdict]
}
