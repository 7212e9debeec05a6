//! What is promised to guests: the policy, as values. Reading it from a file is `policy_file`'s work.

use crate::model::{CpuId, CpuSet, PciAddress};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Everything a plan is made from, apart from the host's facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Name of the configuration, as it appears in `status`, metrics and session files.
    pub name: String,
    /// What each guest is promised. No other guest's interrupts or threads are touched, beyond keeping them off
    /// guarded CPUs.
    pub guests: Vec<GuestPolicy>,
    /// The CPUs that take what is moved off guarded CPUs; `None` stands for all that are online and not guarded, without
    /// isolated ones as long as others remain.
    pub housekeeping: Option<CpuSet>,
    /// Which threads of the host are moved off guarded CPUs.
    pub isolate: Isolate,
    /// Whether other interrupts are moved off guarded CPUs.
    pub irqs: Others,
    /// Whether guarded CPUs are taken out of the mask that new interrupts get.
    pub default_affinity: Others,
    /// What a running irqbalance is told.
    pub irqbalance: Irqbalance,
    /// Knobs of the host.
    pub knobs: Knobs,
    /// How far vfprobe goes.
    pub limits: Limits,
    /// What becomes of the settings when the service that keeps them ends.
    pub on_stop: OnStop,
}

/// What one guest is promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestPolicy {
    /// Name, uuid or pid, or a pattern for names (`named`).
    pub guest: String,
    /// Where its vCPUs run.
    pub pins: Pins,
    /// Where the interrupts of its VFs go.
    pub placement: Placement,
    /// VFs whose interrupts go elsewhere.
    pub vfs: Vec<VfPolicy>,
    /// Where its other threads run.
    pub threads: ThreadRules,
}

/// Where the interrupts of one VF go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VfPolicy {
    /// The VF.
    pub address: PciAddress,
    /// Where they go.
    pub placement: Placement,
}

impl GuestPolicy {
    /// Where the interrupts of a VF go.
    #[must_use]
    pub fn placement_of(&self, vf: PciAddress) -> Placement {
        self.vfs.iter().find(|own| own.address == vf).map_or(self.placement, |own| own.placement)
    }
}

/// Where the vCPUs of a guest run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pins {
    /// One CPU each, chosen near the VF, on distinct cores, not CPU 0 where that can be avoided.
    Auto,
    /// vCPU i on the i-th CPU of the list; CPUs beyond the last vCPU are guarded too.
    Cpus(Vec<CpuId>),
    /// As they are. CPUs to which a vCPU is already pinned alone are guarded.
    Keep,
}

/// Where the interrupts of a guest's VFs go on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// The CPU of the vCPU that the interrupt is for.
    Own,
    /// A housekeeping CPU that shares the last-level cache, or else the NUMA node, with that CPU.
    Near,
    /// Any housekeeping CPU.
    Housekeeping,
    /// `near` where KVM delivers interrupts to running vCPUs without an exit, else `own`.
    Auto,
    /// As they are.
    Keep,
}

impl Placement {
    /// All placements, in the order in which help lists them.
    pub const ALL: [Self; 5] = [Self::Own, Self::Near, Self::Housekeeping, Self::Auto, Self::Keep];

    /// The word used on the command line, in policies, plans and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Near => "near",
            Self::Housekeeping => "housekeeping",
            Self::Auto => "auto",
            Self::Keep => "keep",
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that is not a placement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a placement (expected own, near, housekeeping, auto or keep)")]
pub struct NotAPlacement(pub String);

impl FromStr for Placement {
    type Err = NotAPlacement;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|p| p.as_str() == text).ok_or_else(|| NotAPlacement(text.to_owned()))
    }
}

/// Where the threads of a guest that are not vCPUs run, by what they do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadRules {
    /// The VMM's main loop and all that are not known to be something else.
    pub emulator: Threads,
    /// I/O threads.
    pub io: Threads,
    /// Workers of vhost.
    pub vhost: Threads,
}

/// Where threads of one kind run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Threads {
    /// Off guarded CPUs.
    #[default]
    Housekeeping,
    /// As they are.
    Keep,
    /// On these CPUs, none of them guarded.
    Cpus(CpuSet),
}

/// How far vfprobe goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Whether a configuration is in force without what the kernel refuses.
    pub partial: bool,
    /// After so many changes by somebody else a setting is let go.
    pub strikes: u32,
    /// How long the host must be at rest before the controller acts, in milliseconds.
    pub debounce_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { partial: false, strikes: 3, debounce_ms: 500 }
    }
}

/// What a running irqbalance is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Irqbalance {
    /// To leave alone the interrupts that are placed, and to move none to guarded CPUs.
    #[default]
    Ban,
    /// Nothing.
    Keep,
}

/// Knobs of the host, each left as it is unless it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knobs {
    /// How long a CPU polls after its vCPU has halted, in nanoseconds, for all guests of the host.
    pub halt_poll_ns: Option<u32>,
    /// Whether unbound workqueues leave guarded CPUs.
    pub workqueues: Others,
    /// Whether watchdogs leave guarded CPUs.
    pub watchdogs: Others,
    /// The longest time that guarded CPUs may take to leave an idle state, in microseconds; 0 allows no idle state.
    pub idle_latency_us: Option<u32>,
    /// Network devices whose receive queues hand no packet to guarded CPUs.
    pub rps: Vec<String>,
    /// Network devices whose transmit queues are not used by guarded CPUs.
    pub xps: Vec<String>,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            halt_poll_ns: None,
            workqueues: Others::Keep,
            watchdogs: Others::Keep,
            idle_latency_us: None,
            rps: Vec::new(),
            xps: Vec::new(),
        }
    }
}

impl Knobs {
    /// Whether any knob is named.
    #[must_use]
    pub fn are_asked(&self) -> bool {
        *self != Self::default()
    }

    /// The network devices that are named, each once.
    #[must_use]
    pub fn netdevs(&self) -> Vec<String> {
        let mut netdevs: Vec<String> = self.rps.iter().chain(&self.xps).cloned().collect();
        netdevs.sort();
        netdevs.dedup();
        netdevs
    }
}

/// Which threads of the host are moved off guarded CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolate {
    /// None.
    #[default]
    None,
    /// All that can be moved, those of other processes and of the kernel.
    Threads,
}

/// What happens to something that does not belong to a named guest but may disturb its CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Others {
    /// It is moved off guarded CPUs.
    #[default]
    Move,
    /// It stays as it is.
    Keep,
}

/// What becomes of the settings when the service that keeps them is stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnStop {
    /// They are undone: nobody would correct them any more.
    #[default]
    Undo,
    /// They stay, and the service goes on with them when it is started again.
    Keep,
}

impl Policy {
    /// The policy for one guest, everything else at its default. The configuration is named after the placement.
    #[must_use]
    pub fn for_guest(guest: &str, pins: Pins, placement: Placement) -> Self {
        Self {
            name: placement.as_str().to_owned(),
            guests: vec![GuestPolicy {
                guest: guest.to_owned(),
                pins,
                placement,
                vfs: Vec::new(),
                threads: ThreadRules::default(),
            }],
            housekeeping: None,
            isolate: Isolate::default(),
            irqs: Others::default(),
            default_affinity: Others::default(),
            irqbalance: Irqbalance::default(),
            knobs: Knobs::default(),
            limits: Limits::default(),
            on_stop: OnStop::default(),
        }
    }
}

/// A text that is not a list of distinct CPUs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotCpus {
    /// Not in the kernel's list form.
    #[error(transparent)]
    Form(#[from] crate::model::cpu_set::NotACpuSet),
    /// A CPU appears twice.
    #[error("CPU {0} appears twice in the list; name each CPU once")]
    Twice(CpuId),
    /// The list is empty.
    #[error("the CPU list is empty; name one CPU per vCPU, such as 2-3")]
    Empty,
}

/// Parses a CPU list and keeps its order: `4,2-3` is 4, 2, 3, so that vCPU 0 gets CPU 4.
///
/// # Errors
/// [`NotCpus`] names what is wrong with the text.
pub fn parse_cpus(text: &str) -> Result<Vec<CpuId>, NotCpus> {
    let all: CpuSet = text.parse()?;
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        for cpu in part.parse::<CpuSet>()?.iter() {
            if cpus.contains(&cpu) {
                return Err(NotCpus::Twice(cpu));
            }
            cpus.push(cpu);
        }
    }
    debug_assert_eq!(all.len(), cpus.len());
    if cpus.is_empty() { Err(NotCpus::Empty) } else { Ok(cpus) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_keep_their_order() {
        for (text, expect) in [("2", vec![2]), ("4,2-3", vec![4, 2, 3]), ("0-2\n", vec![0, 1, 2])] {
            assert_eq!(
                parse_cpus(text).unwrap(),
                expect.into_iter().map(CpuId).collect::<Vec<_>>(),
                "{text}"
            );
        }
        assert_eq!(parse_cpus("1,0-2"), Err(NotCpus::Twice(CpuId(1))));
        assert_eq!(parse_cpus(""), Err(NotCpus::Empty));
        assert!(matches!(parse_cpus("1-"), Err(NotCpus::Form(_))));
    }

    #[test]
    fn placements_round_trip() {
        for placement in Placement::ALL {
            assert_eq!(placement.as_str().parse(), Ok(placement));
        }
        assert!("Own".parse::<Placement>().is_err());
    }
}
