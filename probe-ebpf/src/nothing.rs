//! Programs that count nothing: what it costs to have one attached at all, and to read the clock. Only
//! `cargo xtask bench` loads them.

use crate::kernel::now;
use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

#[raw_tracepoint(tracepoint = "sched_switch")]
fn nothing_raw(_ctx: RawTracePointContext) -> i32 {
    0
}

#[raw_tracepoint(tracepoint = "sched_switch")]
fn clock_raw(_ctx: RawTracePointContext) -> i32 {
    // A result that depends on the clock, or nobody would read it.
    i32::from(now() == 0)
}
