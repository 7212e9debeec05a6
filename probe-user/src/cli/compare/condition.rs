//! Conditions as they are given: of series and counters that there are.

use crate::export::registry::{METRICS, Origin, of_counter, of_series};
use crate::stats::gate::{About, Gate, NotAGate};

/// A condition that may be judged one day: a slip of the pen must not count as a condition that nothing answers.
///
/// # Errors
/// Names what there is instead.
pub(in crate::cli) fn parse(text: &str) -> Result<Gate, String> {
    let gate: Gate = text.parse().map_err(|error: NotAGate| error.to_string())?;
    let (probe, labels, metric) = match gate.about() {
        About::Workload { .. } => return Ok(gate),
        About::Series { probe, labels } => (probe, labels, of_series(probe)),
        About::Counter { probe, labels, name } => {
            let counter =
                of_counter(probe, name).filter(|metric| matches!(metric.origin, Origin::Counter(..)));
            if counter.is_none() && of_series(probe).is_some() {
                return Err(format!("{probe} has no counter {name}; {}", counters(probe)));
            }
            (probe, labels, counter)
        }
    };
    let Some(metric) = metric else {
        return Err(format!(
            "there is no probe {probe}, but {}; a figure of a workload is written workload.rtt_mean",
            probes().join(", ")
        ));
    };
    // Whose figures they are is one level up from what the metrics of a probe may tell apart.
    match labels.keys().find(|name| !metric.labels.contains(&name.as_str())) {
        Some(name) => {
            Err(format!("{probe} is not told apart by {name}, but by {}", metric.labels.join(", ")))
        }
        None => Ok(gate),
    }
}

fn probes() -> Vec<&'static str> {
    let of = |origin| if let Origin::Series(probe) = origin { Some(probe) } else { None };
    METRICS.iter().filter_map(|metric| of(metric.origin)).collect()
}

fn counters(probe: &str) -> String {
    let of = |origin| match origin {
        Origin::Counter(of, name) if of == probe => Some(name),
        _ => None,
    };
    let names: Vec<&str> = METRICS.iter().filter_map(|metric| of(metric.origin)).collect();
    if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_about_what_there_is() {
        for (text, wrong) in [
            ("irq_delivery.p99 > +5%", None),
            ("irq_delivery{guest=vm1,stage=wake,slot=1}.p50 > 1ms", None),
            ("cpu_noise{cpu=2,kind=softirq}.p99 > 50us", None),
            ("irq_delivery.coalesced > +10%", None),
            ("vcpu_sched{guest=vm1}.migrations > 10/s", None),
            ("packet_path.dropped > 0", None),
            ("workload.rtt_mean > +5%", None),
            ("ping.rtt_mean > +5%", Some("is written workload.rtt_mean")),
            ("irq_dlivery.p99 > +5%", Some("there is no probe irq_dlivery, but irq_delivery, vm_exit")),
            ("irq_delivery{reason=HLT}.p99 > +5%", Some("not told apart by reason, but by guest, vf")),
            ("vcpu_sched.migration > 1/s", Some("vcpu_sched has no counter migration; it has")),
            ("cpu_noise.migrations > 1/s", Some("it has none")),
            ("irq_delivery.p98 > +5%", Some("percentiles are p50")),
        ] {
            match (parse(text), wrong) {
                (Ok(_), None) => {}
                (Err(said), Some(wrong)) => assert!(said.contains(wrong), "{text}: {said}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
