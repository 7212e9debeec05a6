//! What a transaction needs of a host, and how a host refuses. Tests put a host of their own behind it.

use crate::model::{CpuSet, HostThread, IrqNumber, Value};
use crate::plan::{IrqTarget, Target};
use std::{fmt, io, path::PathBuf};

/// A host whose targets can be looked at and written.
pub trait Host {
    /// What a target is set to now.
    ///
    /// # Errors
    /// [`TargetError`] when it exists but cannot be read.
    fn observe(&self, target: &Target) -> Result<Seen, TargetError>;

    /// Sets a target.
    ///
    /// # Errors
    /// [`TargetError::Refused`] says why the kernel did not do it.
    fn write(&self, target: &Target, value: &Value) -> Result<(), TargetError>;

    /// Whether this process may write such targets at all, found out without writing anything.
    ///
    /// # Errors
    /// [`TargetError::Refused`] with [`Refusal::Privilege`] names what is missing.
    fn may_write(&self, target: &Target) -> Result<(), TargetError>;

    /// Whether a target that was asked to have a value has it. Kernels may take offline CPUs out of a mask.
    fn same(&self, target: &Target, asked: &Value, found: &Value) -> bool {
        let _ = target;
        asked == found
    }

    /// Identifies this boot.
    ///
    /// # Errors
    /// [`TargetError::Read`] when the kernel does not tell.
    fn boot_id(&self) -> Result<String, TargetError>;

    /// Clock ticks since boot, now: threads that start later have at least this start time.
    fn ticks(&self) -> u64;

    /// Seconds since 1970, now.
    fn unix_time(&self) -> u64;

    /// All interrupts that have a handler, with the CPUs that they are set to.
    ///
    /// # Errors
    /// [`TargetError::Read`] when interrupts cannot be listed.
    fn irqs(&self) -> Result<Vec<(IrqTarget, CpuSet)>, TargetError>;

    /// What the kernel sets an interrupt to that comes into being under a default mask: online CPUs of the mask, on the
    /// device's node where there are any (kernel/irq/manage.c, `irq_setup_affinity()`).
    fn initial_affinity(&self, irq: IrqNumber, default: &CpuSet) -> CpuSet;

    /// All threads of the host.
    ///
    /// # Errors
    /// [`TargetError::Read`] when processes cannot be listed.
    fn threads(&self) -> Result<Vec<HostThread>, TargetError>;
}

/// What was found in a target's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The target.
    Here(Observed),
    /// Nothing.
    Gone,
    /// Something else that bears its number now.
    Replaced(String),
}

/// A target as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Its name now: the handlers of an interrupt, the name of a thread.
    pub name: String,
    /// What it is set to.
    pub value: Value,
    /// Of an interrupt: the CPUs it really goes to, where the kernel tells.
    pub effective: Option<CpuSet>,
}

impl Observed {
    /// Whether what was asked for is also what happens: interrupts may go on firing on the old CPU until the next one.
    #[must_use]
    pub fn settled(&self) -> bool {
        match (&self.effective, self.value.cpus()) {
            (Some(effective), Some(cpus)) => effective.is_subset(cpus),
            _ => true,
        }
    }
}

/// A target that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Reading failed.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file does not say what it should.
    #[error("{} says {text:?} instead of {expected}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it says.
        text: String,
        /// What it should say.
        expected: &'static str,
    },
    /// Writing failed.
    #[error("{call}: {refusal}")]
    Refused {
        /// The call with its arguments.
        call: String,
        /// Why.
        refusal: Refusal,
    },
    /// The write was accepted but something else is found afterwards.
    #[error("{call} was accepted, but {found} is found afterwards; a cpuset or another program limits it")]
    NotTaken {
        /// The call with its arguments.
        call: String,
        /// What is found.
        found: String,
    },
}

impl TargetError {
    /// Why the kernel refused, if it did.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            Self::Read { .. } | Self::Malformed { .. } | Self::NotTaken { .. } => None,
        }
    }
}

/// Why a write was refused.
#[derive(Debug)]
pub enum Refusal {
    /// The target is gone (ENOENT, ESRCH).
    Gone,
    /// The kernel itself places this interrupt: a managed or per-CPU one (EIO up to 6.6, EPERM since).
    Managed,
    /// No free interrupt vector on those CPUs (ENOSPC).
    NoVector,
    /// None of the CPUs can be used: all offline (EINVAL on an interrupt).
    Offline,
    /// None of the CPUs can be used by this thread: offline, outside its cpuset, or the thread is bound (EINVAL).
    OutsideCpuset,
    /// A CPU number beyond what the kernel knows (EOVERFLOW, ERANGE).
    TooHigh,
    /// The kernel does not take this value for a knob (EINVAL, ERANGE).
    Invalid,
    /// It can be read, but nobody may write it.
    ReadOnly,
    /// A privilege is missing: which one.
    Privilege(&'static str),
    /// Anything else.
    Other(io::Error),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("it is gone"),
            Self::Managed => f.write_str(
                "the kernel places this interrupt itself (managed or per-CPU); it cannot be moved. Booted with \
                 isolcpus=managed_irq,domain,LIST, a managed one fires on CPUs of LIST for their own I/O only",
            ),
            Self::NoVector => {
                f.write_str("no free interrupt vector on these CPUs; choose others or free vectors there")
            }
            Self::Offline => f.write_str("none of these CPUs is online"),
            Self::OutsideCpuset => f.write_str(
                "none of these CPUs is online and in the thread's cpuset, or the thread is bound to its CPU",
            ),
            Self::TooHigh => f.write_str("a CPU number beyond the last one of this kernel"),
            Self::Invalid => f.write_str("the kernel does not take this value"),
            Self::ReadOnly => {
                f.write_str("this kernel offers it for reading only; leave it out of the policy")
            }
            Self::Privilege(what) => write!(f, "{what} is missing; run as root"),
            Self::Other(error) => error.fmt(f),
        }
    }
}
