//! A distribution as the kernel counted it: exact counts per bucket, exact sum, minimum and maximum.

use probe_ebpf::hist::{self, Hist};
use std::sync::Arc;

/// Times (ns) counted in the kernel's buckets. Merging and subtracting are exact.
///
/// Copies share their 4 KiB of buckets until one of them is changed: what was counted under a configuration that has ended
/// stands still, and is in every scrape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    buckets: Arc<[u64]>,
    sum: u64,
    min: Option<u64>,
    max: Option<u64>,
    over: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; hist::BUCKETS].into(), sum: 0, min: None, max: None, over: 0 }
    }
}

impl From<&Hist> for Histogram {
    fn from(raw: &Hist) -> Self {
        let some = raw.buckets.iter().any(|n| *n > 0);
        Self {
            buckets: raw.buckets.into(),
            sum: raw.sum,
            min: some.then_some(u64::MAX - raw.inverted_min),
            max: some.then_some(raw.max),
            over: raw.over,
        }
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
        (buckets.len() == hist::BUCKETS).then(|| Self { buckets: buckets.into(), sum, min, max, over })
    }

    /// Adds one value (ns).
    pub fn record(&mut self, value: u64) {
        Arc::make_mut(&mut self.buckets)[hist::index(value)] += 1;
        self.sum = self.sum.saturating_add(value);
        self.min = Some(self.min.map_or(value, |m| m.min(value)));
        self.max = Some(self.max.map_or(value, |m| m.max(value)));
        self.over += u64::from(value > hist::MAX_VALUE);
    }

    /// Adds all values of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in Arc::make_mut(&mut self.buckets).iter_mut().zip(other.buckets()) {
            *mine = mine.saturating_add(*theirs);
        }
        self.sum = self.sum.saturating_add(other.sum);
        self.min = [self.min, other.min].into_iter().flatten().min();
        self.max = [self.max, other.max].into_iter().flatten().max();
        self.over = self.over.saturating_add(other.over);
    }

    /// What was added since an earlier state of the same histogram. Counts and sum are of the difference; minimum and
    /// maximum are those reached so far, because the extremes of a difference cannot be known. Merging all differences
    /// of a recording gives its last state exactly.
    ///
    /// A histogram that went backwards was started anew (its map entry was reused): then all of it is new.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let difference: Option<Vec<u64>> =
            self.buckets.iter().zip(earlier.buckets()).map(|(now, then)| now.checked_sub(*then)).collect();
        match (difference, self.sum.checked_sub(earlier.sum), self.over.checked_sub(earlier.over)) {
            (Some(buckets), Some(sum), Some(over)) => {
                let some = buckets.iter().any(|n| *n > 0);
                let (min, max) = if some { (self.min, self.max) } else { (None, None) };
                Self { buckets: buckets.into(), sum, min, max, over }
            }
            _ => self.clone(),
        }
    }

    /// Whether it holds no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|n| *n == 0)
    }

    /// Number of values.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.buckets.iter().fold(0, |n, count| n.saturating_add(*count))
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

    /// Counts per bucket; bounds are `hist::lower` and `hist::upper`.
    #[must_use]
    pub fn buckets(&self) -> &[u64] {
        &self.buckets
    }

    /// How many values are `<= bound`. Exact when `bound` is a bucket's upper bound (every power of two is).
    #[must_use]
    pub fn count_at_or_below(&self, bound: u64) -> u64 {
        self.buckets.iter().enumerate().take_while(|(b, _)| hist::upper(*b) <= bound).map(|(_, n)| n).sum()
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
    }
}
