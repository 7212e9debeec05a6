//! What a recording says about the host it was made on.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Facts that do not change while a host runs, and KVM's parameters. Unknown texts are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// Host name.
    pub hostname: String,
    /// Id of this boot (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Kernel command line.
    pub cmdline: String,
    /// CPU model name.
    pub cpu_model: String,
    /// CPU vendor, `GenuineIntel` or `AuthenticAMD`.
    pub cpu_vendor: String,
    /// Parameters of the loaded KVM modules, `kvm.halt_poll_ns` -> `200000`.
    pub kvm_parameters: BTreeMap<String, String>,
}
