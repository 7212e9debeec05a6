//! Durations as people type them: `500ms`, `10s`, `5m`, `1h`.

use std::time::Duration;

/// Longest duration accepted: a week. The window's end must not overflow the kernel's clock.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Parses a duration for clap.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    parse_units(text, &[("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)], "500ms, 10s, 5m or 1h")
}

/// The same for how long an interrupt takes.
pub(super) fn parse_short(text: &str) -> Result<Duration, String> {
    parse_units(text, &[("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0)], "50us or 1.5ms")
}

fn parse_units(text: &str, units: &[(&str, f64)], such_as: &str) -> Result<Duration, String> {
    let bad = || format!("expected a number and a unit, such as {such_as}");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let (_, scale) = units.iter().find(|(known, _)| *known == unit).ok_or_else(bad)?;
    let duration = Duration::try_from_secs_f64(number * scale).map_err(|_| bad())?;
    if duration > LONGEST || duration.is_zero() {
        return Err("must be more than 0 and at most a week".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type() {
        for (text, ms) in
            [("500ms", 500), ("10s", 10_000), ("1.5s", 1500), ("5m", 300_000), ("1h", 3_600_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for (text, us) in [("50us", 50), ("1.5ms", 1500), ("2000ns", 2), ("1s", 1_000_000)] {
            assert_eq!(parse_short(text), Ok(Duration::from_micros(us)), "{text}");
        }
        assert!(parse("50us").is_err() && parse_short("1h").is_err());
        for bad in ["", "10", "s", "-1s", "0s", "1d", "1 s", "1e9h", "9999h", "..s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
