//! Figures as people read them. Three significant digits: more than a histogram bucket holds.

use crate::{
    stats::summary::to_f64,
    workload::{Metric, Unit},
};

/// A time: `412 ns`, `8.31 ms`, `1.20 s`.
#[must_use]
pub fn time(ns: f64) -> String {
    scaled(ns, &[(1.0, "ns"), (1e3, "us"), (1e6, "ms"), (1e9, "s")], 1e3)
}

/// A time that may be unknown, as a table cell: `-`.
#[must_use]
pub fn time_or_dash(ns: Option<f64>) -> String {
    ns.map_or_else(|| "-".to_owned(), time)
}

/// A bit rate: `13.6 Gbit/s`.
#[must_use]
pub fn bit_rate(bits_per_second: f64) -> String {
    scaled(bits_per_second, &[(1.0, "bit/s"), (1e3, "kbit/s"), (1e6, "Mbit/s"), (1e9, "Gbit/s")], 1e3)
}

/// The value of a workload's figure with its unit.
#[must_use]
pub fn metric(metric: &Metric) -> String {
    value(metric.value, metric.unit)
}

/// A value in a unit.
#[must_use]
pub fn value(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Nanoseconds => time(value),
        Unit::BitsPerSecond => bit_rate(value),
        Unit::Share => format!("{} %", significant(value * 100.0)),
        Unit::Other => significant(value),
    }
}

/// A ratio: `0.266`.
#[must_use]
pub fn ratio(ratio: f64) -> String {
    significant(ratio)
}

/// A count per second: `1200 /s`, `0.42 /s`. `-` for a window without length.
#[must_use]
pub fn rate(count: u64, window_ns: u64) -> String {
    if window_ns == 0 {
        return "-".to_owned();
    }
    format!("{} /s", significant(to_f64(count) / (to_f64(window_ns) / 1e9)))
}

/// A share of change: `8 %`, `0.4 %`.
#[must_use]
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent >= 10.0 {
        format!("{percent:.0} %")
    } else {
        format!("{} %", trimmed(format!("{percent:.1}")))
    }
}

/// A moment (ms since the Unix epoch) in UTC: `2023-11-14 22:13:20 UTC`.
#[must_use]
pub fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (mut days, rest) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // A Gregorian cycle of 400 years has 146097 days; what is left is counted out.
    let mut year = 1970 + 400 * (days / 146_097);
    days %= 146_097;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02} UTC", days + 1)
}

/// The largest unit in which the value is at least 1.
fn scaled(value: f64, units: &[(f64, &str)], step: f64) -> String {
    // A value that would round up to the next unit's 1 belongs there: 999.7 us is 1.00 ms.
    let fits = |scale: f64| value / scale >= 1.0 - 0.5 / step;
    let (scale, unit) = units.iter().rev().find(|(scale, _)| fits(*scale)).unwrap_or(&units[0]);
    // Counts of the smallest unit are whole by nature, 8.00 ms is not.
    let text = if *scale > 1.0 { three_digits(value / scale) } else { significant(value) };
    format!("{text} {unit}")
}

/// Three significant digits, without an exponent; whole numbers stay whole.
fn significant(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { three_digits(value) }
}

fn three_digits(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude >= 99.95 => format!("{value:.0}"),
        magnitude if magnitude >= 9.995 => format!("{value:.1}"),
        magnitude if magnitude >= 0.995 => format!("{value:.2}"),
        magnitude if magnitude >= 0.0995 => format!("{value:.3}"),
        _ => trimmed(format!("{value:.4}")),
    }
}

fn trimmed(text: String) -> String {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (ns, text) in [
            (0.0, "0 ns"),
            (0.5, "0.500 ns"),
            (1.0, "1 ns"),
            (412.0, "412 ns"),
            (999.7, "1.00 us"),
            (1234.0, "1.23 us"),
            (99_960.0, "100 us"),
            (8_310_000.0, "8.31 ms"),
            (8e6, "8.00 ms"),
            (1.2e9, "1.20 s"),
            (7.2e13, "72000 s"),
        ] {
            assert_eq!(time(ns), text, "{ns}");
        }
        assert_eq!(time_or_dash(None), "-");
    }

    #[test]
    fn other_figures() {
        for (found, expected) in [
            (bit_rate(13.6e9), "13.6 Gbit/s"),
            (ratio(0.2661), "0.266"),
            (ratio(12.34), "12.3"),
            (ratio(0.0123), "0.0123"),
            (percent(0.0804), "8 %"),
            (percent(0.004), "0.4 %"),
            (percent(2.5), "250 %"),
            (rate(12_000, 10_000_000_000), "1200 /s"),
            (rate(1, 0), "-"),
            (value(0.25, Unit::Share), "25 %"),
            (value(26.0, Unit::Other), "26"),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn moments() {
        for (ms, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (1_700_000_000_000, "2023-11-14 22:13:20 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (1_735_689_599_999, "2024-12-31 23:59:59 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(ms), text);
        }
    }
}
