//! Figures that a command states itself, for tools whose own output is not known here: `--workload-json`
//! (docs/workloads.md).
//!
//! Pure. The last line of standard output that is a JSON object counts, so that a script may say other things before.

use super::{Better, Metric, Unit};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    metrics: Vec<Stated>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stated {
    name: String,
    value: f64,
    #[serde(default = "other")]
    unit: String,
    #[serde(default = "neither")]
    better: String,
}

fn other() -> String {
    "other".to_owned()
}

fn neither() -> String {
    "neither".to_owned()
}

/// Reads the figures out of a command's standard output.
///
/// # Errors
/// What is missing, or which figure is not understood.
pub fn parse(output: &str) -> Result<Vec<Metric>, String> {
    let line = output.lines().map(str::trim).rfind(|line| line.starts_with('{'));
    let line = line.ok_or("no line of its output is a JSON object (docs/workloads.md)")?;
    let Document { metrics } = serde_json::from_str(line)
        .map_err(|e| format!("its JSON cannot be read: {e} (docs/workloads.md)"))?;
    let mut names: Vec<&str> = Vec::new();
    for metric in &metrics {
        let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if metric.name.is_empty() || !metric.name.chars().all(is_word) {
            return Err(format!("{:?} is no name of a figure: a-z, 0-9 and _ make one", metric.name));
        }
        if names.contains(&metric.name.as_str()) {
            return Err(format!("{} is stated twice", metric.name));
        }
        names.push(&metric.name);
    }
    metrics.iter().map(metric).collect()
}

fn metric(stated: &Stated) -> Result<Metric, String> {
    let Stated { name, value, unit, better } = stated;
    let (unit, scale) = match unit.as_str() {
        "nanoseconds" => (Unit::Nanoseconds, 1.0),
        "microseconds" => (Unit::Nanoseconds, 1e3),
        "milliseconds" => (Unit::Nanoseconds, 1e6),
        "seconds" => (Unit::Nanoseconds, 1e9),
        "bits_per_second" => (Unit::BitsPerSecond, 1.0),
        "share" => (Unit::Share, 1.0),
        "other" => (Unit::Other, 1.0),
        unknown => return Err(format!("{name}: the unit {unknown:?} is not known (docs/workloads.md)")),
    };
    let better = match better.as_str() {
        "lower" => Better::Lower,
        "higher" => Better::Higher,
        "neither" => Better::Neither,
        unknown => {
            return Err(format!("{name}: better is \"lower\", \"higher\" or \"neither\", not {unknown:?}"));
        }
    };
    let negative = *value < 0.0;
    let metric = Metric::new(name, unit, value * scale, better).filter(|_| !negative);
    metric.ok_or_else(|| format!("{name}: {value} is not a value; figures are 0 or more"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_object_states_the_figures() {
        let text = "warming up\n{\"metrics\":[]}\nall done:\n{\"metrics\": [\
            {\"name\": \"frame_time_p99\", \"value\": 16.5, \"unit\": \"milliseconds\", \"better\": \"lower\"},\
            {\"name\": \"frames\", \"value\": 3600}]}\nbye\n";
        let metric = |name, unit, value, better| Metric::new(name, unit, value, better).unwrap();
        assert_eq!(
            parse(text).unwrap(),
            [
                metric("frame_time_p99", Unit::Nanoseconds, 16.5e6, Better::Lower),
                metric("frames", Unit::Other, 3600.0, Better::Neither),
            ]
        );
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let one = |figure: &str| format!("{{\"metrics\":[{{{figure}}}]}}");
        for (text, said) in [
            (String::new(), "no line of its output is a JSON object"),
            ("{".to_owned(), "its JSON cannot be read"),
            ("{\"metric\":[]}".to_owned(), "unknown field `metric`"),
            (one("\"name\":\"a\""), "missing field `value`"),
            (one("\"name\":\"a b\",\"value\":1"), "\"a b\" is no name"),
            (one("\"name\":\"a\",\"value\":1,\"unit\":\"ms\""), "a: the unit \"ms\" is not known"),
            (one("\"name\":\"a\",\"value\":1,\"better\":\"more\""), "not \"more\""),
            (one("\"name\":\"a\",\"value\":-1"), "a: -1 is not a value"),
            (one("\"name\":\"a\",\"value\":1},{\"name\":\"a\",\"value\":1"), "a is stated twice"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
