//! Metric families in Prometheus' protobuf form: what carries native histograms. Classic buckets are always beside them.
//!
//! The messages are those parts of `io.prometheus.client` (client_model, `metrics.proto`) that are written here; numbers and
//! types of fields are the format. Which `prometheus` crate types would do has no native histograms.

use super::{
    bounds::{self, Bounds},
    families::{self, Family, Sample},
    native::{self, Native, native},
    registry::{self, Kind},
    source::Began,
};
use crate::stats::Histogram;
use prost::Message;
use std::time::{SystemTime, UNIX_EPOCH};

/// The content type of [`bytes`].
pub const CONTENT_TYPE: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// `enum MetricType`.
const COUNTER: i32 = 0;
const GAUGE: i32 = 1;
const HISTOGRAM: i32 = 4;

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Gauge>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Counter>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<HistogramMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Gauge {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Counter {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
    #[prost(message, optional, tag = "3")]
    created: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct HistogramMessage {
    #[prost(uint64, optional, tag = "1")]
    count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    span: Vec<BucketSpan>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    delta: Vec<i64>,
    #[prost(message, optional, tag = "15")]
    created: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    cumulative: Option<u64>,
    #[prost(double, optional, tag = "2")]
    upper: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    length: Option<u32>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// The families, each behind its length.
#[must_use]
pub fn bytes(families: &[Family<'_>], bounds: Bounds, began: &Began) -> Vec<u8> {
    messages(families, bounds, began).collect::<Vec<_>>().concat()
}

/// What [`bytes`] gives, family by family.
pub fn messages<'a>(
    families: &'a [Family<'_>],
    bounds: Bounds,
    began: &'a Began,
) -> impl Iterator<Item = Vec<u8>> + 'a {
    families.iter().map(move |family| {
        let mut message = head(family.metric).encode_to_vec();
        // The fields of a message may come in parts: not all samples are there as messages at once.
        for metric in metrics(family, bounds, began) {
            let part = MetricFamily { metric: vec![metric], ..MetricFamily::default() };
            part.encode(&mut message).expect("a vector grows");
        }
        let mut bytes = Vec::with_capacity(message.len() + prost::length_delimiter_len(message.len()));
        prost::encode_length_delimiter(message.len(), &mut bytes).expect("a vector grows");
        bytes.extend(message);
        bytes
    })
}

/// A family without its samples.
fn head(metric: &registry::Metric) -> MetricFamily {
    MetricFamily {
        name: Some(metric.name.to_owned()),
        help: Some(metric.help.to_owned()),
        kind: Some(match metric.kind {
            Kind::Histogram => HISTOGRAM,
            Kind::Counter => COUNTER,
            Kind::Gauge | Kind::Info => GAUGE,
        }),
        metric: Vec::new(),
    }
}

fn metrics<'a>(
    family: &'a Family<'_>,
    bounds: Bounds,
    began: &'a Began,
) -> impl Iterator<Item = Metric> + 'a {
    let Family { metric, samples } = family;
    samples.iter().map(move |(values, sample)| {
        let created = families::since(metric, values, began).and_then(timestamp);
        let labels = metric.labels.iter().zip(values).filter(|(_, value)| !value.is_empty());
        let label = |(name, value): (&&str, &std::borrow::Cow<'_, str>)| LabelPair {
            name: Some((*name).to_owned()),
            value: Some(value.clone().into_owned()),
        };
        let mut one = Metric { label: labels.map(label).collect(), ..Metric::default() };
        match sample {
            Sample::Histogram(times) => one.histogram = Some(histogram(times, bounds, created)),
            Sample::Value(value) if metric.kind == Kind::Counter => {
                one.counter = Some(Counter { value: Some(*value), created });
            }
            Sample::Value(value) => one.gauge = Some(Gauge { value: Some(*value) }),
        }
        one
    })
}

fn histogram(times: &Histogram, bounds: Bounds, created: Option<Timestamp>) -> HistogramMessage {
    let Native { schema, spans, deltas } = native(times);
    let bucket = |(upper, cumulative)| Bucket { cumulative: Some(cumulative), upper: Some(upper) };
    let span = |(offset, length)| BucketSpan { offset: Some(offset), length: Some(length) };
    HistogramMessage {
        count: Some(times.n()),
        sum: Some(bounds::seconds(times.sum())),
        bucket: bounds.cumulative(times).map(bucket).collect(),
        schema: Some(schema),
        zero_threshold: Some(native::ZERO_THRESHOLD),
        // The kernel has no bucket of 0 alone: it is counted as 1 ns.
        zero_count: Some(0),
        span: spans.into_iter().map(span).collect(),
        delta: deltas,
        created,
    }
}

/// To the millisecond, as in the other formats.
fn timestamp(time: SystemTime) -> Option<Timestamp> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    let nanos = i32::try_from(since.subsec_millis()).ok()? * 1_000_000;
    Some(Timestamp { seconds: i64::try_from(since.as_secs()).ok()?, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{borrow::Cow, time::Duration};

    #[test]
    fn families_in_parts_are_families_as_a_whole() {
        let began =
            Began { probes: Some(UNIX_EPOCH + Duration::from_millis(1_700_000_000_500)), ..Began::default() };
        let mut times = Histogram::default();
        [1, 256, 257, 1_234_567, 40_000_000_000].into_iter().for_each(|ns| times.record(ns));
        let samples = [Histogram::default(), times].into_iter().zip(["own", "\u{e9} \"x\""]);
        let samples = samples.map(|(times, reason)| {
            let values = ["vm1", "0", reason, ""].map(Cow::Borrowed).to_vec();
            (values, Sample::Histogram(Cow::Owned(times)))
        });
        let find = |name| registry::find(name).unwrap();
        let families = [
            Family { metric: registry::of_series("vm_exit").unwrap(), samples: samples.collect() },
            Family { metric: find("vfprobe_up"), samples: [(vec![], Sample::Value(1.0))].into() },
            Family {
                metric: find("vfprobe_probe_renewals_total"),
                samples: [(vec![], Sample::Value(0.0))].into(),
            },
            Family { metric: find("vfprobe_config_info"), samples: [].into() },
        ];
        for bounds in [Bounds::Coarse, Bounds::Normal, Bounds::Fine] {
            let whole = families.iter().flat_map(|family| {
                let metric = metrics(family, bounds, &began).collect();
                MetricFamily { metric, ..head(family.metric) }.encode_length_delimited_to_vec()
            });
            assert_eq!(bytes(&families, bounds, &began), whole.collect::<Vec<u8>>());
        }
    }
}
