//! Runs that lie far from the others of their side: named, never dropped.

/// Fewest runs a side among which one can stand out.
const FEWEST: usize = 5;
/// How many robust standard deviations away a run stands out (Iglewicz and Hoaglin, "How to Detect and Handle Outliers",
/// ASQC 1993: a modified z-score above 3.5).
const FAR: f64 = 3.5;
/// Median absolute deviation of a normal distribution with standard deviation 1.
const NORMAL_MAD: f64 = 0.6745;
/// Least difference from the median worth a word, as a factor: with few runs the deviation itself is little known.
const LEAST: f64 = 1.25;

/// The runs that stand out among one side's figures: their positions from 0, and their ratio to the side's median. Runs
/// without a figure are passed over.
#[must_use]
pub fn outliers(figures: &[Option<f64>]) -> Vec<(usize, f64)> {
    let logs: Vec<(usize, f64)> = figures
        .iter()
        .enumerate()
        .filter_map(|(at, figure)| Some((at, figure.filter(|f| f.is_finite() && *f > 0.0)?.ln())))
        .collect();
    if logs.len() < FEWEST {
        return Vec::new();
    }
    let middle = median(logs.iter().map(|(_, log)| *log).collect());
    let spread = median(logs.iter().map(|(_, log)| (log - middle).abs()).collect());
    logs.into_iter()
        .map(|(at, log)| (at, log - middle))
        .filter(|(_, away)| away.abs() * NORMAL_MAD > FAR * spread && away.abs() > LEAST.ln())
        .map(|(at, away)| (at, away.exp()))
        .collect()
}

/// The median of at least one value.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::rng::SplitMix64;

    #[test]
    fn what_stands_out_is_named() {
        let check = |figures: &[f64], expect: &[(usize, f64)]| {
            let figures: Vec<Option<f64>> = figures.iter().map(|f| (*f > 0.0).then_some(*f)).collect();
            let found = outliers(&figures);
            assert_eq!(found.len(), expect.len(), "{figures:?}: {found:?}");
            for ((at, ratio), (expect_at, expect_ratio)) in found.iter().zip(expect) {
                assert!(at == expect_at && (ratio - expect_ratio).abs() < 1e-9, "{figures:?}: {found:?}");
            }
        };
        check(&[100.0, 98.0, 300.0, 102.0, 100.0], &[(2, 3.0)]);
        check(&[100.0, 98.0, 20.0, 102.0, 100.0, 0.0], &[(2, 0.2)]);
        // Within the buckets' resolution, too few to tell, spread evenly.
        check(&[100.0, 100.0, 103.0, 100.0, 100.0], &[]);
        check(&[100.0, 98.0, 300.0, 102.0], &[]);
        check(&[10.0, 20.0, 40.0, 80.0, 160.0], &[]);
        check(&[], &[]);
    }

    #[test]
    fn runs_of_one_kind_seldom_stand_out() {
        let mut rng = SplitMix64::new(3);
        let named: usize = (0..400)
            .map(|_| {
                let runs: Vec<Option<f64>> = (0..5).map(|_| Some((0.15 * rng.normal()).exp())).collect();
                outliers(&runs).len()
            })
            .sum();
        println!("{named} of 2000 runs stand out");
        assert!(named < 200, "{named}");
    }
}
