//! Metric families as OpenMetrics 1.0 text, for scrapers that ask for it.
//!
//! Its own encoder, as small as the format: the `prometheus` crate writes none, and what this format has over the
//! classic one, the moment at which each counter was 0, must come from the source. `le` is written as in the classic
//! text, so that a series keeps its labels whichever format a scraper asks for.

use super::{
    bounds::Bounds,
    families::{self, Family, Sample},
    lines::{Braced, Escaped, Histograms, labels},
    registry::{Kind, Metric, Unit},
    source::Began,
};
use std::fmt::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The OpenMetrics exposition of some families. Counters and histograms say since when they count.
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub fn text(families: &[Family<'_>], bounds: Bounds, began: &Began) -> Result<String, fmt::Error> {
    let mut text = String::new();
    write(&mut text, families, bounds, began)?;
    Ok(text)
}

/// Writes what [`text`] gives.
///
/// # Errors
/// When what is written to fails.
pub fn write(text: &mut impl Write, families: &[Family<'_>], bounds: Bounds, began: &Began) -> fmt::Result {
    let mut histograms = Histograms::new(bounds);
    for Family { metric, samples } in families {
        let name = family_name(metric);
        let kind = match metric.kind {
            Kind::Histogram => "histogram",
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Info => "info",
        };
        writeln!(text, "# TYPE {name} {kind}")?;
        match metric.unit {
            Unit::Seconds => writeln!(text, "# UNIT {name} seconds")?,
            Unit::Bytes => writeln!(text, "# UNIT {name} bytes")?,
            Unit::None => {}
        }
        writeln!(text, "# HELP {name} {}", Escaped(metric.help))?;
        for (values, sample) in samples {
            let labels = labels(metric, values)?;
            match sample {
                Sample::Value(value) => writeln!(text, "{}{} {value}", metric.name, Braced(&labels))?,
                Sample::Histogram(times) => histograms.write(text, name, &labels, times)?,
            }
            if let Some(since) = families::since(metric, values, began).and_then(unix) {
                writeln!(text, "{name}_created{} {since}", Braced(&labels))?;
            }
        }
    }
    text.write_str("# EOF\n")
}

/// The family's name is without the ending that its samples have.
fn family_name(metric: &Metric) -> &'static str {
    let ending = match metric.kind {
        Kind::Counter => "_total",
        Kind::Info => "_info",
        Kind::Histogram | Kind::Gauge => "",
    };
    metric.name.strip_suffix(ending).unwrap_or(metric.name)
}

/// Seconds since 1970, to the millisecond: finer would only claim more than is known.
fn unix(time: SystemTime) -> Option<f64> {
    let ms = time.duration_since(UNIX_EPOCH).ok()?.as_millis();
    Some(u32::try_from(ms / 1000).ok().map(f64::from)? + u32::try_from(ms % 1000).ok().map(f64::from)? / 1e3)
}
