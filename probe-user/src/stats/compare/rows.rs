//! Every series of two sets of runs, percentile by percentile.

use super::{
    interval::Method,
    verdict::{Compared, Direction, Side, judge},
};
use crate::stats::{
    Histogram, Labels, Quantile, Snapshot,
    series::{fold, without},
    summary::interpolated,
};
use std::collections::BTreeMap;

/// How finely series are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Vector slots and vCPUs of one guest and VF are one series; so are the hops of its taps, whatever serves them, so
    /// that runs of different paths can be compared.
    Folded,
    /// Every slot and vCPU by itself.
    Full,
}

impl Detail {
    /// Labels that are taken off. The configuration is what is compared, so it never tells series apart.
    #[must_use]
    pub fn dropped(self) -> &'static [&'static str] {
        match self {
            Self::Folded => &["config", "slot", "vcpu", "path", "netdev"],
            Self::Full => &["config"],
        }
    }
}

/// One series and percentile, compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The probe.
    pub probe: String,
    /// Labels of the series.
    pub labels: Labels,
    /// The percentile.
    pub quantile: Quantile,
    /// Figures (ns) and outcome.
    pub compared: Compared,
}

/// A series that is not compared, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The probe.
    pub probe: String,
    /// Labels of the series.
    pub labels: Labels,
    /// Why.
    pub reason: String,
}

/// All series of two sets of runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// By probe, labels and percentile.
    pub rows: Vec<Row>,
    /// What has no rows.
    pub left_out: Vec<LeftOut>,
}

/// Compares every series that either side has. Each snapshot is one run.
#[must_use]
pub fn compare(before: &[&Snapshot], after: &[&Snapshot], detail: Detail) -> Comparison {
    let dropped = detail.dropped();
    let fold_each =
        |runs: &[&Snapshot]| -> Vec<Snapshot> { runs.iter().map(|r| fold([*r], dropped)).collect() };
    let (before, after) = (fold_each(before), fold_each(after));
    let mut comparison = Comparison::default();
    for ((probe, labels), reason) in keys(before.iter().chain(&after)) {
        let reason = reason.or_else(|| idle_time(&probe, &labels).map(str::to_owned));
        if let Some(reason) = reason {
            comparison.left_out.push(LeftOut { probe, labels, reason });
            continue;
        }
        let (b, a) = (runs_of(&before, &probe, &labels), runs_of(&after, &probe, &labels));
        for quantile in Quantile::ALL {
            let compared = compare_histograms(&b, &a, quantile);
            comparison.rows.push(Row { probe: probe.clone(), labels: labels.clone(), quantile, compared });
        }
    }
    comparison
}

/// Series of either side; with a reason when none of them could be seen.
fn keys<'a>(runs: impl Iterator<Item = &'a Snapshot>) -> BTreeMap<(String, Labels), Option<String>> {
    let mut keys: BTreeMap<(String, Labels), Option<String>> = BTreeMap::new();
    for series in runs.flat_map(|run| &run.series) {
        let hidden = series.observable.reason().map(|reason| format!("not observable ({reason})"));
        keys.entry((series.probe.clone(), series.labels.clone()))
            .and_modify(|reason| {
                if hidden.is_none() {
                    *reason = None;
                }
            })
            .or_insert(hidden);
    }
    keys
}

/// Exits that last as long as the guest has nothing to do: neither less nor more of that is better.
#[must_use]
pub fn idle_time(probe: &str, labels: &Labels) -> Option<&'static str> {
    let idle = ["HLT", "IDLE_HLT", "MWAIT", "MWAIT_COND", "MWAIT_INSTRUCTION", "UMWAIT", "TPAUSE"];
    let reason = labels.get("reason").filter(|_| probe == "vm_exit")?;
    idle.contains(&reason.as_str()).then_some("its time is the guest's own idling")
}

fn runs_of(runs: &[Snapshot], probe: &str, labels: &Labels) -> Vec<Histogram> {
    let histogram = |run: &Snapshot| {
        let found = run.series.iter().find(|s| s.probe == probe && s.labels == *labels);
        found.map(|s| s.histogram.clone()).unwrap_or_default()
    };
    runs.iter().map(histogram).collect()
}

/// Compares a percentile of two sets of distributions, one per run.
pub(super) fn compare_histograms(before: &[Histogram], after: &[Histogram], quantile: Quantile) -> Compared {
    let figures = |runs: &[Histogram]| -> Vec<f64> {
        runs.iter()
            .filter(|h| h.n() >= quantile.needs())
            // 0 ns has no logarithm; a clock read twice in the same nanosecond counts as one.
            .filter_map(|h| interpolated(h, quantile).map(|v| v.max(1.0)))
            .collect()
    };
    let n = |runs: &[Histogram]| runs.iter().map(Histogram::n).sum::<u64>();
    let (b, a) = (figures(before), figures(after));
    let fewest = before.iter().chain(after).map(Histogram::n).min().unwrap_or(0);
    if fewest < quantile.needs() && !before.is_empty() && !after.is_empty() {
        let side = |runs: &[Histogram]| Side { runs: runs.len(), n: n(runs), value: None };
        let reason =
            format!("{quantile} needs {} values in each run, the poorest has {fewest}", quantile.needs());
        return Compared::not_enough(side(before), side(after), reason);
    }
    judge((&b, n(before)), (&a, n(after)), Direction::Lower, Method::default())
}

/// The labels that all of these have in common.
pub(super) fn common<'a>(mut all: impl Iterator<Item = &'a Labels>) -> Labels {
    let Some(first) = all.next() else { return Labels::new() };
    all.fold(first.clone(), |common, labels| {
        let differing: Vec<&str> = common
            .iter()
            .filter(|(name, value)| labels.get(*name) != Some(*value))
            .map(|(name, _)| name.as_str())
            .collect();
        without(&common, &differing)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        session::sample,
        stats::{compare::Verdict, rng::SplitMix64},
    };

    fn runs(seed: u64, count: u32, factor: f64) -> Vec<Snapshot> {
        let mut rng = SplitMix64::new(seed);
        (0..count).map(|_| sample::snapshot(&mut rng, 0, factor)).collect()
    }

    fn compared(before: &[Snapshot], after: &[Snapshot], detail: Detail) -> Comparison {
        compare(&before.iter().collect::<Vec<_>>(), &after.iter().collect::<Vec<_>>(), detail)
    }

    fn find<'a>(comparison: &'a Comparison, stage: &str, quantile: Quantile) -> &'a Row {
        let row = |r: &&Row| r.labels.get("stage").is_some_and(|s| s == stage) && r.quantile == quantile;
        comparison.rows.iter().find(row).unwrap()
    }

    #[test]
    fn a_third_of_the_latency_is_better_with_three_runs() {
        let c = compared(&runs(1, 3, 1.0), &runs(2, 3, 1.0 / 3.0), Detail::Folded);
        let row = find(&c, "delivery", Quantile::P99);
        assert_eq!(row.compared.verdict, Verdict::Better, "{row:?}");
        let e = row.compared.estimate.unwrap();
        assert!((0.25..0.45).contains(&e.ratio) && e.level == 0.90, "{e:?}");
        assert_eq!((row.compared.before.runs, row.compared.before.n), (3, 3 * 800));
        assert_eq!(row.labels, sample::labels("guest=vm1,vf=0000:01:10.0,stage=delivery"));
    }

    #[test]
    fn the_same_is_no_difference_with_five_runs() {
        let c = compared(&runs(3, 5, 1.0), &runs(4, 5, 1.0), Detail::Folded);
        let row = find(&c, "delivery", Quantile::P99);
        assert_eq!(row.compared.verdict, Verdict::NoDifference);
        assert_eq!(row.compared.estimate.unwrap().level, 0.95);
    }

    #[test]
    fn what_is_missing_is_said() {
        let c = compared(&runs(5, 3, 1.0), &runs(6, 3, 1.0), Detail::Folded);
        let row = find(&c, "delivery", Quantile::P999);
        assert_eq!(row.compared.verdict, Verdict::NotEnoughData);
        let reason = row.compared.reason.as_deref();
        assert_eq!(reason, Some("p99.9 needs 1000 values in each run, the poorest has 800"));
        let two = compared(&runs(5, 2, 1.0), &runs(6, 3, 1.0), Detail::Folded);
        let reason = find(&two, "delivery", Quantile::P99).compared.reason.clone().unwrap();
        assert!(reason.contains("there are 2 before and 3 after"), "{reason}");
        let none = compared(&[], &runs(6, 3, 1.0), Detail::Folded);
        assert!(none.rows.iter().all(|r| r.compared.verdict == Verdict::NotEnoughData));
    }

    #[test]
    fn hidden_and_idle_series_are_left_out_with_a_reason() {
        let c = compared(&runs(7, 3, 1.0), &runs(8, 3, 1.0), Detail::Full);
        let reasons: Vec<&str> = c.left_out.iter().map(|l| l.reason.as_str()).collect();
        assert_eq!(
            reasons,
            ["not observable (posted: hardware delivers it)", "its time is the guest's own idling"]
        );
        assert!(c.rows.iter().any(|r| r.labels.contains_key("slot")));
    }

    #[test]
    fn common_labels() {
        let of = |text: &str| sample::labels(text);
        let all = [of("guest=a,stage=x,slot=0"), of("guest=a,stage=x,slot=1"), of("guest=a,stage=x")];
        assert_eq!(common(all.iter()), of("guest=a,stage=x"));
        assert_eq!(common([].into_iter()), Labels::new());
    }
}
