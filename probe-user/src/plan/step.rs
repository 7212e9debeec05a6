//! A plan and its steps: what is changed, from what, to what, why, and how it is undone.

use crate::model::{CpuSet, IrqNumber, Knob, PciAddress, Pid, Tid, Value, VcpuId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Version of the plan's JSON form.
pub const PLAN_SCHEMA: u32 = 1;

/// Everything that has to change, in the order in which it is changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`PLAN_SCHEMA`].
    pub schema: u32,
    /// Name of the configuration that this plan brings into force.
    pub config: String,
    /// Guests it serves, by name.
    pub guests: Vec<String>,
    /// CPUs promised to vCPUs.
    pub guarded: CpuSet,
    /// CPUs that do the host's own work.
    pub housekeeping: CpuSet,
    /// What is changed.
    pub steps: Vec<Step>,
    /// What was left alone although one might expect otherwise, and why.
    pub notes: Vec<String>,
}

/// One change. Its inverse is to write `now` back where `new` is still found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What is changed.
    pub target: Target,
    /// What it is set to now: the guard. The step is refused when something else is found.
    pub now: Value,
    /// Of an interrupt: the CPUs it really goes to now, so that it can be sent back there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<CpuSet>,
    /// What it is set to.
    pub new: Value,
    /// What happens to the rest of the plan when this step cannot be done.
    pub need: Need,
    /// Why.
    pub reason: String,
}

/// How much depends on a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Without it the configuration is not in force: everything is rolled back.
    Required,
    /// Required as long as the target exists: threads of a guest that come and go.
    WhilePresent,
    /// Done where the kernel allows it; otherwise noted.
    BestEffort,
}

/// Something that can be set: where something runs, or a knob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Target {
    /// The mask that new interrupts get.
    DefaultAffinity,
    /// An interrupt.
    Irq(IrqTarget),
    /// A thread.
    Thread(ThreadTarget),
    /// A knob of the host.
    Knob(Knob),
}

/// An interrupt, and what tells it from a later one of the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IrqTarget {
    /// Its number now.
    pub number: IrqNumber,
    /// Names of its handlers: a number that was given to another device carries other names.
    pub actions: String,
    /// The VF's vector that it serves, if it serves one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<VectorName>,
}

/// The stable name of a VF's interrupt source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VectorName {
    /// The VF.
    pub vf: PciAddress,
    /// Its MSI-X table index.
    pub slot: u16,
}

/// A thread, and what tells it from a later one of the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThreadTarget {
    /// Its process.
    pub pid: Pid,
    /// Its number.
    pub tid: Tid,
    /// Clock ticks from boot to its start.
    pub start_time: u64,
    /// Its name when the plan was made.
    pub comm: String,
    /// What it does.
    pub role: Role,
}

/// What a thread is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "kebab-case")]
pub enum Role {
    /// It runs a vCPU.
    Vcpu {
        /// The guest.
        guest: String,
        /// The vCPU.
        index: VcpuId,
    },
    /// It works for a guest: emulator, I/O, vhost.
    Emulator {
        /// The guest.
        guest: String,
    },
    /// Any other thread of the host.
    Host,
}

/// What makes two targets the same thing, whatever else is known of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKey {
    /// The mask that new interrupts get.
    DefaultAffinity,
    /// An interrupt by number and handlers.
    Irq(IrqNumber, String),
    /// A thread by number and start time.
    Thread(Tid, u64),
    /// A knob.
    Knob(Knob),
}

impl Target {
    /// What identifies the target.
    #[must_use]
    pub fn key(&self) -> TargetKey {
        match self {
            Self::DefaultAffinity => TargetKey::DefaultAffinity,
            Self::Irq(irq) => TargetKey::Irq(irq.number, irq.actions.clone()),
            Self::Thread(thread) => TargetKey::Thread(thread.tid, thread.start_time),
            Self::Knob(knob) => TargetKey::Knob(knob.clone()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DefaultAffinity => f.pad("default mask of new interrupts"),
            Self::Irq(irq) => irq.fmt(f),
            Self::Thread(thread) => thread.fmt(f),
            Self::Knob(knob) => knob.fmt(f),
        }
    }
}

impl fmt::Display for IrqTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match &self.vector {
            Some(vector) => format!("irq {} VF {} slot {}", self.number, vector.vf, vector.slot),
            None => format!("irq {} {}", self.number, self.actions),
        };
        f.pad(&text)
    }
}

impl fmt::Display for ThreadTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match &self.role {
            Role::Vcpu { guest, index } => format!("{guest} vCPU {index} (thread {})", self.tid),
            Role::Emulator { guest } => format!("{guest} thread {} {}", self.tid, self.comm),
            Role::Host => format!("thread {} {}", self.tid, self.comm),
        };
        f.pad(&text)
    }
}
