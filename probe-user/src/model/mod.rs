//! Values that the whole program speaks in: CPUs, PCI functions, interrupts, guests, and how they hang together.
//!
//! Core: no file system, no clock, no BPF. Parsing and printing of the kernel's text forms belong here.

pub mod cpu_set;
pub mod host_facts;
pub mod ids;
pub mod knob;
pub mod nic;
pub mod owners;
pub mod path;
pub mod pci;
pub mod seen;
pub mod thread;
pub mod topology;
pub mod vf_counters;

pub use cpu_set::CpuSet;
pub use host_facts::HostFacts;
pub use ids::{CpuId, IrqNumber, NumaNode, Pid, Tid, VcpuId, VfIndex};
pub use knob::{Knob, Value};
pub use pci::PciAddress;
pub use thread::HostThread;
