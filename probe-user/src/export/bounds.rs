//! Bucket bounds of the exported histograms.
//!
//! Every power of two nanoseconds ends a kernel bucket (`probe_ebpf::hist`), upper bound inclusive as `le` is. So a
//! cumulative count at these bounds is exact: nothing is interpolated between the kernel and Prometheus.

use crate::stats::Histogram;

/// Exponent of the lowest bound: 2^8 ns = 256 ns, below the fastest exit that can be timed from the host.
pub const FIRST_EXPONENT: u32 = 8;
/// Exponent of the highest bound: 2^34 ns = 17.2 s; longer waits are in `+Inf`, and exact in `_sum`.
pub const LAST_EXPONENT: u32 = 34;

/// The bounds in nanoseconds, ascending, `+Inf` left out.
pub fn nanoseconds() -> impl Iterator<Item = u64> {
    (FIRST_EXPONENT..=LAST_EXPONENT).map(|exponent| 1 << exponent)
}

/// Nanoseconds as the seconds that metrics are in. Exact to 2^53 ns (104 days), then to 1 in 2^53.
#[must_use]
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The cumulative count at each bound, in seconds.
pub fn cumulative(histogram: &Histogram) -> impl Iterator<Item = (f64, u64)> + '_ {
    let mut buckets = histogram.buckets().iter().enumerate().peekable();
    let mut count = 0;
    nanoseconds().map(move |bound| {
        while let Some((_, n)) = buckets.next_if(|(b, _)| probe_ebpf::hist::upper(*b) <= bound) {
            count += n;
        }
        (seconds(bound), count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_are_kernel_bucket_edges() {
        for bound in nanoseconds() {
            assert_eq!(probe_ebpf::hist::upper(probe_ebpf::hist::index(bound)), bound);
        }
    }

    #[test]
    fn a_value_on_a_bound_counts_at_that_bound() {
        let mut histogram = Histogram::default();
        histogram.record(1 << 10);
        histogram.record((1 << 10) + 1);
        let counts: Vec<u64> = cumulative(&histogram).map(|(_, n)| n).collect();
        assert_eq!(counts[..4], [0, 0, 1, 2]);
    }

    proptest! {
        #[test]
        fn counts_are_exact(values in proptest::collection::vec(0..=1u64 << 36, 0..50)) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|v| histogram.record(*v));
            for (bound, (le, count)) in nanoseconds().zip(cumulative(&histogram)) {
                prop_assert_eq!(le, seconds(bound));
                prop_assert_eq!(count, values.iter().filter(|v| **v <= bound).count() as u64);
            }
        }
    }
}
