//! On the CPU that takes the interrupt: handler, work queue, accept.

use super::{
    NOBODY, Said, TRACE_INJECT, TRACE_IRQ, TRACE_VECTORS, add_one, dropped, emit, of_thread, of_vector, said,
};
use crate::kernel::{current, in_window, now, own_element};
use crate::probes::irq_delivery::bpf::{is_injection, name_address};
use crate::probes::irq_delivery::{NAME_LEN, SlotName, parse_name};
use crate::probes::trace::{
    Dropped, EVERY_SLOT, Hop, Id, Inside, PATIENCE_NS, PENDING, TracedVcpu, VCPU_RUNS, Vector, VectorKey,
    Wanted,
};
use crate::vcpu::VcpuKey;
use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel_str,
    macros::{map, raw_tracepoint},
    maps::{HashMap, PerCpuArray},
    programs::RawTracePointContext,
};

/// The VFs that are traced; written by user space.
#[map]
static TRACE_WANTED: HashMap<u32, Wanted> = HashMap::with_max_entries(256, 0);

/// Thread of a guest's vCPU.
#[map]
pub(super) static TRACE_TIDS: HashMap<VcpuKey, u32> = HashMap::with_max_entries(64, 0);

#[map]
static TRACE_NAME: PerCpuArray<[u8; NAME_LEN]> = PerCpuArray::with_max_entries(1, 0);

/// Queued work of the slow path, by its address.
#[map]
static TRACE_WORK: HashMap<u64, Inside> = HashMap::with_max_entries(64, 0);

/// Slots for which work waits.
#[map]
static TRACE_BUSY: HashMap<SlotName, u32> = HashMap::with_max_entries(64, 0);

// match-proto:v5.15:include/trace/events/irq.h:irq_handler_entry(int irq, struct irqaction *action)
#[raw_tracepoint(tracepoint = "irq_handler_entry")]
fn trace_irq_raw(ctx: RawTracePointContext) -> i32 {
    let ns = now();
    let Some(name) = own_element(&TRACE_NAME) else { return 0 };
    let Some(address) = name_address(ctx.arg(1)) else { return 0 };
    // SAFETY: the buffer has NAME_LEN bytes; the helper checks the address.
    let read =
        unsafe { bpf_probe_read_kernel_str(name.as_mut_ptr().cast(), NAME_LEN as u32, address as *const _) };
    if read <= 0 {
        dropped(Dropped::NameUnreadable);
        return 0;
    }
    let Some(SlotName { vf, slot }) = parse_name(name) else { return 0 };
    raised(Id { raise_ns: ns, vf, slot }, ctx.arg(0));
    0
}

#[inline(always)]
fn raised(id: Id, irq: u32) {
    if !in_window(id.raise_ns) {
        return;
    }
    // SAFETY: a value that user space writes before tracing begins.
    let Some(wanted) = (unsafe { TRACE_WANTED.get(id.vf) }) else { return };
    if wanted.slot != EVERY_SLOT && wanted.slot != id.slot {
        return;
    }
    let Some(inside) = own_element(&TRACE_IRQ) else { return };
    *inside = Inside { id, tgid: wanted.tgid, tid: 0 };
    // SAFETY: only whether it is there is asked.
    let busy = unsafe { TRACE_BUSY.get(SlotName { vf: id.vf, slot: id.slot }) }.is_some();
    emit(id.raise_ns, id, Hop::Raised, said(0, irq, u32::from(busy)), NOBODY);
}

// match-proto:v5.15:include/trace/events/irq.h:irq_handler_exit(int irq, struct irqaction *action, int ret)
#[raw_tracepoint(tracepoint = "irq_handler_exit")]
fn trace_handled_raw(_ctx: RawTracePointContext) -> i32 {
    let Some(inside) = own_element(&TRACE_IRQ) else { return 0 };
    if inside.id.raise_ns != 0 {
        emit(now(), inside.id, Hop::Handled, said(0, 0, 0), NOBODY);
        inside.id.raise_ns = 0;
    }
    0
}

// match-proto:v5.15:include/trace/events/workqueue.h:workqueue_queue_work(int req_cpu, struct pool_workqueue *pwq, struct work_struct *work)
#[raw_tracepoint(tracepoint = "workqueue_queue_work")]
fn trace_queue_raw(ctx: RawTracePointContext) -> i32 {
    let Some(inside) = own_element(&TRACE_IRQ) else { return 0 };
    let work = ctx.arg::<u64>(2);
    if inside.id.raise_ns == 0 || !is_injection(work) {
        return 0;
    }
    let id = inside.id;
    if TRACE_WORK.insert(work, *inside, 0).is_err()
        || TRACE_BUSY.insert(SlotName { vf: id.vf, slot: id.slot }, 1, 0).is_err()
    {
        dropped(Dropped::WorkFull);
    }
    emit(now(), id, Hop::Queued, said(0, 0, 0), NOBODY);
    0
}

// match-proto:v5.15:include/trace/events/workqueue.h:workqueue_execute_start(struct work_struct *work)
// Its end needs no program: whatever the same thread does next starts with this event.
#[raw_tracepoint(tracepoint = "workqueue_execute_start")]
fn trace_work_raw(ctx: RawTracePointContext) -> i32 {
    let Some(inside) = own_element(&TRACE_INJECT) else { return 0 };
    inside.id.raise_ns = 0;
    let address = ctx.arg::<u64>(0);
    // SAFETY: the entry is written before the work can start, and by nobody after.
    let Some(queued) = (unsafe { TRACE_WORK.get(address) }) else { return 0 };
    *inside = *queued;
    inside.tid = current().1;
    let _ = TRACE_BUSY.remove(SlotName { vf: inside.id.vf, slot: inside.id.slot });
    let _ = TRACE_WORK.remove(address);
    emit(now(), inside.id, Hop::Worked, said(0, 0, 0), NOBODY);
    0
}

/// The interrupt that an accept on this CPU belongs to: of the hard interrupt, else of the work that this thread does.
#[inline(always)]
fn cause() -> Option<&'static mut Inside> {
    let irq = own_element(&TRACE_IRQ)?;
    if irq.id.raise_ns != 0 {
        return Some(irq);
    }
    let work = own_element(&TRACE_INJECT)?;
    (work.id.raise_ns != 0 && work.tid == current().1).then_some(work)
}

// match-proto:v5.15:arch/x86/kvm/trace.h:kvm_apic_accept_irq(__u32 apicid, __u16 dm, __u16 tm, __u8 vec)
#[raw_tracepoint(tracepoint = "kvm_apic_accept_irq")]
fn trace_accept_raw(ctx: RawTracePointContext) -> i32 {
    let Some(inside) = cause() else { return 0 };
    let ns = now();
    let (vcpu_id, vector) = (ctx.arg::<u32>(0), ctx.arg::<u64>(3) as u32 & 0xff);
    // SAFETY: values are u32 that are written whole.
    let Some(tid) = (unsafe { TRACE_TIDS.get(VcpuKey { tgid: inside.tgid, vcpu_id }) }) else {
        dropped(Dropped::VcpuUnknown);
        emit(ns, inside.id, Hop::Accepted, Said { vcpu: 0, a: vector, b: 0, c: vcpu_id, d: 0 }, NOBODY);
        return 0;
    };
    let tid = *tid;
    let Some(vcpu) = of_thread(tid) else { return 0 };
    let mut flags = if vcpu.running != 0 { VCPU_RUNS } else { 0 };
    if accept(inside.id, tid, vector, vcpu, ns) {
        flags |= PENDING;
    }
    emit(
        ns,
        inside.id,
        Hop::Accepted,
        Said { vcpu: tid, a: vector, b: flags, c: vcpu_id, d: vcpu.cpu },
        NOBODY,
    );
    0
}

/// Notes an accept; says whether the vector was pending.
#[inline(always)]
fn accept(id: Id, tid: u32, vector: u32, vcpu: &mut TracedVcpu, ns: u64) -> bool {
    let none = Id { raise_ns: 0, vf: 0, slot: 0 };
    let key = VectorKey { tid, vector };
    let state = match of_vector(tid, vector) {
        Some(state) => state,
        None => {
            let fresh = Vector { waiting: none, accept_ns: 0, late: none, service: none };
            if TRACE_VECTORS.insert(key, fresh, 0).is_err() {
                dropped(Dropped::VectorsFull);
                return false;
            }
            let Some(state) = of_vector(tid, vector) else { return false };
            state
        }
    };
    if state.waiting.raise_ns != 0 {
        if ns.wrapping_sub(state.accept_ns) < PATIENCE_NS {
            if state.late.raise_ns == 0 {
                state.late = id;
            }
            return true;
        }
        // The guest was reset, or its vCPU is gone.
        dropped(Dropped::GivenUp);
        add_one(&raw mut vcpu.settled);
    }
    state.late.raise_ns = 0;
    state.accept_ns = ns;
    state.waiting = id;
    vcpu.accept_ns = ns;
    add_one(&raw mut vcpu.accepted);
    false
}

// match-proto:v6.1:arch/x86/kvm/trace.h:kvm_apicv_accept_irq(__u32 apicid, __u16 dm, __u16 tm, __u8 vec)
#[raw_tracepoint(tracepoint = "kvm_apicv_accept_irq")]
fn trace_apicv_raw(ctx: RawTracePointContext) -> i32 {
    let Some(inside) = cause() else { return 0 };
    let (vcpu_id, vector) = (ctx.arg::<u32>(0), ctx.arg::<u64>(3) as u32 & 0xff);
    // SAFETY: values are u32 that are written whole.
    let tid = match unsafe { TRACE_TIDS.get(VcpuKey { tgid: inside.tgid, vcpu_id }) } {
        Some(tid) => *tid,
        None => 0,
    };
    if let Some(state) = of_vector(tid, vector)
        && state.waiting.raise_ns != 0
        && let Some(vcpu) = of_thread(tid)
    {
        state.waiting.raise_ns = 0;
        add_one(&raw mut vcpu.settled);
    }
    emit(now(), inside.id, Hop::Hardware, said(tid, vector, 0), NOBODY);
    0
}
