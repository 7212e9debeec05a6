//! Which configuration each count belongs to.
//!
//! The probes count on when a configuration comes into force or is undone. The ledger notes how far they had come at
//! that moment, so that each configuration's figures stand by themselves. Pure: when a configuration changes is told
//! from outside.
//!
//! What is kept is bounded: the figures of the first configuration, of the present one, and of the last few that have
//! ended. They stand still and are shared with the scrapes that show them.

use super::registry::{self, Origin};
use super::source::Figures;
use crate::stats::series::fold;
use crate::stats::{Counter, Histogram, Labels, Observability, Series, Snapshot};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How many configurations that have ended are kept beside the first one, unless told otherwise.
pub const KEEP: usize = 4;

/// Splits counts that only grow by configuration.
#[derive(Debug)]
pub struct Ledger {
    config: String,
    /// The one that was in force at the beginning, whose figures are never dropped.
    first: String,
    /// How many others are kept that have ended.
    keep: usize,
    /// Those, the one that ended first first.
    ended: VecDeque<String>,
    /// How often one more was dropped.
    dropped: u64,
    /// The probes' state when the present configuration began, by probe.
    histograms_before: BTreeMap<String, BTreeMap<Labels, Histogram>>,
    counters_before: BTreeMap<String, BTreeMap<String, BTreeMap<Labels, u64>>>,
    /// What was counted up to then under each configuration, the present one too when it has been in force before.
    done: BTreeMap<String, Arc<Snapshot>>,
    /// What probes before these have lost.
    lost_done: BTreeMap<String, u64>,
}

impl Ledger {
    /// Begins with a configuration; the probes have counted nothing. Of those that end, the figures of the last `keep`
    /// stay, and those of this first one.
    #[must_use]
    pub fn new(config: impl Into<String>, keep: usize) -> Self {
        let config = config.into();
        Self {
            first: config.clone(),
            config,
            keep,
            ended: VecDeque::new(),
            dropped: 0,
            histograms_before: BTreeMap::new(),
            counters_before: BTreeMap::new(),
            done: BTreeMap::new(),
            lost_done: BTreeMap::new(),
        }
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &str {
        &self.config
    }

    /// Whether there are figures of a configuration from when it was in force before.
    #[must_use]
    pub fn has(&self, config: &str) -> bool {
        self.done.contains_key(config)
    }

    /// How often figures of a configuration were dropped, because as many as are kept have ended since.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// A configuration begins; `now` is the probes' state at that moment.
    pub fn switch(&mut self, now: Snapshot, config: impl Into<String>) {
        let mut new = self.since_it_began(now.clone());
        new.series.retain(|series| series.observable.is_yes());
        new.counters.retain(|counter| !is_level(&counter.probe, &counter.name));
        new.lost.clear();
        let sum = match self.done.get(&self.config) {
            Some(done) => fold([done.as_ref(), &new], &[]),
            None => new,
        };
        let ended = std::mem::replace(&mut self.config, config.into());
        self.done.insert(ended.clone(), Arc::new(sum));
        self.begin_at(now);
        self.ended.retain(|other| *other != ended && *other != self.config);
        if ended != self.first && ended != self.config {
            self.ended.push_back(ended);
        }
        while self.ended.len() > self.keep {
            if let Some(oldest) = self.ended.pop_front() {
                self.done.remove(&oldest);
                self.dropped += 1;
            }
        }
    }

    /// What the probes have counted by now was counted before the present configuration.
    fn begin_at(&mut self, now: Snapshot) {
        for Series { probe, labels, observable, histogram } in now.series {
            if observable.is_yes() {
                self.histograms_before.entry(probe).or_default().insert(labels, histogram);
            }
        }
        for Counter { probe, name, labels, value } in now.counters {
            if !is_level(&probe, &name) {
                let of_probe = self.counters_before.entry(probe).or_default();
                of_probe.entry(name).or_default().insert(labels, value);
            }
        }
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
    pub fn label(&self, now: Snapshot) -> Figures {
        let mut present = self.since_it_began(now);
        for (cause, times) in &self.lost_done {
            *present.lost.entry(cause.clone()).or_default() += times;
        }
        if let Some(done) = self.done.get(&self.config) {
            // Hidden series have nothing that could be added up.
            let (seen, hidden): (Vec<_>, Vec<_>) =
                std::mem::take(&mut present.series).into_iter().partition(|s| s.observable.is_yes());
            present.series = seen;
            present = fold([done.as_ref(), &present], &[]);
            present.series.extend(hidden);
        }
        let former = self.done.iter().filter(|(config, _)| **config != self.config);
        let former = former.map(|(config, figures)| (config.clone(), Arc::clone(figures))).collect();
        Figures { present, former }
    }

    /// What was counted since the present configuration began.
    fn since_it_began(&self, mut now: Snapshot) -> Snapshot {
        for Series { probe, labels, observable, histogram } in &mut now.series {
            let before = self.histograms_before.get(probe).and_then(|of_probe| of_probe.get(labels));
            if let (Observability::Yes, Some(before)) = (observable, before) {
                *histogram = histogram.since(before);
            }
        }
        for Counter { probe, name, labels, value } in &mut now.counters {
            // Levels are never in it.
            let of_name = self.counters_before.get(probe).and_then(|of_probe| of_probe.get(name));
            *value = since(*value, of_name.and_then(|of_name| of_name.get(labels)));
        }
        now
    }

    /// Forgets the figures of guests that are gone, and of such as have only the name of one that is there.
    pub fn keep_guests(&mut self, present: impl Fn(&str) -> bool) {
        let keep = |labels: &Labels| labels.get("guest").is_none_or(|guest| present(guest));
        self.histograms_before.values_mut().for_each(|of_probe| of_probe.retain(|labels, _| keep(labels)));
        let of_names = self.counters_before.values_mut().flat_map(BTreeMap::values_mut);
        of_names.for_each(|of_name| of_name.retain(|labels, _| keep(labels)));
        for done in self.done.values_mut() {
            let all =
                done.series.iter().all(|s| keep(&s.labels)) && done.counters.iter().all(|c| keep(&c.labels));
            // Changed only where it has to be: a scrape may be showing it.
            if !all {
                let done = Arc::make_mut(done);
                done.series.retain(|s| keep(&s.labels));
                done.counters.retain(|c| keep(&c.labels));
            }
        }
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

    /// Everything, in order of configurations; then each configuration's `pending`.
    fn seen(ledger: &Ledger, now: Snapshot) -> (Vec<Row>, Vec<(String, u64)>) {
        let Figures { present, former } = ledger.label(now);
        let mut all: BTreeMap<String, Snapshot> =
            former.into_iter().map(|(config, figures)| (config, figures.as_ref().clone())).collect();
        assert!(all.insert(ledger.config().to_owned(), present).is_none());
        let (mut rows, mut pending) = (Vec::new(), Vec::new());
        for (config, Snapshot { series, counters, .. }) in all {
            let of = |name: &str| counters.iter().find(|c| c.name == name).map(|c| c.value);
            let raised = series.iter().zip(of("raised"));
            rows.extend(raised.map(|(s, raised)| (config.clone(), s.histogram.n(), raised)));
            pending.extend(of("pending").map(|value| (config, value)));
        }
        (rows, pending)
    }

    fn row(config: &str, n: u64, raised: u64) -> Row {
        (config.to_owned(), n, raised)
    }

    #[test]
    fn counts_stay_with_the_configuration_they_were_made_under() {
        let mut ledger = Ledger::new("baseline", KEEP);
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
        let mut ledger = Ledger::new("baseline", KEEP);
        ledger.switch(snapshot(&[1, 2, 3], 3, 0), "direct");
        assert_eq!(seen(&ledger, snapshot(&[9], 1, 0)).0, [row("baseline", 3, 3), row("direct", 1, 1)]);
    }

    #[test]
    fn probes_that_begin_anew_go_on_in_the_same_counts() {
        let mut ledger = Ledger::new("baseline", KEEP);
        let lost = |times| BTreeMap::from([("vcpu.vcpus_full".to_owned(), times)]);
        ledger.switch(snapshot(&[1], 1, 0), "direct");
        ledger.renew(Snapshot { lost: lost(4), ..snapshot(&[1, 2, 3], 3, 2) });
        let now = Snapshot { lost: lost(1), ..snapshot(&[4], 1, 1) };
        assert_eq!(
            seen(&ledger, now.clone()),
            (vec![row("baseline", 1, 1), row("direct", 3, 3)], vec![("direct".to_owned(), 1)])
        );
        assert_eq!(ledger.label(now).present.lost, lost(5));
    }

    #[test]
    fn guests_that_are_gone_are_forgotten() {
        let mut ledger = Ledger::new("baseline", KEEP);
        ledger.switch(snapshot(&[1], 1, 0), "direct");
        ledger.keep_guests(|guest| guest != "a");
        assert_eq!(seen(&ledger, Snapshot::default()), (vec![], vec![]));
    }

    #[test]
    fn the_first_configuration_and_the_last_few_are_kept() {
        let mut ledger = Ledger::new("baseline", 2);
        let at = |n: u64| snapshot(&vec![1; usize::try_from(n).unwrap()], n, 0);
        let shown = |ledger: &Ledger, n| {
            seen(ledger, at(n))
                .0
                .iter()
                .map(|(config, n, _)| format!("{config}:{n}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        // What begins with the n-th event, and what is then shown once there was one more.
        for (n, config, has, expected, dropped) in [
            (1, "a", false, "a:1 baseline:1", 0),
            (2, "b", false, "a:1 b:1 baseline:1", 0),
            (3, "c", false, "a:1 b:1 baseline:1 c:1", 0),
            (4, "d", false, "b:1 baseline:1 c:1 d:1", 1),
            // One that has ended goes on and is then the last to be dropped.
            (5, "b", true, "b:2 baseline:1 c:1 d:1", 1),
            (6, "baseline", true, "b:2 baseline:2 d:1", 2),
            (7, "e", false, "b:2 baseline:2 d:1 e:1", 2),
            // One that was dropped begins at 0.
            (8, "a", false, "a:1 b:2 baseline:2 e:1", 3),
        ] {
            assert_eq!(ledger.has(config), has, "{config}");
            ledger.switch(at(n), config);
            assert_eq!((shown(&ledger, n + 1).as_str(), ledger.dropped()), (expected, dropped));
        }
        ledger.renew(at(10));
        assert_eq!(shown(&ledger, 1), "a:3 b:2 baseline:2 e:1", "renewing is no end of a configuration");
    }

    #[test]
    fn a_guest_that_was_started_anew_has_nothing_of_its_namesake() {
        let mut ledger = Ledger::new("baseline", KEEP);
        ledger.switch(snapshot(&[1, 2, 3], 3, 0), "direct");
        // Another process has the name: all that it counts is of this configuration, however far it gets.
        ledger.keep_guests(|_| false);
        for n in [1, 2, 3, 4] {
            let now = snapshot(&vec![9; usize::try_from(n).unwrap()], n, 0);
            assert_eq!(seen(&ledger, now).0, [row("direct", n, n)]);
        }
    }
}
