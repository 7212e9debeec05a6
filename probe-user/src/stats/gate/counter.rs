//! Conditions on counters, as rates: how often something happened in a second, or of a counter of time its share.

use super::{Gate, Limit, Measure, Outcome, Selector, Subject};
use crate::stats::compare::{Compared, Detail, Direction, Method, Verdict, judge};
use crate::stats::{Labels, Snapshot, series::fold, summary::to_f64};
use std::collections::{BTreeMap, BTreeSet};

/// A counter's rates in one run, by the labels that are left when slots and vCPUs are taken together.
type Rates = BTreeMap<Labels, (f64, u64)>;

impl Gate {
    /// Whether it is about a counter.
    #[must_use]
    pub fn is_of_counter(&self) -> bool {
        matches!(self.subject, Subject::Counter(..))
    }

    /// Judges the runs of a comparison; as [`Gate::judge`] does rows. What was not counted in a run whose probe was at work
    /// did not happen there.
    #[must_use]
    pub fn judge_counter(&self, before: &[&Snapshot], after: &[&Snapshot]) -> Outcome {
        let Subject::Counter(selector, name) = &self.subject else { return Outcome::NotMet };
        let measure = measure_of(name);
        let rates = |runs: &[&Snapshot]| -> Vec<Rates> {
            runs.iter().filter_map(|run| rates(run, selector, name)).collect()
        };
        let (b, a) = (rates(before), rates(after));
        if b.is_empty() || a.is_empty() {
            return Outcome::Unknown(format!(
                "{self}: {} was not counted in both recordings",
                selector.probe
            ));
        }
        let mut unknown = None;
        for labels in keys(b.iter().chain(&a)) {
            let side = |runs: &[Rates]| -> (Vec<f64>, u64) {
                let each = || runs.iter().map(|rates| rates.get(&labels).copied().unwrap_or_default());
                (each().map(|(rate, _)| rate).collect(), each().map(|(_, count)| count).sum())
            };
            let ((b, n_before), (a, n_after)) = (side(&b), side(&a));
            let exact = Method { bucket_width: 0.0, ..Method::default() };
            let compared: Compared = judge((&b, n_before), (&a, n_after), Direction::Lower, exact);
            let figure = named(selector, &labels, name);
            match self.judge_figure(&compared, measure) {
                Ok(Some(found)) => {
                    return Outcome::Met(format!("{self}: {figure} is {}", per_second(&found, measure)));
                }
                Ok(None) => {}
                Err(why) => unknown = Some(format!("{self}: {figure} cannot be judged: {why}")),
            }
        }
        unknown.map_or(Outcome::NotMet, Outcome::Unknown)
    }

    /// Whether a single run's counter is beyond the limit.
    pub(super) fn breach_of_counter(&self, before: &[&Snapshot], run: &Snapshot) -> Option<String> {
        let Subject::Counter(selector, name) = &self.subject else { return None };
        let measure = measure_of(name);
        let before: Vec<Rates> = before.iter().filter_map(|one| rates(one, selector, name)).collect();
        let found = rates(run, selector, name)?;
        keys([&found]).into_iter().find_map(|labels| {
            // A mean of logarithms: runs in which nothing happened say nothing of how many times as often it does.
            let earlier: Vec<f64> = before
                .iter()
                .filter_map(|rates| Some(rates.get(&labels)?.0))
                .filter(|rate| *rate > 0.0)
                .collect();
            let rate = found.get(&labels).copied().unwrap_or_default().0;
            let said = self.beyond_in_one_run(&earlier, rate, measure)?;
            Some(format!("{self}: {} is {}", named(selector, &labels, name), per_second(&said, measure)))
        })
    }

    /// The offending figure, if it offends; or why that cannot be told. Zero throughout has no ratio, and no change either.
    pub(super) fn judge_figure(
        &self,
        compared: &Compared,
        measure: Measure,
    ) -> Result<Option<String>, String> {
        let why = || compared.reason.clone().unwrap_or_else(|| "it has no figure".to_owned());
        match self.limit {
            Limit::Value(_, of) if of != measure => Err(format!("it is {measure}, and the limit {of}")),
            Limit::Ratio(_) if compared.estimate.is_none() => match compared.verdict {
                Verdict::NoDifference => Ok(None),
                _ => Err(why()),
            },
            _ => self.judge_one(compared, measure).ok_or_else(why),
        }
    }
}

/// What a counter's rate measures: time that passes in a second is a share.
pub(super) fn measure_of(name: &str) -> Measure {
    if name.ends_with("_ns") { Measure::Share } else { Measure::Number }
}

/// `None` when the probe was not at work in a run, or nothing was counted long enough.
fn rates(run: &Snapshot, selector: &Selector, name: &str) -> Option<Rates> {
    let mut at_work = run.series.iter().map(|s| &s.probe).chain(run.counters.iter().map(|c| &c.probe));
    let seconds = to_f64(run.to_ns.saturating_sub(run.from_ns)) / 1e9;
    if seconds <= 0.0 || !at_work.any(|probe| *probe == selector.probe) {
        return None;
    }
    let scale = if measure_of(name) == Measure::Share { 1e-9 } else { 1.0 };
    let folded = fold([run], Detail::Folded.dropped());
    let mine = folded.counters.into_iter().filter(|c| c.name == name && selector.covers(&c.probe, &c.labels));
    Some(mine.map(|c| (c.labels, (to_f64(c.value) * scale / seconds, c.value))).collect())
}

/// The labels under which it was counted; nothing but zeros when it never was.
fn keys<'a>(runs: impl IntoIterator<Item = &'a Rates>) -> BTreeSet<Labels> {
    let mut keys: BTreeSet<Labels> = runs.into_iter().flat_map(|rates| rates.keys().cloned()).collect();
    if keys.is_empty() {
        keys.insert(Labels::new());
    }
    keys
}

fn named(selector: &Selector, labels: &Labels, name: &str) -> String {
    let labels: Vec<String> = labels.iter().map(|(n, v)| format!("{n}={v}")).collect();
    format!("{}{{{}}} {name}", selector.probe, labels.join(","))
}

fn per_second(found: &str, measure: Measure) -> String {
    if measure == Measure::Number && !found.contains('%') { format!("{found}/s") } else { found.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::sample;
    use crate::stats::{Counter, rng::SplitMix64};

    /// A run of five seconds with these counters of `vcpu_sched`.
    fn run(counters: &[(&str, u64)]) -> Snapshot {
        let mut run = sample::snapshot(&mut SplitMix64::new(8), 0, 1.0);
        run.series[0].probe = "vcpu_sched".to_owned();
        run.counters = counters
            .iter()
            .flat_map(|(name, value)| {
                // Of two vCPUs, which are taken together.
                ["0", "1"].map(|vcpu| Counter {
                    probe: "vcpu_sched".to_owned(),
                    name: (*name).to_owned(),
                    labels: sample::labels(&format!("guest=vm1,vcpu={vcpu}")),
                    value: *value,
                })
            })
            .collect();
        run
    }

    fn runs(all: &[&[(&str, u64)]]) -> Vec<Snapshot> {
        all.iter().map(|counters| run(counters)).collect()
    }

    #[test]
    fn counters_are_judged_as_rates() {
        let before = runs(&[
            &[("migrations", 25)],
            &[("migrations", 26)],
            &[("migrations", 24)],
            &[("migrations", 25)],
        ]);
        // 100 in five seconds, of each of two vCPUs: 40 a second; half a second of one of them: a tenth of the time.
        let after = runs(&[
            &[("migrations", 100), ("preempted_ns", 500_000_000)],
            &[("migrations", 102)],
            &[("migrations", 98)],
            &[("migrations", 100)],
        ]);
        for (text, met) in [
            ("vcpu_sched.migrations > +100%", Ok(true)),
            ("vcpu_sched.migrations > +400%", Ok(false)),
            ("vcpu_sched{guest=vm1}.migrations > 39/s", Ok(true)),
            ("vcpu_sched.migrations > 39", Ok(true)),
            ("vcpu_sched.migrations > 41/s", Ok(false)),
            ("vcpu_sched.migrations < 41/s", Ok(true)),
            // A fifth of a second in one run of four.
            ("vcpu_sched.preempted_ns > 4%", Ok(true)),
            ("vcpu_sched.preempted_ns > 6%", Ok(false)),
            ("vcpu_sched.preempted_ns > +5%", Err("a figure is zero in some run")),
            // Never counted, by a probe that was at work: it did not happen.
            ("vcpu_sched.preempted > 0", Ok(false)),
            ("vcpu_sched.preempted > +5%", Ok(false)),
            ("vcpu_sched{guest=vm2}.migrations > 1/s", Ok(false)),
            ("packet_path.dropped > 0", Err("packet_path was not counted in both recordings")),
        ] {
            let gate: Gate = text.parse().unwrap();
            assert!(gate.is_of_counter() && !gate.is_of_workload());
            let (b, a): (Vec<&Snapshot>, Vec<&Snapshot>) = (before.iter().collect(), after.iter().collect());
            match (gate.judge_counter(&b, &a), met) {
                (Outcome::Met(said), Ok(true)) => assert!(said.starts_with(text), "{said}"),
                (Outcome::NotMet, Ok(false)) => {}
                (Outcome::Unknown(said), Err(why)) => assert!(said.contains(why), "{text}: {said}"),
                (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
            }
        }
        let gate: Gate = "vcpu_sched.migrations > 39/s".parse().unwrap();
        let (b, a): (Vec<&Snapshot>, Vec<&Snapshot>) = (before.iter().collect(), after.iter().collect());
        let Outcome::Met(said) = gate.judge_counter(&b, &a) else { panic!() };
        assert_eq!(said, "vcpu_sched.migrations > 39/s: vcpu_sched{guest=vm1} migrations is 40.0/s");
        assert!(matches!(gate.judge_counter(&b[..2], &a), Outcome::Met(_)), "a rate needs no interval");
        let change: Gate = "vcpu_sched.migrations > +5%".parse().unwrap();
        assert!(matches!(change.judge_counter(&b[..2], &a), Outcome::Unknown(_)));
    }

    #[test]
    fn a_single_run_is_held_to_a_limit() {
        let before = runs(&[&[("migrations", 25)], &[]]);
        let before: Vec<&Snapshot> = before.iter().collect();
        for (text, before, counted, breached) in [
            ("vcpu_sched.migrations > +100%", &before[..], 100, true),
            ("vcpu_sched.migrations > +100%", &before, 26, false),
            ("vcpu_sched.migrations > +100%", &[], 100, false),
            ("vcpu_sched.migrations > 20/s", &[], 100, true),
            ("vcpu_sched.migrations > 50/s", &[], 100, false),
            ("vcpu_sched.preempted > 0/s", &before, 100, false),
            ("packet_path.dropped > 0/s", &before, 100, false),
        ] {
            let gate: Gate = text.parse().unwrap();
            let found = gate.breach(before, &run(&[("migrations", counted)]));
            assert_eq!(found.is_some(), breached, "{text}: {found:?}");
        }
    }
}
