//! The slow path: an interrupt that cannot be injected from the hard interrupt is handed to a work queue, whose thread
//! does it later. The work's address ties the two together.

use super::{IN_IRQ, IN_WORK, SLOTS};
use crate::control::Lost;
use crate::kernel::{current, element, global, lost, offsets, own_element, read_field};
use crate::probes::irq_delivery::InIrq;
use aya_ebpf::{
    macros::{map, raw_tracepoint},
    maps::HashMap,
    programs::RawTracePointContext,
};

/// Address of queued work to the slot (index + 1) whose interrupt it injects. An entry lives from queue to start.
#[map]
static SLOW_WORK: HashMap<u64, u32> = HashMap::with_max_entries(64, 0);

offsets!(OFF_WORK_FUNC);

#[unsafe(no_mangle)]
static IRQFD_INJECT: u64 = 0;

// match-proto:v5.15:include/trace/events/workqueue.h:workqueue_queue_work(int req_cpu, struct pool_workqueue *pwq, struct work_struct *work)
#[raw_tracepoint(tracepoint = "workqueue_queue_work")]
fn irq_slow_raw(ctx: RawTracePointContext) -> i32 {
    let Some(irq) = own_element(&IN_IRQ) else { return 0 };
    let work = ctx.arg::<u64>(2);
    if irq.slot != 0 && is_injection(work) {
        irq.slow += 1;
        queued(irq, work);
    }
    0
}

/// Whether work injects an interrupt for an irqfd.
#[inline(always)]
pub(crate) fn is_injection(work: u64) -> bool {
    read_field::<u64>(work, &OFF_WORK_FUNC).is_some_and(|function| function == global(&IRQFD_INJECT))
}

#[inline(always)]
fn queued(irq: &InIrq, work: u64) {
    let Some(slot) = element(&SLOTS, irq.slot - 1) else { return };
    // Still set when the former work is about to start (it may be queued again from then on): its time stands, and
    // this one has no room.
    if slot.slow_raise_ns != 0 || SLOW_WORK.insert(work, irq.slot, 0).is_err() {
        lost(Lost::SlowUnjoined);
        return;
    }
    slot.slow_raise_ns = irq.raise_ns;
}

// match-proto:v5.15:include/trace/events/workqueue.h:workqueue_execute_start(struct work_struct *work)
// Its end needs no program: whatever the same thread does next starts with this event.
#[raw_tracepoint(tracepoint = "workqueue_execute_start")]
fn irq_work_raw(ctx: RawTracePointContext) -> i32 {
    let Some(work) = own_element(&IN_WORK) else { return 0 };
    if work.slot != 0 {
        if work.accepts == 0 {
            lost(Lost::SlowUnjoined);
        }
        work.slot = 0;
    }
    let address = ctx.arg::<u64>(0);
    // SAFETY: values are u32 that are written whole.
    let Some(slot_plus_1) = (unsafe { SLOW_WORK.get(address) }) else { return 0 };
    let slot_plus_1 = *slot_plus_1;
    let _ = SLOW_WORK.remove(address);
    let Some(slot) = element(&SLOTS, slot_plus_1.wrapping_sub(1)) else { return 0 };
    let (_, tid) = current();
    let raise_ns = slot.slow_raise_ns;
    *work = InIrq {
        raise_ns,
        slot: slot_plus_1,
        accepts: 0,
        slow: 1,
        series: 0,
        queued: 0,
        tid,
        exit_vector: 0,
        exit_tid: 0,
    };
    slot.slow_raise_ns = 0;
    0
}

/// The interrupt that an accept on this CPU belongs to: of the hard interrupt, else of the work that this thread does.
#[inline(always)]
pub(super) fn cause() -> Option<&'static mut InIrq> {
    let irq = own_element(&IN_IRQ)?;
    if irq.slot != 0 {
        return Some(irq);
    }
    let work = own_element(&IN_WORK)?;
    (work.slot != 0 && work.tid == current().1).then_some(work)
}
