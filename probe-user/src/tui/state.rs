//! What the live view shows, and what keys do to it. Pure.

use crate::report::names;
use crate::stats::{Histogram, Quantile, Series, Snapshot, Summary};

/// A page of the view: one probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tab {
    /// Stages of VF interrupts.
    #[default]
    Delivery,
    /// VM exits by reason.
    Exits,
    /// Run-queue waits of vCPUs.
    Scheduling,
    /// Noise on guarded CPUs.
    Noise,
}

impl Tab {
    /// All pages in the order of their keys.
    pub const ALL: [Self; 4] = [Self::Delivery, Self::Exits, Self::Scheduling, Self::Noise];

    /// Its title.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Delivery => "delivery",
            Self::Exits => "exits",
            Self::Scheduling => "run queue",
            Self::Noise => "noise",
        }
    }

    fn probe(self) -> &'static str {
        match self {
            Self::Delivery => "irq_delivery",
            Self::Exits => "vm_exit",
            Self::Scheduling => "vcpu_sched",
            Self::Noise => "cpu_noise",
        }
    }
}

/// What somebody typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Another page.
    Tab(Tab),
    /// The page after this one.
    NextTab,
    /// The row above.
    Up,
    /// The row below.
    Down,
    /// Another order of the rows.
    Sort,
    /// Stand still, or go on.
    Pause,
    /// End.
    Quit,
}

/// Orders of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sort {
    /// By the time they took, most first.
    #[default]
    Time,
    /// By how often they were, most first.
    Count,
    /// By name, stages as they happen.
    Name,
}

/// One series in the last interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Why it cannot be seen; its figures are then of nothing.
    pub hidden: Option<String>,
    /// Values in the interval.
    pub n: u64,
    /// Time they took (ns).
    pub sum_ns: u64,
    /// Percentiles of the interval; `None` when there are too few values.
    pub quantiles: [Option<u64>; 3],
    /// Since the view was started.
    pub all: Histogram,
}

/// The percentiles of a row.
pub(super) const QUANTILES: [Quantile; 3] = [Quantile::P50, Quantile::P90, Quantile::P99];

/// The view.
#[derive(Debug, Default)]
pub struct State {
    /// The page.
    pub tab: Tab,
    /// The selected row.
    pub selected: usize,
    /// Whether new figures wait.
    pub paused: bool,
    sort: Sort,
    interval: Snapshot,
    total: Snapshot,
}

impl State {
    /// Takes the present figures: all since the start. Nothing changes while it is paused.
    pub fn update(&mut self, total: Snapshot) {
        if self.paused {
            return;
        }
        self.interval = total.since(&self.total);
        self.total = total;
        self.selected = self.selected.min(self.rows().len().saturating_sub(1));
    }

    /// Does what a key says; `false` ends the view.
    pub fn key(&mut self, key: Key) -> bool {
        let position = Tab::ALL.iter().position(|tab| *tab == self.tab).unwrap_or(0);
        match key {
            Key::Tab(tab) => (self.tab, self.selected) = (tab, 0),
            Key::NextTab => (self.tab, self.selected) = (Tab::ALL[(position + 1) % Tab::ALL.len()], 0),
            Key::Up => self.selected = self.selected.saturating_sub(1),
            Key::Down => self.selected = (self.selected + 1).min(self.rows().len().saturating_sub(1)),
            Key::Sort => {
                self.sort = match self.sort {
                    Sort::Time => Sort::Count,
                    Sort::Count => Sort::Name,
                    Sort::Name => Sort::Time,
                };
            }
            Key::Pause => self.paused = !self.paused,
            Key::Quit => return false,
        }
        true
    }

    /// The present page's rows, in order.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let mine = |series: &&Series| series.probe == self.tab.probe();
        let mut series: Vec<&Series> = self.interval.series.iter().filter(mine).collect();
        series.sort_by_cached_key(|s| names::sort_key(&s.probe, &s.labels));
        let mut rows: Vec<Row> = series.into_iter().map(|series| self.row(series)).collect();
        match self.sort {
            Sort::Time => rows.sort_by_key(|row| std::cmp::Reverse(row.sum_ns)),
            Sort::Count => rows.sort_by_key(|row| std::cmp::Reverse(row.n)),
            Sort::Name => {}
        }
        rows
    }

    fn row(&self, series: &Series) -> Row {
        let same = |s: &&Series| s.probe == series.probe && s.labels == series.labels;
        let all = self.total.series.iter().find(same).map(|s| s.histogram.clone()).unwrap_or_default();
        let summary = Summary::of(&series.histogram);
        Row {
            name: names::of(&series.labels),
            hidden: series.observable.reason().map(str::to_owned),
            n: series.histogram.n(),
            sum_ns: series.histogram.sum(),
            quantiles: QUANTILES.map(|q| summary.quantile(q)),
            all,
        }
    }

    /// Length of the last interval (ns).
    #[must_use]
    pub fn interval_ns(&self) -> u64 {
        self.interval.to_ns.saturating_sub(self.interval.from_ns)
    }

    /// What was lost since the start, in words; empty when nothing.
    #[must_use]
    pub fn lost(&self) -> String {
        let lost = self.total.lost.iter().map(|(cause, n)| format!("{cause} {n}"));
        lost.collect::<Vec<_>>().join(", ")
    }

    /// The order in words.
    #[must_use]
    pub fn order(&self) -> &'static str {
        match self.sort {
            Sort::Time => "time",
            Sort::Count => "count",
            Sort::Name => "name",
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::session::sample::labels;
    use crate::stats::Observability;

    pub(in crate::tui) fn snapshot(to_ns: u64, values: &[(&str, &str, &[u64])]) -> Snapshot {
        let series = values.iter().map(|(probe, text, values)| {
            let mut histogram = Histogram::default();
            values.iter().for_each(|v| histogram.record(*v));
            let observable = Observability::Yes;
            Series { probe: (*probe).to_owned(), labels: labels(text), observable, histogram }
        });
        Snapshot { from_ns: 0, to_ns, series: series.collect(), ..Snapshot::default() }
    }

    #[test]
    fn rows_are_of_the_last_interval() {
        let mut state = State::default();
        let exits = |hlt: &'static [u64], io: &'static [u64]| {
            snapshot(
                1,
                &[("vm_exit", "guest=a,vcpu=0,reason=HLT", hlt), ("vm_exit", "guest=a,vcpu=0,reason=IO", io)],
            )
        };
        state.key(Key::Tab(Tab::Exits));
        state.update(exits(&[5], &[]));
        state.update(exits(&[5, 7], &[1, 1, 1]));
        let shown = |state: &State| -> Vec<(String, u64, u64, u64)> {
            state.rows().into_iter().map(|r| (r.name, r.n, r.sum_ns, r.all.n())).collect()
        };
        let hlt = ("a vcpu 0 HLT".to_owned(), 1, 7, 2);
        let io = ("a vcpu 0 IO".to_owned(), 3, 3, 3);
        assert_eq!(shown(&state), [hlt.clone(), io.clone()], "by time");
        state.key(Key::Sort);
        assert_eq!(shown(&state), [io, hlt], "by count");
        state.key(Key::Pause);
        state.update(exits(&[5, 7, 9], &[1, 1, 1]));
        assert_eq!(shown(&state)[1].1, 1, "paused");
    }

    #[test]
    fn the_selection_stays_on_the_page() {
        let mut state = State::default();
        assert!(state.key(Key::Down) && state.selected == 0, "an empty page");
        state.update(snapshot(1, &[("vm_exit", "reason=A", &[1]), ("vm_exit", "reason=B", &[1])]));
        state.key(Key::NextTab);
        assert_eq!(state.tab, Tab::Exits);
        for expected in [1, 1] {
            state.key(Key::Down);
            assert_eq!(state.selected, expected);
        }
        state.update(snapshot(2, &[]));
        assert_eq!(state.selected, 0);
        assert!(!state.key(Key::Quit));
    }
}
