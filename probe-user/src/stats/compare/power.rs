//! How many more runs would narrow an interval to the margin: what to do about `no difference`.

use super::interval::{Estimate, level_for};
use super::verdict::{Compared, MARGIN};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Most runs a side that are worth naming (`tune --repeat` takes no more). A host that needs more is too restless.
const MOST: usize = 1000;

/// Runs a side, beyond those there are, after which the interval would reach about [`MARGIN`] to either side, if the runs
/// go on differing as they did. `None` when it does already, when more than [`MOST`] runs would be needed, or without an
/// estimate.
///
/// The width of an interval of a mean goes with t(2n - 2) / sqrt(n). Few runs say little of how much runs differ, so this
/// is a hint: from five runs a side it is right within a factor of two or three.
#[must_use]
pub fn more_repeats(compared: &Compared) -> Option<usize> {
    let Estimate { ratio, low, high, .. } = compared.estimate?;
    let runs = compared.before.runs.min(compared.after.runs);
    let half = (high / ratio).max(ratio / low).ln();
    let narrowed = MARGIN.ln_1p() / half * reach(runs)?;
    if narrowed >= reach(runs)? {
        return None;
    }
    let enough = (runs + 1..=MOST).find(|n| reach(*n).is_some_and(|reach| reach <= narrowed))?;
    Some(enough - runs)
}

/// How far an interval of that many runs a side reaches, in standard deviations of a run and up to a constant.
fn reach(runs: usize) -> Option<f64> {
    let freedom = 2.0 * (runs as f64 - 1.0);
    let t = StudentsT::new(0.0, 1.0, freedom).ok()?;
    Some(t.inverse_cdf(1.0 - (1.0 - level_for(runs)) / 2.0) / (runs as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::super::{Direction, Method, judge};
    use super::*;
    use crate::stats::rng::SplitMix64;

    fn of(rng: &mut SplitMix64, runs: usize, deviation: f64) -> Compared {
        let mut side = || (0..runs).map(|_| 1e6 * (deviation * rng.normal()).exp()).collect::<Vec<f64>>();
        let (before, after) = (side(), side());
        judge((&before, 9), (&after, 9), Direction::Lower, Method { resamples: 800, ..Method::default() })
    }

    fn median(mut values: Vec<f64>) -> f64 {
        values.sort_unstable_by(f64::total_cmp);
        values[values.len() / 2]
    }

    #[test]
    fn the_hint_is_borne_out() {
        // With a standard deviation of 10 %, 95 % reach 5 % to either side at 2 (1.96 * 0.1 / ln 1.05)^2 = 32 runs.
        let mut rng = SplitMix64::new(7);
        let hints = (0..60).map(|_| of(&mut rng, 10, 0.1)).filter_map(|c| more_repeats(&c));
        let hint = median(hints.map(|n| n as f64).collect());
        assert!((16.0..36.0).contains(&hint), "{hint}");
        let seen = (0..60).filter_map(|_| of(&mut rng, 33, 0.1).smallest_visible());
        let seen = median(seen.collect());
        assert!((0.05..0.065).contains(&seen), "{seen}");
    }

    #[test]
    fn nothing_is_promised_where_nothing_can_be() {
        let check = |before: &[f64], after: &[f64]| {
            more_repeats(&judge((before, 9), (after, 9), Direction::Lower, Method::default()))
        };
        // Narrow enough already, hopelessly restless, too few runs for any estimate.
        assert_eq!(check(&[5.0; 9], &[5.0; 9]), None);
        assert_eq!(check(&[1.0, 1e3, 1e6], &[1.0, 1e3, 1e6]), None);
        assert_eq!(check(&[1.0, 2.0], &[1.0, 2.0]), None);
    }
}
