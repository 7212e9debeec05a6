//! Lines that both text forms have alike: labels, and the samples of a histogram.
//!
//! Nearly all lines of a scrape are buckets. What is the same in all lines of a histogram is put together once, and nothing is
//! allocated for a line: a histogram's lines are written in a piece that the next one takes again.

use super::{
    bounds::{self, Bounds},
    families::Values,
    registry::Metric,
};
use crate::stats::Histogram;
use std::fmt::{self, Write};

/// Writes histograms at some bounds.
#[derive(Debug)]
pub(super) struct Histograms {
    bounds: Bounds,
    /// The bounds as the label `le` has them, `+Inf` left out.
    le: Vec<String>,
    /// The lines of one histogram; and what all its buckets begin with, and what some of them end with.
    piece: String,
    start: String,
    end: String,
}

impl Histograms {
    pub(super) fn new(bounds: Bounds) -> Self {
        let le = bounds.nanoseconds().map(|ns| bounds::seconds(ns).to_string()).collect();
        Self { bounds, le, piece: String::new(), start: String::new(), end: String::new() }
    }

    /// All samples of a histogram: buckets, sum, count. `labels` is what [`labels`] makes.
    pub(super) fn write(
        &mut self,
        text: &mut impl Write,
        name: &str,
        labels: &str,
        times: &Histogram,
    ) -> fmt::Result {
        let Self { bounds, le, piece, start, end } = self;
        [&mut *piece, start, end].into_iter().for_each(String::clear);
        let comma = if labels.is_empty() { "" } else { "," };
        write!(start, "{name}_bucket{{{labels}{comma}le=\"")?;
        // Most bounds lie below or above all values, and have the count of the one before.
        let mut end_of = None;
        for (le, (_, count)) in le.iter().zip(bounds.cumulative(times)) {
            if end_of != Some(count) {
                end.clear();
                writeln!(end, "\"}} {count}")?;
                end_of = Some(count);
            }
            [&*start, le, end].into_iter().for_each(|part| piece.push_str(part));
        }
        let (n, labels) = (times.n(), Braced(labels));
        writeln!(piece, "{start}+Inf\"}} {n}")?;
        writeln!(piece, "{name}_sum{labels} {}", bounds::seconds(times.sum()))?;
        writeln!(piece, "{name}_count{labels} {n}")?;
        text.write_str(piece)
    }
}

/// The labels that have a value, without braces.
pub(super) fn labels(metric: &Metric, values: &Values<'_>) -> Result<String, fmt::Error> {
    let mut text = String::new();
    for (label, value) in metric.labels.iter().zip(values).filter(|(_, value)| !value.is_empty()) {
        let comma = if text.is_empty() { "" } else { "," };
        write!(text, "{comma}{label}=\"{}\"", Escaped(value))?;
    }
    Ok(text)
}

/// Labels as they stand behind a name.
pub(super) struct Braced<'a>(pub(super) &'a str);

impl fmt::Display for Braced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{{{}}}", self.0) }
    }
}

/// A text in which the three characters that the formats read are escaped.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written = 0;
        for (at, found) in self.0.match_indices(['\\', '"', '\n']) {
            f.write_str(&self.0[written..at])?;
            f.write_str(match found {
                "\n" => "\\n",
                "\"" => "\\\"",
                _ => "\\\\",
            })?;
            written = at + found.len();
        }
        f.write_str(&self.0[written..])
    }
}
