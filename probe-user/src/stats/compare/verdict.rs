//! From two sets of runs' figures to one word.

use super::interval::{Estimate, FEWEST_RUNS, Method, estimate};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Smallest effect worth a verdict: 5 %, above what a histogram bucket can hide (3.2 %).
pub const MARGIN: f64 = 0.05;

/// Which direction of a figure is an improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Less is better: every latency.
    Lower,
    /// More is better: throughput.
    Higher,
}

/// The outcome of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Better, beyond chance and beyond the margin.
    Better,
    /// Worse, beyond chance and beyond the margin.
    Worse,
    /// No difference was seen; how large one would have been seen is stated.
    NoDifference,
    /// Too few runs or values to say anything.
    NotEnoughData,
}

impl Verdict {
    /// The word in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::NoDifference => "no_difference",
            Self::NotEnoughData => "not_enough_data",
        }
    }
}

impl fmt::Display for Verdict {
    /// The words for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::NoDifference => "no difference",
            Self::NotEnoughData => "not enough data",
        })
    }
}

/// One side of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Side {
    /// Number of runs.
    pub runs: usize,
    /// Number of values, all runs together.
    pub n: u64,
    /// Geometric mean of the runs' figures; the arithmetic one where a figure is zero, as losses are. `None` when a run has
    /// none.
    pub value: Option<f64>,
}

/// Two sides, and what follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// The runs before.
    pub before: Side,
    /// The runs after.
    pub after: Side,
    /// The ratio with its interval; `None` when there is not enough data, or when both sides are zero in every run.
    pub estimate: Option<Estimate>,
    /// The outcome.
    pub verdict: Verdict,
    /// What is missing, when there is not enough data; and when only [`correct`](super::correct) made it no difference, or
    /// when there is no difference because all is zero, that.
    pub reason: Option<String>,
    /// `p` among all rows of its table, after Holm's correction; `None` when it is no row of one.
    pub p_holm: Option<f64>,
}

impl Compared {
    /// Sides that cannot be compared, and why.
    #[must_use]
    pub fn not_enough(before: Side, after: Side, reason: String) -> Self {
        Self {
            before,
            after,
            estimate: None,
            verdict: Verdict::NotEnoughData,
            reason: Some(reason),
            p_holm: None,
        }
    }

    /// Smallest change that this comparison could have seen, as a share: the wider half of its interval, and never less
    /// than the margin.
    #[must_use]
    pub fn smallest_visible(&self) -> Option<f64> {
        let Estimate { ratio, low, high, .. } = self.estimate?;
        let half = (high / ratio).max(ratio / low);
        Some((half - 1.0).max(MARGIN))
    }
}

/// Compares figures, one per run and all positive. `n` is the number of values behind each side.
#[must_use]
pub fn judge(
    (before, n_before): (&[f64], u64),
    (after, n_after): (&[f64], u64),
    direction: Direction,
    method: Method,
) -> Compared {
    let side = |figures: &[f64], n| Side { runs: figures.len(), n, value: mean(figures) };
    let (b, a) = (side(before, n_before), side(after, n_after));
    if b.runs.min(a.runs) < FEWEST_RUNS {
        let reason =
            format!("{FEWEST_RUNS} runs a side are needed, there are {} before and {} after", b.runs, a.runs);
        return Compared::not_enough(b, a, reason);
    }
    if direction == Direction::Lower && before.iter().chain(after).all(|figure| *figure == 0.0) {
        // A loss or count of errors that never was: it has no ratio, but nothing is missing either.
        let reason = Some("zero in every run".to_owned());
        let verdict = Verdict::NoDifference;
        return Compared { before: b, after: a, estimate: None, verdict, reason, p_holm: None };
    }
    let Some(estimate) = estimate(before, after, method) else {
        return Compared::not_enough(
            b,
            a,
            "a figure is zero in some run, so that no ratio exists".to_owned(),
        );
    };
    let Estimate { ratio, low, high, .. } = estimate;
    let verdict = match direction {
        _ if low <= 1.0 && high >= 1.0 => Verdict::NoDifference,
        _ if ratio < 1.0 + MARGIN && ratio > 1.0 / (1.0 + MARGIN) => Verdict::NoDifference,
        Direction::Lower if ratio < 1.0 => Verdict::Better,
        Direction::Higher if ratio > 1.0 => Verdict::Better,
        _ => Verdict::Worse,
    };
    Compared { before: b, after: a, estimate: Some(estimate), verdict, reason: None, p_holm: None }
}

/// Geometric, unless a figure is zero: it would hide all the others.
fn mean(figures: &[f64]) -> Option<f64> {
    let of = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / figures.len() as f64;
    let mean = match figures.contains(&0.0) {
        true => of(&mut figures.iter().copied()),
        false => of(&mut figures.iter().map(|x| x.ln())).exp(),
    };
    (!figures.is_empty() && mean.is_finite()).then_some(mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(before: &[f64], after: &[f64], direction: Direction) -> Verdict {
        judge((before, 9), (after, 9), direction, Method::default()).verdict
    }

    #[test]
    fn words_follow_interval_and_margin() {
        let calm = [100.0, 102.0, 98.0];
        let third = [33.0, 34.0, 32.0];
        let slight = [103.0, 103.0, 103.0];
        for (before, after, direction, expected) in [
            (&calm[..], &third[..], Direction::Lower, Verdict::Better),
            (&calm, &third, Direction::Higher, Verdict::Worse),
            (&third, &calm, Direction::Lower, Verdict::Worse),
            (&third, &calm, Direction::Higher, Verdict::Better),
            (&calm, &calm, Direction::Lower, Verdict::NoDifference),
            (&calm, &slight, Direction::Lower, Verdict::NoDifference),
            (&calm, &third[..2], Direction::Lower, Verdict::NotEnoughData),
            (&[], &[], Direction::Lower, Verdict::NotEnoughData),
            (&calm, &[0.0, 1.0, 1.0], Direction::Lower, Verdict::NotEnoughData),
            (&[0.0; 3], &[0.0; 3], Direction::Lower, Verdict::NoDifference),
            (&[0.0; 3], &[0.0; 3], Direction::Higher, Verdict::NotEnoughData),
            (&[0.0; 3], &[0.0; 2], Direction::Lower, Verdict::NotEnoughData),
        ] {
            assert_eq!(verdict(before, after, direction), expected, "{before:?} {after:?}");
        }
    }

    #[test]
    fn zeros_do_not_hide_other_figures() {
        for (figures, expected) in [
            (&[2.0, 8.0][..], Some(4.0)),
            (&[0.0, 0.0, 0.3], Some(0.1)),
            (&[0.0, 0.0], Some(0.0)),
            (&[-1.0, 2.0], None),
            (&[], None),
        ] {
            let found = mean(figures);
            assert_eq!(found.map(|x| (x * 1e9).round()), expected.map(|x| x * 1e9), "{figures:?}");
        }
    }

    #[test]
    fn what_could_have_been_seen_is_never_below_the_margin() {
        let same = judge((&[5.0; 9], 9), (&[5.0; 9], 9), Direction::Lower, Method::default());
        assert_eq!(same.smallest_visible(), Some(MARGIN));
        let wild = [1.0, 3.0, 9.0];
        let vague = judge((&wild, 9), (&wild, 9), Direction::Lower, Method::default());
        assert!(vague.smallest_visible().unwrap() > 1.0);
        assert!(vague.reason.is_none());
    }
}
