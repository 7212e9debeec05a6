//! Why there is no plan: each a wish that this host cannot meet, with what to do about it.

use crate::model::owners::Cpuset;
use crate::model::topology::Guest;
use crate::model::{CpuId, Pid};

/// A policy that cannot be planned on this host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No running guest has that name, uuid or pid.
    #[error("no running guest is called {wanted:?}; {}", known_guests(.known))]
    NoSuchGuest {
        /// What was asked for.
        wanted: String,
        /// Names of the running guests.
        known: Vec<String>,
    },
    /// No guest can be seen at all, because something could not be read.
    #[error("guest {wanted:?} cannot be seen: {problem}")]
    Hidden {
        /// What was asked for.
        wanted: String,
        /// What could not be read, and why.
        problem: String,
    },
    /// Several guests match.
    #[error("{wanted:?} names {} guests (pids {}); give the pid or the uuid of one", .pids.len(), .pids.join(", "))]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// Their processes.
        pids: Vec<String>,
    },
    /// Two entries of the policy name the same guest.
    #[error("the policy names guest {0:?} twice; keep one of the entries")]
    GuestTwice(String),
    /// The policy names no guest.
    #[error("the policy names no guest; name one with --guest or in a [[guest]] table")]
    NoGuest,
    /// No vCPU thread was found in the guest.
    #[error(
        "no vCPU thread of guest {0:?} was found; is it still starting? `vfprobe topology` shows what is seen"
    )]
    NoVcpus(String),
    /// A CPU that does not exist.
    #[error("CPU {cpu} does not exist; this host has CPUs {present}")]
    UnknownCpu {
        /// The CPU asked for.
        cpu: CpuId,
        /// The CPUs there are, as a list.
        present: String,
    },
    /// A CPU that is offline.
    #[error(
        "CPU {0} is offline; bring it online (echo 1 >/sys/devices/system/cpu/cpu{0}/online) or leave it out"
    )]
    OfflineCpu(CpuId),
    /// Fewer CPUs than vCPUs.
    #[error("guest {guest:?} has {vcpus} vCPUs but only {cpus} CPUs were given; give one CPU per vCPU")]
    TooFewCpus {
        /// The guest.
        guest: String,
        /// Its vCPUs.
        vcpus: usize,
        /// CPUs in the list.
        cpus: usize,
    },
    /// The host is too small for automatic pins.
    #[error(
        "guest {guest:?} needs {vcpus} CPUs of its own and one must remain for the host, but only {free} of the \
         online CPUs are neither promised to another guest nor kept for the host; give the CPUs with --cpus, or leave \
         the vCPUs where they are (cpus = \"keep\")"
    )]
    HostTooSmall {
        /// The guest.
        guest: String,
        /// Its vCPUs.
        vcpus: usize,
        /// CPUs that could be given.
        free: usize,
    },
    /// Other threads are given a vCPU's CPU.
    #[error(
        "threads of guest {guest:?} that run no vCPU are given CPU {cpu}, which is promised to a vCPU; give them \
         another"
    )]
    HelperOnGuarded {
        /// The guest.
        guest: String,
        /// The CPU.
        cpu: CpuId,
    },
    /// A vCPU has a CPU that the policy keeps for the host's own work.
    #[error(
        "CPU {cpu} is a housekeeping CPU of the policy, and a vCPU of guest {guest:?} is alone on it; move the vCPU, or \
         leave the CPU out of `housekeeping`"
    )]
    HousekeepingGuarded {
        /// The guest.
        guest: String,
        /// The CPU.
        cpu: CpuId,
    },
    /// Every online CPU would be guarded.
    #[error("CPUs {0} are all that is online; at least one must remain for the host's own work")]
    NoHousekeeping(String),
    /// A control group or a pin of libvirt's does not allow a thread the CPU it is to have.
    #[error("{what} of guest {guest:?} may only use CPUs {}, not {cpu}: {}", .limit.cpus, says_so(.limit))]
    OutsideCpuset {
        /// The guest.
        guest: String,
        /// Which of its threads.
        what: String,
        /// The CPU it is to have.
        cpu: CpuId,
        /// What it allows, and what says so.
        limit: Box<Cpuset>,
    },
    /// A control group or a pin of libvirt's allows a vCPU no CPU that is free.
    #[error(
        "{what} of guest {guest:?} may only use CPUs {}, among which there is no CPU that is free: {}",
        .limit.cpus, says_so(.limit)
    )]
    NoneInCpuset {
        /// The guest.
        guest: String,
        /// Which of its threads.
        what: String,
        /// What it allows, and what says so.
        limit: Box<Cpuset>,
    },
    /// A CPU belongs to a container alone.
    #[error(
        "CPU {cpu} is promised to guest {guest:?}, but a container has it alone (the kubelet's CPU manager, \
         /var/lib/kubelet/cpu_manager_state); choose another"
    )]
    OfContainer {
        /// The guest.
        guest: String,
        /// The CPU.
        cpu: CpuId,
    },
    /// A CPU is promised twice.
    #[error("CPU {cpu} is promised to guest {first:?} and to guest {second:?}; give each its own")]
    CpuTwice {
        /// The CPU.
        cpu: CpuId,
        /// The guest it was promised to first.
        first: String,
        /// The other guest.
        second: String,
    },
}

/// An error, and the guest whose part of the policy it is about, if it is one guest's.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) guest: Option<Pid>,
    pub(super) error: PlanError,
}

impl Fault {
    pub(super) fn of(guest: &Guest, error: PlanError) -> Self {
        Self { guest: Some(guest.pid), error }
    }
}

impl From<PlanError> for Fault {
    fn from(error: PlanError) -> Self {
        Self { guest: None, error }
    }
}

fn says_so(limit: &Cpuset) -> String {
    format!("{} says so; {}", limit.by, limit.remedy())
}

/// How many guests an error names: it is one line.
const SHOWN: usize = 8;

fn known_guests(known: &[String]) -> String {
    match known {
        [] => "no KVM guest is running".to_owned(),
        [one] => format!("the only running guest is {one}"),
        few if few.len() <= SHOWN => format!("running guests: {}", few.join(", ")),
        many => format!("running guests: {} and {} more", many[..SHOWN].join(", "), many.len() - SHOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_named_as_far_as_a_line_goes() {
        let check = |count: usize, expect: &str| {
            let known: Vec<String> = (1..=count).map(|n| format!("vm{n}")).collect();
            assert_eq!(known_guests(&known), expect);
        };
        check(0, "no KVM guest is running");
        check(1, "the only running guest is vm1");
        check(2, "running guests: vm1, vm2");
        check(10, "running guests: vm1, vm2, vm3, vm4, vm5, vm6, vm7, vm8 and 2 more");
    }
}
