//! iperf3's text: the lines that end in `sender` and `receiver`.

use super::Totals;

struct Row<'a> {
    is_sum: bool,
    is_reverse: bool,
    is_receiver: bool,
    bits_per_second: f64,
    /// What stands between the bit rate and `sender`/`receiver`.
    rest: Vec<&'a str>,
}

/// The figures of the forward direction, and of the reverse one (`RX-C`) in a `--bidir` test.
pub(super) fn totals(output: &str) -> Result<(Totals, Option<Totals>), String> {
    let rows: Vec<Row<'_>> = output.lines().filter_map(row).collect();
    let of = |reverse: bool| {
        let rows: Vec<&Row<'_>> = rows.iter().filter(|r| r.is_reverse == reverse).collect();
        let sums_only = rows.iter().any(|r| r.is_sum);
        direction(rows.into_iter().filter(|r| !sums_only || r.is_sum))
    };
    match (of(false), of(true)) {
        (Some(forward), reverse) => Ok((forward, reverse)),
        (None, _) => Err("no summary in iperf3's output".to_owned()),
    }
}

/// Adds up the streams of one direction; with several streams iperf3 prints the sum itself, and only that is given.
fn direction<'a>(rows: impl Iterator<Item = &'a Row<'a>>) -> Option<Totals> {
    let mut totals = Totals::default();
    for row in rows {
        let side = match row.is_receiver {
            true => &mut totals.received_bits_per_second,
            false => &mut totals.sent_bits_per_second,
        };
        *side = Some(side.unwrap_or(0.0) + row.bits_per_second);
        match (row.is_receiver, row.rest.as_slice()) {
            // TCP: the sender's retransmissions.
            (false, [retransmits]) => totals.retransmits = retransmits.parse().ok(),
            // UDP: `0.092 ms  0/382 (0%)`, which only the receiver can know.
            (true, [jitter, "ms", lost_of_total, ..]) => {
                totals.jitter_ms = jitter.parse().ok();
                totals.lost_share = share(lost_of_total);
            }
            _ => {}
        }
    }
    totals.throughput().map(|_| totals)
}

fn row(line: &str) -> Option<Row<'_>> {
    let line = line.trim();
    let (line, is_receiver) = match line.strip_suffix("receiver") {
        Some(head) => (head, true),
        None => (line.strip_suffix("sender")?, false),
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    let unit_at = words.iter().position(|w| w.ends_with("bits/sec"))?;
    let number: f64 = words.get(unit_at.checked_sub(1)?)?.parse().ok()?;
    Some(Row {
        is_sum: line.starts_with("[SUM]"),
        is_reverse: line.contains("[RX-C]"),
        is_receiver,
        bits_per_second: number * scale(words[unit_at])?,
        rest: words[unit_at + 1..].to_vec(),
    })
}

/// iperf3 counts bits in powers of 1000 (iperf3(1), `--format`).
fn scale(unit: &str) -> Option<f64> {
    match unit.strip_suffix("bits/sec")? {
        "" => Some(1.0),
        "K" => Some(1e3),
        "M" => Some(1e6),
        "G" => Some(1e9),
        "T" => Some(1e12),
        _ => None,
    }
}

/// `191/382` as a share; nothing of nothing has none.
fn share(lost_of_total: &str) -> Option<f64> {
    let (lost, total) = lost_of_total.split_once('/')?;
    let total: f64 = total.parse().ok().filter(|t| *t > 0.0)?;
    Some(lost.parse::<f64>().ok()? / total)
}
