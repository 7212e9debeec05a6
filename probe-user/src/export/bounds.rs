//! Bucket bounds of the exported histograms.
//!
//! Every power of two nanoseconds ends a kernel bucket (`probe_ebpf::hist`), upper bound inclusive as `le` is. So a
//! cumulative count at these bounds is exact: nothing is interpolated between the kernel and Prometheus.

use crate::stats::Histogram;
use std::str::FromStr;

/// Exponent of the lowest bound: 2^8 ns = 256 ns, below the fastest exit that can be timed from the host.
pub const FIRST_EXPONENT: u32 = 8;
/// Exponent of the highest bound: 2^34 ns = 17.2 s; longer waits are in `+Inf`, and exact in `_sum`.
pub const LAST_EXPONENT: u32 = 34;

/// Which bounds the histograms are exported at. Every set is exact, and each holds the coarser ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bounds {
    /// Every other power of two: half the series, a quantile up to a factor of four off.
    Coarse,
    /// Every power of two.
    #[default]
    Normal,
    /// Four to a power of two: four times the series, a quantile up to a quarter off.
    Fine,
}

/// A text that names no set of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no set of bounds (expected coarse, normal or fine)")]
pub struct NotBounds(pub String);

impl FromStr for Bounds {
    type Err = NotBounds;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "coarse" => Ok(Self::Coarse),
            "normal" => Ok(Self::Normal),
            "fine" => Ok(Self::Fine),
            _ => Err(NotBounds(text.to_owned())),
        }
    }
}

impl Bounds {
    /// The bounds in nanoseconds, ascending, `+Inf` left out.
    pub fn nanoseconds(self) -> impl Iterator<Item = u64> {
        let exponents = (FIRST_EXPONENT..=LAST_EXPONENT).step_by(if self == Self::Coarse { 2 } else { 1 });
        exponents.flat_map(move |exponent| {
            let parts = if self == Self::Fine && exponent < LAST_EXPONENT { 4 } else { 1 };
            (0..parts).map(move |part| (1 << exponent) + part * (1 << (exponent - 2)))
        })
    }

    /// The cumulative count at each bound, in seconds.
    pub fn cumulative(self, histogram: &Histogram) -> impl Iterator<Item = (f64, u64)> + '_ {
        let (mut start, mut count) = (0, 0);
        self.nanoseconds().map(move |bound| {
            // Each bound ends a bucket.
            let end = probe_ebpf::hist::index(bound) + 1;
            count += histogram.count(start..end);
            start = end;
            (seconds(bound), count)
        })
    }
}

/// Nanoseconds as the seconds that metrics are in. Exact to 2^53 ns (104 days), then to 1 in 2^53.
#[must_use]
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Bounds; 3] = [Bounds::Coarse, Bounds::Normal, Bounds::Fine];

    #[test]
    fn bounds_are_kernel_bucket_edges() {
        for (bounds, n) in ALL.into_iter().zip([14, 27, 105]) {
            assert_eq!(bounds.nanoseconds().count(), n, "{bounds:?}");
            assert!(bounds.nanoseconds().is_sorted_by(|a, b| a < b));
            for bound in bounds.nanoseconds() {
                assert_eq!(probe_ebpf::hist::upper(probe_ebpf::hist::index(bound)), bound);
            }
        }
    }

    #[test]
    fn a_value_on_a_bound_counts_at_that_bound() {
        let mut histogram = Histogram::default();
        histogram.record(1 << 10);
        histogram.record((1 << 10) + 1);
        let counts: Vec<u64> = Bounds::Normal.cumulative(&histogram).map(|(_, n)| n).collect();
        assert_eq!(counts[..4], [0, 0, 1, 2]);
    }

    proptest! {
        #[test]
        fn counts_are_exact(values in proptest::collection::vec(0..=1u64 << 36, 0..50)) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|v| histogram.record(*v));
            for bounds in ALL {
                for (bound, (le, count)) in bounds.nanoseconds().zip(bounds.cumulative(&histogram)) {
                    prop_assert_eq!(le, seconds(bound));
                    prop_assert_eq!(count, values.iter().filter(|v| **v <= bound).count() as u64);
                }
            }
        }
    }
}
