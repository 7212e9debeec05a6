//! A thread of the host that belongs to no guest, as far as moving it to other CPUs is concerned.

use super::{Pid, topology::Thread};
use serde::{Deserialize, Serialize};

/// Any thread of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostThread {
    /// Its process.
    pub pid: Pid,
    /// The process that its process is a child of; 0 for none.
    pub parent: Pid,
    /// The thread itself.
    #[serde(flatten)]
    pub thread: Thread,
    /// Whether it belongs to the kernel.
    pub kernel: bool,
    /// Whether the kernel refuses to move it (`PF_NO_SETAFFINITY`): a kernel thread bound to its CPUs.
    pub bound: bool,
}
