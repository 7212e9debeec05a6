//! The one figure a verdict is about: the 99th percentile of `irq_delivery`'s `delivery`, all vectors of the guest together.

use super::{
    interval::{Estimate, FEWEST_FOR_95},
    outliers::outliers,
    rows::{common, compare_histograms},
    verdict::Compared,
};
use crate::stats::{Histogram, Labels, Quantile, Series, Snapshot, summary::interpolated};

/// Probe, stage and percentile of the headline. Named beforehand, so that the verdict is one test and not the best of many.
const PROBE: &str = "irq_delivery";
const STAGE: &str = "delivery";
const QUANTILE: Quantile = Quantile::P99;

/// The headline of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Headline {
    /// The probe.
    pub probe: &'static str,
    /// Labels that all series in it share: the stage, and the guest when there is one.
    pub labels: Labels,
    /// The percentile.
    pub quantile: Quantile,
    /// Figures (ns) and outcome.
    pub compared: Compared,
    /// The runs before, pooled: what is drawn.
    pub before: Histogram,
    /// The runs after, pooled.
    pub after: Histogram,
    /// Its figure in each run before (ns), in their order; `None` where a run has too few values for it.
    pub runs_before: Vec<Option<f64>>,
    /// Its figure in each run after.
    pub runs_after: Vec<Option<f64>>,
    /// What qualifies it: series that could not be seen, the level that so few runs allow.
    pub remarks: Vec<String>,
}

/// Compares the headline figure of two sets of runs.
#[must_use]
pub fn headline(before: &[&Snapshot], after: &[&Snapshot]) -> Headline {
    let each = |runs: &[&Snapshot]| -> Vec<Histogram> { runs.iter().map(|run| merged(run)).collect() };
    let (b, a) = (each(before), each(after));
    let members = || before.iter().chain(after).flat_map(|run| run.series.iter().filter(|s| is_member(s)));
    let seen = || members().filter(|s| s.observable.is_yes());
    let hidden = members().find_map(|s| s.observable.reason());
    let mut compared = compare_histograms(&b, &a, QUANTILE);
    let mut remarks = Vec::new();
    match hidden {
        Some(reason) if seen().next().is_none() => {
            compared = Compared::not_enough(
                compared.before,
                compared.after,
                format!("{PROBE} {STAGE} is not observable ({reason})"),
            );
        }
        Some(reason) => remarks.push(format!("some vectors are not in it: not observable ({reason})")),
        None => {}
    }
    if let Some(Estimate { level, .. }) = compared.estimate
        && compared.before.runs.min(compared.after.runs) < FEWEST_FOR_95
    {
        let runs = compared.before.runs.min(compared.after.runs);
        remarks.push(format!(
            "{runs} runs a side cannot support 95 %: the interval is one of {:.0} %; {FEWEST_FOR_95} or more give 95 %",
            level * 100.0
        ));
    }
    let (runs_before, runs_after): (Vec<_>, Vec<_>) =
        (b.iter().map(figure).collect(), a.iter().map(figure).collect());
    for (side, runs) in [("before", &runs_before), ("after", &runs_after)] {
        for (at, ratio) in outliers(runs) {
            remarks.push(format!(
                "{side}: run {} of {} stands out, {ratio:.2} times the median of its side; it stays in",
                at + 1,
                runs.len()
            ));
        }
    }
    let mut labels = common(members().map(|s| &s.labels));
    labels.retain(|name, _| matches!(name.as_str(), "guest" | "stage" | "vf"));
    labels.entry("stage".to_owned()).or_insert_with(|| STAGE.to_owned());
    Headline {
        probe: PROBE,
        labels,
        quantile: QUANTILE,
        compared,
        before: pooled(&b),
        after: pooled(&a),
        runs_before,
        runs_after,
        remarks,
    }
}

fn is_member(series: &Series) -> bool {
    series.probe == PROBE && series.labels.get("stage").is_some_and(|stage| stage == STAGE)
}

fn merged(run: &Snapshot) -> Histogram {
    let mut sum = Histogram::default();
    run.series.iter().filter(|s| is_member(s)).for_each(|s| sum.merge(&s.histogram));
    sum
}

fn figure(run: &Histogram) -> Option<f64> {
    if run.n() < QUANTILE.needs() { None } else { interpolated(run, QUANTILE) }
}

fn pooled(runs: &[Histogram]) -> Histogram {
    let mut sum = Histogram::default();
    runs.iter().for_each(|h| sum.merge(h));
    sum
}

impl Headline {
    /// What it is about, in words: `irq_delivery p99 of vm1`.
    #[must_use]
    pub fn subject(&self) -> String {
        let of = self.labels.get("guest").map_or_else(String::new, |guest| format!(" of {guest}"));
        format!("{} {}{of}", self.probe, self.quantile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        session::sample,
        stats::{Observability, compare::Verdict, rng::SplitMix64},
    };

    fn runs(seed: u64, count: u32, factor: f64) -> Vec<Snapshot> {
        let mut rng = SplitMix64::new(seed);
        (0..count).map(|_| sample::snapshot(&mut rng, 0, factor)).collect()
    }

    fn of(before: &[Snapshot], after: &[Snapshot]) -> Headline {
        headline(&before.iter().collect::<Vec<_>>(), &after.iter().collect::<Vec<_>>())
    }

    #[test]
    fn three_runs_give_a_verdict_and_say_what_they_cannot() {
        let h = of(&runs(1, 3, 1.0), &runs(2, 3, 0.3));
        assert_eq!((h.compared.verdict, h.subject().as_str()), (Verdict::Better, "irq_delivery p99 of vm1"));
        assert_eq!((h.before.n(), h.after.n()), (2400, 2400));
        assert!(h.remarks.iter().any(|r| r.contains("3 runs a side cannot support 95 %")), "{:?}", h.remarks);
        assert!(h.remarks.iter().any(|r| r.contains("not observable (posted")), "{:?}", h.remarks);
        let five = of(&runs(1, 5, 1.0), &runs(2, 5, 1.0));
        assert_eq!(five.compared.verdict, Verdict::NoDifference);
        assert!(!five.remarks.iter().any(|r| r.contains("95 %")));
    }

    #[test]
    fn a_run_that_stands_out_is_named_and_stays_in() {
        let mut before = runs(1, 5, 1.0);
        before[2] = sample::snapshot(&mut SplitMix64::new(9), 0, 8.0);
        let h = of(&before, &runs(2, 5, 1.0));
        assert!(
            h.remarks.iter().any(|r| r.starts_with("before: run 3 of 5 stands out, ")),
            "{:?}",
            h.remarks
        );
        assert_eq!((h.compared.before.runs, h.before.n()), (5, 4000));
    }

    #[test]
    fn what_cannot_be_seen_is_not_compared() {
        let hide = |mut runs: Vec<Snapshot>| {
            for series in runs.iter_mut().flat_map(|r| &mut r.series) {
                series.observable = Observability::No("posted".into());
                series.histogram = Histogram::default();
            }
            runs
        };
        let h = of(&hide(runs(1, 3, 1.0)), &hide(runs(2, 3, 1.0)));
        assert_eq!(h.compared.verdict, Verdict::NotEnoughData);
        assert_eq!(h.compared.reason.as_deref(), Some("irq_delivery delivery is not observable (posted)"));
        assert_eq!(of(&[], &[]).compared.verdict, Verdict::NotEnoughData);
    }
}
