//! Which parser reads a command's output: decided by the command, never guessed from the text.

use super::{Metric, fortio, iperf3, netperf, ping, sockperf, wrk};

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

/// The base name of the first word that is neither a wrapper, nor its options, nor an assignment:
/// `ip netns exec NS ping ...`, `taskset -c 1 /usr/bin/iperf3 ...`, `env LC_ALL=C ping ...`, `timeout 5 ping ...`.
fn tool_of(command: &[String]) -> Option<&'static str> {
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
