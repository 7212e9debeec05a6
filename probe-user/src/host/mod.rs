//! What the host looks like: CPUs, guests, virtual functions, interrupts, read from `/proc` and `/sys`, and what drivers
//! count for virtual functions, asked of the kernel over netlink, which also tells of devices that change.
//!
//! Read only, by construction: nothing here opens a file for writing. Every reader of files takes a [`HostRoot`], so
//! that tests lay out a tree of their own. Knows no BPF, no policy, and not what its answers are for.

mod cpu_time;
mod cpus;
mod error;
mod facts;
mod guests;
pub mod health;
mod interrupts;
mod irqbalance;
mod irqs;
mod knobs;
mod libvirt;
mod mode;
mod neighbours;
mod netlink;
mod nic_options;
mod nics;
mod owners;
mod paths;
mod process;
mod qmp;
mod reader;
mod root;
mod threads;
mod topology;
mod uevents;
mod vcpus;
mod vf_counters;
mod vf_message;
mod vfio;
mod vfs;
mod vmm;

pub use cpu_time::read_cpu_time;
pub use error::{HostError, Malformed};
pub use facts::read_facts;
pub use interrupts::{InterruptRow, VfioInterrupt, VfioKind, parse_interrupts, parse_vfio_action};
pub use irqbalance::{ask_irqbalance, irqbalance_socket, tell_irqbalance};
pub use irqs::{read_fixed_irqs, read_interrupt_counts};
pub use knobs::{KnobFile, KnobForm, ifindex_file, knob_file, read_knobs};
pub use mode::{Posting, PostingFacts, judge_posting, read_virtual_apic};
pub use neighbours::read_guest_addresses;
pub use owners::read_owners;
pub use paths::read_paths;
pub use process::{ThreadStat, parse_allowed_cpus, parse_stat};
pub use root::HostRoot;
pub use threads::read_host_threads;
pub use topology::read_topology;
pub use uevents::{Received, Uevent, UeventSocket, parse_uevent};
pub use vf_counters::{VfReadings, read_vf_counters};
pub use vf_message::MalformedAnswer;

#[cfg(test)]
pub(crate) use irqbalance::testing as irqbalance_testing;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
