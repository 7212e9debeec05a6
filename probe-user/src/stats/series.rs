//! Named distributions and counters: what one look at the probes yields.

use super::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Label names and values, such as `guest=vm1`, `slot=1`, `stage=delivery`.
pub type Labels = BTreeMap<String, String>;

/// Whether a series can be seen at all. A hidden series is never shown as zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Observability {
    /// It is counted.
    Yes,
    /// It cannot be seen here, and why: `posted interrupts`, `APICv delivers without an event`.
    No(String),
}

/// One distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The probe that made it: `irq_delivery`, `vm_exit`.
    pub probe: String,
    /// Its labels.
    pub labels: Labels,
    /// Whether it can be seen.
    pub observable: Observability,
    /// Its values (ns).
    pub histogram: Histogram,
}

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// The probe that made it.
    pub probe: String,
    /// What is counted: `raised`, `delivered`.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Times, or ns where the name ends in `_ns`.
    pub value: u64,
}

/// All series and counters at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Start of the window counted (CLOCK_MONOTONIC ns).
    pub from_ns: u64,
    /// End of the window, or the moment of reading when it is still open.
    pub to_ns: u64,
    /// Distributions, ordered by probe and labels.
    pub series: Vec<Series>,
    /// Counters, ordered likewise.
    pub counters: Vec<Counter>,
    /// What was lost, by `probe.cause`; only what is not zero.
    pub lost: BTreeMap<String, u64>,
}

impl Snapshot {
    /// What came since an earlier look at the same probes. Minimum and maximum of a series stay those since the start, as
    /// the extremes of a difference cannot be known; a count that went back began anew.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let key = |s: &Series| (s.probe.clone(), s.labels.clone());
        let before: BTreeMap<_, &Histogram> = earlier.series.iter().map(|s| (key(s), &s.histogram)).collect();
        let series = self.series.iter().map(|s| match before.get(&key(s)) {
            Some(before) => Series { histogram: s.histogram.since(before), ..s.clone() },
            None => s.clone(),
        });
        let key = |c: &Counter| (c.probe.clone(), c.name.clone(), c.labels.clone());
        let before: BTreeMap<_, u64> = earlier.counters.iter().map(|c| (key(c), c.value)).collect();
        let since = |now: u64, before: Option<&u64>| before.and_then(|b| now.checked_sub(*b)).unwrap_or(now);
        let counters =
            self.counters.iter().map(|c| Counter { value: since(c.value, before.get(&key(c))), ..c.clone() });
        let lost = self.lost.iter().map(|(cause, n)| (cause.clone(), since(*n, earlier.lost.get(cause))));
        Self {
            from_ns: self.from_ns.max(earlier.to_ns),
            to_ns: self.to_ns,
            series: series.collect(),
            counters: counters.collect(),
            lost: lost.filter(|(_, n)| *n > 0).collect(),
        }
    }
}

impl Observability {
    /// Whether it is counted.
    #[must_use]
    pub fn is_yes(&self) -> bool {
        matches!(self, Self::Yes)
    }

    /// Why it cannot be seen.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Yes => None,
            Self::No(reason) => Some(reason),
        }
    }

    /// Of two series folded into one: counted as soon as one of them is.
    fn or(self, other: &Self) -> Self {
        if other.is_yes() { Self::Yes } else { self }
    }
}

/// Labels without the named ones. `config` is named by whoever compares or folds configurations.
#[must_use]
pub fn without(labels: &Labels, dropped: &[&str]) -> Labels {
    labels
        .iter()
        .filter(|(name, _)| !dropped.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Adds up snapshots of separate windows (runs, or the files of one): series and counters of the same probe, name and
/// labels become one, after the `dropped` labels are taken off. The window spans from the first start to the last end.
#[must_use]
pub fn fold<'a>(snapshots: impl IntoIterator<Item = &'a Snapshot>, dropped: &[&str]) -> Snapshot {
    let mut series: BTreeMap<(String, Labels), Series> = BTreeMap::new();
    let mut counters: BTreeMap<(String, String, Labels), u64> = BTreeMap::new();
    let mut lost: BTreeMap<String, u64> = BTreeMap::new();
    let mut window: Option<(u64, u64)> = None;
    for snapshot in snapshots {
        let Snapshot { from_ns, to_ns, series: more_series, counters: more_counters, lost: more_lost } =
            snapshot;
        window = Some(window.map_or((*from_ns, *to_ns), |(from, to)| (from.min(*from_ns), to.max(*to_ns))));
        for one in more_series {
            let labels = without(&one.labels, dropped);
            series
                .entry((one.probe.clone(), labels.clone()))
                .and_modify(|sum| {
                    sum.histogram.merge(&one.histogram);
                    sum.observable = sum.observable.clone().or(&one.observable);
                })
                .or_insert_with(|| Series { labels, ..one.clone() });
        }
        for Counter { probe, name, labels, value } in more_counters {
            let key = (probe.clone(), name.clone(), without(labels, dropped));
            let sum = counters.entry(key).or_default();
            *sum = sum.saturating_add(*value);
        }
        for (cause, count) in more_lost {
            let sum = lost.entry(cause.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
    }
    let (from_ns, to_ns) = window.unwrap_or_default();
    Snapshot {
        from_ns,
        to_ns,
        series: series.into_values().collect(),
        counters: counters
            .into_iter()
            .map(|((probe, name, labels), value)| Counter { probe, name, labels, value })
            .collect(),
        lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.split(',').filter_map(|pair| pair.split_once('=')).map(|(n, v)| (n.into(), v.into())).collect()
    }

    fn series(text: &str, observable: Observability, values: &[u64]) -> Series {
        let mut histogram = Histogram::default();
        values.iter().for_each(|v| histogram.record(*v));
        Series { probe: "irq_delivery".into(), labels: labels(text), observable, histogram }
    }

    #[test]
    fn an_interval_is_what_came_since() {
        let counter = |value| Counter {
            probe: "irq_delivery".into(),
            name: "raised".into(),
            labels: labels("guest=a"),
            value,
        };
        let at = |to_ns, values: &[u64], value, lost: u64| Snapshot {
            from_ns: 10,
            to_ns,
            series: vec![series("guest=a", Observability::Yes, values)],
            counters: vec![counter(value)],
            lost: [("x.y".to_owned(), lost)].into(),
        };
        let first = at(20, &[5], 3, 2);
        assert_eq!(first.since(&Snapshot::default()), first);
        let second = at(30, &[5, 9, 9], 7, 2).since(&first);
        assert_eq!((second.from_ns, second.to_ns), (20, 30));
        assert_eq!((second.series[0].histogram.n(), second.series[0].histogram.sum()), (2, 18));
        assert_eq!((second.counters[0].value, second.lost.len()), (4, 0));
        assert_eq!(at(40, &[5], 1, 2).since(&at(30, &[5], 7, 2)).counters[0].value, 1, "began anew");
    }

    #[test]
    fn folding_adds_up_what_differs_only_in_dropped_labels() {
        let hidden = Observability::No("posted".into());
        let counter = |slot: &str, value| Counter {
            probe: "irq_delivery".into(),
            name: "raised".into(),
            labels: labels(&format!("guest=a,slot={slot}")),
            value,
        };
        let a = Snapshot {
            from_ns: 10,
            to_ns: 20,
            series: vec![
                series("guest=a,slot=0", hidden.clone(), &[]),
                series("guest=a,slot=1", Observability::Yes, &[5, 6]),
                series("guest=b,slot=0", hidden.clone(), &[]),
            ],
            counters: vec![counter("0", 1), counter("1", 2)],
            lost: [("irq_delivery.unmatched".to_owned(), 1)].into(),
        };
        let b = Snapshot {
            from_ns: 30,
            to_ns: 40,
            series: vec![series("guest=a,slot=1", Observability::Yes, &[7])],
            ..a.clone()
        };
        let folded = fold([&a, &b], &["slot"]);
        assert_eq!((folded.from_ns, folded.to_ns), (10, 40));
        assert_eq!(
            folded.series,
            [series("guest=a", Observability::Yes, &[5, 6, 7]), series("guest=b", hidden, &[])]
        );
        assert_eq!(folded.counters.iter().map(|c| c.value).collect::<Vec<_>>(), [6]);
        assert_eq!(folded.lost["irq_delivery.unmatched"], 2);
        assert_eq!(fold([], &[]), Snapshot::default());
    }
}
