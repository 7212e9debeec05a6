//! `iperf3 -J`: the `end` object.

use super::Totals;
use serde::Deserialize;

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
