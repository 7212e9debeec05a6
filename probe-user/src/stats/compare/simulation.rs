//! What docs/statistics.md claims of the method, checked by simulation: how often it sees what is not there, and how often it
//! sees what is.

use super::{
    holm::correct,
    interval::{Method, estimate, level_for},
    verdict::{Compared, Direction, Verdict, judge},
};
use crate::stats::rng::SplitMix64;

/// How runs of the same thing differ: the logarithm of a run's figure around its mean.
#[derive(Clone, Copy, Debug)]
enum Effect {
    /// Normal, standard deviation 0.15: a quiet host.
    Calm,
    /// Normal, standard deviation 0.4: a host with other work.
    Rough,
    /// Student's t with 3 degrees of freedom, scaled by 0.15.
    HeavyTail,
    /// Calm, but one run in ten is three times as slow.
    Outliers,
    /// Calm, but the host is in one of two states, and in half of the runs three times as slow.
    TwoStates,
    /// Exponential: runs are never faster than a bound, and sometimes much slower.
    Skewed,
}

const EFFECTS: [Effect; 5] =
    [Effect::Calm, Effect::Rough, Effect::HeavyTail, Effect::Outliers, Effect::Skewed];

impl Effect {
    fn draw(self, rng: &mut SplitMix64) -> f64 {
        let log = match self {
            Self::Calm => 0.15 * rng.normal(),
            Self::Rough => 0.4 * rng.normal(),
            Self::HeavyTail => {
                let chi: f64 = (0..3).map(|_| rng.normal().powi(2)).sum();
                0.15 * rng.normal() / (chi / 3.0).sqrt()
            }
            Self::Outliers => 0.15 * rng.normal() + if rng.unit() < 0.1 { 3f64.ln() } else { 0.0 },
            Self::TwoStates => 0.15 * rng.normal() + if rng.unit() < 0.5 { 3f64.ln() } else { 0.0 },
            Self::Skewed => -0.3 * (1.0 - rng.unit()).ln(),
        };
        1e6 * log.exp()
    }
}

/// Share of simulated comparisons whose interval excludes 1 and whose effect exceeds 5 %, `after` being `factor` times as slow.
fn seen(effect: Effect, runs: usize, factor: f64, times: u32) -> f64 {
    let mut rng = SplitMix64::new(99);
    let method = Method { resamples: 800, ..Method::default() };
    let hits = (0..times)
        .filter(|_| {
            let before: Vec<f64> = (0..runs).map(|_| effect.draw(&mut rng)).collect();
            let after: Vec<f64> = (0..runs).map(|_| factor * effect.draw(&mut rng)).collect();
            let e = estimate(&before, &after, method).unwrap();
            (e.low > 1.0 && e.ratio >= 1.05) || (e.high < 1.0 && e.ratio <= 1.0 / 1.05)
        })
        .count();
    f64::from(u32::try_from(hits).unwrap()) / f64::from(times)
}

#[test]
fn nothing_is_seen_where_nothing_is() {
    const TIMES: u32 = 400;
    for effect in EFFECTS {
        for runs in [3, 4, 5, 10] {
            let share = seen(effect, runs, 1.0, TIMES);
            let allowed = 1.0 - level_for(runs);
            // Three standard errors of the simulation itself.
            let slack = 3.0 * (allowed * (1.0 - allowed) / f64::from(TIMES)).sqrt();
            println!("A/A {effect:?} {runs} runs: {share:.3} (allowed {allowed:.2})");
            assert!(share <= allowed + slack, "{effect:?}, {runs} runs: {share} of A/A comparisons differ");
        }
    }
}

#[test]
fn what_is_there_is_seen() {
    for (effect, runs, factor, at_least) in [
        (Effect::Calm, 3, 2.0, 0.9),
        (Effect::Calm, 5, 2.0, 0.99),
        (Effect::HeavyTail, 5, 2.0, 0.85),
        (Effect::Outliers, 5, 2.0, 0.5),
        (Effect::Rough, 10, 2.0, 0.9),
        (Effect::Calm, 3, 1.0 / 3.0, 0.98),
        (Effect::Calm, 10, 1.25, 0.8),
    ] {
        let share = seen(effect, runs, factor, 300);
        println!("x{factor:.2} {effect:?} {runs} runs: {share:.3}");
        assert!(share >= at_least, "{effect:?}, {runs} runs, x{factor}: only {share} seen");
    }
}

/// A table of rows that have nothing to do with each other, which is where most false differences are to be expected; the first
/// is `factor` times as slow after as before, the others are the same. Few resamples: Holm's step rests on `p`.
fn table(effect: Effect, runs: usize, rows: usize, factor: f64, rng: &mut SplitMix64) -> Vec<Compared> {
    let method = Method { resamples: 100, ..Method::default() };
    let mut rows: Vec<Compared> = (0..rows)
        .map(|row| {
            let factor = if row == 0 { factor } else { 1.0 };
            let before: Vec<f64> = (0..runs).map(|_| effect.draw(rng)).collect();
            let after: Vec<f64> = (0..runs).map(|_| factor * effect.draw(rng)).collect();
            judge((&before, 1), (&after, 1), Direction::Lower, method)
        })
        .collect();
    correct(rows.iter_mut().collect());
    rows
}

fn differs(row: &Compared) -> bool {
    matches!(row.verdict, Verdict::Better | Verdict::Worse)
}

/// Share of tables of the same configuration with itself in which any row differs.
fn false_tables(effect: Effect, runs: usize, times: u32) -> f64 {
    const ROWS: usize = 20;
    let mut rng = SplitMix64::new(7);
    let found = (0..times).filter(|_| table(effect, runs, ROWS, 1.0, &mut rng).iter().any(differs)).count();
    let share = f64::from(u32::try_from(found).unwrap()) / f64::from(times);
    println!(
        "A/A tables of {ROWS} {effect:?} {runs} runs: {share:.3} (allowed {:.2})",
        1.0 - level_for(runs)
    );
    share
}

#[test]
fn a_whole_table_sees_nothing_where_nothing_is() {
    const TIMES: u32 = 150;
    let shapes = EFFECTS.into_iter().flat_map(|effect| [3, 4, 5, 10].map(|runs| (effect, runs)));
    // Three or four runs that are all in one state, against as many in the other, are more than any test can tell from a
    // difference; docs/statistics.md gives the figures.
    for (effect, runs) in shapes.chain([5, 10].map(|runs| (Effect::TwoStates, runs))) {
        let allowed = 1.0 - level_for(runs);
        let slack = 3.0 * (allowed * (1.0 - allowed) / f64::from(TIMES)).sqrt();
        let share = false_tables(effect, runs, TIMES);
        assert!(share <= allowed + slack, "{effect:?}, {runs} runs: {share} of A/A tables have a difference");
    }
}

#[test]
fn a_table_still_sees_what_is_there() {
    for (effect, runs, factor, at_least) in [
        (Effect::Calm, 3, 1.0 / 3.0, 0.55),
        (Effect::Calm, 5, 2.0, 0.75),
        (Effect::Calm, 10, 1.5, 0.85),
        (Effect::Rough, 10, 3.0, 0.9),
    ] {
        const TIMES: u32 = 100;
        let mut rng = SplitMix64::new(8);
        let seen =
            (0..TIMES).filter(|_| table(effect, runs, 20, factor, &mut rng).first().is_some_and(differs));
        let share = f64::from(u32::try_from(seen.count()).unwrap()) / f64::from(TIMES);
        println!("one of 20 rows x{factor:.2} {effect:?} {runs} runs: {share:.3}");
        assert!(share >= at_least, "{effect:?}, {runs} runs, x{factor}: only {share} seen");
    }
}
