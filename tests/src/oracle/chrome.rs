//! Checks a file against the Trace Event Format, as its document describes it ("Trace Event Format", Google, JSON Object
//! Format): which members an event of each phase must have, of which type, and that complete events of a track nest.
//!
//! Knows nothing of how vfprobe writes such files.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What a valid file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Complete events (`X`).
    pub slices: usize,
    /// Instants (`i`).
    pub instants: usize,
    /// Names of tracks.
    pub tracks: BTreeSet<String>,
    /// Names of processes.
    pub processes: BTreeSet<String>,
}

/// A complete event's place: begin and end in nanoseconds.
type Spans = BTreeMap<(u64, u64), Vec<(u64, u64, String)>>;

/// Checks a whole document.
///
/// # Errors
/// The first event that breaks the format, in words.
pub fn check(document: &Value) -> Result<Contents> {
    let events = document["traceEvents"].as_array().context("no array traceEvents")?;
    if let Some(unit) = document.get("displayTimeUnit") {
        ensure!(unit == "ms" || unit == "ns", "displayTimeUnit is {unit}");
    }
    let mut contents = Contents::default();
    let mut named = BTreeSet::new();
    let mut known = BTreeSet::new();
    let mut used = BTreeSet::new();
    let mut spans = Spans::new();
    for event in events {
        let place = || format!("in {event}");
        let pid = event["pid"].as_u64().with_context(|| format!("pid is no number {}", place()))?;
        let tid = event["tid"].as_u64().with_context(|| format!("tid is no number {}", place()))?;
        let name = event["name"].as_str().with_context(|| format!("no name {}", place()))?;
        match event["ph"].as_str() {
            Some("M") => match name {
                "process_name" | "thread_name" => {
                    let text = event["args"]["name"]
                        .as_str()
                        .with_context(|| format!("no args.name {}", place()))?;
                    if name == "process_name" {
                        known.insert(pid);
                        contents.processes.insert(text.to_owned());
                    } else {
                        ensure!(named.insert((pid, tid)), "named twice {}", place());
                        contents.tracks.insert(text.to_owned());
                    }
                }
                "process_sort_index" | "thread_sort_index" => {
                    ensure!(event["args"]["sort_index"].is_i64(), "no args.sort_index {}", place());
                }
                "process_labels" => {}
                _ => bail!("no metadata of this name {}", place()),
            },
            Some("X") => {
                let (from, dur) = (nanos(&event["ts"], &place)?, nanos(&event["dur"], &place)?);
                used.insert((pid, tid));
                spans.entry((pid, tid)).or_default().push((from, from + dur, name.to_owned()));
                contents.slices += 1;
            }
            Some("i") => {
                nanos(&event["ts"], &place)?;
                let scope = event.get("s").and_then(Value::as_str).unwrap_or("t");
                ensure!(["g", "p", "t"].contains(&scope), "s is {scope} {}", place());
                used.insert((pid, tid));
                contents.instants += 1;
            }
            other => bail!("ph is {other:?} {}", place()),
        }
    }
    for (pid, tid) in &used {
        ensure!(named.contains(&(*pid, *tid)), "track {pid}/{tid} has no thread_name");
        ensure!(known.contains(pid), "process {pid} has no process_name");
    }
    spans.values_mut().try_for_each(|spans| nested(spans))?;
    Ok(contents)
}

/// Microseconds with decimals, as nanoseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be neither negative nor big"
)]
fn nanos(value: &Value, place: &dyn Fn() -> String) -> Result<u64> {
    let micros = value.as_f64().with_context(|| format!("ts or dur is no number {}", place()))?;
    ensure!((0.0..1e12).contains(&micros), "{micros} is out of range {}", place());
    Ok((micros * 1e3).round() as u64)
}

/// Whether of any two events of a track one holds the other, or they do not meet.
fn nested(spans: &mut [(u64, u64, String)]) -> Result<()> {
    // Of two that begin together the longer one is outside.
    spans.sort_by_key(|(from, until, _)| (*from, std::cmp::Reverse(*until)));
    let mut stack: Vec<&(u64, u64, String)> = Vec::new();
    for span in spans.iter() {
        while stack.last().is_some_and(|outer| outer.1 <= span.0) {
            stack.pop();
        }
        if let Some(outer) = stack.last() {
            ensure!(span.1 <= outer.1, "{span:?} begins inside {outer:?} and ends outside");
        }
        stack.push(span);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_user::report::timeline::chrome_trace;
    use probe_user::stats::timeline::{Event, Hop, Id, Joiner, Keep, What, Who};
    use serde_json::json;

    fn with(events: Value) -> Value {
        let mut all = vec![
            json!({"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": "p"}}),
            json!({"ph": "M", "name": "thread_name", "pid": 1, "tid": 2, "args": {"name": "t"}}),
        ];
        all.extend(events.as_array().unwrap().iter().cloned());
        json!({ "traceEvents": all })
    }

    fn slice(ts: f64, dur: f64) -> Value {
        json!({"ph": "X", "name": "s", "pid": 1, "tid": 2, "ts": ts, "dur": dur})
    }

    #[test]
    fn good_and_bad_documents() {
        let good =
            check(&with(json!([slice(0.0, 10.0), slice(0.0, 4.0), slice(4.0, 6.0), slice(20.5, 1.0)])));
        assert_eq!(good.unwrap().slices, 4);
        let bad = [
            json!({}),
            with(json!([slice(0.0, 10.0), slice(5.0, 10.0)])),
            with(json!([slice(-1.0, 10.0)])),
            with(json!([{"ph": "X", "name": "s", "pid": 1, "tid": 2, "ts": 1}])),
            with(json!([{"ph": "X", "name": "s", "pid": 1, "tid": 3, "ts": 1, "dur": 1}])),
            with(json!([{"ph": "i", "name": "s", "pid": 1, "tid": 2, "ts": 1, "s": "x"}])),
            with(json!([{"ph": "Q", "name": "s", "pid": 1, "tid": 2, "ts": 1}])),
            with(json!([{"ph": "M", "name": "thread_nome", "pid": 1, "tid": 2, "args": {"name": "t"}}])),
            with(json!([{"ph": "M", "name": "thread_name", "pid": 1, "tid": 4}])),
        ];
        for document in bad {
            assert!(check(&document).is_err(), "{document}");
        }
    }

    /// Interrupts of two slots that overlap on their tracks and their CPU's, one without an end, one with a gap.
    fn events() -> Vec<Event> {
        let accepted = |running| What::Accepted {
            vector: 38,
            pending: false,
            running: Some(running),
            vcpu_id: 0,
            vcpu_cpu: Some(1),
        };
        let mut all = Vec::new();
        for n in 0..40u64 {
            let raise_ns = 1_000_000_001 + n * 1_000;
            let id = Id { raise_ns, vf: "0000:01:10.0".parse().unwrap(), slot: u32::from(n % 3 == 0) };
            let asleep = n % 2 == 0;
            let mut steps = vec![
                (0, 0, What::Raised { irq: 32, busy: false }),
                (200, 0, accepted(!asleep)),
                (300, 0, What::Handled),
                (900, 1, What::SwitchedIn),
                (1_500 + n * 37, 1, What::Injected { vector: 38 }),
                (2_500 + n * 53, 1, What::Entered),
                (9_000 - n * 71, 1, What::Ended),
            ];
            if n % 7 == 0 {
                steps.pop();
            }
            if n % 11 == 0 {
                steps.remove(1);
            }
            for (after, cpu, what) in steps {
                let hop = Hop { ns: raise_ns + after, cpu, tid: 0, comm: "swapper/0".to_owned(), what };
                all.push(Event { hop, id: Some(id), vcpu: Some(77) });
            }
        }
        all
    }

    #[test]
    fn what_vfprobe_writes_is_valid() {
        let who = Who {
            guests: [("0000:01:10.0".parse().unwrap(), "vm1".to_owned())].into(),
            vcpus: [(77, "0".to_owned())].into(),
        };
        let mut joiner = Joiner::new(who, Keep::First(100), None);
        joiner.add(events());
        let joined = joiner.finish();
        assert_eq!(joined.timelines.len(), 40);
        let text = chrome_trace(&joined.timelines, 1_000_000_000).to_string();
        let document: Value = serde_json::from_str(&text).unwrap();
        let contents = check(&document).unwrap();
        assert_eq!(contents.processes, BTreeSet::from(["host".to_owned(), "guest vm1".to_owned()]));
        assert!(contents.tracks.contains("CPU 0") && contents.tracks.contains("0000:01:10.0 slot 1"));
        assert!(
            contents.tracks.contains("0000:01:10.0 slot 1 (2)"),
            "overlapping ones get a lane: {contents:?}"
        );
        assert_eq!(contents.instants, joined.timelines.iter().map(|t| t.hops.len()).sum::<usize>());
        // One on its CPU's track, one on its slot's, and its stages.
        assert!(contents.slices > 40 * 4, "{contents:?}");
        // Times are from the origin on, to the nanosecond.
        let first = document["traceEvents"].as_array().unwrap().iter().find(|e| e["cat"] == "irq").unwrap();
        assert_eq!((first["ts"].as_f64(), first["dur"].as_f64()), (Some(0.001), Some(0.3)));
    }
}
