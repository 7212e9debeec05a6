//! Support for vfprobe's tests against real kernels.

pub mod net;
pub mod oracle;
