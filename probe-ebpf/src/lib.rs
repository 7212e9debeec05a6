//! What the BPF programs and user space share: the histogram, the ABI of each probe, which kernel fields are read.
//!
//! On the BPF target also the programs themselves. Knows no std, no host, no policy.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(
    target_arch = "bpf",
    feature(core_intrinsics),
    expect(internal_features, reason = "see kernel::fetch_add")
)]
#![expect(clippy::cast_possible_truncation, reason = "both sides are 64 bits wide: x86-64 and BPF")]

pub mod control;
pub mod hist;
#[cfg(target_arch = "bpf")]
pub mod kernel;
pub mod layout;
#[cfg(target_arch = "bpf")]
mod nothing;
pub mod probes;
pub mod signs;
pub mod vcpu;
