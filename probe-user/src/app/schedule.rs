//! The order of a session's runs. Pure.
//!
//! Configurations are interleaved, so that a drift of the host (heat, other load) hits all of them alike. Each block
//! holds every configuration once; the next block goes the other way round (A B B A), and with more than two the
//! start rotates too, so that none is always first after a switch.

/// Which configuration each run uses, as indices below `configs`, `repeats` times each. The seed decides the first
/// block's start and direction.
#[must_use]
pub fn schedule(configs: usize, repeats: usize, seed: u64) -> Vec<usize> {
    if configs == 0 {
        return Vec::new();
    }
    let start = usize::try_from(seed % configs as u64).unwrap_or(0);
    let backwards = seed / configs as u64 % 2 == 1;
    let mut order = Vec::with_capacity(configs * repeats);
    for block in 0..repeats {
        // Two blocks that mirror each other start at the same place, then the start moves on.
        let rotation = start + block / 2;
        let mut one: Vec<usize> = (0..configs).map(|i| (i + rotation) % configs).collect();
        if (block % 2 == 1) != backwards {
            one.reverse();
        }
        order.extend(one);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::compare::{Direction, Method, Verdict, judge};
    use crate::stats::rng::SplitMix64;
    use proptest::prelude::*;

    /// Share of sessions of two configurations in which a difference is seen. `after` is `factor` times as slow; from its
    /// first to its last run the host becomes `drift` times as slow, in even steps; runs differ by 15 % besides.
    fn seen(order: impl Fn(u64) -> Vec<usize>, factor: f64, drift: f64) -> f64 {
        const TIMES: u32 = 400;
        let mut rng = SplitMix64::new(17);
        let method = Method { resamples: 800, ..Method::default() };
        let differ = (0..TIMES).filter(|session| {
            let order = order(u64::from(*session));
            let last = order.len() as f64 - 1.0;
            let mut sides = [Vec::new(), Vec::new()];
            for (run, config) in (0u32..).zip(&order) {
                let drifted = drift.powf(f64::from(run) / last);
                let own = if *config == 1 { factor } else { 1.0 };
                sides[*config].push(1e6 * own * drifted * (0.15 * rng.normal()).exp());
            }
            let [before, after] = &sides;
            let found = judge((before, 1), (after, 1), Direction::Lower, method);
            matches!(found.verdict, Verdict::Better | Verdict::Worse)
        });
        let share = f64::from(u32::try_from(differ.count()).unwrap()) / f64::from(TIMES);
        println!("x{factor} under a drift of x{drift}: {share:.3}");
        share
    }

    /// docs/statistics.md has the figures.
    #[test]
    fn drift_is_no_difference_and_hides_none() {
        // Three standard errors of the simulation above the 5 % that are allowed.
        let allowed = 0.05 + 3.0 * (0.05 * 0.95 / 400.0_f64).sqrt();
        for (repeats, drift) in [(4, 2.0), (5, 2.0), (5, 4.0), (10, 2.0), (10, 4.0)] {
            let interleaved = |seed| schedule(2, repeats, seed);
            let share = seen(interleaved, 1.0, drift);
            assert!(share <= allowed, "{repeats} repeats, drift x{drift}: {share} of A/A sessions differ");
        }
        assert!(seen(|seed| schedule(2, 5, seed), 2.0, 1.5) >= 0.9);
        assert!(seen(|seed| schedule(2, 10, seed), 2.0, 2.0) >= 0.95);
        // What interleaving is for: the same drift, one configuration after the other.
        let one_by_one = |_| (0..10).map(|run| usize::from(run >= 5)).collect();
        assert!(seen(one_by_one, 1.0, 2.0) > 0.5);
    }

    #[test]
    fn two_configurations_alternate_as_abba() {
        assert_eq!(schedule(2, 3, 0), [0, 1, 1, 0, 1, 0]);
        assert_eq!(schedule(2, 2, 1), [1, 0, 0, 1]);
        assert_eq!(schedule(1, 3, 7), [0, 0, 0]);
        assert_eq!(schedule(0, 3, 7), [0; 0]);
    }

    proptest! {
        #[test]
        fn every_block_holds_every_configuration(configs in 1usize..6, repeats in 0usize..9, seed: u64) {
            let order = schedule(configs, repeats, seed);
            prop_assert_eq!(order.len(), configs * repeats);
            for block in order.chunks(configs) {
                let mut sorted = block.to_vec();
                sorted.sort_unstable();
                prop_assert_eq!(sorted, (0..configs).collect::<Vec<_>>());
            }
        }
    }
}
