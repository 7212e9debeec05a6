//! The summary of `sockperf`: ping-pong and under-load (latency, or round trips with `--full-rtt`), and throughput.
//!
//! Pure. sockperf's latency is half the round trip; it says which of the two it printed, and the figures' names follow.

use super::{
    Better, Metric, Unit,
    latency::{number, percentile, rate, throughput, time, word_after},
};

/// Reads the figures out of sockperf's standard output.
///
/// # Errors
/// What is missing, or that the figures of several servers stand side by side.
pub fn parse(text: &str) -> Result<Vec<Metric>, String> {
    let plain = without_colour(text);
    let lines: Vec<&str> = plain.lines().collect();
    let find = |before: &str| lines.iter().find_map(|line| number(word_after(line, before)?));
    if lines.iter().filter(|line| line.contains("Printing statistics for Server No:")).count() > 1 {
        return Err("sockperf printed figures of several servers; run it against one".to_owned());
    }
    if let Some(per_second) = find("Summary: Message Rate is ") {
        // MBps are 2^20 bytes: 300579 messages of 1000 bytes are 286.654 of them.
        let bytes = find("Summary: BandWidth is ").map(|mib| mib * 1_048_576.0);
        let bits = bytes.and_then(|bytes| throughput(bytes * 8.0));
        return Ok(rate("message_rate", per_second).into_iter().chain(bits).collect());
    }
    let mean = |prefix: &'static str, before: &str| Some((prefix, find(before)?));
    let (prefix, mean_us) = mean("latency", "Summary: Latency is ")
        .or_else(|| mean("rtt", "Summary: Round trip is "))
        .ok_or("no summary in sockperf's output")?;
    let count = find("Total ").filter(|_| plain.contains(" observations")).unwrap_or(0.0);
    let mut metrics = Vec::new();
    metrics.extend(Metric::new("observations", Unit::Other, count, Better::Neither));
    let dropped = find("# dropped messages = ");
    let valid = lines.iter().find(|line| line.contains("[Valid Duration]"));
    let sent = valid.and_then(|line| number(word_after(line, "SentMessages=")?.trim_end_matches(';')));
    if let (Some(dropped), Some(sent)) = (dropped, sent.filter(|sent| *sent > 0.0)) {
        metrics.extend(Metric::new("loss", Unit::Share, dropped / sent, Better::Lower));
    }
    let at = |name: &str, us: f64| time(&format!("{prefix}_{name}"), us * 1e3);
    metrics.extend(find("<MIN> observation =").and_then(|us| at("min", us)));
    metrics.extend(at("mean", mean_us));
    metrics.extend(find("<MAX> observation =").and_then(|us| at("max", us)));
    // Highest first, as sockperf prints them; lowest first, as everywhere else.
    metrics.extend(lines.iter().rev().filter_map(|line| {
        let (percent, us) = line.split_once("---> percentile ")?.1.split_once('=')?;
        percentile(prefix, number(percent.trim())?, number(us.trim())? * 1e3, count)
    }));
    Ok(metrics)
}

/// The text without escape sequences: sockperf colours some lines even when nobody looks.
fn without_colour(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    // `messages = 0;`: the separator is no part of the number.
    out.replace("; ", " ; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::latency::assert_figures;

    const PING_PONG: &str = "\
sockperf: \x1b[2;35m== version #3.7-no.git == \x1b[0m
sockperf[CLIENT] send on:sockperf: using recvfrom() to block on socket(s)

[ 0] IP = 10.1.0.2        PORT = 11111 # TCP
sockperf: Warmup stage (sending a few dummy messages)...
sockperf: Starting test...
sockperf: Test end (interrupted by timer)
sockperf: Test ended
sockperf: [Total Run] RunTime=1.000 sec; Warm up time=400 msec; SentMessages=24390; ReceivedMessages=24389
sockperf: ========= Printing statistics for Server No: 0
sockperf: [Valid Duration] RunTime=0.495 sec; SentMessages=11150; ReceivedMessages=11150
sockperf: \x1b[2;35m====> avg-latency=22.167 (std-dev=359.181)\x1b[0m
sockperf: # dropped messages = 223; # duplicated messages = 0; # out-of-order messages = 0
sockperf: Summary: Latency is 22.167 usec
sockperf: \x1b[2;35mTotal 11150 observations\x1b[0m; each percentile contains 111.50 observations
sockperf: ---> <MAX> observation = 22882.782
sockperf: ---> percentile 99.999 = 22882.782
sockperf: ---> percentile 99.990 = 20630.550
sockperf: ---> percentile 99.900 = 2463.060
sockperf: ---> percentile 99.000 =   29.278
sockperf: ---> percentile 90.000 =    6.514
sockperf: ---> percentile 75.000 =    6.324
sockperf: ---> percentile 50.000 =    6.214
sockperf: ---> percentile 25.000 =    6.074
sockperf: ---> <MIN> observation =    5.578
";

    const ROUND_TRIPS: &str = "\
sockperf: [Valid Duration] RunTime=0.550 sec; SentMessages=120; ReceivedMessages=120
sockperf: ====> avg-rtt=30.034 (std-dev=211.444)
sockperf: # dropped messages = 0; # duplicated messages = 0; # out-of-order messages = 0
sockperf: Summary: Round trip is 30.034 usec
sockperf: Total 120 observations; each percentile contains 1.20 observations
sockperf: ---> <MAX> observation = 16729.870
sockperf: ---> percentile 99.900 = 2347.376
sockperf: ---> percentile 99.000 =  446.653
sockperf: ---> percentile 50.000 =   11.416
sockperf: ---> <MIN> observation =   10.385
";

    const THROUGHPUT: &str = "\
sockperf: Total of 300731 messages sent in 1.001 sec

sockperf: \x1b[2;35mNOTE: test was performed, using msg-size=1000.\x1b[0m
sockperf: Summary: Message Rate is 300579 [msg/sec]
sockperf: Summary: BandWidth is 286.654 MBps (2293.236 Mbps)
";

    #[test]
    fn captured_outputs() {
        let cases: [(&str, &[(&str, f64)]); 3] = [
            (
                PING_PONG,
                &[
                    ("observations", 11_150.0),
                    ("loss", 0.02),
                    ("latency_min", 5_578.0),
                    ("latency_mean", 22_167.0),
                    ("latency_max", 22_882_782.0),
                    ("latency_p50", 6_214.0),
                    ("latency_p90", 6_514.0),
                    ("latency_p99", 29_278.0),
                    ("latency_p999", 2_463_060.0),
                ],
            ),
            // 120 values hold no 99.9 %.
            (
                ROUND_TRIPS,
                &[
                    ("observations", 120.0),
                    ("loss", 0.0),
                    ("rtt_min", 10_385.0),
                    ("rtt_mean", 30_034.0),
                    ("rtt_max", 16_729_870.0),
                    ("rtt_p50", 11_416.0),
                    ("rtt_p99", 446_653.0),
                ],
            ),
            (THROUGHPUT, &[("message_rate", 300_579.0), ("throughput", 286.654 * 1_048_576.0 * 8.0)]),
        ];
        for (text, expected) in cases {
            assert_figures(parse(text), expected);
        }
    }

    #[test]
    fn what_is_not_one_summary_is_refused() {
        for (text, said) in [
            ("", "no summary"),
            ("sockperf: No messages were received from the server. Is the server down?\n", "no summary"),
            (PING_PONG.split("sockperf: Summary").next().unwrap(), "no summary"),
            (&format!("{PING_PONG}{PING_PONG}"), "several servers"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{text:?}: {error}");
        }
    }
}
