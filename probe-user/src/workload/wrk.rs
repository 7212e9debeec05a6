//! The summary of `wrk` and `wrk2`: request rate, latency, errors; percentiles with `--latency`.
//!
//! Pure. wrk2's first distribution is taken: the latency against the time at which a request was due.

use super::{
    Better, Metric, Unit,
    latency::{errors, number, percentile, rate, scaled, throughput, time, word_after},
};

/// wrk prints times in microseconds and what follows from them.
const TIMES: &[(&str, f64)] = &[("us", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];
/// Its bytes go by 1024.
const BYTES: &[(&str, f64)] =
    &[("KB", 1024.0), ("MB", 1_048_576.0), ("GB", 1_073_741_824.0), ("TB", 1_099_511_627_776.0), ("B", 1.0)];

/// Reads the figures out of wrk's standard output.
///
/// # Errors
/// Says that there is no summary.
pub fn parse(text: &str) -> Result<Vec<Metric>, String> {
    let find = |before: &str| text.lines().find_map(|line| word_after(line, before));
    let per_second = find("Requests/sec:").and_then(number).ok_or("no summary in wrk's output")?;
    let requests = text.lines().find(|line| line.contains(" requests in ")).and_then(|line| {
        let count = line.split_whitespace().next()?;
        number(count)
    });
    let count = requests.unwrap_or(0.0);
    let mut metrics = Vec::new();
    metrics.extend(Metric::new("requests", Unit::Other, count, Better::Neither));
    metrics.extend(rate("request_rate", per_second));
    metrics.extend(find("Transfer/sec:").and_then(|t| throughput(scaled(t, BYTES)? * 8.0)));
    // Either line is there only when there is something to tell.
    metrics.extend(errors(
        socket_errors(text) + find("Non-2xx or 3xx responses:").and_then(number).unwrap_or(0.0),
    ));
    if let Some([mean, max]) = text.lines().find_map(thread_latency) {
        metrics.extend(time("latency_mean", mean));
        metrics.extend(time("latency_max", max));
    }
    let distribution = text.split("Latency Distribution").nth(1).unwrap_or_default();
    metrics.extend(
        distribution
            .lines()
            .skip(1)
            .map_while(share_and_time)
            .filter_map(|(percent, ns)| percentile("latency", percent, ns, count)),
    );
    Ok(metrics)
}

/// `Latency   635.91us    0.89ms  12.92ms   93.69%`: mean, standard deviation, maximum.
fn thread_latency(line: &str) -> Option<[f64; 2]> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["Latency", mean, _, max, _] => Some([scaled(mean, TIMES)?, scaled(max, TIMES)?]),
        _ => None,
    }
}

/// `99%    5.80ms`
fn share_and_time(line: &str) -> Option<(f64, f64)> {
    let (percent, time) = line.trim().split_once('%')?;
    Some((number(percent)?, scaled(time.trim(), TIMES)?))
}

/// `Socket errors: connect 0, read 0, write 0, timeout 12`
fn socket_errors(text: &str) -> f64 {
    let line = text.lines().find_map(|line| line.split_once("Socket errors:"));
    let counts = line.into_iter().flat_map(|(_, rest)| rest.split([' ', ',']));
    counts.filter_map(number).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::latency::assert_figures;

    const WRK: &str = "\
Running 1s test @ http://10.1.0.2:8080/
  1 threads and 2 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.30ms    2.89ms  20.63ms   86.65%
    Req/Sec     1.20k   519.63     1.92k    60.00%
  Latency Distribution
     50%  777.00us
     75%    3.18ms
     90%    6.13ms
     99%   13.31ms
  1224 requests in 1.03s, 1.01MB read
  Socket errors: connect 1, read 2, write 0, timeout 12
  Non-2xx or 3xx responses: 5
Requests/sec:   1192.62
Transfer/sec:      0.99MB
";

    const SHORT: &str = "\
Running 1s test @ http://10.1.0.2:8080/nothing
  1 threads and 2 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.02s     3.58ms   1.10m    90.14%
    Req/Sec     1.42k   583.06     2.23k    70.00%
  14 requests in 1.02s, 721.78KB read
Requests/sec:     13.76
Transfer/sec:    709.47KB
";

    const WRK2: &str = "\
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     6.13ms    2.00ms  15.20ms   70.00%
    Req/Sec     1.05k     0.13k    1.40k    72.00%
  Latency Distribution (HdrHistogram - Recorded Latency)
 50.000%    6.00ms
 75.000%    7.00ms
 90.000%    8.00ms
 99.000%   11.00ms
 99.900%   13.00ms
 99.990%   15.00ms
 99.999%   15.20ms
100.000%   15.20ms

  Detailed Percentile spectrum:
       Value   Percentile   TotalCount 1/(1-Percentile)

       0.500     0.000000            1         1.00
  Latency Distribution (HdrHistogram - Uncorrected Latency (measured without taking delayed starts into account))
 50.000%    1.00ms
 99.000%    2.00ms
  60018 requests in 30.00s, 19.81MB read
Requests/sec:   2000.28
Transfer/sec:    676.18KB
";

    #[test]
    fn captured_outputs() {
        let cases: [(&str, &[(&str, f64)]); 3] = [
            (
                WRK,
                &[
                    ("requests", 1224.0),
                    ("request_rate", 1192.62),
                    ("throughput", 0.99 * 1_048_576.0 * 8.0),
                    ("errors", 20.0),
                    ("latency_mean", 2.30e6),
                    ("latency_max", 20.63e6),
                    ("latency_p50", 777e3),
                    ("latency_p90", 6.13e6),
                    ("latency_p99", 13.31e6),
                ],
            ),
            (
                SHORT,
                &[
                    ("requests", 14.0),
                    ("request_rate", 13.76),
                    ("throughput", 709.47 * 1024.0 * 8.0),
                    ("errors", 0.0),
                    ("latency_mean", 1.02e9),
                    ("latency_max", 66e9),
                ],
            ),
            (
                WRK2,
                &[
                    ("requests", 60_018.0),
                    ("request_rate", 2000.28),
                    ("throughput", 676.18 * 1024.0 * 8.0),
                    ("errors", 0.0),
                    ("latency_mean", 6.13e6),
                    ("latency_max", 15.2e6),
                    ("latency_p50", 6e6),
                    ("latency_p90", 8e6),
                    ("latency_p99", 11e6),
                    ("latency_p999", 13e6),
                ],
            ),
        ];
        for (text, expected) in cases {
            assert_figures(parse(text), expected);
        }
    }

    #[test]
    fn what_has_no_summary_is_refused() {
        for text in ["", "unable to connect to 10.1.0.2:8080 Connection refused\n", "Requests/sec: many\n"] {
            assert!(parse(text).unwrap_err().contains("no summary"), "{text:?}");
        }
    }
}
