//! The output of `ping` (iputils): counts, loss and round-trip times (ping(8)).
//!
//! Pure. Per-packet lines give percentiles; with `-q`, `-f` or without times only the summary does.

use super::{Better, Metric, Unit};
use std::{collections::BTreeSet, time::Duration};

/// Fewest replies for a 99th percentile, as for any other series.
const P99_NEEDS: usize = 100;

/// Reads the figures out of ping's standard output.
///
/// # Errors
/// Says what is missing: a ping that was killed prints no summary, and then only per-packet times count.
pub fn parse(text: &str) -> Result<Vec<Metric>, String> {
    let mut times: Vec<f64> = text.lines().filter_map(reply_time_ms).collect();
    times.sort_unstable_by(f64::total_cmp);
    let counts = text.lines().find_map(summary_counts);
    if times.is_empty() && counts.is_none() {
        return Err("neither replies nor a summary in ping's output".to_owned());
    }
    let mut metrics = Vec::new();
    if let Some((sent, received)) = counts {
        metrics.extend(counts_and_loss(f64::from(sent), f64::from(received)));
    }
    metrics.extend(round_trips(&times, text.lines().find_map(summary_times_ms)));
    Ok(metrics)
}

/// Reads the figures of one run out of the lines that a ping which runs on printed during it. Loss is that among the requests
/// from the first to the last one answered: whether one before or after them belongs to the run is not known.
///
/// # Errors
/// Says what is missing.
pub fn parse_part(lines: &str) -> Result<Vec<Metric>, String> {
    let mut times: Vec<f64> = lines.lines().filter_map(reply_time_ms).collect();
    times.sort_unstable_by(f64::total_cmp);
    if times.is_empty() {
        return Err("ping printed no reply during this run (with -q it never does): no figures".to_owned());
    }
    let mut metrics = Vec::new();
    let replies = lines.lines().filter(|line| reply_time_ms(line).is_some());
    let answered: BTreeSet<i64> = going_on(replies.filter_map(sequence)).into_iter().collect();
    if let (Some(first), Some(last)) = (answered.first(), answered.last()) {
        let received = u32::try_from(answered.len()).map_or(f64::NAN, f64::from);
        let sent = u32::try_from(last - first + 1).map_or(f64::NAN, f64::from);
        metrics.extend(counts_and_loss(sent, received));
    }
    metrics.extend(round_trips(&times, None));
    Ok(metrics)
}

/// Reads the figures of the time from a moment on out of lines with their times, all since ping's start: replies that came
/// then, and the loss among the requests behind the last one that was answered before. `None` when no reply came, as always
/// with `-q`.
pub(super) fn parse_from(lines: &[(Duration, String)], from: Duration) -> Option<Vec<Metric>> {
    let replies: Vec<(Duration, &str, f64)> =
        lines.iter().filter_map(|(at, line)| Some((*at, line.as_str(), reply_time_ms(line)?))).collect();
    let mut times: Vec<f64> = replies.iter().filter(|(at, ..)| *at >= from).map(|(.., ms)| *ms).collect();
    times.sort_unstable_by(f64::total_cmp);
    if times.is_empty() {
        return None;
    }
    let mut metrics = Vec::new();
    let numbered: Vec<(Duration, u16)> =
        replies.iter().filter_map(|(at, line, _)| Some((*at, sequence(line)?))).collect();
    let numbers = going_on(numbered.iter().map(|(_, number)| *number));
    let parted = || numbered.iter().map(|(at, _)| *at >= from).zip(&numbers);
    let before = parted().filter(|(counts, _)| !counts).map(|(_, number)| *number).max();
    let counting = || parted().filter(|(counts, _)| *counts).map(|(_, number)| *number);
    if let (Some(least), Some(last)) = (counting().min(), counting().max()) {
        let first = before.map_or(least, |before| before + 1);
        let received: BTreeSet<i64> = counting().filter(|number| *number >= first).collect();
        // The summary knows of requests behind the last answer: those lost at the end, and those under way.
        let begin = i64::from(replies.iter().any(|(_, line, _)| line.contains("icmp_seq=")));
        let summary = lines.iter().find_map(|(_, line)| summary_counts(line));
        let of_summary = summary.map(|(sent, _)| i64::from(sent) + begin - 1);
        let last = last.max(of_summary.unwrap_or(last));
        let number = |count: i64| u32::try_from(count).map_or(f64::NAN, f64::from);
        let received = i64::try_from(received.len()).unwrap_or(i64::MAX);
        metrics.extend(counts_and_loss(number(last - first + 1), number(received)));
    }
    metrics.extend(round_trips(&times, None));
    Some(metrics)
}

fn counts_and_loss(sent: f64, received: f64) -> Vec<Metric> {
    [
        Metric::new("sent", Unit::Other, sent, Better::Neither),
        Metric::new("received", Unit::Other, received, Better::Neither),
        Metric::new("loss", Unit::Share, (1.0 - received / sent).max(0.0), Better::Lower),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Round-trip times of sorted replies (ms), those of the summary first where there is one.
fn round_trips(times: &[f64], summary: Option<[f64; 4]>) -> Vec<Metric> {
    let nanoseconds = |name: &str, ms: f64| Metric::new(name, Unit::Nanoseconds, ms * 1e6, Better::Lower);
    let mut metrics = Vec::new();
    let from_replies = || (!times.is_empty()).then(|| of_replies(times));
    if let Some([min, mean, max, deviation]) = summary.or_else(from_replies) {
        metrics.extend(nanoseconds("rtt_min", min));
        metrics.extend(nanoseconds("rtt_mean", mean));
        metrics.extend(nanoseconds("rtt_max", max));
        metrics.extend(nanoseconds("rtt_mdev", deviation));
    }
    for (name, share, needs) in [("rtt_p50", 0.5, 2), ("rtt_p90", 0.9, 10), ("rtt_p99", 0.99, P99_NEEDS)] {
        if times.len() >= needs {
            metrics.extend(nanoseconds(name, rank(times, share)));
        }
    }
    metrics
}

/// `icmp_seq=1`; busybox prints `seq=1`.
fn sequence(line: &str) -> Option<u16> {
    line.split_once("seq=")?.1.split_whitespace().next()?.parse().ok()
}

/// Sequence numbers that begin again at 0 after 65535, made to go on; replies may come out of order.
fn going_on(numbers: impl Iterator<Item = u16>) -> Vec<i64> {
    let mut at: Option<i64> = None;
    let next = |number| {
        let next = at.map_or(i64::from(number), |at| {
            // The nearest number that ends in these 16 bits.
            let step = (i64::from(number) - at + 0x8000).rem_euclid(0x1_0000) - 0x8000;
            at + step
        });
        at = Some(next);
        next
    };
    numbers.map(next).collect()
}

/// The value at a share of sorted values: the smallest with at least that share at or below it.
fn rank(sorted: &[f64], share: f64) -> f64 {
    let count = sorted.len() as f64;
    let wanted = count * share;
    let reached = sorted.iter().zip(1u32..).find(|(_, at)| f64::from(*at) >= wanted);
    reached.map_or(f64::NAN, |(value, _)| *value)
}

/// Minimum, mean, maximum and standard deviation (which iputils calls mdev) of sorted times.
fn of_replies(sorted: &[f64]) -> [f64; 4] {
    let n = sorted.len() as f64;
    let mean = sorted.iter().sum::<f64>() / n;
    let variance = sorted.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / n;
    [sorted[0], mean, sorted[sorted.len() - 1], variance.sqrt()]
}

/// `64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=0.041 ms`; duplicates do not count.
fn reply_time_ms(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once(" time=").or_else(|| line.split_once(" time<"))?;
    let (number, unit) = rest.split_once(' ')?;
    (!line.contains("(DUP!)") && unit.starts_with("ms")).then_some(())?;
    number.parse().ok().filter(|t: &f64| t.is_finite() && *t >= 0.0)
}

/// `3 packets transmitted, 3 received, 0% packet loss, time 2003ms`. `None` as well when nothing was sent.
fn summary_counts(line: &str) -> Option<(u32, u32)> {
    let (sent, rest) = line.split_once(" packets transmitted, ")?;
    let received = rest.split_whitespace().next()?;
    let (sent, received) = (sent.trim().parse::<u32>().ok()?, received.parse::<u32>().ok()?);
    (sent > 0).then_some((sent, received))
}

/// `rtt min/avg/max/mdev = 0.026/0.034/0.041/0.006 ms`; busybox prints `round-trip min/avg/max = ...`.
fn summary_times_ms(line: &str) -> Option<[f64; 4]> {
    let (head, rest) = line.split_once(" = ")?;
    if !head.starts_with("rtt min/avg/max") {
        return None;
    }
    let mut parts = rest.split_whitespace().next()?.split('/').map(|t| t.parse::<f64>().ok());
    Some([parts.next()??, parts.next()??, parts.next()??, parts.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NORMAL: &str = "\
PING 127.0.0.1 (127.0.0.1) 56(84) bytes of data.
64 bytes from 127.0.0.1: icmp_seq=1 ttl=64 time=0.041 ms
64 bytes from 127.0.0.1: icmp_seq=2 ttl=64 time=0.026 ms
64 bytes from 127.0.0.1: icmp_seq=2 ttl=64 time=9.026 ms (DUP!)
64 bytes from 127.0.0.1: icmp_seq=3 ttl=64 time=0.035 ms

--- 127.0.0.1 ping statistics ---
3 packets transmitted, 3 received, 0% packet loss, time 2003ms
rtt min/avg/max/mdev = 0.026/0.034/0.041/0.006 ms
";

    const QUIET_LOSS: &str = "\
PING 10.1.0.2 (10.1.0.2) 56(84) bytes of data.

--- 10.1.0.2 ping statistics ---
200 packets transmitted, 150 received, 25% packet loss, time 1991ms
rtt min/avg/max/mdev = 1.210/8.330/41.000/6.100 ms, pipe 4, ipg/ewma 10.005/2.100 ms
";

    const ALL_LOST: &str = "\
PING 10.1.0.9 (10.1.0.9) 56(84) bytes of data.
From 10.1.0.1 icmp_seq=1 Destination Host Unreachable

--- 10.1.0.9 ping statistics ---
2 packets transmitted, 0 received, +1 errors, 100% packet loss, time 1010ms
";

    fn figures(text: &str) -> Vec<(String, f64)> {
        parse(text).unwrap().into_iter().map(|m| (m.name, m.value)).collect()
    }

    #[test]
    fn captured_outputs() {
        let cases: [(&str, &[(&str, f64)]); 3] = [
            (
                NORMAL,
                &[
                    ("sent", 3.0),
                    ("received", 3.0),
                    ("loss", 0.0),
                    ("rtt_min", 26_000.0),
                    ("rtt_mean", 34_000.0),
                    ("rtt_max", 41_000.0),
                    ("rtt_mdev", 6_000.0),
                    ("rtt_p50", 35_000.0),
                ],
            ),
            (
                QUIET_LOSS,
                &[
                    ("sent", 200.0),
                    ("received", 150.0),
                    ("loss", 0.25),
                    ("rtt_min", 1_210_000.0),
                    ("rtt_mean", 8_330_000.0),
                    ("rtt_max", 41_000_000.0),
                    ("rtt_mdev", 6_100_000.0),
                ],
            ),
            (ALL_LOST, &[("sent", 2.0), ("received", 0.0), ("loss", 1.0)]),
        ];
        for (text, expected) in cases {
            let found = figures(text);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for ((name, value), (expected_name, expected_value)) in found.iter().zip(expected) {
                assert_eq!(name, expected_name);
                assert!((value - expected_value).abs() < 1e-6 * expected_value.max(1.0), "{name}: {value}");
            }
        }
    }

    #[test]
    fn a_killed_ping_still_has_its_replies() {
        let cut = NORMAL.split("\n---").next().unwrap();
        let names: Vec<String> = figures(cut).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["rtt_min", "rtt_mean", "rtt_max", "rtt_mdev", "rtt_p50"]);
    }

    #[test]
    fn a_part_has_the_loss_between_its_replies() {
        let reply = |seq: u32| format!("64 bytes from h: icmp_seq={} ttl=64 time=2.0 ms\n", seq & 0xffff);
        for (numbers, figures) in [
            (&[7, 8, 9][..], Some((3.0, 3.0, 0.0))),
            (&[7, 10], Some((4.0, 2.0, 0.5))),
            (&[8, 7, 9], Some((3.0, 3.0, 0.0))),
            (&[65534, 65535, 65536, 65538], Some((5.0, 4.0, 0.2))),
            (&[3], Some((1.0, 1.0, 0.0))),
            (&[], None),
        ] {
            let lines: String = numbers.iter().map(|seq| reply(*seq)).collect();
            let lines =
                format!("no answer yet for icmp_seq=2\n{lines}From h icmp_seq=99 Destination unreachable\n");
            let found = parse_part(&lines).ok();
            let value = |name: &str| found.as_ref()?.iter().find(|m| m.name == name).map(|m| m.value);
            let counts = value("sent").zip(value("received")).zip(value("loss"));
            let counts = counts.map(|((sent, received), loss)| (sent, received, (loss * 1e9).round() / 1e9));
            assert_eq!(counts, figures, "{numbers:?}");
            assert_eq!(value("rtt_mean"), figures.map(|_| 2e6));
        }
    }

    #[test]
    fn the_warm_up_is_left_out() {
        let reply = |at: u64, seq: u32, ms: &str| {
            let seq = seq & 0xffff;
            (at, format!("64 bytes from h: icmp_seq={seq} ttl=64 time={ms} ms\n"))
        };
        let summary = |sent: u32, received: u32| {
            (
                3000,
                format!(
                    "{sent} packets transmitted, {received} received, 9% packet loss, time 9ms\nrtt min/avg/max/mdev = 9/9/9/9 ms\n"
                ),
            )
        };
        let busybox = |at: u64, seq: u32| (at, format!("64 bytes from h: seq={seq} ttl=64 time=2.0 ms\n"));
        // Sent, received and lost of the time that counts, which begins at 1000, and the mean round trip (ms).
        type Case = (Vec<(u64, String)>, Option<(f64, f64, f64, f64)>);
        let cases: [Case; 8] = [
            (
                vec![
                    reply(500, 1, "9.0"),
                    reply(999, 2, "9.0"),
                    reply(1000, 3, "2.0"),
                    reply(1500, 4, "4.0"),
                    summary(4, 4),
                ],
                Some((2.0, 2.0, 0.0, 3.0)),
            ),
            // One was lost on the edge, one in the middle, and two behind the last answer.
            (
                vec![reply(999, 2, "9.0"), reply(1200, 4, "2.0"), reply(1500, 6, "2.0"), summary(8, 3)],
                Some((6.0, 2.0, 2.0 / 3.0, 2.0)),
            ),
            // One of before came late: its time counts, it does not.
            (
                vec![reply(900, 2, "9.0"), reply(1100, 1, "4.0"), reply(1200, 3, "2.0"), summary(3, 3)],
                Some((1.0, 1.0, 0.0, 3.0)),
            ),
            // Killed: no summary.
            (
                vec![reply(900, 1, "9.0"), reply(1100, 2, "2.0"), reply(1300, 4, "2.0")],
                Some((3.0, 2.0, 1.0 / 3.0, 2.0)),
            ),
            (
                vec![
                    reply(900, 65534, "9.0"),
                    reply(1100, 65535, "2.0"),
                    reply(1300, 65537, "2.0"),
                    summary(65537, 65536),
                ],
                Some((3.0, 2.0, 1.0 / 3.0, 2.0)),
            ),
            (
                vec![busybox(900, 0), busybox(1100, 1), busybox(1300, 2), summary(3, 3)],
                Some((2.0, 2.0, 0.0, 2.0)),
            ),
            (vec![reply(900, 1, "9.0"), summary(4, 1)], None),
            (vec![summary(4, 4)], None),
        ];
        for (lines, expected) in cases {
            let lines: Vec<(Duration, String)> =
                lines.into_iter().map(|(at, line)| (Duration::from_millis(at), line)).collect();
            let found = parse_from(&lines, Duration::from_secs(1));
            let value = |name: &str| found.as_ref()?.iter().find(|m| m.name == name).map(|m| m.value);
            let round = |value: f64| (value * 1e9).round() / 1e9;
            let figures = found.as_ref().map(|_| {
                let mean = value("rtt_mean").unwrap() / 1e6;
                (value("sent").unwrap(), value("received").unwrap(), round(value("loss").unwrap()), mean)
            });
            assert_eq!(figures, expected.map(|(s, r, l, m)| (s, r, round(l), m)), "{lines:?}");
        }
    }

    #[test]
    fn percentiles_need_enough_replies() {
        let reply = |i: usize| format!("64 bytes from h: icmp_seq={i} ttl=64 time={i}.0 ms\n");
        for (n, p90, p99) in [(9, None, None), (10, Some(9e6), None), (100, Some(90e6), Some(99e6))] {
            let metrics = parse(&(1..=n).map(reply).collect::<String>()).unwrap();
            let value = |name: &str| metrics.iter().find(|m| m.name == name).map(|m| m.value);
            assert_eq!((value("rtt_p90"), value("rtt_p99")), (p90, p99), "{n} replies");
        }
    }

    #[test]
    fn what_is_not_pings_output_is_refused() {
        for text in ["", "ping: unknown host", "0 packets transmitted, 0 received, time 0ms"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
