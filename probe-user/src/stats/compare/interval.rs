//! How far two sets of runs differ, and how sure that is: a bootstrap interval for the ratio of their typical values.
//!
//! A run yields one figure per series and percentile; figures of one run are correlated, figures of different runs are
//! not, so runs are what is resampled. The figures' logarithms are compared, as latencies differ by factors.
//! docs/statistics.md tells the method and what was simulated.

use crate::stats::rng::SplitMix64;
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// Fewest runs a side for any statement: with two, even a complete separation happens by chance one time in three.
pub const FEWEST_RUNS: usize = 3;
/// Fewest runs a side that support 95 %. Three against three separate completely by chance in 2 of 20 orders, so no
/// method that trusts only the runs can be surer than 90 % there.
pub const FEWEST_FOR_95: usize = 4;
/// How much further than Student's t the interval reaches. Resampling few values has thinner tails than the normal
/// distribution it is corrected by; with this the simulated level holds for every shape tried (docs/statistics.md).
pub(super) const REACH: f64 = 1.06;

/// What an interval is computed with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Method {
    /// Resamples drawn.
    pub resamples: usize,
    /// Seed of the generator. Fixed, so that the same file always gives the same answer.
    pub seed: u64,
    /// Width of the histogram bucket a figure was read from, relative to the figure; 0 for exact figures.
    pub bucket_width: f64,
}

impl Default for Method {
    /// For percentiles of kernel histograms: a bucket is at most 1/16 of its lower bound wide.
    fn default() -> Self {
        Self { resamples: 4000, seed: 0x7666_7072_6f62_6531, bucket_width: 1.0 / 16.0 }
    }
}

/// A ratio of `after` to `before`, and where the true one lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Ratio of the geometric means of the runs' figures.
    pub ratio: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Level of the interval: 0.90 or 0.95, as the number of runs allows.
    pub level: f64,
    /// How often two sets of runs of the same thing differ so much or more by chance: Welch's t test of the logarithms, its
    /// t reduced by as much as the interval is widened.
    pub p: f64,
}

/// Level that so many runs a side support.
#[must_use]
pub fn level_for(runs: usize) -> f64 {
    if runs < FEWEST_FOR_95 { 0.90 } else { 0.95 }
}

/// Estimates the ratio from positive figures, one per run. `None` with fewer than [`FEWEST_RUNS`] on a side, or with a
/// figure that has no logarithm.
///
/// The bootstrap of small samples is too narrow for two reasons, and both are corrected (Hesterberg, "What Teachers
/// Should Know About the Bootstrap", The American Statistician 69(4), 2015, section 4.2 "expanded percentile"): resampled
/// deviations are stretched by sqrt(n/(n-1)), and the percentiles taken are those at which a normal distribution
/// reaches as far as Student's t with Welch's degrees of freedom. Draws are smeared over the bucket their figure was
/// read from, so that an interval is never finer than the histogram.
#[must_use]
pub fn estimate(before: &[f64], after: &[f64], method: Method) -> Option<Estimate> {
    let (before, after) = (Sample::of(before)?, Sample::of(after)?);
    let level = level_for(before.logs.len().min(after.logs.len()));
    let difference = after.mean - before.mean;
    let width = method.bucket_width.ln_1p();
    let welch = Welch::of(&before, &after, width);
    let share = welch.tail_share(level);

    let mut rng = SplitMix64::new(method.seed);
    let mut draws: Vec<f64> = (0..method.resamples)
        .map(|_| after.resampled(&mut rng, width) - before.resampled(&mut rng, width))
        .collect();
    draws.sort_unstable_by(f64::total_cmp);
    let (low, high) = (quantile(&draws, share)?, quantile(&draws, 1.0 - share)?);
    // Resampling scatters around the estimate; an interval always holds it.
    let (low, high) = (low.min(difference), high.max(difference));
    Some(Estimate {
        ratio: difference.exp(),
        low: low.exp(),
        high: high.exp(),
        level,
        p: welch.p(difference),
    })
}

/// Logarithms of one side's figures.
struct Sample {
    logs: Vec<f64>,
    mean: f64,
    stretch: f64,
}

impl Sample {
    fn of(figures: &[f64]) -> Option<Self> {
        let logs: Vec<f64> = figures.iter().filter(|x| x.is_finite() && **x > 0.0).map(|x| x.ln()).collect();
        if logs.len() < figures.len() || logs.len() < FEWEST_RUNS {
            return None;
        }
        let n = logs.len() as f64;
        let mean = logs.iter().sum::<f64>() / n;
        Some(Self { logs, mean, stretch: (n / (n - 1.0)).sqrt() })
    }

    /// Variance of the mean, that of the bucket included.
    fn variance_of_mean(&self, width: f64) -> f64 {
        let n = self.logs.len() as f64;
        let variance = self.logs.iter().map(|x| (x - self.mean).powi(2)).sum::<f64>() / (n - 1.0);
        (variance + width * width / 12.0) / n
    }

    fn resampled(&self, rng: &mut SplitMix64, width: f64) -> f64 {
        let n = self.logs.len();
        let sum: f64 = (0..n)
            .map(|_| (self.logs[rng.below(n)] - self.mean) * self.stretch + (rng.unit() - 0.5) * width)
            .sum();
        self.mean + sum / n as f64
    }
}

/// The spread of a difference of two means, and how well it is known.
#[derive(Clone, Copy, Debug)]
struct Welch {
    error: f64,
    freedom: f64,
}

impl Welch {
    /// Welch (1947) and Satterthwaite (1946).
    fn of(before: &Sample, after: &Sample, width: f64) -> Self {
        let (v1, v2) = (before.variance_of_mean(width), after.variance_of_mean(width));
        let fewest = before.logs.len().min(after.logs.len()) as f64 - 1.0;
        let (n1, n2) = (before.logs.len() as f64 - 1.0, after.logs.len() as f64 - 1.0);
        // Equal figures throughout leave no variance to weigh with.
        let freedom = match v1 + v2 > 0.0 {
            true => (v1 + v2).powi(2) / (v1 * v1 / n1 + v2 * v2 / n2),
            false => fewest,
        };
        Self { error: (v1 + v2).sqrt(), freedom: freedom.max(fewest) }
    }

    /// The share of resamples to leave out at each end.
    fn tail_share(self, level: f64) -> f64 {
        let outside = (1.0 - level) / 2.0;
        let reach = StudentsT::new(0.0, 1.0, self.freedom).map_or(f64::MAX, |t| t.inverse_cdf(1.0 - outside));
        Normal::standard().cdf(-REACH * reach)
    }

    /// Two-sided. A t of so many standard errors has the interval's edge exactly at no difference, but for the resampling:
    /// resamples of a few values cannot say how rare something is that happens once in a thousand tables.
    fn p(self, difference: f64) -> f64 {
        if difference == 0.0 {
            return 1.0;
        }
        let t = difference.abs() / (REACH * self.error);
        StudentsT::new(0.0, 1.0, self.freedom).map_or(1.0, |student| 2.0 * student.cdf(-t))
    }
}

/// Linear interpolation between sorted values.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = share.clamp(0.0, 1.0) * last as f64;
    let (whole, part) = (position.floor(), position.fract());
    let mut pair = sorted.iter().zip(0u32..).skip_while(|(_, at)| f64::from(*at) < whole).map(|(x, _)| *x);
    let below = pair.next()?;
    Some(below + (pair.next().unwrap_or(below) - below) * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_ratios() {
        let exact = Method { bucket_width: 0.0, ..Method::default() };
        for (before, after, ratio) in [
            (&[10.0, 10.0, 10.0][..], &[10.0, 10.0, 10.0][..], 1.0),
            (&[8.0, 8.0, 8.0, 8.0], &[2.0, 2.0, 2.0, 2.0], 0.25),
            (&[1.0, 10.0, 100.0], &[2.0, 20.0, 200.0], 2.0),
        ] {
            let e = estimate(before, after, exact).unwrap();
            assert!((e.ratio - ratio).abs() < 1e-12 && e.low <= e.ratio && e.ratio <= e.high, "{e:?}");
        }
        let same = estimate(&[5.0; 5], &[5.0; 5], Method::default()).unwrap();
        assert!(same.low < 0.99 && same.high > 1.01, "never finer than the bucket: {same:?}");
    }

    #[test]
    fn too_little_or_impossible_input_has_no_estimate() {
        for (before, after) in [
            (&[1.0, 2.0][..], &[1.0, 2.0, 3.0][..]),
            (&[1.0, 2.0, 3.0], &[]),
            (&[1.0, 2.0, 0.0], &[1.0, 2.0, 3.0]),
            (&[1.0, 2.0, 3.0], &[1.0, f64::NAN, 3.0]),
        ] {
            assert_eq!(estimate(before, after, Method::default()), None);
        }
    }

    #[test]
    fn the_same_input_gives_the_same_interval() {
        let (a, b) = ([1.0, 1.2, 0.9, 1.1], [2.0, 2.2, 1.9, 2.1]);
        assert_eq!(estimate(&a, &b, Method::default()), estimate(&a, &b, Method::default()));
    }

    #[test]
    fn chance_is_that_of_welchs_test() {
        let exact = Method { bucket_width: 0.0, ..Method::default() };
        let exp = |logs: &[f64]| logs.iter().map(|x| x.exp()).collect::<Vec<_>>();
        // Student (1908), two-sided, 4 degrees of freedom: t = 2.776 is 5 %, 4.604 is 1 %.
        for (t, p) in [(0.0, 1.0), (2.776, 0.05), (4.604, 0.01)] {
            // Means of three values -1, 0, 1 have a variance of 1/3 each.
            let shift = t * REACH * (2.0_f64 / 3.0).sqrt();
            let found =
                estimate(&exp(&[-1.0, 0.0, 1.0]), &exp(&[shift - 1.0, shift, shift + 1.0]), exact).unwrap().p;
            assert!((found - p).abs() < 1e-4, "t {t}: {found} is not {p}");
        }
        assert_eq!(estimate(&[5.0; 3], &[5.0; 3], exact).unwrap().p, 1.0);
        assert!(estimate(&[5.0; 3], &[6.0; 3], exact).unwrap().p < 1e-12, "nothing varies, and they differ");
    }

    #[test]
    fn quantiles_of_sorted_values() {
        let values = [1.0, 2.0, 3.0];
        for (share, expected) in [(0.0, 1.0), (0.5, 2.0), (0.75, 2.5), (1.0, 3.0)] {
            assert_eq!(quantile(&values, share), Some(expected));
        }
        assert_eq!(quantile(&[], 0.5), None);
    }
}
