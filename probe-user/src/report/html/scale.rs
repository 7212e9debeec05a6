//! From values to places on a drawing.

use crate::report::format;
use std::fmt;

/// A place on a drawing; printed with one decimal, finer than any screen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Px(pub(super) f64);

impl fmt::Display for Px {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}", self.0)
    }
}

/// A labelled place on an axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    pub(super) at: Px,
    pub(super) label: String,
}

/// A logarithmic axis. Its ends are round values around the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LogAxis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl LogAxis {
    /// An axis for positive values between `low` and `high`, drawn between the places `from` and `to`.
    pub(super) fn around(low: f64, high: f64, from: f64, to: f64) -> Self {
        let low = low.max(f64::MIN_POSITIVE);
        let (low, high) = (round_down(low), round_up(high.max(low)));
        let high = if high > low { high } else { low * 10.0 };
        Self { low, high, from, to }
    }

    /// Where a value lies; values beyond the ends lie on them.
    pub(super) fn at(&self, value: f64) -> Px {
        let share = (value.max(self.low).min(self.high) / self.low).ln() / (self.high / self.low).ln();
        Px(self.from + share * (self.to - self.from))
    }

    /// Round values, labelled as times; few enough not to touch.
    pub(super) fn time_ticks(&self) -> Vec<Tick> {
        self.rounds().map(|value| Tick { at: self.at(value), label: plain_time(value) }).collect()
    }

    /// Round values, labelled as ratios.
    pub(super) fn ratio_ticks(&self) -> Vec<Tick> {
        self.rounds()
            .map(|value| Tick { at: self.at(value), label: plain(&format::ratio(value)).to_owned() })
            .collect()
    }

    fn rounds(&self) -> impl Iterator<Item = f64> {
        let decades = (self.high / self.low).log10();
        let steps: &[f64] = match decades {
            few if few <= 2.1 => &[1.0, 2.0, 5.0],
            some if some <= 4.1 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let (low, high) = (self.low * 0.999, self.high * 1.001);
        let first = low.log10().floor();
        (0..40u32)
            .map(move |n| 10f64.powf(first + f64::from(n)))
            .take_while(move |decade| *decade <= high)
            .flat_map(move |decade| steps.iter().map(move |step| step * decade))
            .filter(move |value| (low..=high).contains(value))
    }
}

/// A linear axis from 0 to a round value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LinearAxis {
    high: f64,
    from: f64,
    to: f64,
}

impl LinearAxis {
    pub(super) fn up_to(high: f64, from: f64, to: f64) -> Self {
        let high = if high > 0.0 { nice_above(high) } else { 1.0 };
        Self { high, from, to }
    }

    pub(super) fn at(&self, value: f64) -> Px {
        Px(self.from + value.max(0.0).min(self.high) / self.high * (self.to - self.from))
    }

    pub(super) fn ticks(&self, label: impl Fn(f64) -> String) -> Vec<Tick> {
        let steps = if self.high / 10f64.powf(self.high.log10().floor()) < 3.0 { 4 } else { 5 };
        (0..=steps)
            .map(|n| self.high * f64::from(n) / f64::from(steps))
            .map(|value| Tick { at: self.at(value), label: label(value) })
            .collect()
    }
}

/// A round time as axes write it: `20 us`, without the zeros of a measurement.
fn plain_time(ns: f64) -> String {
    let text = format::time(ns);
    let Some((number, unit)) = text.split_once(' ') else { return text };
    format!("{} {unit}", plain(number))
}

fn plain(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

fn round_down(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    [5.0, 2.0, 1.0]
        .map(|step| step * decade)
        .into_iter()
        .find(|round| *round <= value * 1.0001)
        .unwrap_or(decade)
}

fn round_up(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|step| step * decade);
    steps.into_iter().find(|round| *round >= value * 0.9999).unwrap_or(10.0 * decade)
}

fn nice_above(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.4, 3.0, 4.0, 5.0, 6.0, 8.0].map(|step| step * decade);
    steps.into_iter().find(|round| *round >= value * 0.9999).unwrap_or(10.0 * decade)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(ticks: &[Tick]) -> Vec<&str> {
        ticks.iter().map(|t| t.label.as_str()).collect()
    }

    #[test]
    fn logarithmic_axes_end_at_round_values() {
        let axis = LogAxis::around(130.0, 8200.0, 0.0, 100.0);
        assert_eq!((axis.at(100.0), axis.at(10_000.0), axis.at(1000.0)), (Px(0.0), Px(100.0), Px(50.0)));
        assert_eq!(
            labels(&axis.time_ticks()),
            ["100 ns", "200 ns", "500 ns", "1 us", "2 us", "5 us", "10 us"]
        );
        let wide = LogAxis::around(1e3, 3e8, 0.0, 1.0);
        assert_eq!(labels(&wide.time_ticks()), ["1 us", "10 us", "100 us", "1 ms", "10 ms", "100 ms"]);
        let point = LogAxis::around(1000.0, 1000.0, 0.0, 1.0);
        assert_eq!(point.at(1000.0), Px(0.0));
        assert_eq!(labels(&LogAxis::around(0.2, 1.0, 0.0, 1.0).ratio_ticks()), ["0.2", "0.5", "1"]);
    }

    #[test]
    fn linear_axes_end_at_round_values() {
        let axis = LinearAxis::up_to(0.37, 0.0, 100.0);
        assert_eq!(axis.at(0.4), Px(100.0));
        assert_eq!(
            labels(&axis.ticks(|v| format!("{v:.2}"))),
            ["0.00", "0.08", "0.16", "0.24", "0.32", "0.40"]
        );
        assert_eq!(LinearAxis::up_to(0.0, 0.0, 1.0).at(0.0), Px(0.0));
    }
}
