//! Which parser reads a command's output: decided by the command, never guessed from the text.

use super::{Metric, iperf3, ping};

/// What a command's standard output says: the tool and its figures, or why they could not be read.
/// `None`: the command is not one whose output is known.
#[must_use]
pub fn parse(command: &[String], stdout: &str) -> Option<(&'static str, Result<Vec<Metric>, String>)> {
    match tool_of(command)? {
        tool @ "ping" => Some((tool, ping::parse(stdout))),
        tool @ "iperf3" => Some((tool, iperf3::parse(stdout))),
        _ => None,
    }
}

/// The base name of the first word that is neither a wrapper, nor its options, nor an assignment:
/// `ip netns exec NS ping ...`, `taskset -c 1 /usr/bin/iperf3 ...`, `env LC_ALL=C ping ...`, `timeout 5 ping ...`.
fn tool_of(command: &[String]) -> Option<&'static str> {
    command.iter().find_map(|word| match word.rsplit('/').next()? {
        "ping" | "ping4" | "ping6" => Some("ping"),
        "iperf3" => Some("iperf3"),
        _ => None,
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
            ("sleep 5", None),
            ("", None),
        ] {
            let command: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert_eq!(tool_of(&command), tool, "{line}");
        }
    }
}
