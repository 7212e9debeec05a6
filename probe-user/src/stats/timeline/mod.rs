//! Single interrupts, hop by hop: what happened when, on which CPU and in which thread.
//!
//! Values only. [`Joiner`] makes them from events in any order within a batch.

mod joiner;

pub use joiner::{Joined, Joiner, Keep, Who};

use crate::model::PciAddress;
use std::fmt;

/// Which interrupt: the VF, its vector slot, and the moment it was raised (CLOCK_MONOTONIC, ns).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// When `irq_handler_entry` came.
    pub raise_ns: u64,
    /// The VF.
    pub vf: PciAddress,
    /// MSI-X table index.
    pub slot: u32,
}

/// What happened at a hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The host took the interrupt.
    Raised {
        /// Its Linux number.
        irq: u32,
        /// Whether work for the slot waited in the irqfd work queue already.
        busy: bool,
    },
    /// The host's handler ended.
    Handled,
    /// The injection was left to the irqfd work queue.
    Queued,
    /// The work queue's thread began it.
    Worked,
    /// The vCPU's APIC accepted it.
    Accepted {
        /// Guest vector.
        vector: u32,
        /// Whether that vector was pending already.
        pending: bool,
        /// Whether the vCPU's thread was on a CPU; `None` when the vCPU is not known.
        running: Option<bool>,
        /// KVM's number of the vCPU.
        vcpu_id: u32,
        /// The CPU on which the vCPU runs or ran last; `None` when the vCPU is not known.
        vcpu_cpu: Option<u32>,
    },
    /// APICv or AVIC does the rest, unseen.
    Hardware,
    /// The vCPU's thread was woken.
    Waking,
    /// The vCPU's thread got the CPU.
    SwitchedIn,
    /// The vCPU's thread lost the CPU.
    SwitchedOut {
        /// Name of the thread that got it.
        to: String,
        /// Its number; 0 = idle.
        to_tid: u32,
    },
    /// The vCPU left its guest.
    Exited {
        /// The exit's reason.
        reason: String,
    },
    /// The vCPU's halt ended.
    HaltEnded {
        /// Whether its thread slept, and did not poll.
        slept: bool,
    },
    /// KVM injects it.
    Injected {
        /// Guest vector.
        vector: u32,
    },
    /// The guest runs with it.
    Entered,
    /// The vCPU entered its guest without it.
    PassedBy,
    /// The guest says that it is done.
    Ended,
}

impl What {
    /// The tracepoint, as `system:event`.
    #[must_use]
    pub fn event(&self) -> &'static str {
        match self {
            Self::Raised { .. } => "irq:irq_handler_entry",
            Self::Handled => "irq:irq_handler_exit",
            Self::Queued => "workqueue:workqueue_queue_work",
            Self::Worked => "workqueue:workqueue_execute_start",
            Self::Accepted { .. } => "kvm:kvm_apic_accept_irq",
            Self::Hardware => "kvm:kvm_apicv_accept_irq",
            Self::Waking => "sched:sched_waking",
            Self::SwitchedIn | Self::SwitchedOut { .. } => "sched:sched_switch",
            Self::Exited { .. } => "kvm:kvm_exit",
            Self::HaltEnded { .. } => "kvm:kvm_vcpu_wakeup",
            Self::Injected { .. } => "kvm:kvm_inj_virq",
            Self::Entered | Self::PassedBy => "kvm:kvm_entry",
            Self::Ended => "kvm:kvm_eoi",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raised { irq, busy } => {
                write!(f, "raised: host IRQ {irq}")?;
                if *busy { f.write_str(", an injection waits already") } else { Ok(()) }
            }
            Self::Handled => f.write_str("handler ends"),
            Self::Queued => f.write_str("left to the irqfd work queue"),
            Self::Worked => f.write_str("work queue injects"),
            Self::Accepted { vector, pending, running, vcpu_id, vcpu_cpu } => {
                write!(f, "accepted: vector {vector} ({vector:#04x}) of vcpu_id {vcpu_id}")?;
                match (running, vcpu_cpu) {
                    (Some(true), Some(cpu)) => write!(f, ", which runs on CPU {cpu}")?,
                    (Some(_), Some(cpu)) => write!(f, ", which does not run, last on CPU {cpu}")?,
                    _ => f.write_str(", which is not known yet")?,
                }
                if *pending { f.write_str("; pending already") } else { Ok(()) }
            }
            Self::Hardware => f.write_str("left to hardware (APICv, AVIC)"),
            Self::Waking => f.write_str("wakes the vCPU's thread"),
            Self::SwitchedIn => f.write_str("vCPU's thread gets the CPU"),
            Self::SwitchedOut { to, to_tid } => write!(f, "vCPU's thread loses the CPU to {to}-{to_tid}"),
            Self::Exited { reason } => write!(f, "guest is left: {reason}"),
            Self::HaltEnded { slept: true } => f.write_str("halt ends, the thread slept"),
            Self::HaltEnded { slept: false } => f.write_str("halt ends while polling"),
            Self::Injected { vector } => write!(f, "injected: vector {vector} ({vector:#04x})"),
            Self::Entered => f.write_str("guest runs with it"),
            Self::PassedBy => f.write_str("guest runs without it"),
            Self::Ended => f.write_str("guest is done with it (EOI)"),
        }
    }
}

/// A moment of an interrupt's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// When (CLOCK_MONOTONIC, ns).
    pub ns: u64,
    /// The CPU on which it happened.
    pub cpu: u32,
    /// The thread that was current there; 0 = idle.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// What happened.
    pub what: What,
}

/// A hop, and what it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The hop.
    pub hop: Hop,
    /// Its interrupt; `None`: it belongs to every interrupt that waits for the vCPU.
    pub id: Option<Id>,
    /// Thread of the vCPU that it is about; `None` = not known.
    pub vcpu: Option<u32>,
}

/// What became of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A guest entry carried it.
    Delivered,
    /// Hardware took it over.
    Hardware,
    /// Its vector was pending already; the one that waited carried both.
    Coalesced,
    /// Work for its slot waited already, and injected once for both.
    Merged,
    /// Nobody in the kernel took it: the VMM reads the eventfd.
    Userspace,
    /// It had not arrived when tracing ended, or its last hops are missing.
    Open,
}

impl Outcome {
    /// The word for people and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Hardware => "hardware",
            Self::Coalesced => "coalesced",
            Self::Merged => "merged",
            Self::Userspace => "userspace",
            Self::Open => "open",
        }
    }
}

/// One interrupt's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Which.
    pub id: Id,
    /// The guest that owns the VF.
    pub guest: String,
    /// The vCPU's index; `None` before an accept.
    pub vcpu: Option<String>,
    /// Hops in the order of time.
    pub hops: Vec<Hop>,
    /// What became of it.
    pub outcome: Outcome,
    /// Whether no hop before its last one is missing.
    pub complete: bool,
}

/// The stages of docs/probes.md, of one interrupt (ns); `None` = it did not come, or was not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// Raised to accepted.
    pub dispatch: Option<u64>,
    /// Accepted to the vCPU's thread on a CPU; only when it was not.
    pub wake: Option<u64>,
    /// From there to the guest entry.
    pub inject: Option<u64>,
    /// Raised to that entry.
    pub delivery: Option<u64>,
    /// That entry to the guest's EOI.
    pub service: Option<u64>,
}

impl Stages {
    /// With their names, in the order of time; `delivery` is the first three together.
    #[must_use]
    pub fn named(&self) -> [(&'static str, Option<u64>); 5] {
        [
            ("dispatch", self.dispatch),
            ("wake", self.wake),
            ("inject", self.inject),
            ("delivery", self.delivery),
            ("service", self.service),
        ]
    }
}

impl Timeline {
    /// When the first hop of a kind came.
    fn first(&self, wanted: impl Fn(&What) -> bool) -> Option<u64> {
        self.hops.iter().find(|hop| wanted(&hop.what)).map(|hop| hop.ns)
    }

    /// The moments that part the stages (ns): accepted, thread on a CPU, entered, ended.
    #[must_use]
    pub fn marks(&self) -> [Option<u64>; 4] {
        let accepted = self.hops.iter().find_map(|hop| match hop.what {
            What::Accepted { running, .. } => Some((hop.ns, running)),
            _ => None,
        });
        let awake = accepted.filter(|(_, running)| *running == Some(false)).and_then(|(from, _)| {
            self.hops.iter().find(|hop| hop.ns >= from && hop.what == What::SwitchedIn).map(|hop| hop.ns)
        });
        [
            accepted.map(|(ns, _)| ns),
            awake,
            self.first(|what| *what == What::Entered),
            self.first(|what| *what == What::Ended),
        ]
    }

    /// How long each stage took.
    #[must_use]
    pub fn stages(&self) -> Stages {
        let [accepted, awake, entered, ended] = self.marks();
        let raised = self.id.raise_ns;
        let between = |from: Option<u64>, to: Option<u64>| to?.checked_sub(from?);
        // Of a thread that was asleep and whose waking was not seen, `inject` would silently contain the wait.
        let asleep = self.hops.iter().any(|h| matches!(h.what, What::Accepted { running: Some(false), .. }));
        let from = if asleep { awake } else { accepted };
        Stages {
            dispatch: between(Some(raised), accepted),
            wake: between(accepted, awake),
            inject: between(from, entered),
            delivery: between(Some(raised), entered),
            service: between(entered, ended),
        }
    }

    /// The guest's vector.
    #[must_use]
    pub fn vector(&self) -> Option<u32> {
        self.hops.iter().find_map(|hop| match hop.what {
            What::Accepted { vector, .. } => Some(vector),
            _ => None,
        })
    }

    /// The host's interrupt number.
    #[must_use]
    pub fn irq(&self) -> Option<u32> {
        self.hops.iter().find_map(|hop| match hop.what {
            What::Raised { irq, .. } => Some(irq),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests;
