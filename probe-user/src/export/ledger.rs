//! Which configuration each count belongs to.
//!
//! The probes count on when a configuration comes into force or is undone. The ledger notes how far they had come at
//! that moment, so that each configuration's figures stand by themselves. Pure: when a configuration changes is told
//! from outside.

use super::registry::{self, Origin};
use crate::stats::{Counter, Histogram, Labels, Series, Snapshot};
use std::collections::BTreeMap;

/// Splits counts that only grow by configuration.
#[derive(Debug, Default)]
pub struct Ledger {
    config: String,
    /// The probes' state when the present configuration began.
    histograms_before: BTreeMap<SeriesKey, Histogram>,
    counters_before: BTreeMap<CounterKey, u64>,
    /// What was counted under configurations that have ended; their labels name them.
    histograms_done: BTreeMap<SeriesKey, Histogram>,
    counters_done: BTreeMap<CounterKey, u64>,
    /// What probes before these have lost.
    lost_done: BTreeMap<String, u64>,
}

/// Probe and labels.
type SeriesKey = (String, Labels);
/// Probe, name and labels.
type CounterKey = (String, String, Labels);

impl Ledger {
    /// Begins with a configuration; the probes have counted nothing.
    #[must_use]
    pub fn new(config: impl Into<String>) -> Self {
        Self { config: config.into(), ..Self::default() }
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &str {
        &self.config
    }

    /// A configuration begins; `now` is the probes' state at that moment.
    pub fn switch(&mut self, now: Snapshot, config: impl Into<String>) {
        let Snapshot { series, counters, .. } = now;
        for Series { probe, labels, observable, histogram } in series {
            if observable.is_yes() {
                let key = (probe, labels);
                let new = self
                    .histograms_before
                    .get(&key)
                    .map_or_else(|| histogram.clone(), |b| histogram.since(b));
                let done = (key.0.clone(), self.with_config(&key.1));
                self.histograms_done.entry(done).or_default().merge(&new);
                self.histograms_before.insert(key, histogram);
            }
        }
        for Counter { probe, name, labels, value } in counters {
            if !is_level(&probe, &name) {
                let key = (probe, name, labels);
                let new = since(value, self.counters_before.get(&key));
                let done = (key.0.clone(), key.1.clone(), self.with_config(&key.2));
                *self.counters_done.entry(done).or_default() += new;
                self.counters_before.insert(key, value);
            }
        }
        self.config = config.into();
    }

    /// Other probes go on from nothing under the same configuration; `now` is the state in which these end.
    pub fn renew(&mut self, now: Snapshot) {
        for (cause, times) in &now.lost {
            *self.lost_done.entry(cause.clone()).or_default() += times;
        }
        let config = self.config.clone();
        self.switch(now, config);
        self.histograms_before.clear();
        self.counters_before.clear();
    }

    /// The probes' state with each count under its configuration.
    #[must_use]
    pub fn label(&self, now: Snapshot) -> Snapshot {
        let mut histograms = self.histograms_done.clone();
        let mut counters = self.counters_done.clone();
        let mut lost = self.lost_done.clone();
        for (cause, times) in now.lost {
            *lost.entry(cause).or_default() += times;
        }
        let mut out = Snapshot { series: vec![], counters: vec![], lost, ..now };
        for Series { probe, labels, observable, histogram } in now.series {
            if !observable.is_yes() {
                out.series.push(Series { probe, labels, observable, histogram });
                continue;
            }
            let key = (probe, labels);
            let new = match self.histograms_before.get(&key) {
                Some(before) => histogram.since(before),
                None => histogram,
            };
            let key = (key.0, self.with_config(&key.1));
            histograms.entry(key).and_modify(|done| done.merge(&new)).or_insert(new);
        }
        for Counter { probe, name, labels, value } in now.counters {
            if is_level(&probe, &name) {
                let labels = self.with_config(&labels);
                out.counters.push(Counter { probe, name, labels, value });
                continue;
            }
            let key = (probe, name, labels);
            let new = since(value, self.counters_before.get(&key));
            *counters.entry((key.0, key.1, self.with_config(&key.2))).or_default() += new;
        }
        let observable = crate::stats::Observability::Yes;
        out.series.extend(histograms.into_iter().map(|((probe, labels), histogram)| Series {
            probe,
            labels,
            observable: observable.clone(),
            histogram,
        }));
        out.counters.extend(counters.into_iter().map(|((probe, name, labels), value)| Counter {
            probe,
            name,
            labels,
            value,
        }));
        out
    }

    /// Forgets the figures of guests that are gone.
    pub fn keep_guests(&mut self, present: impl Fn(&str) -> bool) {
        let keep = |labels: &Labels| labels.get("guest").is_none_or(|guest| present(guest));
        self.histograms_before.retain(|(_, labels), _| keep(labels));
        self.histograms_done.retain(|(_, labels), _| keep(labels));
        self.counters_before.retain(|(_, _, labels), _| keep(labels));
        self.counters_done.retain(|(_, _, labels), _| keep(labels));
    }

    fn with_config(&self, labels: &Labels) -> Labels {
        let mut labels = labels.clone();
        labels.insert("config".to_owned(), self.config.clone());
        labels
    }
}

/// What was added; a counter that went back began anew.
fn since(now: u64, before: Option<&u64>) -> u64 {
    before.and_then(|before| now.checked_sub(*before)).unwrap_or(now)
}

/// Whether a counter says how things stand at the moment, so that it is not added up over time.
fn is_level(probe: &str, name: &str) -> bool {
    registry::of_counter(probe, name).is_some_and(|metric| matches!(metric.origin, Origin::Level(..)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Observability;

    fn snapshot(values: &[u64], raised: u64, pending: u64) -> Snapshot {
        let labels: Labels = [("guest".to_owned(), "a".to_owned())].into();
        let mut histogram = Histogram::default();
        values.iter().for_each(|v| histogram.record(*v));
        let probe = "irq_delivery".to_owned();
        let counter = |name: &str, value| Counter {
            probe: probe.clone(),
            name: name.to_owned(),
            labels: labels.clone(),
            value,
        };
        Snapshot {
            series: vec![Series {
                probe: probe.clone(),
                labels: labels.clone(),
                observable: Observability::Yes,
                histogram,
            }],
            counters: vec![counter("raised", raised), counter("pending", pending)],
            ..Snapshot::default()
        }
    }

    /// Configuration, number of values, raised.
    type Row = (String, u64, u64);

    /// Everything, in order; then each configuration's `pending`.
    fn seen(ledger: &Ledger, now: Snapshot) -> (Vec<Row>, Vec<(String, u64)>) {
        let out = ledger.label(now);
        let of = |name: &str| {
            let counters = out.counters.iter().filter(|c| c.name == name);
            counters.map(|c| (c.labels["config"].clone(), c.value)).collect::<Vec<_>>()
        };
        let rows = out.series.iter().zip(of("raised"));
        let rows = rows.map(|(s, (config, raised))| {
            assert_eq!(s.labels["config"], config);
            (config, s.histogram.n(), raised)
        });
        (rows.collect(), of("pending"))
    }

    fn row(config: &str, n: u64, raised: u64) -> Row {
        (config.to_owned(), n, raised)
    }

    #[test]
    fn counts_stay_with_the_configuration_they_were_made_under() {
        let mut ledger = Ledger::new("baseline");
        assert_eq!(seen(&ledger, snapshot(&[1], 1, 1)).0, [row("baseline", 1, 1)]);
        ledger.switch(snapshot(&[1, 2], 2, 1), "direct");
        assert_eq!(seen(&ledger, snapshot(&[1, 2], 2, 1)).0, [row("baseline", 2, 2), row("direct", 0, 0)]);
        let after = snapshot(&[1, 2, 3, 4, 5], 7, 0);
        assert_eq!(seen(&ledger, after.clone()).0, [row("baseline", 2, 2), row("direct", 3, 5)]);
        ledger.switch(after, "baseline");
        let later = snapshot(&[1, 2, 3, 4, 5, 6], 9, 1);
        let (rows, pending) = seen(&ledger, later);
        assert_eq!(rows, [row("baseline", 3, 4), row("direct", 3, 5)]);
        assert_eq!(pending, [("baseline".to_owned(), 1)], "a level belongs to the moment");
    }

    #[test]
    fn a_series_that_begins_anew_counts_in_full() {
        let mut ledger = Ledger::new("baseline");
        ledger.switch(snapshot(&[1, 2, 3], 3, 0), "direct");
        assert_eq!(seen(&ledger, snapshot(&[9], 1, 0)).0, [row("baseline", 3, 3), row("direct", 1, 1)]);
    }

    #[test]
    fn probes_that_begin_anew_go_on_in_the_same_counts() {
        let mut ledger = Ledger::new("baseline");
        let lost = |times| BTreeMap::from([("vcpu.vcpus_full".to_owned(), times)]);
        ledger.switch(snapshot(&[1], 1, 0), "direct");
        ledger.renew(Snapshot { lost: lost(4), ..snapshot(&[1, 2, 3], 3, 2) });
        let now = Snapshot { lost: lost(1), ..snapshot(&[4], 1, 1) };
        assert_eq!(
            seen(&ledger, now.clone()),
            (vec![row("baseline", 1, 1), row("direct", 3, 3)], vec![("direct".to_owned(), 1)])
        );
        assert_eq!(ledger.label(now).lost, lost(5));
    }

    #[test]
    fn guests_that_are_gone_are_forgotten() {
        let mut ledger = Ledger::new("baseline");
        ledger.switch(snapshot(&[1], 1, 0), "direct");
        ledger.keep_guests(|guest| guest != "a");
        assert_eq!(seen(&ledger, Snapshot::default()), (vec![], vec![]));
    }
}
