//! Conditions as they are written.

use super::{Gate, Limit, Measure, NotAGate, Selector, Subject, counter::measure_of};
use crate::stats::Quantile;
use std::str::FromStr;

/// What stands in a probe's place when a figure of a workload is meant.
const WORKLOAD: &str = "workload";

impl FromStr for Gate {
    type Err = NotAGate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |reason| NotAGate { text: text.to_owned(), reason };
        let at = text.find(['>', '<']).ok_or_else(|| wrong("no > or <"))?;
        let (left, limit) = (text[..at].trim(), text[at + 1..].trim());
        let limit = parse_limit(limit).ok_or_else(|| {
            wrong("the limit is +N%, -N%, or a value with its unit such as 20us, 9Gbit/s or 1%")
        })?;
        let subject = parse_subject(left).map_err(wrong)?;
        let fits = match (&subject, limit) {
            (Subject::Series(..), Limit::Value(_, of)) if of != Measure::Time => {
                Err("the limit of a percentile is +N%, -N% or a duration such as 20us")
            }
            (Subject::Counter(_, name), Limit::Value(_, of)) if of != measure_of(name) => {
                Err(match measure_of(name) {
                    Measure::Share => {
                        "the limit of a counter of time is +N%, -N%, or a share of it without a sign such as 5%"
                    }
                    _ => "the limit of a counter is +N%, -N%, or a rate such as 10/s",
                })
            }
            _ => Ok(()),
        };
        fits.map_err(wrong)?;
        Ok(Self { text: text.trim().to_owned(), subject, above: text.as_bytes()[at] == b'>', limit })
    }
}

fn parse_subject(text: &str) -> Result<Subject, &'static str> {
    let (series, quantile) = match text.strip_suffix(".p99.9") {
        Some(series) => (series, Quantile::from_name("p99.9")),
        None => {
            let (series, name) = text.rsplit_once('.').ok_or("no .PERCENTILE")?;
            let selector = Selector::parse(series)?;
            if selector.probe == WORKLOAD {
                return parse_workload(selector, name.trim());
            }
            let quantile = Quantile::from_name(name);
            if quantile.is_none() && is_counter(name.trim()) {
                return Ok(Subject::Counter(selector, name.trim().to_owned()));
            }
            (series, quantile)
        }
    };
    let quantile =
        quantile.ok_or("percentiles are p50, p90, p99 and p999, and counters words such as migrations")?;
    Ok(Subject::Series(Selector::parse(series)?, quantile))
}

/// A word, and no percentile that there is not.
fn is_counter(name: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let percentile =
        name.strip_prefix('p').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    !name.is_empty() && !percentile && name.chars().all(is_word)
}

fn parse_workload(selector: Selector, name: &str) -> Result<Subject, &'static str> {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || !name.chars().all(is_word) {
        return Err("a workload's figure is a word such as rtt_p99 or throughput (docs/workloads.md)");
    }
    let mut labels = selector.labels;
    let (tool, load) = (labels.remove("tool"), labels.remove("load"));
    if !labels.is_empty() {
        return Err("a workload is told by tool=NAME and load=NAME");
    }
    Ok(Subject::Workload { tool, load, name: name.to_owned() })
}

fn parse_limit(text: &str) -> Option<Limit> {
    let number = |t: &str| t.trim().parse::<f64>().ok().filter(|n| n.is_finite());
    if let Some(percent) = text.strip_suffix('%') {
        let signed = percent.starts_with(['+', '-']);
        let percent = number(percent)?;
        return match signed {
            true => (percent > -100.0).then_some(Limit::Ratio(1.0 + percent / 100.0)),
            false => Some(Limit::Value(percent / 100.0, Measure::Share)),
        };
    }
    // Longest suffix first where one ends another: "s" ends all times, "bit/s" all rates, and nothing ends every text.
    [
        ("kbit/s", 1e3, Measure::BitRate),
        ("Mbit/s", 1e6, Measure::BitRate),
        ("Gbit/s", 1e9, Measure::BitRate),
        ("bit/s", 1.0, Measure::BitRate),
        ("ns", 1.0, Measure::Time),
        ("us", 1e3, Measure::Time),
        ("ms", 1e6, Measure::Time),
        ("/s", 1.0, Measure::Number),
        ("s", 1e9, Measure::Time),
        ("", 1.0, Measure::Number),
    ]
    .into_iter()
    .find_map(|(unit, scale, measure)| Some((number(text.strip_suffix(unit)?)? * scale, measure)))
    .filter(|(value, _)| *value >= 0.0)
    .map(|(value, measure)| Limit::Value(value, measure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits() {
        let value = |value, measure| Some(Limit::Value(value, measure));
        for (text, limit) in [
            ("+5%", Some(Limit::Ratio(1.05))),
            ("-50 %", Some(Limit::Ratio(0.5))),
            ("20us", value(20e3, Measure::Time)),
            ("1.5 ms", value(1.5e6, Measure::Time)),
            ("2s", value(2e9, Measure::Time)),
            ("7ns", value(7.0, Measure::Time)),
            ("5%", value(0.05, Measure::Share)),
            ("5", value(5.0, Measure::Number)),
            ("5/s", value(5.0, Measure::Number)),
            ("0.5 /s", value(0.5, Measure::Number)),
            ("9.5 Gbit/s", value(9.5e9, Measure::BitRate)),
            ("80kbit/s", value(8e4, Measure::BitRate)),
            ("3bit/s", value(3.0, Measure::BitRate)),
            ("-100%", None),
            ("-5us", None),
            ("-5", None),
            ("nan%", None),
            ("5 Mbps", None),
            ("", None),
        ] {
            assert_eq!(parse_limit(text), limit, "{text:?}");
        }
    }

    #[test]
    fn texts_that_are_not_conditions() {
        for (text, why) in [
            ("", "no > or <"),
            ("irq_delivery.p99", "no > or <"),
            ("irq_delivery > +5%", "no .PERCENTILE"),
            ("irq_delivery.p98 > +5%", "percentiles are p50"),
            ("irq_delivery.Raised > +5%", "counters words such as migrations"),
            ("irq_delivery.raised > 5us", "a rate such as 10/s"),
            ("vcpu_sched.preempted_ns > 5/s", "a share of it"),
            (".p99 > +5%", "no probe"),
            ("a{b.p99 > +5%", "no closing }"),
            ("a{b}.p99 > +5%", "labels are name=value"),
            ("irq delivery.p99 > +5%", "no probe"),
            ("irq_delivery.p99 > 5", "a duration such as 20us"),
            ("irq_delivery.p99 > 5%", "a duration such as 20us"),
            ("workload.rtt p99 > +5%", "is a word"),
            ("workload{guest=vm1}.loss > 1%", "tool=NAME and load=NAME"),
            ("workload.loss > a%", "the limit is"),
        ] {
            let error = text.parse::<Gate>().unwrap_err().to_string();
            assert!(error.contains("is not a condition") && error.contains(why), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_condition_or_an_error(text in "\\PC{0,40}") {
            let _ = text.parse::<Gate>();
        }
    }
}
