//! The BPF object that is part of the program. Built from `probe-ebpf` by `cargo xtask bpf` and committed.

/// The object, aligned as its loader needs it.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/vfprobe.bpf.o");
