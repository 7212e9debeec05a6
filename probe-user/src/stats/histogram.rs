//! A distribution as the kernel counted it: exact counts per bucket, exact sum, minimum and maximum.

use probe_ebpf::hist::{self, Hist};
use std::{ops::Range, sync::Arc};

/// Times (ns) counted in the kernel's buckets. Merging and subtracting are exact.
///
/// Only the buckets from the first to the last that hold something are kept: of eleven powers of ten most series span a
/// few, and there are thousands of them. Copies share them until one is changed: what was counted under a configuration that
/// has ended stands still, and is in every scrape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Neither the first nor the last is 0.
    counts: Arc<[u64]>,
    /// Which bucket `counts` begins with; 0 when there is none.
    first: usize,
    sum: u64,
    min: Option<u64>,
    max: Option<u64>,
    over: u64,
}

impl From<&Hist> for Histogram {
    fn from(raw: &Hist) -> Self {
        let (counts, first) = held(&raw.buckets, 0);
        let some = !counts.is_empty();
        Self {
            counts,
            first,
            sum: raw.sum,
            min: some.then_some(u64::MAX - raw.inverted_min),
            max: some.then_some(raw.max),
            over: raw.over,
        }
    }
}

/// The counts from the first to the last that is not 0, and which bucket they begin with, when those given begin with `first`.
fn held(counts: &[u64], first: usize) -> (Arc<[u64]>, usize) {
    let some = |n: &u64| *n > 0;
    match (counts.iter().position(some), counts.iter().rposition(some)) {
        (Some(from), Some(to)) => (counts[from..=to].into(), first + from),
        _ => (Arc::default(), 0),
    }
}

impl Histogram {
    /// Puts a histogram together from its parts, as a file holds them. `None` when the number of buckets is wrong.
    #[must_use]
    pub fn from_parts(
        buckets: &[u64],
        sum: u64,
        min: Option<u64>,
        max: Option<u64>,
        over: u64,
    ) -> Option<Self> {
        let (counts, first) = held(buckets, 0);
        (buckets.len() == hist::BUCKETS).then_some(Self { counts, first, sum, min, max, over })
    }

    /// Adds one value (ns).
    pub fn record(&mut self, value: u64) {
        let bucket = hist::index(value);
        self.room(bucket..bucket + 1)[0] += 1;
        self.sum = self.sum.saturating_add(value);
        self.min = Some(self.min.map_or(value, |m| m.min(value)));
        self.max = Some(self.max.map_or(value, |m| m.max(value)));
        self.over += u64::from(value > hist::MAX_VALUE);
    }

    /// Adds all values of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.room(other.range()).iter_mut().zip(&*other.counts) {
            *mine = mine.saturating_add(*theirs);
        }
        self.sum = self.sum.saturating_add(other.sum);
        self.min = [self.min, other.min].into_iter().flatten().min();
        self.max = [self.max, other.max].into_iter().flatten().max();
        self.over = self.over.saturating_add(other.over);
    }

    fn range(&self) -> Range<usize> {
        self.first..self.first + self.counts.len()
    }

    /// The counts of these buckets, which are kept from now on.
    fn room(&mut self, of: Range<usize>) -> &mut [u64] {
        let kept = self.range();
        if of.is_empty() {
            return &mut [];
        }
        let all = if kept.is_empty() { of.clone() } else { kept.start.min(of.start)..kept.end.max(of.end) };
        if all != kept {
            let mut counts = vec![0; all.len()];
            counts[kept.start.saturating_sub(all.start)..][..kept.len()].copy_from_slice(&self.counts);
            (self.counts, self.first) = (counts.into(), all.start);
        }
        &mut Arc::make_mut(&mut self.counts)[of.start - all.start..of.end - all.start]
    }

    /// What was added since an earlier state of the same histogram. Counts and sum are of the difference; minimum and
    /// maximum are those reached so far, because the extremes of a difference cannot be known. Merging all differences
    /// of a recording gives its last state exactly.
    ///
    /// A histogram that went backwards was started anew (its map entry was reused): then all of it is new.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        self.less(earlier).unwrap_or_else(|| self.clone())
    }

    /// `None` when something went backwards.
    fn less(&self, earlier: &Self) -> Option<Self> {
        let mut counts = self.counts.to_vec();
        if !earlier.is_empty() {
            let from = earlier.first.checked_sub(self.first)?;
            let both = counts.get_mut(from..from + earlier.counts.len())?;
            for (now, then) in both.iter_mut().zip(&*earlier.counts) {
                *now = now.checked_sub(*then)?;
            }
        }
        let (counts, first) = held(&counts, self.first);
        let (min, max) = if counts.is_empty() { (None, None) } else { (self.min, self.max) };
        let (sum, over) = (self.sum.checked_sub(earlier.sum)?, self.over.checked_sub(earlier.over)?);
        Some(Self { counts, first, sum, min, max, over })
    }

    /// Whether it holds no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Number of values.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.counts.iter().fold(0, |n, count| n.saturating_add(*count))
    }

    /// Exact sum (ns).
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Exact minimum (ns); `None` without values.
    #[must_use]
    pub fn min(&self) -> Option<u64> {
        self.min
    }

    /// Exact maximum (ns); `None` without values.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        self.max
    }

    /// Values beyond the last bucket's bound ([`hist::MAX_VALUE`]).
    #[must_use]
    pub fn over(&self) -> u64 {
        self.over
    }

    /// The buckets that hold something, ascending, and their counts; bounds are `hist::lower` and `hist::upper`.
    pub fn buckets(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let all = self.counts.iter().enumerate().filter(|(_, n)| **n > 0);
        all.map(|(place, n)| (self.first + place, *n))
    }

    /// How many values these buckets hold together; the range must not end before it begins.
    #[must_use]
    pub fn count(&self, buckets: Range<usize>) -> u64 {
        let place = |bucket: usize| bucket.saturating_sub(self.first).min(self.counts.len());
        self.counts[place(buckets.start)..place(buckets.end)].iter().sum()
    }

    /// How many values are `<= bound`. Exact when `bound` is a bucket's upper bound (every power of two is).
    #[must_use]
    pub fn count_at_or_below(&self, bound: u64) -> u64 {
        self.buckets().take_while(|(b, _)| hist::upper(*b) <= bound).map(|(_, n)| n).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Histogram {
        let mut h = Histogram::default();
        values.iter().for_each(|v| h.record(*v));
        h
    }

    #[test]
    fn a_histogram_that_was_started_anew_is_all_new() {
        let (before, after) = (of(&[5, 6, 7]), of(&[9]));
        assert_eq!(after.since(&before), after);
    }

    #[test]
    fn nothing_new_is_empty() {
        let h = of(&[5, 6, 7]);
        assert_eq!(h.since(&h), Histogram::default());
        assert!(h.since(&h).is_empty());
    }

    proptest! {
        #[test]
        fn differences_add_up(parts in proptest::collection::vec(proptest::collection::vec(0u64..1 << 40, 0..20), 0..6)) {
            let (mut state, mut sum) = (Histogram::default(), Histogram::default());
            for part in parts {
                let earlier = state.clone();
                part.iter().for_each(|v| state.record(*v));
                sum.merge(&state.since(&earlier));
            }
            prop_assert_eq!(sum, state);
        }

        #[test]
        fn what_is_kept_is_what_the_kernel_counts(
            parts in proptest::collection::vec(proptest::collection::vec(0u64..1 << 40, 0..20), 2),
            from in 0..hist::BUCKETS,
            length in 0..hist::BUCKETS,
        ) {
            let (mut raw, mut merged) = (Hist::EMPTY, Histogram::default());
            for part in &parts {
                part.iter().for_each(|v| raw.record(*v));
                merged.merge(&of(part));
            }
            prop_assert_eq!(&merged, &Histogram::from(&raw));
            prop_assert_eq!(&merged, &of(&parts.concat()));
            let mut dense = vec![0; hist::BUCKETS];
            merged.buckets().for_each(|(bucket, n)| dense[bucket] = n);
            prop_assert_eq!(&dense, &raw.buckets);
            let range = from..(from + length).min(hist::BUCKETS);
            prop_assert_eq!(merged.count(range.clone()), raw.buckets[range].iter().sum::<u64>());
            let (sum, min, max, over) = (merged.sum(), merged.min(), merged.max(), merged.over());
            prop_assert_eq!(Histogram::from_parts(&dense, sum, min, max, over), Some(merged));
        }
    }
}
