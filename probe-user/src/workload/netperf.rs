//! The output of `netperf`: its tables with and without banner (`-P 0`), and `-- -k` selections as `NAME=value`.
//!
//! Pure. A table without banner does not say what its columns are, so the test (`-t`) and unit (`-f`) are taken from the
//! command (netperf manual, sections "Global Options" and "Omni Output Selection").

use super::{
    Better, Metric, Unit,
    latency::{number, percentile, rate, throughput, time},
};

/// What a test counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Transactions: `TCP_RR`, `UDP_RR`, `TCP_CRR`.
    Transactions,
    /// Bytes one way: `TCP_STREAM`, `TCP_MAERTS`, `TCP_SENDFILE`.
    Stream,
    /// Datagrams one way: `UDP_STREAM`.
    Datagrams,
}

/// Reads the figures out of netperf's standard output.
///
/// # Errors
/// What is missing, or which option makes the output one that is not understood.
pub fn parse(command: &[String], text: &str) -> Result<Vec<Metric>, String> {
    let test = option(command, 't').unwrap_or_else(|| "TCP_STREAM".to_owned()).to_ascii_uppercase();
    let kind = match test.as_str() {
        "UDP_STREAM" => Some(Kind::Datagrams),
        "TCP_STREAM" | "TCP_MAERTS" | "TCP_SENDFILE" => Some(Kind::Stream),
        other if other.ends_with("_RR") || other.ends_with("_CRR") => Some(Kind::Transactions),
        _ => None,
    };
    let format = option(command, 'f');
    let selected = selected(text, kind, format.as_deref());
    if !selected.is_empty() {
        return Ok(selected);
    }
    let kind = kind.ok_or_else(|| format!("tables of netperf's {test} are not understood; use `-- -k`"))?;
    let scale = scale(kind, format.as_deref())?;
    let rows: Vec<Vec<f64>> = text.lines().filter_map(row).collect();
    let found = match kind {
        Kind::Transactions => figure(&rows, 6).and_then(|n| rate("transaction_rate", n * scale)),
        Kind::Stream => figure(&rows, 5).and_then(|n| throughput(n * scale)),
        Kind::Datagrams => return datagrams(&rows, scale).ok_or_else(|| missing(&test)),
    };
    found.map(|metric| vec![metric]).ok_or_else(|| missing(&test))
}

fn missing(test: &str) -> String {
    format!("no result of {test} in netperf's output")
}

/// The value of one of netperf's own options, as `-t TCP_RR` or `-tTCP_RR`; what follows `--` is the test's.
fn option(command: &[String], letter: char) -> Option<String> {
    let mut words = command.iter().skip_while(|word| word.rsplit('/').next() != Some("netperf")).skip(1);
    let mut words = words.by_ref().take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        match word.strip_prefix('-').and_then(|rest| rest.strip_prefix(letter)) {
            Some("") => return words.next().cloned(),
            Some(value) => return Some(value.to_owned()),
            None => {}
        }
    }
    None
}

/// What a printed figure is to be multiplied with: bits are counted by 1000, bytes by 1024.
fn scale(kind: Kind, format: Option<&str>) -> Result<f64, String> {
    let bits = match (kind, format) {
        (Kind::Transactions, None | Some("x")) => return Ok(1.0),
        (Kind::Transactions, Some(_)) => None,
        (_, None | Some("m")) => Some(1e6),
        (_, Some("k")) => Some(1e3),
        (_, Some("g")) => Some(1e9),
        (_, Some("K")) => Some(8.0 * 1024.0),
        (_, Some("M")) => Some(8.0 * 1_048_576.0),
        (_, Some("G")) => Some(8.0 * 1_073_741_824.0),
        (_, Some(_)) => None,
    };
    bits.ok_or_else(|| format!("netperf's unit -f {} is not understood", format.unwrap_or_default()))
}

/// A line of numbers only.
fn row(line: &str) -> Option<Vec<f64>> {
    let row: Option<Vec<f64>> = line.split_whitespace().map(|word| word.parse().ok()).collect();
    row.filter(|row| !row.is_empty())
}

/// The last of so many columns; `-c` and `-C` put four more behind them, `-v 0` prints the figure alone.
fn figure(rows: &[Vec<f64>], columns: usize) -> Option<f64> {
    let table = rows.iter().find(|row| row.len() == columns || row.len() == columns + 4);
    match (table, rows) {
        (Some(row), _) => row.get(columns - 1).copied(),
        (None, [only]) if only.len() == 1 => only.first().copied(),
        _ => None,
    }
    .filter(|figure| figure.is_finite() && *figure >= 0.0)
}

/// Two lines: what was sent, then what arrived, which is what counts.
fn datagrams(rows: &[Vec<f64>], scale: f64) -> Option<Vec<Metric>> {
    let at = rows.iter().position(|row| row.len() == 6 || row.len() == 8)?;
    let (sent, received) = (rows.get(at)?, rows.get(at + 1)?);
    let (sent, arrived, figure) = (*sent.get(3)?, *received.get(2)?, *received.get(3)?);
    let loss = (sent > 0.0).then(|| (1.0 - arrived / sent).max(0.0));
    let loss = loss.and_then(|loss| Metric::new("loss", Unit::Share, loss, Better::Lower));
    Some(throughput(figure * scale).into_iter().chain(loss).collect())
}

/// Figures of a `-- -k` selection; none when there are none of those that are compared.
fn selected(text: &str, kind: Option<Kind>, format: Option<&str>) -> Vec<Metric> {
    let of = |name: &str| text.lines().find_map(|l| l.trim().strip_prefix(name)?.strip_prefix('='));
    let value = |name: &str| of(name).and_then(number);
    let units = of("THROUGHPUT_UNITS").unwrap_or_default();
    let unit = match units {
        "Trans/s" => Some((Kind::Transactions, 1.0)),
        "10^3bits/s" => Some((Kind::Stream, 1e3)),
        "10^6bits/s" => Some((Kind::Stream, 1e6)),
        "10^9bits/s" => Some((Kind::Stream, 1e9)),
        "" => kind.and_then(|kind| Some((kind, scale(kind, format).ok()?))),
        _ => None,
    };
    let mut metrics = Vec::new();
    let transactions = value("TRANSACTION_RATE").or_else(|| match unit {
        Some((Kind::Transactions, _)) => value("THROUGHPUT"),
        _ => None,
    });
    match (transactions, unit) {
        (Some(per_second), _) => metrics.extend(rate("transaction_rate", per_second)),
        (None, Some((_, scale))) => metrics.extend(value("THROUGHPUT").and_then(|n| throughput(n * scale))),
        (None, None) => {}
    }
    // A stream's latency is that of its send calls: how fast a buffer takes bytes, not how long they travel.
    if unit.map(|(kind, _)| kind).or(kind) != Some(Kind::Transactions) {
        return metrics;
    }
    let us = |name: &str| value(name).map(|us| us * 1e3);
    for (name, selector) in
        [("latency_min", "MIN_LATENCY"), ("latency_mean", "MEAN_LATENCY"), ("latency_max", "MAX_LATENCY")]
    {
        metrics.extend(us(selector).and_then(|ns| time(name, ns)));
    }
    // netperf does not run for less than a second, so there were at least as many transactions.
    let count = transactions.unwrap_or(0.0);
    for (percent, selector) in [(50.0, "P50_LATENCY"), (90.0, "P90_LATENCY"), (99.0, "P99_LATENCY")] {
        metrics.extend(us(selector).and_then(|ns| percentile("latency", percent, ns, count)));
    }
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::latency::assert_figures;

    const RR: &str = "\
MIGRATED TCP REQUEST/RESPONSE TEST from 0.0.0.0 (0.0.0.0) port 0 AF_INET to 10.1.0.2 () port 0 AF_INET : demo : first burst 0
Local /Remote
Socket Size   Request  Resp.   Elapsed  Trans.
Send   Recv   Size     Size    Time     Rate         
bytes  Bytes  bytes    bytes   secs.    per sec   

16384  131072 32       1024    10.00    6537.30   
16384  131072
";
    const RR_BARE: &str = "16384  131072 1        1       10.00    33286.93   \n16384  131072\n";
    const RR_CPU: &str = "\
Socket Size   Request Resp.  Elapsed Trans.   CPU    CPU    S.dem   S.dem
262144 540000 70000   70000  10.00   6591.45  0.86   -1.00  62.490  -1.000
262144 540000
";
    const STREAM: &str = "\
MIGRATED TCP STREAM TEST from 10.1.0.1 () port 0 AF_INET to 10.1.0.2 () port 0 AF_INET : demo
Recv   Send    Send                          
Socket Socket  Message  Elapsed              
Size   Size    Size     Time     Throughput  
bytes  bytes   bytes    secs.    10^6bits/sec  

131072  16384   1500    10.00    9405.64   
";
    const STREAM_CPU: &str = "131072  16384   1500    10.00    9405.64   2.0  3.0  0.1  0.2\n";
    const UDP: &str = "\
Socket  Message  Elapsed      Messages                
Size    Size     Time         Okay Errors   Throughput
bytes   bytes    secs            #      #   10^6bits/sec

262144   65507   10.00       40000      0    2096.22
262144           10.00       10000            524.06
";
    const SELECTED: &str = "\
MIGRATED TCP REQUEST/RESPONSE TEST from 0.0.0.0 (0.0.0.0) port 0 AF_INET to 10.1.0.2 () port 0 AF_INET : first burst 0
THROUGHPUT=16694.10
THROUGHPUT_UNITS=Trans/s
MIN_LATENCY=53
MEAN_LATENCY=59.78
P50_LATENCY=58
P90_LATENCY=65
P99_LATENCY=102
MAX_LATENCY=14164
STDDEV_LATENCY=15.17
";

    fn parsed(line: &str, text: &str) -> Result<Vec<Metric>, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>(), text)
    }

    #[test]
    fn captured_outputs() {
        const MIB: f64 = 8.0 * 1_048_576.0;
        type Figures<'a> = &'a [(&'a str, f64)];
        let cases: &[(&str, &str, Figures<'_>)] = &[
            ("netperf -H h -t TCP_RR -- -r 32,1024", RR, &[("transaction_rate", 6537.3)]),
            ("netperf -P 0 -tTCP_RR -H h", RR_BARE, &[("transaction_rate", 33_286.93)]),
            ("ip netns exec a /usr/bin/netperf -t UDP_RR", RR_BARE, &[("transaction_rate", 33_286.93)]),
            ("netperf -t TCP_CRR -Cc", RR_CPU, &[("transaction_rate", 6591.45)]),
            ("netperf -H h", STREAM, &[("throughput", 9405.64e6)]),
            ("netperf -H h -t tcp_maerts", STREAM, &[("throughput", 9405.64e6)]),
            ("netperf -H h -c -C", STREAM_CPU, &[("throughput", 9405.64e6)]),
            ("netperf -f g -v 0 -P 0", "9.41\n", &[("throughput", 9.41e9)]),
            ("netperf -f M", "87380 16384 16384 10.00 1121.24\n", &[("throughput", 1121.24 * MIB)]),
            ("netperf -t UDP_STREAM", UDP, &[("throughput", 524.06e6), ("loss", 0.75)]),
            (
                "netperf -t TCP_RR -- -k THROUGHPUT,THROUGHPUT_UNITS,P50_LATENCY",
                SELECTED,
                &[
                    ("transaction_rate", 16_694.1),
                    ("latency_min", 53e3),
                    ("latency_mean", 59_780.0),
                    ("latency_max", 14_164e3),
                    ("latency_p50", 58e3),
                    ("latency_p90", 65e3),
                    ("latency_p99", 102e3),
                ],
            ),
            // So few transactions hold no percentile but the median.
            (
                "netperf -t TCP_RR -- -k THROUGHPUT",
                "THROUGHPUT=5.69\nP50_LATENCY=170000\nP90_LATENCY=180000\n",
                &[("transaction_rate", 5.69), ("latency_p50", 170e6)],
            ),
            (
                "netperf -t omni -- -d send -k THROUGHPUT,THROUGHPUT_UNITS,P99_LATENCY",
                "THROUGHPUT=940.12\nTHROUGHPUT_UNITS=10^6bits/s\nP99_LATENCY=12\n",
                &[("throughput", 940.12e6)],
            ),
            ("netperf -- -k THROUGHPUT", "THROUGHPUT=940.12\n", &[("throughput", 940.12e6)]),
        ];
        for (line, text, expected) in cases {
            assert_figures(parsed(line, text), expected);
        }
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        for (line, text, said) in [
            ("netperf", "", "no result of TCP_STREAM"),
            (
                "netperf -t TCP_RR",
                "establish control: are you sure there is a netserver listening?\n",
                "no result",
            ),
            // A table of another test than the command asks for.
            ("netperf -t TCP_RR", STREAM, "no result of TCP_RR"),
            ("netperf -t UDP_STREAM", "262144 65507 10.00 40000 0 2096.22\n", "no result of UDP_STREAM"),
            ("netperf -t TCP_RR -f m", RR, "-f m"),
            ("netperf -f z", STREAM, "-f z"),
            ("netperf -t LOC_CPU", "1.0\n", "LOC_CPU are not understood"),
        ] {
            let error = parsed(line, text).unwrap_err();
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
