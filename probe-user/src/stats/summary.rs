//! What a table says of one distribution: n, mean, extremes and the percentiles that n can support.

use super::{Histogram, hdr};
use probe_ebpf::hist;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The percentiles that tables, files and comparisons speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantile {
    /// The median.
    P50,
    /// 90 %.
    P90,
    /// 99 %.
    P99,
    /// 99.9 %.
    P999,
}

impl Quantile {
    /// All of them, ascending.
    pub const ALL: [Self; 4] = [Self::P50, Self::P90, Self::P99, Self::P999];

    /// As a share of the values, 0..1.
    #[must_use]
    pub fn share(self) -> f64 {
        match self {
            Self::P50 => 0.5,
            Self::P90 => 0.9,
            Self::P99 => 0.99,
            Self::P999 => 0.999,
        }
    }

    /// Fewest values that hold it: with fewer, less than one value is expected beyond the percentile and the figure
    /// would be the maximum under another name.
    #[must_use]
    pub fn needs(self) -> u64 {
        match self {
            Self::P50 => 2,
            Self::P90 => 10,
            Self::P99 => 100,
            Self::P999 => 1000,
        }
    }

    /// The name in JSON and expressions: `p999`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P99 => "p99",
            Self::P999 => "p999",
        }
    }

    /// The name in tables: `p99.9`.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::P999 => "p99.9",
            other => other.name(),
        }
    }

    /// The percentile of that name, in either spelling.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|q| q.name() == name || q.title() == name)
    }
}

impl fmt::Display for Quantile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.title())
    }
}

/// Figures of one distribution (ns). What `n` cannot support is `None`, never 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Number of values.
    pub n: u64,
    /// Exact sum.
    pub sum_ns: u64,
    /// Exact minimum.
    pub min_ns: Option<u64>,
    /// Exact mean.
    pub mean_ns: Option<f64>,
    /// Median, within 3.2 %.
    pub p50_ns: Option<u64>,
    /// 90th percentile, within 3.2 %; needs 10 values.
    pub p90_ns: Option<u64>,
    /// 99th percentile, within 3.2 %; needs 100 values.
    pub p99_ns: Option<u64>,
    /// 99.9th percentile, within 3.2 %; needs 1000 values.
    pub p999_ns: Option<u64>,
    /// Exact maximum.
    pub max_ns: Option<u64>,
}

impl Summary {
    /// Summarises a distribution. The percentiles come from an HdrHistogram of the bucket middles.
    #[must_use]
    pub fn of(histogram: &Histogram) -> Self {
        let n = histogram.n();
        let hdr = hdr::to_hdr(histogram);
        let at = |q: Quantile| (n >= q.needs()).then(|| value_at(histogram, &hdr, q.share())).flatten();
        Self {
            n,
            sum_ns: histogram.sum(),
            min_ns: histogram.min(),
            mean_ns: (n > 0).then(|| to_f64(histogram.sum()) / to_f64(n)),
            p50_ns: at(Quantile::P50),
            p90_ns: at(Quantile::P90),
            p99_ns: at(Quantile::P99),
            p999_ns: at(Quantile::P999),
            max_ns: histogram.max(),
        }
    }

    /// One of its percentiles.
    #[must_use]
    pub fn quantile(&self, q: Quantile) -> Option<u64> {
        match q {
            Quantile::P50 => self.p50_ns,
            Quantile::P90 => self.p90_ns,
            Quantile::P99 => self.p99_ns,
            Quantile::P999 => self.p999_ns,
        }
    }
}

/// The middle of the bucket that holds the percentile, never beyond the exact extremes. A percentile among the values
/// beyond the last bucket is only known to lie below the maximum, so the maximum is what is said.
fn value_at(histogram: &Histogram, hdr: &hdrhistogram::Histogram<u64>, share: f64) -> Option<u64> {
    let (min, max) = (histogram.min()?, histogram.max()?);
    let in_range = histogram.n() - histogram.over().min(histogram.n());
    if to_f64(in_range) < to_f64(histogram.n()) * share {
        return Some(max);
    }
    let middle = hdr.lowest_equivalent(hdr.value_at_quantile(share));
    Some(middle.max(min).min(max))
}

/// Percentiles at any shares of the values (0..=1), read as [`Summary`] reads its own; `None` where less than one value is
/// expected beyond the share.
#[must_use]
pub fn at_shares<const N: usize>(histogram: &Histogram, shares: [f64; N]) -> [Option<u64>; N] {
    let hdr = hdr::to_hdr(histogram);
    // One thousandth of tolerance: 1000 * (1 - 0.999) is not quite 1.
    let held = |share: f64| to_f64(histogram.n()) * (1.0 - share) >= 0.999;
    shares.map(|share| held(share).then(|| value_at(histogram, &hdr, share)).flatten())
}

/// A percentile interpolated inside its bucket (ns), as if the bucket's values were spread evenly. `None` without values.
///
/// For comparing runs of the same thing: it moves smoothly with the counts, where [`Summary`]'s figure jumps from one
/// bucket to the next (6 %) when a percentile lies near a bound. Never beyond the exact extremes.
#[must_use]
pub fn interpolated(histogram: &Histogram, q: Quantile) -> Option<f64> {
    let (min, max) = (histogram.min()?, histogram.max()?);
    let rank = to_f64(histogram.n()) * q.share();
    let mut below = 0.0;
    for (bucket, count) in histogram.buckets() {
        let count = to_f64(count);
        if below + count >= rank {
            let (lower, upper) = (to_f64(hist::lower(bucket)), to_f64(hist::upper(bucket)));
            let value = lower + (upper - lower) * ((rank - below) / count).clamp(0.0, 1.0);
            return Some(value.clamp(to_f64(min), to_f64(max)));
        }
        below += count;
    }
    Some(to_f64(max))
}

/// Counts and nanoseconds as floating point, for ratios and means: beyond 2^53 the last digits do not matter there.
#[must_use]
pub fn to_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn histogram(values: impl IntoIterator<Item = u64>) -> Histogram {
        let mut h = Histogram::default();
        values.into_iter().for_each(|v| h.record(v));
        h
    }

    #[test]
    fn nothing_has_no_figures() {
        let s = Summary::of(&Histogram::default());
        assert_eq!((s.n, s.sum_ns), (0, 0));
        assert_eq!((s.min_ns, s.mean_ns, s.max_ns), (None, None, None));
        assert!(Quantile::ALL.iter().all(|q| s.quantile(*q).is_none()));
        assert_eq!(interpolated(&Histogram::default(), Quantile::P50), None);
    }

    #[test]
    fn a_percentile_needs_its_values() {
        for (n, held) in [
            (1, [false, false, false, false]),
            (2, [true, false, false, false]),
            (9, [true, false, false, false]),
            (10, [true, true, false, false]),
            (99, [true, true, false, false]),
            (100, [true, true, true, false]),
            (1000, [true, true, true, true]),
        ] {
            let s = Summary::of(&histogram(1..=n));
            assert_eq!(Quantile::ALL.map(|q| s.quantile(q).is_some()), held, "n = {n}");
        }
    }

    #[test]
    fn extremes_are_exact_and_bound_the_percentiles() {
        let s = Summary::of(&histogram(std::iter::repeat_n(1_000_003, 5000)));
        assert_eq!((s.min_ns, s.p50_ns, s.p999_ns), (Some(1_000_003), Some(1_000_003), Some(1_000_003)));
        let beyond = Summary::of(&histogram([1, 2, 3, hist::MAX_VALUE * 4, hist::MAX_VALUE * 8]));
        assert_eq!(beyond.max_ns, Some(hist::MAX_VALUE * 8));
        let mostly = Summary::of(&histogram(std::iter::repeat_n(hist::MAX_VALUE * 4, 10)));
        assert_eq!(mostly.p90_ns, Some(hist::MAX_VALUE * 4));
    }

    #[test]
    fn any_share_is_read_as_the_named_ones() {
        let h = histogram(1..=1000);
        let s = Summary::of(&h);
        assert_eq!(at_shares(&h, [0.5, 0.9, 0.99, 0.999]), Quantile::ALL.map(|q| s.quantile(q)));
        assert_eq!(at_shares(&h, [0.9999]), [None]);
        assert_eq!(at_shares(&Histogram::default(), [0.5]), [None]);
    }

    #[test]
    fn names_go_both_ways() {
        for q in Quantile::ALL {
            assert_eq!(Quantile::from_name(q.name()), Some(q));
            assert_eq!(Quantile::from_name(q.title()), Some(q));
        }
        assert_eq!(Quantile::from_name("p98"), None);
    }

    proptest! {
        #[test]
        fn percentiles_are_within_the_stated_error(values in proptest::collection::vec(1u64..=hist::MAX_VALUE, 2..300)) {
            let s = Summary::of(&histogram(values.iter().copied()));
            let mut sorted = values;
            sorted.sort_unstable();
            for q in Quantile::ALL {
                let Some(found) = s.quantile(q) else { continue };
                let rank = (to_f64(s.n) * q.share()).ceil();
                let exact = sorted.iter().zip(1u32..).find(|(_, i)| f64::from(*i) >= rank).map(|(v, _)| *v).unwrap();
                let error = (to_f64(found) - to_f64(exact)).abs() / to_f64(exact);
                prop_assert!(error <= 0.032, "{q}: {found} for {exact}");
            }
        }

        #[test]
        fn interpolation_stays_in_the_bucket(values in proptest::collection::vec(1u64..1 << 30, 1..300)) {
            let h = histogram(values);
            let mut last = 0.0;
            for q in Quantile::ALL {
                let v = interpolated(&h, q).unwrap();
                prop_assert!(v >= last && v >= to_f64(h.min().unwrap()) && v <= to_f64(h.max().unwrap()));
                last = v;
            }
        }
    }
}
