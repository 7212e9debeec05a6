//! Metric families as Prometheus text.
//!
//! The `prometheus` crate's own metrics take single observations; here the counts come ready from the kernel, so its data
//! model is filled directly and only its encoder is used. Histograms are written without it (`lines`): they are nearly all of
//! a scrape, and the encoder would put the labels of every bucket together anew. Nothing is kept between scrapes: what is gone
//! from the snapshot is gone from the answer.

use super::{
    ExportError,
    bounds::Bounds,
    families::{Family, Sample, Values},
    lines::{Histograms, labels},
    registry::{Kind, Metric},
};
use prometheus::{TextEncoder, proto};
use std::fmt;

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text exposition of some families.
///
/// # Errors
/// When the encoder refuses a family.
pub fn text(families: &[Family<'_>], bounds: Bounds) -> Result<String, ExportError> {
    let mut text = String::new();
    write(&mut text, families, bounds)?;
    Ok(text)
}

/// Writes what [`text`] gives.
///
/// # Errors
/// When the encoder refuses a family, or what is written to an end of it.
pub fn write(text: &mut impl fmt::Write, families: &[Family<'_>], bounds: Bounds) -> Result<(), ExportError> {
    let (mut few, mut histograms) = (String::new(), Histograms::new(bounds));
    for Family { metric, samples } in families {
        let mut plain = Vec::new();
        if metric.kind == Kind::Histogram {
            let Metric { name, help, .. } = metric;
            // Of what is escaped here, one line of the registry can only have a backslash.
            writeln!(text, "# HELP {name} {}\n# TYPE {name} histogram", help.replace('\\', "\\\\"))?;
        }
        for (values, sample) in samples {
            match sample {
                Sample::Histogram(times) => {
                    histograms.write(text, metric.name, &labels(metric, values)?, times)?;
                }
                Sample::Value(value) => plain.push(plain_sample(metric, values, *value)),
            }
        }
        if !plain.is_empty() {
            let mut proto = proto::MetricFamily::default();
            proto.set_name(metric.name.to_owned());
            proto.set_help(metric.help.to_owned());
            proto.set_field_type(match metric.kind {
                Kind::Counter => proto::MetricType::COUNTER,
                _ => proto::MetricType::GAUGE,
            });
            proto.set_metric(plain);
            few.clear();
            TextEncoder::new().encode_utf8(&[proto], &mut few)?;
            text.write_str(&few)?;
        }
    }
    Ok(())
}

fn plain_sample(metric: &Metric, values: &Values<'_>, value: f64) -> proto::Metric {
    let mut sample = proto::Metric::from_label(pairs(metric, values));
    if metric.kind == Kind::Counter {
        let mut counter = proto::Counter::default();
        counter.set_value(value);
        sample.set_counter(counter);
    } else {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        sample.set_gauge(gauge);
    }
    sample
}

/// The labels that have a value.
fn pairs(metric: &Metric, values: &Values<'_>) -> Vec<proto::LabelPair> {
    let labels = metric.labels.iter().zip(values).filter(|(_, value)| !value.is_empty());
    let pair = |(name, value): (&&str, &std::borrow::Cow<'_, str>)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.clone().into_owned());
        pair
    };
    labels.map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{Began, bounds::seconds, openmetrics, registry};
    use crate::stats::Histogram;
    use std::borrow::Cow;

    /// What the `prometheus` crate writes of a histogram.
    fn by_the_crate(metric: &Metric, values: &Values<'_>, times: &Histogram, bounds: Bounds) -> String {
        let mut histogram = proto::Histogram::default();
        histogram.set_sample_count(times.n());
        histogram.set_sample_sum(seconds(times.sum()));
        let bucket = |(le, count)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(le);
            bucket.set_cumulative_count(count);
            bucket
        };
        histogram.set_bucket(bounds.cumulative(times).map(bucket).collect());
        let mut sample = proto::Metric::from_label(pairs(metric, values));
        sample.set_histogram(histogram);
        let mut family = proto::MetricFamily::default();
        family.set_name(metric.name.to_owned());
        family.set_help(metric.help.to_owned());
        family.set_field_type(proto::MetricType::HISTOGRAM);
        family.set_metric(vec![sample]);
        TextEncoder::new().encode_to_string(&[family]).unwrap()
    }

    #[test]
    fn histograms_are_written_as_the_crate_writes_them() {
        let metric = registry::of_series("vm_exit").unwrap();
        let mut times = Histogram::default();
        [1, 256, 257, 1_234_567, 40_000_000_000].into_iter().for_each(|ns| times.record(ns));
        for bounds in [Bounds::Coarse, Bounds::Normal, Bounds::Fine] {
            for times in [Histogram::default(), times.clone()] {
                for labels in [vec!["vm1", "0", "HLT", "own"], vec!["a\\b \"c\"\nd", "", "", ""], vec![""; 4]]
                {
                    let values: Values<'_> = labels.into_iter().map(Cow::Borrowed).collect();
                    let expected = by_the_crate(metric, &values, &times, bounds);
                    let samples = [(values, Sample::Histogram(Cow::Borrowed(&times)))].into();
                    let families = [Family { metric, samples }];
                    assert_eq!(text(&families, bounds).unwrap(), expected);
                    let samples = |text: String| -> Vec<String> {
                        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
                    };
                    let open = openmetrics::text(&families, bounds, &Began::default()).unwrap();
                    assert_eq!(samples(open), samples(expected));
                }
            }
        }
    }
}
