//! Holding vfprobe's figures against the oracle's.

/// A quantile's allowed error. On real time it would be the histogram's 3.2 % and ftrace's microseconds. In the
/// emulated host a callback takes microseconds too, ftrace's stamp comes before vfprobe's, and of a classic
/// tracepoint the record is made in between: up to a tenth was seen on a busy machine, so this much is allowed.
const RELATIVE: f64 = 0.20;
const ABSOLUTE_NS: f64 = 20_000.0;

/// Fewest values beyond a quantile for it to be compared: the emulated host's CPUs are threads of a busy machine, and
/// one that stands still between ftrace's stamp and vfprobe's moves the last few ranks by milliseconds.
const BEYOND: f64 = 5.0;

/// Whether enough values hold the quantile.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
pub fn comparable(n: usize, share: f64) -> bool {
    n as f64 * (1.0 - share) >= BEYOND
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rank of at most a few million"
)]
fn rank(len: usize, share: f64) -> usize {
    (share * len as f64).ceil().max(1.0) as usize
}

/// The value at a quantile, nearest rank, of sorted values.
#[must_use]
pub fn nearest_rank(sorted: &[u64], share: f64) -> Option<u64> {
    sorted.get(rank(sorted.len(), share) - 1).copied()
}

/// As `nearest_rank`, with both neighbours: an event at the edge of the span may be on one side only.
fn around(sorted: &[u64], share: f64) -> Vec<u64> {
    let rank = rank(sorted.len(), share);
    (rank.saturating_sub(2)..=rank).filter_map(|i| sorted.get(i).copied()).collect()
}

/// Whether a reported quantile agrees with the values; `own_ns` is what the observers themselves take between the
/// two stamps.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "durations below 2^53 ns")]
pub fn quantile_agrees(sorted: &[u64], share: f64, reported_ns: u64, own_ns: u64) -> bool {
    let near = around(sorted, share);
    let (Some(low), Some(high)) = (near.iter().min(), near.iter().max()) else { return false };
    let reported = reported_ns as f64;
    let (low, high) = (*low as f64, *high as f64);
    let slack = ABSOLUTE_NS + own_ns as f64;
    reported >= low * (1.0 - RELATIVE) - slack && reported <= high * (1.0 + RELATIVE) + slack
}

/// Whether two counts agree, `edge` events at the ends of the span allowed.
#[must_use]
pub fn count_agrees(ours: u64, reported: u64, edge: u64) -> bool {
    ours.abs_diff(reported) <= edge
}

/// Whether two sums of times agree that are made of `n` intervals: an observer's own work lies at both ends of each.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "times below 2^53 ns")]
pub fn sum_agrees(ours_ns: u64, reported_ns: u64, n: u64, own_ns: u64) -> bool {
    let slack = (n as f64 + 2.0) * (own_ns as f64 + PER_INTERVAL_NS);
    ours_ns.abs_diff(reported_ns) as f64 <= ours_ns.max(reported_ns) as f64 * SUM_RELATIVE + slack
}

/// A sum's allowed error: single intervals' errors are in it only where they have one sign.
const SUM_RELATIVE: f64 = 0.05;
/// ftrace's text is cut to microseconds, at both ends.
const PER_INTERVAL_NS: f64 = 2_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        for (ours, reported, n, own, agree) in [
            (1_000_000_000, 1_040_000_000, 10, 0, true),
            (1_000_000_000, 1_100_000_000, 10, 0, false),
            (0, 20_000, 10, 0, true),
            (0, 30_000, 10, 0, false),
            (0, 600_000, 10, 50_000, true),
        ] {
            assert_eq!(sum_agrees(ours, reported, n, own), agree, "{ours} {reported} {n} {own}");
        }
    }

    #[test]
    fn within_and_without() {
        let values: Vec<u64> = (1..=1000).map(|i| i * 1_000_000).collect();
        assert!(quantile_agrees(&values, 0.5, 500_000_000, 0));
        assert!(quantile_agrees(&values, 0.5, 590_000_000, 0));
        assert!(!quantile_agrees(&values, 0.5, 630_000_000, 0));
        assert!(quantile_agrees(&[5_000], 0.99, 24_000, 0));
        assert!(!quantile_agrees(&[], 0.99, 1, 0));
    }
}
