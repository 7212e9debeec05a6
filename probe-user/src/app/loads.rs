//! What makes the traffic of a session's runs: the user's own command, or the commands of a preset. Pure.

use crate::workload::Reading;
use std::net::IpAddr;
use std::time::Duration;

/// How long a load that ends by itself may outlast its time: connecting, and the last figures of a slow peer.
const LEEWAY: Duration = Duration::from_secs(15);
/// Distance of the paper's pings: 100 replies a second, so that a run of one second supports a 99th percentile.
const PING_EVERY: &str = "0.01";

/// What one run is made under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Its name, when a session has several.
    pub name: Option<String>,
    /// The command; none when empty.
    pub command: Vec<String>,
    /// How its figures are read.
    pub reading: Reading,
    /// Whether the command runs on through all runs instead of being started for each.
    pub continuous: bool,
    /// Time between its start and the window; of a continuous one between the configuration's coming into force and the window.
    pub warm_up: Duration,
    /// Length of the window, unless the command ends before.
    pub duration: Duration,
}

/// The loads of the paper's experiment (section 5 there): how much passes through, by iperf3, and how long a ping takes.
/// `before` stands in front of both commands: `ssh peer`, `ip netns exec peer`. Both end by themselves, so that their
/// figures cover exactly the time that is counted. iperf3 leaves its warm-up out of its figures; ping needs none, since
/// iperf3 has just been there.
#[must_use]
pub fn paper(to: IpAddr, before: &[String], warm_up: Duration, duration: Duration) -> [Load; 2] {
    let seconds = |time: Duration| time.as_secs().max(1).to_string();
    let (to, length) = (to.to_string(), seconds(duration));
    let omitted = seconds(warm_up);
    let iperf3 = ["iperf3", "-c", &to, "-t", &length, "-O", &omitted, "-J"];
    let ping = ["ping", "-n", "-i", PING_EVERY, "-w", &length, &to];
    let load = |name: &str, words: &[&str], warm_up| Load {
        name: Some(name.to_owned()),
        command: before.iter().cloned().chain(words.iter().map(|word| (*word).to_owned())).collect(),
        reading: Reading::ByTool,
        continuous: false,
        warm_up,
        duration: duration + LEEWAY,
    };
    [load("iperf3", &iperf3, warm_up), load("ping", &ping, Duration::ZERO)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_commands() {
        let line = |load: &Load| load.command.join(" ");
        let ten = Duration::from_secs(10);
        let [iperf3, ping] = paper("10.0.0.2".parse().unwrap(), &[], Duration::from_secs(2), ten);
        assert_eq!(line(&iperf3), "iperf3 -c 10.0.0.2 -t 10 -O 2 -J");
        assert_eq!(line(&ping), "ping -n -i 0.01 -w 10 10.0.0.2");
        assert_eq!((iperf3.warm_up, ping.warm_up), (Duration::from_secs(2), Duration::ZERO));
        assert!(iperf3.duration > ten && ping.duration > ten, "they end by themselves");
        let peer = ["ssh".to_owned(), "peer".to_owned()];
        let [iperf3, ping] = paper("fd00::2".parse().unwrap(), &peer, Duration::ZERO, ten);
        assert_eq!(line(&iperf3), "ssh peer iperf3 -c fd00::2 -t 10 -O 1 -J");
        assert_eq!(line(&ping), "ssh peer ping -n -i 0.01 -w 10 fd00::2");
    }
}
