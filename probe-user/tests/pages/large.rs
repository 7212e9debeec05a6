//! A session of 63 guests x 3 slots x 5 stages, invented: what tests of size and of the page take for a large one.

use probe_user::session::{Encoder, Header, HostFacts, RunEnd, RunStart};
use probe_user::stats::{Histogram, Labels, Observability, Series, Snapshot};

pub(crate) const GUESTS: u64 = 63;
pub(crate) const SLOTS: u64 = 3;
pub(crate) const STAGES: [&str; 5] = ["dispatch", "wake", "inject", "delivery", "service"];
const RUNS: u32 = 3;
pub(crate) const VALUES: u64 = 200;

/// A run in which every series has values, spread over four powers of two, different in each run.
pub(crate) fn snapshot(run: u32, factor: u64) -> Snapshot {
    let mut series = Vec::new();
    for guest in 0..GUESTS {
        for slot in 0..SLOTS {
            for (stage, name) in (1u64..).zip(STAGES) {
                let mut histogram = Histogram::default();
                for n in 0..VALUES {
                    // Steps that share no factor with the range reach all of it.
                    let spread = (n * 7919 + guest * 104_729 + u64::from(run) * 1_299_709) % 15_013;
                    histogram.record((1_000 + spread) * stage * factor);
                }
                let labels = [
                    ("guest", format!("vm{guest}")),
                    ("vf", format!("0000:{:02x}:10.0", guest + 1)),
                    ("slot", slot.to_string()),
                    ("vcpu", slot.to_string()),
                    ("stage", name.to_owned()),
                ];
                let labels: Labels = labels.map(|(name, value)| (name.to_owned(), value)).into();
                let probe = "irq_delivery".to_owned();
                series.push(Series { probe, labels, observable: Observability::Yes, histogram });
            }
        }
    }
    Snapshot { from_ns: 0, to_ns: 5_000_000_000, series, ..Snapshot::default() }
}

/// The session's file.
pub(crate) fn lines() -> String {
    let mut encoder = Encoder::new(0);
    let mut text = encoder.header(&Header::default(), &HostFacts::default()).expect("a header");
    for run in 0..2 * RUNS {
        let (config, factor) = if run % 2 == 0 { ("baseline", 3) } else { ("own", 1) };
        let start = RunStart { config: config.to_owned(), order: run, ..RunStart::default() };
        text += &encoder.start_run(&start).expect("a run");
        text += &encoder.checkpoint(&snapshot(run, factor)).expect("figures");
        text += &encoder.end_run(&RunEnd::default()).expect("an end");
    }
    text
}
