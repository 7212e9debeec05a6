//! Times and percentiles as load generators print them.

use super::{Better, Metric, Unit};
use crate::stats::Quantile;

/// A time, less of which is better.
pub(super) fn time(name: &str, ns: f64) -> Option<Metric> {
    Metric::new(name, Unit::Nanoseconds, ns, Better::Lower)
}

/// A percentile, named after its prefix: `latency_p99`. `None` for one that vfprobe does not compare, and for one that so
/// few values (`count`) cannot hold: the tools print it anyhow, and it is the maximum under another name.
pub(super) fn percentile(prefix: &str, percent: f64, ns: f64, count: f64) -> Option<Metric> {
    let quantile = Quantile::ALL.into_iter().find(|q| (q.share() * 100.0 - percent).abs() < 1e-6)?;
    let enough = count >= crate::stats::to_f64(quantile.needs());
    enough.then(|| time(&format!("{prefix}_{}", quantile.name()), ns)).flatten()
}

/// A rate, more of which is better (per second).
pub(super) fn rate(name: &str, per_second: f64) -> Option<Metric> {
    Metric::new(name, Unit::Other, per_second, Better::Higher)
}

/// Bits per second.
pub(super) fn throughput(bits_per_second: f64) -> Option<Metric> {
    Metric::new("throughput", Unit::BitsPerSecond, bits_per_second, Better::Higher)
}

/// How many requests went wrong.
pub(super) fn errors(count: f64) -> Option<Metric> {
    Metric::new("errors", Unit::Other, count, Better::Lower)
}

/// A number that is finite and not negative.
pub(super) fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0)
}

/// A number with one of these units behind it, in the first unit's scale. Longer units come first where one ends another.
pub(super) fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    units.iter().find_map(|(unit, scale)| Some(number(text.strip_suffix(unit)?)? * scale))
}

/// The first word after some text on a line.
pub(super) fn word_after<'a>(line: &'a str, before: &str) -> Option<&'a str> {
    line.split_once(before)?.1.split_whitespace().next()
}

/// What a test expects of a parser: names and values, in order.
#[cfg(test)]
pub(super) fn assert_figures(found: Result<Vec<Metric>, String>, expected: &[(&str, f64)]) {
    let found = found.unwrap();
    let names: Vec<&str> = found.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, expected.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (metric, (name, value)) in found.iter().zip(expected) {
        assert!(
            (metric.value - value).abs() <= 1e-9 * value.abs(),
            "{name}: {} is not {value}",
            metric.value
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_need_enough_values() {
        for (percent, count, name) in [
            (50.0, 2.0, Some("latency_p50")),
            (90.0, 9.0, None),
            (90.0, 10.0, Some("latency_p90")),
            (99.0, 99.0, None),
            (99.0, 100.0, Some("latency_p99")),
            (99.9, 999.0, None),
            (99.9, 1000.0, Some("latency_p999")),
            (75.0, 1e6, None),
            (99.99, 1e6, None),
        ] {
            let found = percentile("latency", percent, 5.0, count).map(|m| m.name);
            assert_eq!(found.as_deref(), name, "{percent} of {count}");
        }
    }

    #[test]
    fn numbers_with_units() {
        const UNITS: &[(&str, f64)] = &[("us", 1.0), ("ms", 1e3), ("s", 1e6)];
        for (text, value) in [
            ("1.50us", Some(1.5)),
            ("2ms", Some(2e3)),
            ("3s", Some(3e6)),
            ("4", None),
            ("-1s", None),
            ("nans", None),
            ("", None),
        ] {
            assert_eq!(scaled(text, UNITS), value, "{text:?}");
        }
    }
}
