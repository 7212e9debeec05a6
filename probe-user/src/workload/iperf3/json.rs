//! `iperf3 -J`: the `end` object, and the intervals where only a part counts.

use super::Totals;
use serde::Deserialize;
use std::time::Duration;

/// How far an interval may reach beyond the time that counts: they are about a second long and not begun with it.
const SLACK: f64 = 0.1;

#[derive(Deserialize)]
struct Output {
    #[serde(default)]
    end: End,
    error: Option<String>,
}

#[derive(Default, Deserialize)]
struct End {
    sum: Option<Sum>,
    sum_sent: Option<Sum>,
    sum_received: Option<Sum>,
    sum_sent_bidir_reverse: Option<Sum>,
    sum_received_bidir_reverse: Option<Sum>,
}

#[derive(Clone, Copy, Deserialize)]
struct Sum {
    bits_per_second: Option<f64>,
    retransmits: Option<f64>,
    jitter_ms: Option<f64>,
    lost_packets: Option<f64>,
    packets: Option<f64>,
}

/// The figures of the forward direction, and of the reverse one in a `--bidir` test.
pub(super) fn totals(output: &str) -> Result<(Totals, Option<Totals>), String> {
    let Output { end, error } =
        serde_json::from_str(output).map_err(|e| format!("iperf3's JSON cannot be read: {e}"))?;
    let forward = direction(end.sum_sent.or(end.sum), end.sum_received.or(end.sum));
    let reverse = direction(end.sum_sent_bidir_reverse, end.sum_received_bidir_reverse);
    // An interrupted client reports an error and still has figures; any other error leaves none.
    match forward {
        Some(totals) => Ok((totals, reverse)),
        None => Err(error.unwrap_or_else(|| "no summary in iperf3's JSON".to_owned())),
    }
}

fn direction(sent: Option<Sum>, received: Option<Sum>) -> Option<Totals> {
    let lost_share = |sum: Sum| {
        let packets = sum.packets.filter(|p| *p > 0.0)?;
        Some(sum.lost_packets? / packets)
    };
    let totals = Totals {
        sent_bits_per_second: sent.and_then(|s| s.bits_per_second),
        received_bits_per_second: received.and_then(|s| s.bits_per_second),
        retransmits: sent.and_then(|s| s.retransmits),
        jitter_ms: received.and_then(|s| s.jitter_ms),
        lost_share: received.and_then(lost_share),
    };
    totals.throughput().map(|_| totals)
}

/// What of a test falls into the time that counts.
pub(super) enum Within {
    /// All that iperf3 has not left out itself.
    All,
    /// These figures of a part of it: forward, and reverse in a `--bidir` test.
    Part(Totals, Option<Totals>),
}

#[derive(Deserialize)]
struct Course {
    #[serde(default)]
    start: Start,
    #[serde(default)]
    intervals: Vec<Interval>,
}

#[derive(Default, Deserialize)]
struct Start {
    #[serde(default)]
    test_start: TestStart,
}

#[derive(Default, Deserialize)]
struct TestStart {
    #[serde(default)]
    protocol: String,
    #[serde(default)]
    reverse: u8,
}

#[derive(Deserialize)]
struct Interval {
    sum: Part,
    sum_bidir_reverse: Option<Part>,
}

#[derive(Clone, Copy, Deserialize)]
struct Part {
    seconds: f64,
    bytes: f64,
    retransmits: Option<f64>,
    jitter_ms: Option<f64>,
    lost_packets: Option<f64>,
    packets: Option<f64>,
    #[serde(default)]
    omitted: bool,
    /// Whether the client is the sender; versions before 3.8 do not say.
    sender: Option<bool>,
}

/// The part of a test in the time from `from` to `to`. The document was printed at `printed`; all times are since iperf3's
/// start. When the test began is not said exactly: after iperf3 was started, and early enough to be over when it was printed.
/// Only intervals count that lie within in either case. `None` when none does, or they say nothing of what arrived.
pub(super) fn within(output: &str, printed: Duration, from: Duration, to: Duration) -> Option<Within> {
    let Course { start, intervals } = serde_json::from_str(output).ok()?;
    let length: f64 = intervals.iter().map(|one| one.sum.seconds).sum();
    let latest = (printed.as_secs_f64() - length).max(0.0);
    let mut at = 0.0;
    let (mut inside, mut counted) = (Vec::new(), 0);
    for one in &intervals {
        let (begin, end) = (at, at + one.sum.seconds);
        at = end;
        if one.sum.omitted {
            continue;
        }
        counted += 1;
        if begin + SLACK >= from.as_secs_f64() && latest + end <= to.as_secs_f64() + SLACK {
            inside.push(one);
        }
    }
    if inside.is_empty() {
        return None;
    }
    if inside.len() == counted {
        return Some(Within::All);
    }
    let sends = start.test_start.reverse == 0;
    let forward: Vec<Part> = inside.iter().map(|one| one.sum).collect();
    if forward.iter().any(|part| part.sender.unwrap_or(sends)) && start.test_start.protocol == "UDP" {
        return None;
    }
    let reverse: Vec<Part> = inside.iter().filter_map(|one| one.sum_bidir_reverse).collect();
    Some(Within::Part(added(&forward, sends)?, added(&reverse, !sends)))
}

/// Intervals of one direction taken together. `sends`: whether the client sends in it, where they do not say.
fn added(parts: &[Part], sends: bool) -> Option<Totals> {
    let last = parts.last()?;
    let sum = |of: fn(&Part) -> Option<f64>| parts.iter().map(of).sum::<Option<f64>>();
    let rate = parts.iter().map(|part| part.bytes).sum::<f64>() * 8.0
        / parts.iter().map(|part| part.seconds).sum::<f64>();
    if last.sender.unwrap_or(sends) {
        let retransmits = sum(|part| part.retransmits);
        return Some(Totals { sent_bits_per_second: Some(rate), retransmits, ..Totals::default() });
    }
    let packets = sum(|part| part.packets).filter(|packets| *packets > 0.0);
    Some(Totals {
        received_bits_per_second: Some(rate),
        jitter_ms: last.jitter_ms,
        lost_share: sum(|part| part.lost_packets).zip(packets).map(|(lost, packets)| lost / packets),
        ..Totals::default()
    })
}
