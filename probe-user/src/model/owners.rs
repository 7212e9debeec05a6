//! Programs of the host that set what vfprobe sets: irqbalance, tuned, the kubelet's CPU manager; and control groups,
//! by which managers of guests say where threads may run.

use super::{CpuSet, IrqNumber, Pid, Tid, Value};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Who has written what a setting is now, as far as the host shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// vfprobe: it is what its journal says.
    Vfprobe,
    /// irqbalance: it runs, and was not told to leave this interrupt alone.
    Irqbalance,
    /// libvirt: the CPUs are those of the control group that it keeps for this thread, or of its pin.
    Libvirt,
    /// The kubelet: the CPUs are those that it gave the pod.
    Kubelet,
    /// The kernel: it places this interrupt itself, or none of the CPUs asked for is online.
    KernelManaged,
    /// Somebody of whom there is no trace.
    Unknown,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Vfprobe => "vfprobe",
            Self::Irqbalance => "irqbalance",
            Self::Libvirt => "libvirt",
            Self::Kubelet => "the kubelet",
            Self::KernelManaged => "the kernel",
            Self::Unknown => "unknown",
        })
    }
}

/// Who else sets such things here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// irqbalance, when it runs.
    pub irqbalance: Option<Irqbalance>,
    /// tuned, when it runs.
    pub tuned: Option<Tuned>,
    /// CPUs that the kubelet's CPU manager has given to containers alone; empty when there is none.
    pub containers: CpuSet,
    /// Of threads of guests: what says which CPUs they may use, where it is not the whole host's.
    pub cpusets: BTreeMap<Tid, Cpuset>,
    /// Guests of libvirt's whose pins are not known, by name, and why not.
    pub unknown_pins: BTreeMap<String, String>,
}

/// A running irqbalance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Irqbalance {
    /// Its process.
    pub pid: Pid,
    /// Clock ticks from boot to its start.
    pub start_time: u64,
    /// What it says of itself, or why it cannot be asked.
    pub setup: Result<IrqbalanceSetup, String>,
}

/// What irqbalance tells over its socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IrqbalanceSetup {
    /// Interrupts that it was told to leave alone.
    pub bans: BTreeSet<IrqNumber>,
    /// CPUs to which it moves no interrupt.
    pub cpus: CpuSet,
}

/// A running tuned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuned {
    /// Its process.
    pub pid: Pid,
    /// Its active profile.
    pub profile: Option<String>,
}

/// A limit on where a thread may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpuset {
    /// CPUs that it may use.
    pub cpus: CpuSet,
    /// What says so.
    pub by: Limiter,
}

/// What limits a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limiter {
    /// Its control group, by its path below the root of control groups. The kernel sees to it.
    Group(String),
    /// libvirt's pin of that kind (`vcpupin`, `emulatorpin`), which libvirt has set without a control group.
    LibvirtPin(&'static str),
}

impl fmt::Display for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(path) => write!(f, "its control group {path}"),
            Self::LibvirtPin(kind) => write!(f, "libvirt's {kind}"),
        }
    }
}

impl Cpuset {
    /// Whether it is that of a pod.
    #[must_use]
    pub fn is_of_pod(&self) -> bool {
        matches!(&self.by, Limiter::Group(path) if path.contains("kubepods"))
    }

    /// Whose limit it is, a control group's by its path.
    #[must_use]
    pub fn owner(&self) -> Owner {
        match &self.by {
            Limiter::LibvirtPin(_) => Owner::Libvirt,
            Limiter::Group(_) if self.is_of_pod() => Owner::Kubelet,
            Limiter::Group(path) if path.contains("machine-qemu") || path.contains("libvirt") => {
                Owner::Libvirt
            }
            Limiter::Group(_) => Owner::Unknown,
        }
    }

    /// Whose limit it is, and how the limit is changed there.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self.owner() {
            Owner::Kubelet => {
                "the kubelet gave the pod these CPUs; give the vCPUs CPUs among them, or leave them (cpus = \"keep\")"
            }
            Owner::Libvirt => {
                "libvirt set that; leave the vCPUs where they are (cpus = \"keep\"), or change it there (virsh \
                 vcpupin, virsh emulatorpin)"
            }
            Owner::Vfprobe | Owner::Irqbalance | Owner::KernelManaged | Owner::Unknown => {
                "whoever manages that group set it; choose CPUs among these, or have it changed there (AllowedCPUs= \
                 of a systemd unit)"
            }
        }
    }
}

/// A list of interrupts as the value of a knob.
#[must_use]
pub fn bans_value(bans: &BTreeSet<IrqNumber>) -> Value {
    if bans.is_empty() {
        return Value::text("none");
    }
    Value::text(&bans.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}

/// The interrupts of such a value; `None` when it is none.
#[must_use]
pub fn bans_of(value: &Value) -> Option<BTreeSet<IrqNumber>> {
    let Value::Text { text } = value else { return None };
    if text == "none" {
        return Some(BTreeSet::new());
    }
    text.split_ascii_whitespace().map(|word| word.parse().ok().map(IrqNumber)).collect()
}

/// What irqbalance answers to `setup`: `SLEEP 10 IRQ 24 LOAD 0 DIFF 0 CLASS 5 BANNED 0000000c` (irqbalance.c,
/// `sock_handle()`); `None` when it is something else.
#[must_use]
pub fn parse_irqbalance_setup(answer: &str) -> Option<IrqbalanceSetup> {
    let mut words = answer.split_ascii_whitespace();
    if words.next()? != "SLEEP" {
        return None;
    }
    words.next()?.parse::<u32>().ok()?;
    let mut setup = IrqbalanceSetup::default();
    let mut ended = false;
    while let Some(key) = words.next() {
        let value = words.next()?;
        match key {
            "IRQ" => {
                setup.bans.insert(IrqNumber(value.parse().ok()?));
            }
            "BANNED" => {
                setup.cpus = CpuSet::parse_mask(value).ok()?;
                ended = true;
            }
            _ => {}
        }
    }
    ended.then_some(setup)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bans(numbers: &[u32]) -> BTreeSet<IrqNumber> {
        numbers.iter().copied().map(IrqNumber).collect()
    }

    #[test]
    fn answers_of_irqbalance() {
        let check = |answer: &str, expected: Option<(&[u32], &str)>| {
            let expected = expected
                .map(|(irqs, cpus)| IrqbalanceSetup { bans: bans(irqs), cpus: cpus.parse().unwrap() });
            assert_eq!(parse_irqbalance_setup(answer), expected, "{answer}");
        };
        check("SLEEP 10 BANNED 00000000", Some((&[], "")));
        check(
            "SLEEP 10 IRQ 31 LOAD 0 DIFF 0 CLASS 5 IRQ 4 LOAD 9 DIFF 1 CLASS 0 BANNED 1,0000000c",
            Some((&[4, 31], "2-3,32")),
        );
        check("SLEEP 10 IRQ 31 LOAD 0", None);
        check("SLEEP 10 IRQ x BANNED 0", None);
        check("", None);
        check("hello", None);
    }

    #[test]
    fn lists_as_values() {
        for (list, text) in [(&[][..], "none"), (&[30], "30"), (&[31, 4], "4 31")] {
            let value = bans_value(&bans(list));
            assert_eq!(value.to_string(), text);
            assert_eq!(bans_of(&value), Some(bans(list)));
        }
        assert_eq!(bans_of(&Value::text("a")), None);
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(answer in ".{0,200}") {
            let _ = parse_irqbalance_setup(&answer);
            let _ = parse_irqbalance_setup(&format!("SLEEP 1 {answer}"));
        }
    }
}
