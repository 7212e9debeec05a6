//! Timelines in the Trace Event Format, which ui.perfetto.dev and chrome://tracing open.
//!
//! Source: "Trace Event Format" (docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU), JSON Object
//! Format: metadata (`M`), complete events (`X`, which nest on their track) and instants (`i`). `ts` and `dur` are
//! microseconds, with the nanoseconds as decimals.
//!
//! A process per guest, in it a track per VF slot; interrupts of a slot that overlap go to further lanes of it, so that
//! events of a track always nest. A process for the host, with a track per CPU that took interrupts.

use crate::stats::timeline::{Hop, Timeline, What};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The host's process in the trace. Guests follow it.
const HOST: u64 = 0;

/// All timelines as one document; `origin_ns` is its time 0 (CLOCK_MONOTONIC).
#[must_use]
pub fn chrome_trace(timelines: &[Timeline], origin_ns: u64) -> Value {
    let mut ordered: Vec<&Timeline> = timelines.iter().collect();
    ordered.sort_by_key(|timeline| timeline.id);
    let mut tracks = Tracks::default();
    let mut events = Vec::new();
    for timeline in ordered {
        let clock = Clock { origin_ns };
        host_slices(timeline, clock, &mut tracks, &mut events);
        guest_slices(timeline, clock, &mut tracks, &mut events);
    }
    let mut all = tracks.metadata();
    all.append(&mut events);
    json!({
        "displayTimeUnit": "ns",
        "otherData": {
            "producer": concat!("vfprobe ", env!("CARGO_PKG_VERSION")),
            "clock": "CLOCK_MONOTONIC",
            "origin_ns": origin_ns.to_string(),
        },
        "traceEvents": all,
    })
}

/// Nanoseconds to the trace's microseconds.
#[derive(Clone, Copy)]
struct Clock {
    origin_ns: u64,
}

impl Clock {
    fn at(self, ns: u64) -> f64 {
        micros(ns.saturating_sub(self.origin_ns))
    }
}

fn micros(ns: u64) -> f64 {
    crate::stats::to_f64(ns) / 1e3
}

/// Where events go: processes and their tracks, made as they are needed.
#[derive(Default)]
struct Tracks {
    /// Guests in order of appearance; their process is the place + 1.
    guests: Vec<String>,
    /// Lanes of a slot: the track's number, and when its last interrupt ends.
    lanes: BTreeMap<(u64, String), Vec<(u64, u64)>>,
    /// CPUs of the host that have a track.
    cpus: BTreeMap<u32, u64>,
    /// Tracks handed out so far.
    used: u64,
}

impl Tracks {
    fn cpu(&mut self, cpu: u32) -> u64 {
        let used = &mut self.used;
        *self.cpus.entry(cpu).or_insert_with(|| next(used))
    }

    fn process(&mut self, guest: &str) -> u64 {
        let place = self.guests.iter().position(|known| known == guest).unwrap_or_else(|| {
            self.guests.push(guest.to_owned());
            self.guests.len() - 1
        });
        HOST + 1 + u64::try_from(place).unwrap_or(0)
    }

    /// A lane that is free from `from_ns` on, taken until `to_ns`.
    fn lane(&mut self, process: u64, slot: String, from_ns: u64, to_ns: u64) -> u64 {
        let lanes = self.lanes.entry((process, slot)).or_default();
        if let Some((track, until)) = lanes.iter_mut().find(|(_, until)| *until <= from_ns) {
            *until = to_ns;
            return *track;
        }
        let track = next(&mut self.used);
        lanes.push((track, to_ns));
        track
    }

    /// The events that name processes and tracks and put them in order.
    fn metadata(&self) -> Vec<Value> {
        let named = |name: &str, pid: u64, tid: u64, text: &str| json!({"ph": "M", "name": name, "pid": pid, "tid": tid, "ts": 0, "args": {"name": text}});
        let sorted = |pid: u64, tid: u64, index: u64| {
            json!({"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "ts": 0,
                   "args": {"sort_index": index}})
        };
        let mut all = Vec::new();
        if !self.cpus.is_empty() {
            all.push(named("process_name", HOST, 0, "host"));
        }
        for (cpu, track) in &self.cpus {
            all.push(named("thread_name", HOST, *track, &format!("CPU {cpu}")));
            all.push(sorted(HOST, *track, u64::from(*cpu)));
        }
        for (place, guest) in (HOST + 1..).zip(&self.guests) {
            all.push(named("process_name", place, 0, &format!("guest {guest}")));
        }
        for ((process, slot), lanes) in &self.lanes {
            for (lane, (track, _)) in (1..).zip(lanes) {
                let name = if lane == 1 { slot.clone() } else { format!("{slot} ({lane})") };
                all.push(named("thread_name", *process, *track, &name));
                all.push(sorted(*process, *track, *track));
            }
        }
        all
    }
}

fn next(used: &mut u64) -> u64 {
    *used += 1;
    *used
}

/// A slice on a track.
fn slice(name: &str, cat: &str, at: (u64, u64), from: f64, dur: f64, args: Value) -> Value {
    json!({"ph": "X", "name": name, "cat": cat, "pid": at.0, "tid": at.1, "ts": from, "dur": dur, "args": args})
}

/// The handler's time on the CPU that took the interrupt.
fn host_slices(timeline: &Timeline, clock: Clock, tracks: &mut Tracks, events: &mut Vec<Value>) {
    let is = |wanted: fn(&What) -> bool| timeline.hops.iter().find(|hop| wanted(&hop.what));
    let (Some(begin), Some(end)) =
        (is(|what| matches!(what, What::Raised { .. })), is(|what| *what == What::Handled))
    else {
        return;
    };
    let irq = timeline.irq().map_or_else(String::new, |irq| format!("IRQ {irq} "));
    let name = format!("{irq}{} slot {}", timeline.id.vf, timeline.id.slot);
    let at = (HOST, tracks.cpu(begin.cpu));
    let args = json!({"guest": timeline.guest, "interrupted": thread(begin)});
    events.push(slice(&name, "irq", at, clock.at(begin.ns), micros(end.ns.saturating_sub(begin.ns)), args));
}

/// The interrupt on its slot's track: one slice, in it the stages, in these the hops.
fn guest_slices(timeline: &Timeline, clock: Clock, tracks: &mut Tracks, events: &mut Vec<Value>) {
    let raised = timeline.id.raise_ns;
    let last = timeline.hops.last().map_or(raised, |hop| hop.ns.max(raised));
    let process = tracks.process(&timeline.guest);
    let slot = format!("{} slot {}", timeline.id.vf, timeline.id.slot);
    let at = (process, tracks.lane(process, slot, raised, last));
    let to = timeline.vcpu.as_ref().map_or_else(String::new, |vcpu| format!(" to vCPU {vcpu}"));
    let name = format!("{}{to}", timeline.outcome.as_str());
    let stages: BTreeMap<&str, Option<u64>> = timeline.stages().named().into_iter().collect();
    let args = json!({
        "vf": timeline.id.vf.to_string(), "slot": timeline.id.slot, "irq": timeline.irq(),
        "guest_vector": timeline.vector(), "complete": timeline.complete, "stages_ns": stages,
    });
    events.push(slice(&name, "interrupt", at, clock.at(raised), micros(last - raised), args));
    let [accepted, awake, entered, ended] = timeline.marks();
    let mut from = Some(raised);
    for (stage, to) in [("dispatch", accepted), ("wake", awake), ("inject", entered), ("service", ended)] {
        // A stage that was skipped (nothing to wake) hands its beginning on; one that was not seen ends the row.
        let Some(to) = to else {
            if stage != "wake" {
                from = None;
            }
            continue;
        };
        if let Some(begin) = from.filter(|begin| *begin <= to && to <= last) {
            events.push(slice(stage, "stage", at, clock.at(begin), micros(to - begin), json!({})));
        }
        from = Some(to);
    }
    for hop in &timeline.hops {
        events.push(json!({
            "ph": "i", "s": "t", "name": hop.what.to_string(), "cat": "hop", "pid": at.0, "tid": at.1,
            "ts": clock.at(hop.ns),
            "args": {"event": hop.what.event(), "cpu": hop.cpu, "thread": thread(hop)},
        }));
    }
}

fn thread(hop: &Hop) -> String {
    format!("{}-{}", hop.comm, hop.tid)
}
