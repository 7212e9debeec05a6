//! Timelines as JSON (docs/json.md).

use crate::stats::timeline::{Hop, Timeline};
use serde::Serialize;
use std::collections::BTreeMap;

/// What `vfprobe trace --json` prints.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    /// Version of its shape.
    pub schema: u32,
    /// Begin of the window (CLOCK_MONOTONIC, ns).
    pub from_ns: u64,
    /// Its end.
    pub to_ns: u64,
    /// Interrupts seen.
    pub seen: u64,
    /// Of these, those that the filters let through; `interrupts` holds as many of them as were asked for.
    pub matched: u64,
    /// Of those seen, with a gap.
    pub incomplete: u64,
    /// Hops and interrupts that could not be recorded, by cause.
    pub dropped: &'a BTreeMap<String, u64>,
    /// What this kernel does not show, with the reason.
    pub unseen: &'a BTreeMap<String, String>,
    /// The timelines.
    pub interrupts: Vec<Interrupt<'a>>,
}

/// One interrupt.
#[derive(Debug, Serialize)]
pub struct Interrupt<'a> {
    guest: &'a str,
    vf: String,
    slot: u32,
    vcpu: Option<u32>,
    irq: Option<u32>,
    guest_vector: Option<u32>,
    outcome: &'static str,
    complete: bool,
    raised_ns: u64,
    stages_ns: BTreeMap<&'static str, Option<u64>>,
    hops: Vec<Step<'a>>,
}

#[derive(Debug, Serialize)]
struct Step<'a> {
    at_ns: u64,
    event: &'static str,
    what: String,
    cpu: u32,
    tid: u32,
    thread: &'a str,
}

/// The document's list of interrupts.
#[must_use]
pub fn document(timelines: &[Timeline]) -> Vec<Interrupt<'_>> {
    timelines.iter().map(interrupt).collect()
}

fn interrupt(timeline: &Timeline) -> Interrupt<'_> {
    let raised = timeline.id.raise_ns;
    let step = |hop: &'_ Hop| (hop.ns.saturating_sub(raised), hop.what.event(), hop.what.to_string());
    Interrupt {
        guest: &timeline.guest,
        vf: timeline.id.vf.to_string(),
        slot: timeline.id.slot,
        vcpu: timeline.vcpu.as_deref().and_then(|index| index.parse().ok()),
        irq: timeline.irq(),
        guest_vector: timeline.vector(),
        outcome: timeline.outcome.as_str(),
        complete: timeline.complete,
        raised_ns: raised,
        stages_ns: timeline.stages().named().into_iter().collect(),
        hops: timeline
            .hops
            .iter()
            .map(|hop| {
                let (at_ns, event, what) = step(hop);
                Step { at_ns, event, what, cpu: hop.cpu, tid: hop.tid, thread: &hop.comm }
            })
            .collect(),
    }
}
