//! Numbers that must not be mixed up, each a type of its own.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A host logical CPU, as the kernel numbers it.
    CpuId(u32)
);
id!(
    /// A NUMA node. "Unknown" (-1 in sysfs) is `Option::None`, never node 0.
    NumaNode(u32)
);
id!(
    /// A Linux interrupt number. It changes when a guest re-enables MSI-X.
    IrqNumber(u32)
);
id!(
    /// A process (thread group).
    Pid(u32)
);
id!(
    /// A thread.
    Tid(u32)
);
id!(
    /// A vCPU of one guest: its index as the VMM numbers it.
    VcpuId(u32)
);
id!(
    /// A virtual function's index under its PF (`virtfnN`).
    VfIndex(u32)
);
