//! Which parser reads a command's output: decided by the command, never guessed from the text.

use super::{Metric, fortio, iperf3, netperf, ping, sockperf, wrk};
use std::time::Duration;

/// A command is started so much before counting begins without any warm-up: opening the window takes a moment.
const AT_ONCE: Duration = Duration::from_millis(250);

/// What a command said on its standard output, and the part of its life that counts. Times are since its start.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// Lines, with the time at which they came.
    pub lines: &'a [(Duration, String)],
    /// When counting began.
    pub from: Duration,
    /// When it ended.
    pub to: Duration,
}

/// Figures, and what is to be known of them.
type Read = (Vec<Metric>, Option<String>);

impl Said<'_> {
    /// All of it.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines.iter().map(|(_, line)| line.as_str()).collect()
    }

    /// Figures of all of its time, with that said of them when it is more than what counts.
    ///
    /// # Errors
    /// Those of the figures.
    pub fn whole(&self, tool: &str, figures: Result<Vec<Metric>, String>) -> Result<Read, String> {
        let said = || format!("the figures of {tool} are those of its whole run, from before counting began");
        figures.map(|metrics| (metrics, (self.from > AT_ONCE).then(said)))
    }
}

/// What a command that was started for one run says of the time that counts. Tools whose output cannot be cut speak of all of
/// their time, which is then said.
#[must_use]
pub fn parse_within(command: &[String], said: &Said<'_>) -> Option<(&'static str, Result<Read, String>)> {
    let tool = tool_of(command)?;
    let cut = match tool {
        "ping" => ping::parse_from(said.lines, said.from),
        "iperf3" => iperf3::parse_within(said),
        _ => None,
    };
    let read = match cut {
        Some(metrics) => Ok((metrics, None)),
        None => {
            let (_, parsed) = parse(command, &said.text())?;
            match tool == "iperf3" && said.from <= iperf3::omitted(command) + AT_ONCE {
                true => parsed.map(|metrics| (metrics, None)),
                false => said.whole(tool, parsed),
            }
        }
    };
    Some((tool, read))
}

/// What a command's standard output says: the tool and its figures, or why they could not be read.
/// `None`: the command is not one whose output is known.
#[must_use]
pub fn parse(command: &[String], stdout: &str) -> Option<(&'static str, Result<Vec<Metric>, String>)> {
    let tool = tool_of(command)?;
    let parsed = match tool {
        "ping" => ping::parse(stdout),
        "iperf3" => iperf3::parse(stdout),
        "netperf" => netperf::parse(command, stdout),
        "sockperf" => sockperf::parse(stdout),
        "wrk" => wrk::parse(stdout),
        "fortio" => fortio::parse(stdout),
        _ => return None,
    };
    Some((tool, parsed))
}

/// What the part of a command's standard output that falls into one run says of that run; as [`parse`].
#[must_use]
pub fn parse_part(command: &[String], lines: &str) -> Option<(&'static str, Result<Vec<Metric>, String>)> {
    match tool_of(command)? {
        "ping" => Some(("ping", ping::parse_part(lines))),
        tool => Some((tool, Err(format!("what {tool} prints speaks of all runs together: no figures")))),
    }
}

/// Whether figures of single runs can be read out of what a command prints while it runs on.
#[must_use]
pub fn tells_runs_apart(command: &[String]) -> bool {
    tool_of(command) == Some("ping")
}

/// The tool whose output is read: the base name of the first word that is neither a wrapper, nor its options, nor an assignment:
/// `ip netns exec NS ping ...`, `taskset -c 1 /usr/bin/iperf3 ...`, `env LC_ALL=C ping ...`, `timeout 5 ping ...`.
#[must_use]
pub fn tool_of(command: &[String]) -> Option<&'static str> {
    command.iter().find_map(|word| match word.rsplit('/').next()? {
        "ping" | "ping4" | "ping6" => Some("ping"),
        "wrk" | "wrk2" => Some("wrk"),
        name => ["iperf3", "netperf", "sockperf", "fortio"].into_iter().find(|tool| *tool == name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_whole_run_are_said_to_be_that() {
        let ping = "1 packets transmitted, 1 received, 0% packet loss, time 9ms\nrtt min/avg/max/mdev = 1/1/1/1 ms\n";
        let reply = "64 bytes from h: icmp_seq=1 ttl=64 time=2.0 ms\n";
        let iperf3 = "[  5]   0.00-2.00   sec  4.54 GBytes  19.5 Gbits/sec    2             sender\n";
        let netperf = "MIGRATED TCP STREAM TEST from 0.0.0.0 () port 0 AF_INET to h () port 0 AF_INET\n\
            Recv   Send    Send\nSocket Socket  Message  Elapsed\nSize   Size    Size     Time     Throughput\n\
            bytes  bytes   bytes    secs.    10^6bits/sec\n\n131072  16384  16384    10.00    23456.78\n";
        for (line, text, from, tool) in [
            ("ping -q h", ping, 1050, Some("ping")),
            ("ping -q h", ping, 60, None),
            ("ping h", reply, 1050, None),
            ("iperf3 -c h", iperf3, 1050, Some("iperf3")),
            ("iperf3 -c h -O 1", iperf3, 1050, None),
            ("iperf3 -c h -O 1", iperf3, 3050, Some("iperf3")),
            ("netperf -H h", netperf, 1050, Some("netperf")),
        ] {
            let command: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let lines: Vec<(Duration, String)> =
                text.split_inclusive('\n').map(|l| (Duration::from_secs(3), l.to_owned())).collect();
            let said = Said { lines: &lines, from: Duration::from_millis(from), to: Duration::from_secs(3) };
            let (_, read) = parse_within(&command, &said).unwrap();
            let (metrics, note) = read.unwrap();
            assert!(!metrics.is_empty(), "{line}");
            let whole = |tool| {
                format!("the figures of {tool} are those of its whole run, from before counting began")
            };
            assert_eq!(note, tool.map(whole), "{line} {from}");
        }
    }

    #[test]
    fn tools_are_found_behind_wrappers() {
        for (line, tool) in [
            ("ping -c 3 10.0.0.2", Some("ping")),
            ("/usr/bin/ping6 ::1", Some("ping")),
            ("ip netns exec peer ping -i 0.01 10.0.0.2", Some("ping")),
            ("taskset -c 1 /usr/bin/iperf3 -c 10.0.0.2 -J", Some("iperf3")),
            ("netperf -H 10.0.0.2 -t TCP_RR", Some("netperf")),
            ("chrt -f 1 sockperf pp -i 10.0.0.2", Some("sockperf")),
            ("/opt/wrk2/wrk -t1 http://10.0.0.2/", Some("wrk")),
            ("fortio load http://10.0.0.2/", Some("fortio")),
            ("sleep 5", None),
            ("", None),
        ] {
            let command: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert_eq!(tool_of(&command), tool, "{line}");
        }
    }
}
