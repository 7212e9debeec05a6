//! The probes, one file each: the ABI, and below it the programs.

pub mod cpu_noise;
pub mod irq_delivery;
pub mod packet_path;
pub mod vcpu_sched;
pub mod vm_exit;
