//! The BPF side's small tools: reading kernel memory, time, who runs, counters. The only place that names helpers.

use crate::control::{Lost, TABLES, Table, Window};
use crate::hist::{Hist, MAX_VALUE, index};
use crate::layout::ABSENT;
use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_probe_read_kernel},
    macros::map,
    maps::{Array, PerCpuArray},
};

#[map]
static WINDOW: Array<Window> = Array::with_max_entries(1, 0);

#[map]
static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(Lost::ALL.len() as u32, 0);

/// Next free index per table.
#[map]
static NEXT: Array<u64> = Array::with_max_entries(TABLES, 0);

/// CLOCK_MONOTONIC (ns).
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// The CPU this runs on.
#[inline(always)]
pub fn cpu() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_smp_processor_id() }
}

/// Process and thread that are current: (tgid, tid).
#[inline(always)]
pub fn current() -> (u32, u32) {
    let both = bpf_get_current_pid_tgid();
    ((both >> 32) as u32, both as u32)
}

/// Whether a moment lies in the window that counts.
#[inline(always)]
pub fn in_window(ns: u64) -> bool {
    WINDOW.get(0).is_some_and(|w| w.contains(ns))
}

/// How much of an interval lies in the window (ns).
#[inline(always)]
pub fn counted(from: u64, to: u64) -> u64 {
    let Some(window) = WINDOW.get(0) else { return 0 };
    to.min(window.until_ns).saturating_sub(from.max(window.from_ns))
}

/// Counts something that could not be counted where it belongs.
#[inline(always)]
pub fn lost(cause: Lost) {
    if let Some(counter) = LOST.get_ptr_mut(cause as u32) {
        // SAFETY: the map's value of this CPU; nobody else writes it.
        unsafe { *counter += 1 };
    }
}

/// An element of an array map.
///
/// The reference is only as exclusive as the map's rules make it: each table says who may write its elements.
#[inline(always)]
#[expect(clippy::mut_from_ref, reason = "maps are shared memory; who writes an element is said by its table")]
pub fn element<T>(map: &'static Array<T>, index: u32) -> Option<&'static mut T> {
    // SAFETY: map values live as long as the program; every bit pattern is valid for the ABI types.
    map.get_ptr_mut(index).map(|p| unsafe { &mut *p })
}

/// An element of this CPU's copy of a per-CPU array map.
#[inline(always)]
#[expect(clippy::mut_from_ref, reason = "maps are shared memory; who writes an element is said by its table")]
pub fn own_element<T>(map: &'static PerCpuArray<T>) -> Option<&'static mut T> {
    // SAFETY: as in `element`; only this CPU writes it, and programs of one kind do not nest.
    map.get_ptr_mut(0).map(|p| unsafe { &mut *p })
}

/// Adds to a counter that others may add to at the same time.
#[inline(always)]
pub fn add(counter: &mut u64, value: u64) {
    // SAFETY: a valid pointer; one BPF_ATOMIC instruction (see `next_index` for why not by `core::sync`).
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
            counter, value,
        )
    };
}

/// Raises a maximum that others may raise at the same time. Each failed try means that somebody else has raised it.
#[inline(always)]
fn raise(most: &mut u64, value: u64) {
    use core::intrinsics::AtomicOrdering::SeqCst;
    for _ in 0..4 {
        // SAFETY: a valid reference.
        let present = unsafe { core::ptr::read_volatile(&raw const *most) };
        if value <= present {
            return;
        }
        // SAFETY: a valid pointer; one BPF_CMPXCHG instruction.
        let (_, done) =
            unsafe { core::intrinsics::atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(most, present, value) };
        if done {
            return;
        }
    }
}

/// As `Hist::record`, of a histogram that several CPUs write.
#[inline(always)]
pub fn record_shared(hist: &mut Hist, value: u64) {
    add(&mut hist.sum, value);
    raise(&mut hist.max, value);
    raise(&mut hist.inverted_min, u64::MAX - value);
    if value > MAX_VALUE {
        add(&mut hist.over, 1);
    }
    if let Some(bucket) = hist.buckets.get_mut(index(value)) {
        add(bucket, 1);
    }
}

/// Takes the next free index of a table. The caller checks it against the table's size.
#[inline(always)]
pub fn next_index(table: Table) -> u32 {
    let Some(counter) = NEXT.get_ptr_mut(table as u32) else { return u32::MAX };
    // SAFETY: a valid pointer to a map value. `core::sync::atomic` has no read-modify-write on this target
    // (`atomic-cas: false`), the intrinsic compiles to one BPF_ATOMIC | BPF_FETCH instruction. Not with `Relaxed`:
    // LLVM 22 then leaves BPF_FETCH out although the result is used.
    let index = unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(counter, 1)
    };
    index as u32
}

/// Reads a global that user space set before loading. Volatile, or LLVM takes the initial value for a constant.
#[inline(always)]
pub fn global<T: Copy>(global: &'static T) -> T {
    // SAFETY: a reference to an initialised static.
    unsafe { core::ptr::read_volatile(global) }
}

/// Reads a member of a kernel structure; `None` when the kernel has no such member or the address is bad.
#[inline(always)]
pub fn read_field<T: Copy>(base: u64, offset: &'static u32) -> Option<T> {
    let offset = global(offset);
    if base == 0 || offset == ABSENT {
        return None;
    }
    // SAFETY: the helper checks the address and fails on a bad one.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// Reads kernel memory; `None` when the address is bad.
#[inline(always)]
pub fn read<T: Copy>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails on a bad one.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

/// What a program on a classic tracepoint returns. With 0 the kernel would keep the event from everybody else who asks perf
/// for it on this CPU, `perf kvm stat` included (`perf_trace_run_bpf_submit()`, kernel/events/core.c). aya's attribute
/// `tracepoint` returns 0 whatever its function says, so the programs are declared by hand.
pub const SEEN: u32 = 1;

/// Reads from a classic tracepoint's record at an offset that user space took from its `format` file.
#[inline(always)]
pub fn read_record<T: Copy>(ctx: &aya_ebpf::programs::TracePointContext, offset: &'static u32) -> Option<T> {
    let offset = global(offset);
    if offset == ABSENT {
        return None;
    }
    // SAFETY: the helper behind it checks the address.
    unsafe { ctx.read_at(offset as usize) }.ok()
}

/// Declares the globals that carry offsets.
macro_rules! offsets {
    ($($name:ident),+ $(,)?) => {
        $(#[unsafe(no_mangle)]
        static $name: u32 = crate::layout::ABSENT;)+
    };
}
pub(crate) use offsets;
