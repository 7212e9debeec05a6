//! Conditions for automation: `irq_delivery.p99 > +5%`, `vm_exit{reason=INTR}.p50 > 20us`, `vcpu_sched.migrations > 10/s`,
//! `workload.throughput < -5%`.
//!
//! Pure. The grammar is `PROBE[{label=value,...}].PERCENTILE (>|<) (+N%|-N%|DURATION)`, the same of a counter's rate with
//! `PROBE[{label=value,...}].COUNTER` and `N/s` (of a counter of time `N%`), and of a workload's figures with
//! `workload[{tool=NAME,load=NAME}].FIGURE` and limits in the figure's unit.

mod counter;
mod figure;
mod text;

pub use self::figure::{Figure, Measure};
use super::{
    Histogram, Labels, Quantile, Series, Snapshot,
    compare::{Compared, Detail, Row},
    series::fold,
    summary::interpolated,
};
use std::{fmt, str::FromStr};

/// Series of a probe, by some of their labels: `irq_delivery`, `vm_exit{reason=INTR}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    probe: String,
    labels: Labels,
}

/// A text that selects no series.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no series: {reason} (expected for example 'irq_delivery{{stage=wake}}')")]
pub struct NotASelector {
    text: String,
    reason: &'static str,
}

/// A condition under which a comparison fails.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    text: String,
    subject: Subject,
    above: bool,
    limit: Limit,
}

/// What a condition is about.
#[derive(Clone, Debug, PartialEq)]
enum Subject {
    /// A percentile of series.
    Series(Selector, Quantile),
    /// The rate of a counter, by its name.
    Counter(Selector, String),
    /// A figure of workloads.
    Workload { tool: Option<String>, load: Option<String>, name: String },
}

/// What a condition is about, for whoever knows what there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum About<'a> {
    /// A percentile of series.
    Series {
        /// Their probe.
        probe: &'a str,
        /// Labels by which they are chosen.
        labels: &'a Labels,
    },
    /// A counter.
    Counter {
        /// Its probe.
        probe: &'a str,
        /// Labels by which it is chosen.
        labels: &'a Labels,
        /// Its name.
        name: &'a str,
    },
    /// A figure of workloads.
    Workload {
        /// Their tool, where it is named.
        tool: Option<&'a str>,
        /// The load, where it is named.
        load: Option<&'a str>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    /// Change against before, as a ratio: `+5%` is 1.05.
    Ratio(f64),
    /// The figure after, in the base unit of what it measures.
    Value(f64, Measure),
}

/// A text that is not a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a condition: {reason} (expected for example 'irq_delivery.p99 > +5%', 'vm_exit{{reason=INTR}}.p50 > 20us', 'vcpu_sched.migrations > 10/s' or 'workload.loss > 1%')"
)]
pub struct NotAGate {
    text: String,
    reason: &'static str,
}

/// Whether a condition is met.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is met: the comparison fails. The text names the series and the figure.
    Met(String),
    /// It is not met.
    NotMet,
    /// It cannot be judged, and why. A gate that cannot be judged must not pass silently.
    Unknown(String),
}

impl Selector {
    /// Whether a series is among them. `irq_delivery` without a stage means `delivery`, as the headline does.
    #[must_use]
    pub fn covers(&self, probe: &str, labels: &Labels) -> bool {
        let stage = (probe == "irq_delivery" && !self.labels.contains_key("stage"))
            .then(|| labels.get("stage").is_none_or(|stage| stage == "delivery"));
        probe == self.probe
            && self.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
            && stage.unwrap_or(true)
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let (probe, labels) = match text.split_once('{') {
            None => (text, Labels::new()),
            Some((probe, rest)) => {
                let inner = rest.strip_suffix('}').ok_or("no closing }")?;
                let pair =
                    |p: &str| p.split_once('=').map(|(n, v)| (n.trim().to_owned(), v.trim().to_owned()));
                let labels: Option<Labels> = inner.split(',').map(pair).collect();
                (probe, labels.ok_or("labels are name=value")?)
            }
        };
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if probe.is_empty() || !probe.chars().all(is_word) {
            return Err("no probe");
        }
        Ok(Self { probe: probe.to_owned(), labels })
    }
}

impl FromStr for Selector {
    type Err = NotASelector;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text.trim()).map_err(|reason| NotASelector { text: text.to_owned(), reason })
    }
}

impl Gate {
    /// What it is about.
    #[must_use]
    pub fn about(&self) -> About<'_> {
        match &self.subject {
            Subject::Series(Selector { probe, labels }, _) => About::Series { probe, labels },
            Subject::Counter(Selector { probe, labels }, name) => About::Counter { probe, labels, name },
            Subject::Workload { tool, load, .. } => {
                About::Workload { tool: tool.as_deref(), load: load.as_deref() }
            }
        }
    }

    /// Whether it is about a change, which takes several runs of either side.
    #[must_use]
    pub fn is_of_change(&self) -> bool {
        matches!(self.limit, Limit::Ratio(_))
    }

    /// Whether it is about a workload's figure, and not about series.
    #[must_use]
    pub fn is_of_workload(&self) -> bool {
        matches!(self.subject, Subject::Workload { .. })
    }

    /// Whether a single run is beyond the limit; the text names the series and its figures. A change is one against the
    /// geometric mean of the runs `before`, and no statement about chance: this is for stopping in time, not for a
    /// verdict. Nothing is beyond a change before there is a run to compare with, or where a run has too few values.
    #[must_use]
    pub fn breach(&self, before: &[&Snapshot], run: &Snapshot) -> Option<String> {
        match self.subject {
            Subject::Series(..) => self.breach_of_series(before, run, 1),
            Subject::Counter(..) => self.breach_of_counter(before, run),
            Subject::Workload { .. } => None,
        }
    }

    /// As [`Gate::breach`], of a run that is under way: a percentile needs ten times the values that it needs at the end,
    /// and a rate ten seconds, so that a burst at the beginning ends no run.
    #[must_use]
    pub fn breach_so_far(&self, before: &[&Snapshot], run: &Snapshot) -> Option<String> {
        const LONG_ENOUGH_NS: u64 = 10_000_000_000;
        match self.subject {
            Subject::Series(..) => self.breach_of_series(before, run, 10),
            Subject::Counter(..) if run.to_ns.saturating_sub(run.from_ns) < LONG_ENOUGH_NS => None,
            Subject::Counter(..) => self.breach_of_counter(before, run),
            Subject::Workload { .. } => None,
        }
    }

    /// `times`: how many times the values are needed in this run that its percentile needs.
    fn breach_of_series(&self, before: &[&Snapshot], run: &Snapshot, times: u64) -> Option<String> {
        let Subject::Series(selector, quantile) = &self.subject else { return None };
        let dropped = Detail::Folded.dropped();
        let (before, run): (Vec<Snapshot>, Snapshot) =
            (before.iter().map(|one| fold([*one], dropped)).collect(), fold([run], dropped));
        let figure = |histogram: &Histogram| {
            let enough = histogram.n() >= quantile.needs();
            enough.then(|| interpolated(histogram, *quantile)).flatten().map(|ns| ns.max(1.0))
        };
        let many = |s: &&Series| s.histogram.n() >= quantile.needs().saturating_mul(times);
        run.series.iter().filter(|s| selector.covers(&s.probe, &s.labels)).filter(many).find_map(|series| {
            let same = |s: &&Series| s.probe == series.probe && s.labels == series.labels;
            let earlier = before.iter().filter_map(|one| one.series.iter().find(same));
            let earlier: Vec<f64> = earlier.filter_map(|s| figure(&s.histogram)).collect();
            let said = self.beyond_in_one_run(&earlier, figure(&series.histogram)?, Measure::Time)?;
            let labels: Vec<String> = series.labels.iter().map(|(n, v)| format!("{n}={v}")).collect();
            Some(format!("{self}: {}{{{}}} {quantile} is {said}", series.probe, labels.join(",")))
        })
    }

    /// The figures of one run that is beyond the limit, in words.
    fn beyond_in_one_run(&self, before: &[f64], found: f64, measure: Measure) -> Option<String> {
        match self.limit {
            Limit::Value(limit, of) => {
                (of == measure && self.beyond(found, limit)).then(|| measure.show(found))
            }
            Limit::Ratio(limit) => {
                let mean = (before.iter().map(|x| x.ln()).sum::<f64>() / before.len() as f64).exp();
                let comparable = !before.is_empty() && mean > 0.0;
                (comparable && self.beyond(found / mean, limit)).then(|| {
                    let change = (found / mean - 1.0) * 100.0;
                    format!("{}, {change:+.1} % of {}", measure.show(found), measure.show(mean))
                })
            }
        }
    }

    fn beyond(&self, figure: f64, limit: f64) -> bool {
        if self.above { figure > limit } else { figure < limit }
    }

    /// Judges a comparison's rows: met when any row that it speaks of meets it.
    ///
    /// A relative limit is met when the ratio is beyond it and the interval lies wholly on that side of 1, so that chance does
    /// not fail a build; an absolute one when the figure after is beyond it.
    #[must_use]
    pub fn judge<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) -> Outcome {
        let mut unknown = Some(format!("{self}: no such series in both recordings"));
        let covered = |row: &&Row| match &self.subject {
            Subject::Series(series, quantile) => {
                row.quantile == *quantile && series.covers(&row.probe, &row.labels)
            }
            Subject::Counter(..) | Subject::Workload { .. } => false,
        };
        for row in rows.into_iter().filter(covered) {
            let labels: Vec<String> = row.labels.iter().map(|(n, v)| format!("{n}={v}")).collect();
            let name = format!("{}{{{}}} {}", row.probe, labels.join(","), row.quantile);
            match self.judge_one(&row.compared, Measure::Time) {
                Some(Some(figure)) => return Outcome::Met(format!("{self}: {name} is {figure}")),
                Some(None) => unknown = None,
                None => {
                    let why = row.compared.reason.clone().unwrap_or_else(|| "it has no figure".to_owned());
                    unknown = unknown.map(|_| format!("{self}: {name} cannot be judged: {why}"));
                }
            }
        }
        unknown.map_or(Outcome::NotMet, Outcome::Unknown)
    }

    /// `None`: cannot be judged; otherwise the offending figure, if it offends.
    fn judge_one(&self, compared: &Compared, measure: Measure) -> Option<Option<String>> {
        match self.limit {
            Limit::Ratio(limit) => {
                let e = compared.estimate?;
                let sure = if self.above { e.low > 1.0 } else { e.high < 1.0 };
                let met = self.beyond(e.ratio, limit) && (sure || (limit < 1.0) == self.above);
                Some(met.then(|| format!("{:+.1} %", (e.ratio - 1.0) * 100.0)))
            }
            Limit::Value(limit, _) => {
                let value = compared.after.value?;
                Some(self.beyond(value, limit).then(|| measure.show(value)))
            }
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        session::sample,
        stats::{compare, rng::SplitMix64},
    };

    fn rows(factor: f64, runs: u32) -> Vec<Row> {
        let mut rng = SplitMix64::new(5);
        let mut make = |f| (0..runs).map(|_| sample::snapshot(&mut rng, 0, f)).collect::<Vec<_>>();
        let (b, a) = (make(1.0), make(factor));
        compare::compare(&b.iter().collect::<Vec<_>>(), &a.iter().collect::<Vec<_>>(), Detail::Folded).rows
    }

    #[test]
    fn conditions_are_judged() {
        let (slower, same, few) = (rows(2.0, 5), rows(1.0, 5), rows(2.0, 2));
        let judge = |text: &str, rows: &[Row]| text.parse::<Gate>().unwrap().judge(rows);
        for (text, rows, met) in [
            ("irq_delivery.p99 > +5%", &slower, true),
            ("irq_delivery.p99 > +300%", &slower, false),
            ("irq_delivery.p99 > +5%", &same, false),
            ("irq_delivery{stage=inject}.p50 > +5%", &slower, true),
            ("irq_delivery{guest=vm1}.p50>+5%", &slower, true),
            ("irq_delivery.p99 < -5%", &slower, false),
            ("irq_delivery.p50 > 1ms", &slower, true),
            ("irq_delivery.p50 > 1s", &slower, false),
            ("vm_exit{reason=INTR}.p90 > +50%", &slower, false),
            ("irq_delivery.p99 > -50%", &same, true),
        ] {
            let outcome = judge(text, rows);
            assert_eq!(matches!(outcome, Outcome::Met(_)), met, "{text}: {outcome:?}");
            assert!(!matches!(outcome, Outcome::Unknown(_)), "{text}: {outcome:?}");
        }
        for (text, rows) in [
            ("irq_delivery.p99 > +5%", &few),
            ("irq_delivery.p99.9 > +5%", &slower),
            ("vm_exit{reason=CPUID}.p50 > +5%", &slower),
        ] {
            assert!(matches!(judge(text, rows), Outcome::Unknown(_)), "{text}");
        }
    }

    #[test]
    fn a_single_run_is_held_to_a_limit() {
        let mut rng = SplitMix64::new(6);
        let mut make = |f| sample::snapshot(&mut rng, 0, f);
        let (before, same, slow) = ([make(1.0), make(1.0)], make(1.0), make(4.0));
        let before: Vec<&Snapshot> = before.iter().collect();
        for (text, before, run, breached) in [
            ("irq_delivery.p99 > +100%", &before[..], &slow, true),
            ("irq_delivery.p99 > +100%", &before, &same, false),
            ("irq_delivery.p99 > +100%", &[], &slow, false),
            ("irq_delivery{stage=wake}.p50 > +100%", &before, &slow, true),
            ("irq_delivery{stage=wake}.p50 < -50%", &before, &slow, false),
            ("irq_delivery.p50 > 5ms", &[], &slow, true),
            ("irq_delivery.p50 > 5ms", &[], &same, false),
            ("irq_delivery.p999 > 1ns", &[], &same, false),
            ("vm_exit{reason=CPUID}.p50 > 1ns", &before, &slow, false),
        ] {
            let found = text.parse::<Gate>().unwrap().breach(before, run);
            assert_eq!(found.is_some(), breached, "{text}: {found:?}");
            let complete = |said: &String| said.starts_with(text) && said.contains(" is ");
            assert!(found.as_ref().is_none_or(complete), "{found:?}");
        }
    }

    #[test]
    fn a_run_under_way_is_held_to_a_limit_once_it_says_enough() {
        // The invented run has 800 deliveries in five seconds.
        let five_seconds = sample::snapshot(&mut SplitMix64::new(6), 0, 4.0);
        let longer = Snapshot { to_ns: 12_000_000_000, ..five_seconds.clone() };
        for (text, run, at_the_end, so_far) in [
            ("irq_delivery.p50 > 1us", &five_seconds, true, true),
            ("irq_delivery.p90 > 1us", &five_seconds, true, true),
            ("irq_delivery.p99 > 1us", &five_seconds, true, false),
            ("irq_delivery.raised > 1/s", &five_seconds, true, false),
            ("irq_delivery.raised > 1/s", &longer, true, true),
            ("irq_delivery.raised > 1000/s", &longer, false, false),
            ("workload.loss > 1%", &longer, false, false),
        ] {
            let gate: Gate = text.parse().unwrap();
            assert_eq!(gate.breach(&[], run).is_some(), at_the_end, "{text}");
            assert_eq!(gate.breach_so_far(&[], run).is_some(), so_far, "{text}");
        }
    }
}
