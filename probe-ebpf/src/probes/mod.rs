//! The probes, one file each: the ABI, and below it the programs.

pub mod irq_delivery;
pub mod vm_exit;
