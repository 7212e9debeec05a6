//! Knobs: settings of the whole host, of a CPU or of a network queue that are kept in one place and can be set back, and
//! the values that settings have.
//!
//! Where a knob is and how its value is spelt there is no concern of this module.

use super::{CpuId, CpuSet, Pid};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What something is set to: CPUs, or for knobs that are about something else, a text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// CPUs.
    Cpus(CpuSet),
    /// What the kernel prints and takes: a number, a word.
    Text {
        /// The text, without blanks around it.
        text: String,
    },
}

impl Value {
    /// A value that is no set of CPUs.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::Text { text: text.trim().to_owned() }
    }

    /// The CPUs, if it is about CPUs.
    #[must_use]
    pub fn cpus(&self) -> Option<&CpuSet> {
        match self {
            Self::Cpus(cpus) => Some(cpus),
            Self::Text { .. } => None,
        }
    }
}

impl From<CpuSet> for Value {
    fn from(cpus: CpuSet) -> Self {
        Self::Cpus(cpus)
    }
}

impl From<CpuId> for Value {
    fn from(cpu: CpuId) -> Self {
        Self::Cpus(cpu.into())
    }
}

impl PartialEq<CpuSet> for Value {
    fn eq(&self, other: &CpuSet) -> bool {
        self.cpus() == Some(other)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpus(cpus) if cpus.is_empty() => f.pad("none"),
            Self::Cpus(cpus) => cpus.fmt(f),
            Self::Text { text } => f.pad(text),
        }
    }
}

/// A knob.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "knob", rename_all = "kebab-case")]
pub enum Knob {
    /// How long a CPU polls after its vCPU has halted, in nanoseconds, for all guests (`halt_poll_ns` of kvm).
    HaltPoll,
    /// CPUs that serve unbound workqueues.
    Workqueues,
    /// CPUs that the soft-lockup and NMI watchdogs watch.
    Watchdogs,
    /// The longest time that a CPU may take to leave an idle state, in microseconds; `0` is no limit, `n/a` allows no
    /// idle state (Documentation/ABI/testing/sysfs-devices-power).
    IdleLatency {
        /// The CPU.
        cpu: CpuId,
    },
    /// CPUs that packets of a receive queue are handed to (RPS); none switches it off.
    Rps(NetQueue),
    /// CPUs that send by a transmit queue (XPS).
    Xps(NetQueue),
    /// Interrupts that irqbalance leaves alone (`owners::bans_value`).
    IrqbalanceBans {
        /// Its process.
        pid: Pid,
        /// Clock ticks from boot to its start: the list ends with the process.
        start_time: u64,
    },
}

/// A queue of a network device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NetQueue {
    /// The device.
    pub netdev: String,
    /// Its index, which no later device of the same name has.
    pub ifindex: u32,
    /// The queue.
    pub queue: u32,
}

impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::HaltPoll => "halt_poll_ns of kvm".to_owned(),
            Self::Workqueues => "CPUs of unbound workqueues".to_owned(),
            Self::Watchdogs => "CPUs that watchdogs watch".to_owned(),
            Self::IdleLatency { cpu } => format!("idle latency limit of CPU {cpu} in us"),
            Self::Rps(NetQueue { netdev, ifindex: _, queue }) => {
                format!("{netdev} receive queue {queue} RPS")
            }
            Self::Xps(NetQueue { netdev, ifindex: _, queue }) => {
                format!("{netdev} transmit queue {queue} XPS")
            }
            Self::IrqbalanceBans { pid, start_time: _ } => format!("ban list of irqbalance (pid {pid})"),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_knobs_as_json() {
        let queue = NetQueue { netdev: "eth0".to_owned(), ifindex: 2, queue: 1 };
        for (knob, json) in [
            (Knob::HaltPoll, r#"{"knob":"halt-poll"}"#),
            (Knob::IdleLatency { cpu: CpuId(3) }, r#"{"knob":"idle-latency","cpu":3}"#),
            (Knob::Rps(queue), r#"{"knob":"rps","netdev":"eth0","ifindex":2,"queue":1}"#),
        ] {
            assert_eq!(serde_json::to_string(&knob).unwrap(), json);
            assert_eq!(serde_json::from_str::<Knob>(json).unwrap(), knob);
        }
        for (value, json, shown) in [
            (Value::Cpus("0-1".parse().unwrap()), r#""0-1""#, "0-1"),
            (Value::Cpus(CpuSet::new()), r#""""#, "none"),
            (Value::text("200000\n"), r#"{"text":"200000"}"#, "200000"),
            (Value::text("0"), r#"{"text":"0"}"#, "0"),
        ] {
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
            assert_eq!(serde_json::from_str::<Value>(json).unwrap(), value);
            assert_eq!(value.to_string(), shown);
        }
        assert_ne!(Value::text("0"), Value::from(CpuId(0)));
    }
}
