//! Metric families as Prometheus text.
//!
//! The `prometheus` crate's own histograms take single observations; here the counts come ready from the kernel, so
//! its data model is filled directly and only its encoder is used. Nothing is kept between scrapes: what is gone
//! from the snapshot is gone from the answer.

use super::{
    bounds::{self, Bounds},
    families::{Family, Sample},
    registry::Kind,
};
use crate::stats::Histogram;
use prometheus::{TextEncoder, proto};

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text exposition of some families.
///
/// # Errors
/// When the encoder refuses a family.
pub fn text(families: &[Family<'_>], bounds: Bounds) -> Result<String, prometheus::Error> {
    let mut text = String::new();
    for family in families {
        TextEncoder::new().encode_utf8(std::slice::from_ref(&proto_family(family, bounds)), &mut text)?;
    }
    Ok(text)
}

fn proto_family(family: &Family<'_>, bounds: Bounds) -> proto::MetricFamily {
    let Family { metric, samples } = family;
    let mut proto = proto::MetricFamily::default();
    proto.set_name(metric.name.to_owned());
    proto.set_help(metric.help.to_owned());
    proto.set_field_type(match metric.kind {
        Kind::Histogram => proto::MetricType::HISTOGRAM,
        Kind::Counter => proto::MetricType::COUNTER,
        Kind::Gauge | Kind::Info => proto::MetricType::GAUGE,
    });
    let one = |(values, sample): (&Vec<_>, &Sample<'_>)| {
        let labels = metric
            .labels
            .iter()
            .zip(values)
            .filter(|(_, value): &(_, &std::borrow::Cow<'_, str>)| !value.is_empty());
        let mut one = proto::Metric::from_label(labels.map(|(name, value)| label(name, value)).collect());
        match sample {
            Sample::Histogram(histogram) => one.set_histogram(proto_histogram(histogram, bounds)),
            Sample::Value(value) if metric.kind == Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(*value);
                one.set_counter(counter);
            }
            Sample::Value(value) => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(*value);
                one.set_gauge(gauge);
            }
        }
        one
    };
    proto.set_metric(samples.iter().map(one).collect());
    proto
}

fn label(name: &str, value: &str) -> proto::LabelPair {
    let mut pair = proto::LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn proto_histogram(histogram: &Histogram, bounds: Bounds) -> proto::Histogram {
    let mut proto = proto::Histogram::default();
    proto.set_sample_count(histogram.n());
    proto.set_sample_sum(bounds::seconds(histogram.sum()));
    let bucket = |(le, count)| {
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(le);
        bucket.set_cumulative_count(count);
        bucket
    };
    proto.set_bucket(bounds.cumulative(histogram).map(bucket).collect());
    proto
}
