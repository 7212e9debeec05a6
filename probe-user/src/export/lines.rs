//! Lines that both text forms have alike: labels, and the samples of a histogram.
//!
//! Nearly all lines of a scrape are buckets. What is the same in all lines of a histogram is put together once, and nothing is
//! allocated for a line.

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
}

impl Histograms {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, le: bounds.nanoseconds().map(|ns| bounds::seconds(ns).to_string()).collect() }
    }

    /// All samples of a histogram: buckets, sum, count. `labels` is what [`labels`] makes.
    pub(super) fn write(
        &self,
        text: &mut impl Write,
        name: &str,
        labels: &str,
        times: &Histogram,
    ) -> fmt::Result {
        let comma = if labels.is_empty() { "" } else { "," };
        let start = format!("{name}_bucket{{{labels}{comma}le=\"");
        // Most bounds lie below or above all values, and have the count of the one before.
        let (mut end, mut end_of) = (String::new(), None);
        for (le, (_, count)) in self.le.iter().zip(self.bounds.cumulative(times)) {
            if end_of != Some(count) {
                end.clear();
                writeln!(end, "\"}} {count}")?;
                end_of = Some(count);
            }
            text.write_str(&start)?;
            text.write_str(le)?;
            text.write_str(&end)?;
        }
        let n = times.n();
        writeln!(text, "{start}+Inf\"}} {n}")?;
        writeln!(text, "{name}_sum{} {}", braced(labels), bounds::seconds(times.sum()))?;
        writeln!(text, "{name}_count{} {n}", braced(labels))
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
pub(super) fn braced(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

/// A text in which the three characters that the formats read are escaped.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}
