//! The programs of `packet_path` that count what network softirqs take.

use super::Softirqs;
use crate::kernel::{counted, in_window, now, own_element};
use aya_ebpf::{
    macros::{map, raw_tracepoint},
    maps::PerCpuArray,
    programs::RawTracePointContext,
};

#[map]
static PATH_SOFTIRQS: PerCpuArray<Softirqs> = PerCpuArray::with_max_entries(1, 0);

/// include/linux/interrupt.h.
const NET_TX: u32 = 2;
const NET_RX: u32 = 3;

#[raw_tracepoint(tracepoint = "softirq_entry")]
fn path_soft_in(ctx: RawTracePointContext) -> i32 {
    if matches!(ctx.arg::<u64>(0) as u32, NET_TX | NET_RX)
        && let Some(softirqs) = own_element(&PATH_SOFTIRQS)
    {
        softirqs.start_ns = now();
    }
    0
}

#[raw_tracepoint(tracepoint = "softirq_exit")]
fn path_soft_out(ctx: RawTracePointContext) -> i32 {
    let vector = ctx.arg::<u64>(0) as u32;
    if !matches!(vector, NET_TX | NET_RX) {
        return 0;
    }
    let Some(softirqs) = own_element(&PATH_SOFTIRQS) else { return 0 };
    let start = softirqs.start_ns;
    softirqs.start_ns = 0;
    // Begun before the attachment.
    if start == 0 {
        return 0;
    }
    let spent = counted(start, now());
    if vector == NET_TX {
        softirqs.tx_ns += spent;
    } else {
        softirqs.rx_ns += spent;
    }
    0
}

// match-proto:v5.15:include/trace/events/napi.h:napi_poll(struct napi_struct *napi, int work, int budget)
#[raw_tracepoint(tracepoint = "napi_poll")]
fn path_poll(ctx: RawTracePointContext) -> i32 {
    let Some(softirqs) = own_element(&PATH_SOFTIRQS) else { return 0 };
    if in_window(now()) {
        softirqs.polls += 1;
        softirqs.polled += ctx.arg::<u64>(1) & 0x7fff_ffff;
    }
    0
}
