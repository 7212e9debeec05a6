//! The output of `iperf3`, as JSON (`-J`) or text: throughput, retransmissions, UDP jitter and loss.
//!
//! Pure. Throughput is what the receiver counted; a client that was interrupted never hears the receiver's count, and
//! then the sender's stands in.

mod json;
mod text;

use super::{Better, Metric, Said, Unit};
use std::time::Duration;

/// The end-of-test figures of one direction, whichever form they came in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Totals {
    sent_bits_per_second: Option<f64>,
    received_bits_per_second: Option<f64>,
    retransmits: Option<f64>,
    jitter_ms: Option<f64>,
    lost_share: Option<f64>,
}

impl Totals {
    fn throughput(&self) -> Option<f64> {
        self.received_bits_per_second.filter(|b| *b > 0.0).or(self.sent_bits_per_second)
    }

    fn metrics(&self, suffix: &str) -> Vec<Metric> {
        let metric = |name: &str, unit, value: Option<f64>, better| {
            Metric::new(&format!("{name}{suffix}"), unit, value?, better)
        };
        [
            metric("throughput", Unit::BitsPerSecond, self.throughput(), Better::Higher),
            metric("retransmits", Unit::Other, self.retransmits, Better::Lower),
            metric("jitter", Unit::Nanoseconds, self.jitter_ms.map(|ms| ms * 1e6), Better::Lower),
            metric("loss", Unit::Share, self.lost_share, Better::Lower),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Reads the figures out of iperf3's standard output.
///
/// # Errors
/// iperf3's own error message, or what is missing from the output.
pub fn parse(output: &str) -> Result<Vec<Metric>, String> {
    let (forward, reverse) = match output.trim_start().starts_with('{') {
        true => json::totals(output)?,
        false => text::totals(output)?,
    };
    let mut metrics = forward.metrics("");
    metrics.extend(reverse.iter().flat_map(|totals| totals.metrics("_reverse")));
    Ok(metrics)
}

/// Reads the figures of the time that counts out of iperf3's JSON, from its intervals. `None` when they cannot be told apart from
/// the rest: as text, in one interval alone, of what a UDP sender sent.
pub(super) fn parse_within(said: &Said<'_>) -> Option<Vec<Metric>> {
    let text = said.text();
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let printed = said.lines.first().map(|(at, _)| *at)?;
    match json::within(&text, printed, said.from, said.to)? {
        json::Within::All => parse(&text).ok(),
        json::Within::Part(forward, reverse) => {
            let mut metrics = forward.metrics("");
            metrics.extend(reverse.iter().flat_map(|totals| totals.metrics("_reverse")));
            Some(metrics)
        }
    }
}

/// How much of its beginning iperf3 itself leaves out of its figures (`-O`, `--omit`).
pub(super) fn omitted(command: &[String]) -> Duration {
    let value = |(at, word): (usize, &String)| {
        let joined =
            word.strip_prefix("--omit=").or_else(|| word.strip_prefix("-O").filter(|v| !v.is_empty()));
        let apart = || matches!(word.as_str(), "-O" | "--omit").then(|| command.get(at + 1)).flatten();
        joined.or_else(|| apart().map(String::as_str))?.parse().ok().map(Duration::from_secs)
    };
    command.iter().enumerate().find_map(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP_TEXT: &str = "\
[ ID] Interval           Transfer     Bitrate         Retr  Cwnd
[  5]   0.00-1.00   sec  2.25 GBytes  19.3 Gbits/sec    0    895 KBytes       
[  5]   1.00-2.00   sec  2.30 GBytes  19.7 Gbits/sec    2   1.62 MBytes       
- - - - - - - - - - - - - - - - - - - - - - - - -
[ ID] Interval           Transfer     Bitrate         Retr
[  5]   0.00-2.00   sec  4.54 GBytes  19.5 Gbits/sec    2             sender
[  5]   0.00-2.00   sec  4.54 GBytes  19.4 Gbits/sec                  receiver

iperf Done.
";

    const PARALLEL_TEXT: &str = "\
[  5]   0.00-2.00   sec  1.61 GBytes  6.90 Gbits/sec   16             sender
[  5]   0.00-2.00   sec  1.61 GBytes  6.90 Gbits/sec                  receiver
[  7]   0.00-2.00   sec  1.56 GBytes  6.70 Gbits/sec   10             sender
[  7]   0.00-2.00   sec  1.56 GBytes  6.70 Gbits/sec                  receiver
[SUM]   0.00-2.00   sec  3.17 GBytes  13.6 Gbits/sec   26             sender
[SUM]   0.00-2.00   sec  3.17 GBytes  13.6 Gbits/sec                  receiver
";

    const UDP_TEXT: &str = "\
[ ID] Interval           Transfer     Bitrate         Jitter    Lost/Total Datagrams
[  5]   0.00-2.00   sec  11.9 MBytes  50.1 Mbits/sec  0.000 ms  0/382 (0%)  sender
[  5]   0.00-2.00   sec  11.9 MBytes  50.0 Mbits/sec  0.092 ms  191/382 (50%)  receiver
";

    const BIDIR_TEXT: &str = "\
[  5][TX-C]   0.00-2.01   sec  2.52 GBytes  10.8 Gbits/sec   31             sender
[  5][TX-C]   0.00-2.01   sec  2.51 GBytes  10.7 Gbits/sec                  receiver
[  7][RX-C]   0.00-2.01   sec  1.73 GBytes  7.43 Gbits/sec    0             sender
[  7][RX-C]   0.00-2.01   sec  1.72 GBytes  7.33 Gbits/sec                  receiver
";

    const INTERRUPTED_TEXT: &str = "\
[  5]   0.00-0.99   sec  2.15 GBytes  18.6 Gbits/sec    0             sender
[  5]   0.00-0.99   sec  0.00 Bytes  0.00 bits/sec                  receiver
";

    const TCP_JSON: &str = r#"{"start":{},"intervals":[],"end":{
        "sum_sent":{"seconds":2.0,"bytes":3870556160,"bits_per_second":15481195140.5,"retransmits":4,"sender":true},
        "sum_received":{"seconds":2.0,"bytes":3864264704,"bits_per_second":15452585292.5,"sender":true}}}"#;

    const UDP_JSON: &str = r#"{"end":{
        "sum":{"bits_per_second":50067301.0,"jitter_ms":0.031,"lost_packets":0,"packets":382,"lost_percent":0},
        "sum_sent":{"bits_per_second":50067301.0,"jitter_ms":0,"lost_packets":0,"packets":382},
        "sum_received":{"bits_per_second":50061394.0,"jitter_ms":0.031,"lost_packets":38,"packets":380}}}"#;

    /// Before 3.11 (2022) a UDP test has `sum` alone.
    const OLD_UDP_JSON: &str =
        r#"{"end":{"sum":{"bits_per_second":1048576,"jitter_ms":0.5,"lost_packets":1,"packets":4}}}"#;

    const INTERRUPTED_JSON: &str = r#"{"end":{
        "sum_sent":{"bits_per_second":18876780327.0,"retransmits":6},
        "sum_received":{"bytes":0,"bits_per_second":0}},
        "error":"interrupt - the client has terminated"}"#;

    #[test]
    fn captured_outputs() {
        let cases: [(&str, &[(&str, f64)]); 9] = [
            (TCP_TEXT, &[("throughput", 19.4e9), ("retransmits", 2.0)]),
            (PARALLEL_TEXT, &[("throughput", 13.6e9), ("retransmits", 26.0)]),
            (UDP_TEXT, &[("throughput", 50.0e6), ("jitter", 92_000.0), ("loss", 0.5)]),
            (
                BIDIR_TEXT,
                &[
                    ("throughput", 10.7e9),
                    ("retransmits", 31.0),
                    ("throughput_reverse", 7.33e9),
                    ("retransmits_reverse", 0.0),
                ],
            ),
            (INTERRUPTED_TEXT, &[("throughput", 18.6e9), ("retransmits", 0.0)]),
            (TCP_JSON, &[("throughput", 15_452_585_292.5), ("retransmits", 4.0)]),
            (UDP_JSON, &[("throughput", 50_061_394.0), ("jitter", 31_000.0), ("loss", 0.1)]),
            (OLD_UDP_JSON, &[("throughput", 1_048_576.0), ("jitter", 500_000.0), ("loss", 0.25)]),
            (INTERRUPTED_JSON, &[("throughput", 18_876_780_327.0), ("retransmits", 6.0)]),
        ];
        for (text, expected) in cases {
            let found = parse(text).unwrap();
            let found: Vec<(&str, f64)> = found.iter().map(|m| (m.name.as_str(), m.value)).collect();
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for ((name, value), (expected_name, expected_value)) in found.iter().zip(expected) {
                assert_eq!(name, expected_name);
                assert!((value - expected_value).abs() <= 1e-9 * expected_value.abs(), "{name}: {value}");
            }
        }
    }

    macro_rules! captured {
        ($name:literal) => {
            include_str!(concat!("../../../../tests/fixtures/iperf3/", $name, ".json"))
        };
    }

    /// What iperf3 3.12 printed over a loopback, without the streams' own figures.
    const TCP_OMIT: &str = captured!("tcp-omit");
    const TCP_REVERSE: &str = captured!("tcp-reverse");
    const UDP: &str = captured!("udp");
    const UDP_REVERSE: &str = captured!("udp-reverse");
    const BIDIR: &str = captured!("bidir");
    const INTERRUPTED: &str = captured!("interrupted");

    #[test]
    fn of_a_test_the_seconds_that_count_are_taken() {
        let of = |bytes: f64, seconds: f64| bytes * 8.0 / seconds;
        // When it was printed, from when to when counts (ms since iperf3's start), and the figures; `None`: they are not told apart.
        type Case<'a> = (&'a str, (u64, u64, u64), Option<&'a [(&'a str, f64)]>);
        let all_received = [("throughput", 49_974_976.245_063_625), ("retransmits", 0.0)];
        let two = [("throughput", of(12_451_840.0, 1.997_263_014_316_558_8)), ("retransmits", 0.0)];
        let cases: [Case<'_>; 12] = [
            // iperf3 left the first second out itself; the rest is the receiver's count.
            (TCP_OMIT, (4050, 1050, 4060), Some(&all_received)),
            // What was counted began a second later than that: the sender's count of the last two intervals.
            (TCP_OMIT, (4050, 2050, 4060), Some(&two)),
            // It was over late, so that it may have begun late, too: the second of the three ends outside, and the third.
            (
                TCP_OMIT,
                (5900, 2050, 5000),
                Some(&[("throughput", 50_323_747.240_408_465), ("retransmits", 0.0)]),
            ),
            (TCP_OMIT, (4050, 3900, 4060), None),
            (
                TCP_REVERSE,
                (3020, 1000, 3100),
                Some(&[("throughput", of(12_582_912.0, 2.000_005_066_394_806))]),
            ),
            (
                TCP_REVERSE,
                (3020, 60, 3100),
                Some(&[("throughput", 50_330_003.886_539_7), ("retransmits", 0.0)]),
            ),
            // What a UDP client sent is not what arrived.
            (UDP, (2020, 1000, 2100), None),
            (
                UDP,
                (2020, 50, 2100),
                Some(&[
                    ("throughput", 5_111_176.769_668_946),
                    ("jitter", 4_627.463_030_257_68),
                    ("loss", 0.0),
                ]),
            ),
            (
                UDP_REVERSE,
                (2020, 1000, 2100),
                Some(&[
                    ("throughput", 4_980_711.062_624_856),
                    ("jitter", 38_868.219_009_699_58),
                    ("loss", 0.0),
                ]),
            ),
            (
                BIDIR,
                (2020, 1000, 2100),
                Some(&[
                    ("throughput", of(6_291_456.0, 1.002_913_951_873_779_3)),
                    ("retransmits", 0.0),
                    ("throughput_reverse", of(6_291_456.0, 1.002_913_951_873_779_3)),
                ]),
            ),
            // Ended with the run: the receiver's count is not known either way.
            (
                INTERRUPTED,
                (2420, 1000, 2415),
                Some(&[("throughput", of(8_912_896.0, 1.412_524_014_711_38)), ("retransmits", 0.0)]),
            ),
            (TCP_TEXT, (2000, 0, 2000), None),
        ];
        for (text, (printed, from, to), expected) in cases {
            let ms = Duration::from_millis;
            let lines: Vec<(Duration, String)> =
                text.split_inclusive('\n').map(|line| (ms(printed), line.to_owned())).collect();
            let found = parse_within(&Said { lines: &lines, from: ms(from), to: ms(to) });
            let Some(expected) = expected else {
                assert_eq!(found, None, "{printed} {from} {to}");
                continue;
            };
            let found = found.unwrap_or_else(|| panic!("{printed} {from} {to}: no figures: {text}"));
            let found: Vec<(&str, f64)> = found.iter().map(|m| (m.name.as_str(), m.value)).collect();
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for ((name, value), (expected_name, expected_value)) in found.iter().zip(expected) {
                assert_eq!(name, expected_name);
                let near = (value - expected_value).abs() <= 1e-9 * expected_value.abs();
                assert!(near, "{printed} {from} {to}: {name}: {value}, not {expected_value}");
            }
        }
    }

    #[test]
    fn what_iperf3_is_told_to_omit() {
        for (line, seconds) in [
            ("iperf3 -c h -O 2 -J", 2),
            ("iperf3 -c h -O2", 2),
            ("iperf3 -c h --omit 3", 3),
            ("iperf3 -c h --omit=3", 3),
            ("iperf3 -c h -O", 0),
            ("iperf3 -c h", 0),
        ] {
            let command: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(omitted(&command), Duration::from_secs(seconds), "{line}");
        }
    }

    #[test]
    fn errors_are_passed_on() {
        let refused =
            r#"{"intervals":[],"end":{},"error":"unable to connect to server: Connection refused"}"#;
        for (text, said) in [
            (refused, "Connection refused"),
            ("", "no summary"),
            ("{", "JSON"),
            (r#"{"end":{}}"#, "no summary"),
            ("[  5] local 127.0.0.1 port 1 connected to 127.0.0.1 port 2\n", "no summary"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{text:?}: {error}");
        }
    }
}
