//! The programs of `trace`: on the host's side of an interrupt, and on the vCPU's.
//!
//! Here: what they share. They use maps of their own, so that tracing changes nothing of what is counted.

mod irq_side;
mod vcpu_side;

use super::{COMM_LEN, Dropped, Hop, Id, Inside, PATIENCE_NS, Record, TracedVcpu, Vector, VectorKey};
use crate::kernel::{cpu, current};
use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::bpf_get_current_comm,
    macros::map,
    maps::{HashMap, PerCpuArray, RingBuf},
};

/// The reader looks by the clock and is never woken, which would cost more than the record. User space sets the size:
/// one page when nobody traces.
#[map]
static TRACE_RING: RingBuf = RingBuf::with_byte_size(4096, 0);

#[map]
static TRACE_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(Dropped::ALL.len() as u32, 0);

#[map]
static TRACE_VCPUS: HashMap<u32, TracedVcpu> = HashMap::with_max_entries(64, 0);

#[map]
static TRACE_VECTORS: HashMap<VectorKey, Vector> = HashMap::with_max_entries(64, 0);

#[map]
static TRACE_IRQ: PerCpuArray<Inside> = PerCpuArray::with_max_entries(1, 0);

/// As `TRACE_IRQ`, for the work queue's thread that injects on this CPU.
#[map]
static TRACE_INJECT: PerCpuArray<Inside> = PerCpuArray::with_max_entries(1, 0);

const NOBODY: [u8; COMM_LEN] = [0; COMM_LEN];

/// What a record says besides who and when.
#[derive(Clone, Copy)]
struct Said {
    vcpu: u32,
    a: u32,
    b: u32,
    c: u32,
    d: u32,
}

const fn said(vcpu: u32, a: u32, b: u32) -> Said {
    Said { vcpu, a, b, c: 0, d: 0 }
}

/// Puts a record into the ring, or counts it as lost.
#[inline(always)]
fn emit(ns: u64, id: Id, hop: Hop, said: Said, other: [u8; COMM_LEN]) {
    let (tgid, tid) = current();
    let comm = bpf_get_current_comm().unwrap_or(NOBODY);
    let Some(mut entry) = TRACE_RING.reserve::<Record>(0) else {
        dropped(Dropped::RingFull);
        return;
    };
    let Said { vcpu, a, b, c, d } = said;
    entry.write(Record {
        ns,
        id,
        hop: hop as u32,
        cpu: cpu(),
        tgid,
        tid,
        vcpu,
        a,
        b,
        c,
        d,
        pad: 0,
        comm,
        other,
    });
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

#[inline(always)]
fn dropped(cause: Dropped) {
    if let Some(counter) = TRACE_LOST.get_ptr_mut(cause as u32) {
        // SAFETY: this CPU's value; a program that interrupts this one can cost a count, not more.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
fn of_thread(tid: u32) -> Option<&'static mut TracedVcpu> {
    // SAFETY: elements of a preallocated map stay valid memory; who writes what is said at `TracedVcpu`.
    TRACE_VCPUS.get_ptr_mut(tid).map(|p| unsafe { &mut *p })
}

#[inline(always)]
fn of_vector(tid: u32, vector: u32) -> Option<&'static mut Vector> {
    // SAFETY: as in `of_thread`.
    TRACE_VECTORS.get_ptr_mut(VectorKey { tid, vector: vector & 0xff }).map(|p| unsafe { &mut *p })
}

/// Whether an interrupt waits for a vCPU, so that what happens to its thread belongs to a timeline.
#[inline(always)]
fn watched(vcpu: &TracedVcpu, ns: u64) -> bool {
    vcpu.accepted != vcpu.settled && ns.wrapping_sub(vcpu.accept_ns) < PATIENCE_NS
}

/// Adds one to a count that several CPUs write.
#[inline(always)]
fn add_one(counter: *mut u64) {
    // SAFETY: a pointer to a map's value. See `kernel::next_index` for why it is the intrinsic, and `SeqCst`.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(counter, 1);
    }
}
