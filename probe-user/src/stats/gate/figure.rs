//! Conditions on the figures of a workload: which figure, in which unit, and whether it is beyond the limit.

use super::{Gate, Outcome, Subject};
use crate::stats::compare::Compared;
use std::fmt;

/// What a figure measures, which its limits must measure too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Time (ns).
    Time,
    /// Bits per second.
    BitRate,
    /// A share between 0 and 1.
    Share,
    /// A count, or a rate per second.
    Number,
}

/// One figure of a workload, of a single run (`T` is its value) or compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure<T> {
    /// The tool that says it: `ping`.
    pub tool: String,
    /// The load it belongs to, in a session with several.
    pub load: Option<String>,
    /// Its name: `rtt_p99`.
    pub name: String,
    /// What it measures.
    pub measure: Measure,
    /// The figure.
    pub value: T,
}

impl Measure {
    /// A value in words.
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Self::Time => format!("{:.3} us", value / 1e3),
            Self::BitRate => format!("{:.3} Mbit/s", value / 1e6),
            Self::Share => format!("{:.2} %", value * 100.0),
            Self::Number => format!("{value:.1}"),
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Time => "a time",
            Self::BitRate => "a bit rate",
            Self::Share => "a share",
            Self::Number => "a plain number",
        })
    }
}

impl<T> fmt::Display for Figure<T> {
    /// `ping rtt_p99`, `ping rtt_p99 under iperf3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.tool, self.name)?;
        self.load.as_ref().map_or(Ok(()), |load| write!(f, " under {load}"))
    }
}

impl Gate {
    /// Judges the figures of a comparison's workloads, under all of its loads; as [`Gate::judge`] does series.
    #[must_use]
    pub fn judge_workload(&self, figures: &[Figure<&Compared>]) -> Outcome {
        let mut unknown = Some(format!("{self}: no such figure of a workload in both recordings"));
        for figure in figures.iter().filter(|figure| self.is_about(figure)) {
            match self.judge_figure(figure.value, figure.measure) {
                Ok(Some(value)) => return Outcome::Met(format!("{self}: {figure} is {value}")),
                Ok(None) => unknown = None,
                Err(why) => unknown = unknown.map(|_| format!("{self}: {figure} cannot be judged: {why}")),
            }
        }
        unknown.map_or(Outcome::NotMet, Outcome::Unknown)
    }

    /// Whether a single run's workload is beyond the limit; as [`Gate::breach`] for series.
    #[must_use]
    pub fn breach_of_workload(&self, before: &[&[Figure<f64>]], run: &[Figure<f64>]) -> Option<String> {
        run.iter().filter(|figure| self.is_about(figure)).find_map(|figure| {
            let same = |other: &&Figure<f64>| (&other.tool, &other.name) == (&figure.tool, &figure.name);
            let earlier: Vec<f64> =
                before.iter().filter_map(|figures| figures.iter().find(same)).map(|f| f.value).collect();
            let said = self.beyond_in_one_run(&earlier, figure.value, figure.measure)?;
            Some(format!("{self}: {figure} is {said}"))
        })
    }

    fn is_about<T>(&self, figure: &Figure<T>) -> bool {
        let Subject::Workload { tool, load, name } = &self.subject else { return false };
        *name == figure.name
            && tool.as_ref().is_none_or(|tool| *tool == figure.tool)
            && load.as_ref().is_none_or(|load| Some(load) == figure.load.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::compare::{Direction, Method, judge};

    fn figure<T>(name: &str, load: Option<&str>, measure: Measure, value: T) -> Figure<T> {
        let (tool, name) = name.split_once(' ').unwrap();
        let (tool, name) = (tool.to_owned(), name.to_owned());
        Figure { tool, load: load.map(str::to_owned), name, measure, value }
    }

    #[test]
    fn figures_are_judged() {
        let exact = Method { bucket_width: 0.0, ..Method::default() };
        let compare =
            |before: [f64; 4], after: [f64; 4], direction| judge((&before, 4), (&after, 4), direction, exact);
        let less = compare([9e9, 9.1e9, 8.9e9, 9e9], [8e9, 8.1e9, 7.9e9, 8e9], Direction::Higher);
        let longer = compare([1e5, 1.1e5, 9e4, 1e5], [3e5, 3.1e5, 2.9e5, 3e5], Direction::Lower);
        let some_loss = compare([0.0; 4], [0.0, 0.0, 0.0, 0.08], Direction::Lower);
        let none = compare([0.0; 4], [0.0; 4], Direction::Lower);
        let figures = [
            figure("iperf3 throughput", Some("iperf3"), Measure::BitRate, &less),
            figure("ping rtt_p99", Some("ping"), Measure::Time, &longer),
            figure("ping loss", Some("ping"), Measure::Share, &some_loss),
            figure("iperf3 retransmits", Some("iperf3"), Measure::Number, &none),
        ];
        for (text, met) in [
            ("workload.throughput < -5%", Ok(true)),
            ("workload.throughput < -20%", Ok(false)),
            ("workload.throughput > +5%", Ok(false)),
            ("workload.throughput < 8.5Gbit/s", Ok(true)),
            ("workload{tool=iperf3}.throughput < 500 Mbit/s", Ok(false)),
            ("workload{load=ping}.rtt_p99 > +10%", Ok(true)),
            ("workload.rtt_p99 > 400us", Ok(false)),
            ("workload.loss > 1%", Ok(true)),
            ("workload.loss > 3%", Ok(false)),
            ("workload.loss > +5%", Err("a figure is zero in some run")),
            ("workload.retransmits > +5%", Ok(false)),
            ("workload.retransmits > 10", Ok(false)),
            ("workload{load=iperf3}.rtt_p99 > +10%", Err("no such figure")),
            ("workload.rtt_p99 > 1%", Err("it is a time, and the limit a share")),
            ("irq_delivery.p99 > +5%", Err("no such figure")),
        ] {
            match (text.parse::<Gate>().unwrap().judge_workload(&figures), met) {
                (Outcome::Met(said), Ok(true)) => assert!(said.starts_with(text), "{said}"),
                (Outcome::NotMet, Ok(false)) => {}
                (Outcome::Unknown(said), Err(why)) => assert!(said.contains(why), "{text}: {said}"),
                (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn a_single_run_is_held_to_a_limit() {
        let run = |rtt: f64, loss: f64| {
            let rtt = figure("ping rtt_mean", None, Measure::Time, rtt);
            vec![rtt, figure("ping loss", None, Measure::Share, loss)]
        };
        let (first, second) = (run(1e5, 0.0), run(1.2e5, 0.0));
        let before = [first.as_slice(), second.as_slice()];
        for (text, before, found, breached) in [
            ("workload.rtt_mean > +100%", &before[..], run(4e5, 0.0), true),
            ("workload.rtt_mean > +100%", &before, run(1e5, 0.0), false),
            ("workload.rtt_mean > +100%", &[], run(4e5, 0.0), false),
            ("workload.loss > 2%", &[], run(4e5, 0.1), true),
            ("workload.loss > +100%", &before, run(4e5, 0.1), false),
            ("workload.loss > 2us", &before, run(4e5, 0.1), false),
            ("workload{tool=iperf3}.loss > 2%", &before, run(4e5, 0.1), false),
        ] {
            let found = text.parse::<Gate>().unwrap().breach_of_workload(before, &found);
            assert_eq!(found.is_some(), breached, "{text}: {found:?}");
        }
    }
}
