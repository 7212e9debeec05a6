//! Support for vfprobe's tests against real kernels.

pub mod oracle;
