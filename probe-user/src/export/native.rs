//! A kernel histogram as Prometheus' native histogram: exponential buckets, only those that hold something.
//!
//! Bounds of native buckets are powers of 2^(1/8) seconds, each 9 % above the one before; kernel buckets end at whole nanoseconds,
//! sixteen to a power of two, and the two seldom meet. A kernel bucket goes whole into the native bucket that holds its upper end.
//! So nothing is interpolated, lost or counted twice: what is said to be at most B seconds is at most B, and of what is at most B
//! only values within 6.25 % of it, the width of a kernel bucket, can be in the bucket above. The classic buckets beside it stay
//! exact at their bounds. Pure.

use crate::stats::Histogram;

/// Eight buckets to a power of two: the next finer schema would be as fine as the kernel's own buckets, and uneven.
pub const FINEST: i32 = 3;
/// More buckets than that in one histogram are joined in pairs, as client libraries do.
const MOST: usize = 160;
/// Below this (s) is 0: the threshold that client libraries have, 2^-128.
pub const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39;
/// Gaps up to this are filled with empty buckets, which take less room than another span.
const GAP: i32 = 2;

/// Buckets that hold something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Native {
    /// Bounds are 2^(i / 2^schema) seconds.
    pub schema: i32,
    /// Runs of buckets: how far behind the former run (the first: which bucket), and how many.
    pub spans: Vec<(i32, u32)>,
    /// Count of each bucket, less that of the one before.
    pub deltas: Vec<i64>,
}

/// The native form of a histogram of nanoseconds.
#[must_use]
pub fn native(histogram: &Histogram) -> Native {
    let mut counts: Vec<(i32, u64)> = Vec::new();
    let over = histogram.over();
    for (bucket, n) in histogram.buckets() {
        let upper = probe_ebpf::hist::upper(bucket);
        // The last bucket also has what is beyond its end, of which the largest is known.
        let beyond = if upper == probe_ebpf::hist::MAX_VALUE { over } else { 0 };
        for (upper, n) in [(upper, n.saturating_sub(beyond)), (histogram.max().unwrap_or(upper), beyond)] {
            if n > 0 {
                push(&mut counts, index(upper), n);
            }
        }
    }
    let mut schema = FINEST;
    while counts.len() > MOST {
        schema -= 1;
        let mut joined = Vec::new();
        // Bucket i ends at bound i: 2i and 2i - 1 become i.
        counts.iter().for_each(|(index, n)| push(&mut joined, (index + 1).div_euclid(2), *n));
        counts = joined;
    }
    let (spans, deltas) = spans(&counts);
    Native { schema, spans, deltas }
}

/// Adds to the last bucket if that is the one.
fn push(counts: &mut Vec<(i32, u64)>, index: i32, n: u64) {
    match counts.last_mut() {
        Some((last, sum)) if *last == index => *sum += n,
        _ => counts.push((index, n)),
    }
}

/// The bucket of the finest schema that holds a time (ns, not 0): the first whose upper bound is not below.
fn index(ns: u64) -> i32 {
    let eighths = (ns as f64 / 1e9).log2() * f64::from(1 << FINEST);
    // 64 bits of nanoseconds: from 2^-30 s to 2^35 s.
    #[expect(clippy::cast_possible_truncation, reason = "between -240 and 280")]
    let index = eighths.ceil() as i32;
    index
}

fn spans(counts: &[(i32, u64)]) -> (Vec<(i32, u32)>, Vec<i64>) {
    let mut spans: Vec<(i32, u32)> = Vec::new();
    let mut deltas = Vec::new();
    let (mut next, mut former) = (0, 0);
    for (index, n) in counts {
        let n = i64::try_from(*n).unwrap_or(i64::MAX);
        let gap = index - next;
        match spans.last_mut() {
            Some((_, length)) if gap <= GAP => {
                for _ in 0..gap {
                    *length += 1;
                    deltas.push(-former);
                    former = 0;
                }
                *length += 1;
            }
            _ => spans.push((gap, 1)),
        }
        deltas.push(n - former);
        (next, former) = (index + 1, n);
    }
    (spans, deltas)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn histogram(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|v| histogram.record(*v));
        histogram
    }

    /// Upper bounds (s) and counts, empty buckets left out, by the format's own rules.
    fn read(native: &Native) -> Vec<(f64, u64)> {
        let Native { schema, spans, deltas, .. } = native;
        let (mut index, mut count, mut deltas, mut found) = (0, 0, deltas.iter(), Vec::new());
        for (offset, length) in spans {
            index += offset;
            for _ in 0..*length {
                count += deltas.next().unwrap();
                found.push((2f64.powf(f64::from(index) / 2f64.powi(*schema)), u64::try_from(count).unwrap()));
                index += 1;
            }
        }
        assert_eq!(deltas.next(), None);
        found.retain(|(_, n)| *n > 0);
        found
    }

    #[test]
    fn whole_powers_of_two_seconds_are_bounds() {
        // 2^i seconds: bucket 8 i, as the upper bound counts in.
        for (ns, expected) in [
            (1_000_000_000, 0),
            (2_000_000_000, 8),
            (500_000_000, -8),
            (4_000_000_000, 16),
            (1_000_000_001, 1),
            (1, -239),
        ] {
            assert_eq!(index(ns), expected, "{ns}");
        }
    }

    #[test]
    fn runs_of_buckets() {
        for (counts, spans_expected, deltas_expected) in [
            (vec![], vec![], vec![]),
            (vec![(-3, 5)], vec![(-3, 1)], vec![5]),
            (vec![(-3, 5), (-2, 7)], vec![(-3, 2)], vec![5, 2]),
            (vec![(0, 5), (3, 7)], vec![(0, 4)], vec![5, -5, 0, 7]),
            (vec![(0, 5), (4, 7), (5, 1)], vec![(0, 1), (3, 2)], vec![5, 2, -6]),
        ] {
            assert_eq!(spans(&counts), (spans_expected, deltas_expected), "{counts:?}");
        }
    }

    #[test]
    fn nothing_has_no_buckets() {
        assert_eq!(native(&Histogram::default()), Native { schema: FINEST, spans: vec![], deltas: vec![] });
    }

    #[test]
    fn what_is_beyond_the_kernels_buckets_is_not_said_to_be_less() {
        let native = native(&histogram(&[1 << 36, (1 << 36) + 1, 1 << 40]));
        // 2^40 ns are 1099.5 s: below 2^(81/8) s.
        assert_eq!(read(&native), [(2f64.powf(49.0 / 8.0), 1), (2f64.powf(81.0 / 8.0), 2)]);
    }

    #[test]
    fn many_buckets_are_joined() {
        let all: Vec<u64> = (0..probe_ebpf::hist::BUCKETS).map(probe_ebpf::hist::upper).collect();
        let native = native(&histogram(&all));
        assert_eq!(native.schema, FINEST - 1);
        assert!(native.deltas.len() <= MOST);
        let sum: u64 = read(&native).iter().map(|(_, n)| n).sum();
        assert_eq!(sum, all.len() as u64);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_bounds_hold(values in proptest::collection::vec(0..=1u64 << 40, 0..200)) {
            let native = native(&histogram(&values));
            let read = read(&native);
            let sum: u64 = read.iter().map(|(_, n)| n).sum();
            prop_assert_eq!(sum, values.len() as u64);
            let mut counted = 0;
            for (bound, n) in read {
                counted += n;
                // Of what is at most the bound, only what is within 6.25 % of it may be missing; nothing above is in.
                let at_most = |limit: f64| values.iter().filter(|v| **v as f64 / 1e9 <= limit).count() as u64;
                prop_assert!(counted <= at_most(bound * (1.0 + 1e-12)), "{bound}");
                prop_assert!(counted >= at_most((bound * (1.0 - 0.0625)).min(68.7)), "{bound}");
            }
        }
    }
}
