//! Durations as people type them: `500ms`, `10s`, `5m`, `1h`.

use std::time::Duration;

/// Longest duration accepted: a week. The window's end must not overflow the kernel's clock.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Parses a duration for clap.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let bad = || "expected a number and a unit, such as 500ms, 10s, 5m or 1h".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(bad()),
    };
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| bad())?;
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
        for bad in ["", "10", "s", "-1s", "0s", "1d", "1 s", "1e9h", "9999h", "..s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
