//! The summary of `fortio load` (HTTP, gRPC, TCP, UDP): call rate, latency with percentiles, errors.
//!
//! Pure. Percentiles are those that fortio was asked for (`-p`); its own default has p50, p90, p99 and p99.9.

use super::{
    Better, Metric, Unit,
    latency::{errors, number, percentile, rate, time, word_after},
};

/// Reads the figures out of fortio's standard output.
///
/// # Errors
/// Says that there is no summary.
pub fn parse(text: &str) -> Result<Vec<Metric>, String> {
    let mut lines = text.lines().map(str::trim);
    let summary =
        lines.by_ref().find(|line| line.starts_with("Aggregated Function Time : count ")).unwrap_or_default();
    let of = |name: &str| number(word_after(summary, name)?);
    let count = of(" count ").ok_or("no summary in fortio's output")?;
    // Up to the next histogram, which is that of the failed calls.
    let targets = lines.by_ref().take_while(|line| line.starts_with(['#', '>'])).filter_map(|line| {
        let (percent, seconds) = line.strip_prefix("# target ")?.split_once('%')?;
        percentile("latency", number(percent)?, number(seconds.trim())? * 1e9, count)
    });
    let percentiles: Vec<Metric> = targets.collect();
    let per_second = text.lines().find(|line| line.trim_start().starts_with("Ended after "));
    let per_second =
        per_second.and_then(|line| number(word_after(line, " qps=")?)).or_else(|| all_done(text));
    let mut metrics = Vec::new();
    metrics.extend(Metric::new("calls", Unit::Other, count, Better::Neither));
    metrics.extend(per_second.and_then(|qps| rate("call_rate", qps)));
    metrics.extend(failed(text).and_then(errors));
    for (name, label) in [("latency_min", " min "), ("latency_mean", " avg "), ("latency_max", " max ")] {
        metrics.extend(of(label).and_then(|seconds| time(name, seconds * 1e9)));
    }
    metrics.extend(percentiles);
    Ok(metrics)
}

/// `All done 40 calls (plus 4 warmup) 3.357 ms avg, 7.8 qps`: rounded, but there in quiet runs too.
fn all_done(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.trim_start().starts_with("All done "))?;
    number(line.trim_end().strip_suffix(" qps")?.rsplit(' ').next()?)
}

/// Calls that failed: said by versions from 1.3x on, else counted from the codes that are not 2xx. `None` without either,
/// as for TCP in old versions.
fn failed(text: &str) -> Option<f64> {
    if let Some(said) = text.lines().find_map(|line| line.trim_start().strip_prefix("Error cases : ")) {
        return if said.trim() == "no data" { Some(0.0) } else { number(word_after(said, "count ")?) };
    }
    let codes = || text.lines().filter_map(|line| line.trim_start().strip_prefix("Code ")?.split_once(" : "));
    let bad = codes().filter(|(code, _)| !code.trim().starts_with('2'));
    let sum = bad.filter_map(|(_, count)| number(count.split_whitespace().next()?)).sum();
    codes().next().map(|_| sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::latency::assert_figures;

    const RECENT: &str = "\
12:58:08.530 r1 [INF] logger.go:254> Log level is now 3 Warning (was 2 Info)
Fortio 1.60.3 running at 0 queries per second, 4->4 procs, for 2000 calls: http://10.1.0.2:8000/get
Starting at max qps with 2 thread(s) [gomax 4] for exactly 2000 calls (1000 per thread + 0)
Ended after 5.464s : 2000 calls. qps=366.03
Aggregated Function Time : count 2000 avg 0.0053576504 +/- 0.003339 min 0.000326236 max 0.015548664 sum 10.7153007
# range, mid point, percentile, count
>= 0.000326236 <= 0.001 , 0.000663118 , 5.00, 100
> 0.004 <= 0.005 , 0.0045 , 70.00, 1300
> 0.014 <= 0.0155487 , 0.0147743 , 100.00, 600
# target 50% 0.00466667
# target 75% 0.0055
# target 90% 0.008
# target 99% 0.0152389
# target 99.9% 0.0155177
Error cases : count 2 avg 0.000967372 +/- 0.0006411 min 0.000326236 max 0.001608508 sum 0.001934744
# range, mid point, percentile, count
>= 0.000326236 <= 0.001 , 0.000663118 , 50.00, 1
# target 50% 0.000326236
# target 99% 0.00159634
# Socket and IP used for each connection:
Sockets used: 4 (for perfect keepalive, would be 2)
Code 200 : 1998 (99.9 %)
Code 503 : 2 (0.1 %)
All done 2000 calls (plus 0 warmup) 5.358 ms avg, 366.0 qps
";

    const OLD: &str = "\
Ended after 26.459047ms : 20 calls. qps=755.89
Aggregated Function Time : count 20 avg 0.002 +/- 0.001323 min 0.0002 max 0.005 sum 0.04
# range, mid point, percentile, count
>= 0.0002 <= 0.001 , 0.0006 , 100.00, 20
# target 50% 0.0024
# target 90% 0.0038
# target 99% 0.0051
Sockets used: 7 (for perfect keepalive, would be 2)
Code  -1 : 1 (5.0 %)
Code 200 : 13 (65.0 %)
Code 503 : 6 (30.0 %)
All done 20 calls (plus 0 warmup) 2.158 ms avg, 755.9 qps
";

    const TCP: &str = "\
Aggregated Function Time : count 5795008 avg 0.0025 +/- 0.003243 min 1.1692e-05 max 0.0931 sum 14994.0299
# target 50% 0.00169
# target 99.9% 0.0266
Sockets used: 1000 (for perfect no error run, would be 1000)
tcp OK : 5795008 (100.0 %)
All done 5795008 calls (plus 1000 warmup) 2.587 ms avg, 386287.8 qps
";

    #[test]
    fn captured_outputs() {
        let cases: [(&str, &[(&str, f64)]); 3] = [
            (
                RECENT,
                &[
                    ("calls", 2000.0),
                    ("call_rate", 366.03),
                    ("errors", 2.0),
                    ("latency_min", 326_236.0),
                    ("latency_mean", 5_357_650.4),
                    ("latency_max", 15_548_664.0),
                    ("latency_p50", 4_666_670.0),
                    ("latency_p90", 8_000_000.0),
                    ("latency_p99", 15_238_900.0),
                    ("latency_p999", 15_517_700.0),
                ],
            ),
            (
                OLD,
                &[
                    ("calls", 20.0),
                    ("call_rate", 755.89),
                    ("errors", 7.0),
                    ("latency_min", 200_000.0),
                    ("latency_mean", 2_000_000.0),
                    ("latency_max", 5_000_000.0),
                    ("latency_p50", 2_400_000.0),
                    ("latency_p90", 3_800_000.0),
                ],
            ),
            (
                TCP,
                &[
                    ("calls", 5_795_008.0),
                    ("call_rate", 386_287.8),
                    ("latency_min", 11_692.0),
                    ("latency_mean", 2_500_000.0),
                    ("latency_max", 93_100_000.0),
                    ("latency_p50", 1_690_000.0),
                    ("latency_p999", 26_600_000.0),
                ],
            ),
        ];
        for (text, expected) in cases {
            assert_figures(parse(text), expected);
        }
        let clean = RECENT.replace("Error cases : count 2 avg", "Error cases : no data\nformerly");
        assert_eq!(failed(&clean), Some(0.0));
    }

    #[test]
    fn what_has_no_summary_is_refused() {
        for text in
            ["", "Fortio 1.60.3 running at 8 queries per second\n", "Aggregated Function Time : no data\n"]
        {
            assert!(parse(text).unwrap_err().contains("no summary"), "{text:?}");
        }
    }
}
