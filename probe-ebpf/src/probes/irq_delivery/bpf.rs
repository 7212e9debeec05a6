//! The programs of `irq_delivery`: hard interrupt, accept, injection, entry, EOI, in that order.

use super::{
    Delivery, DeliveryKey, IRQ_NUMBERS, InIrq, KnownIrq, NAME_LEN, STAGES, Slot, SlotKey, Stage, parse_name,
};
use crate::control::{Lost, Table};
use crate::hist::Hist;
use crate::kernel::{
    cpu, current, element, global, in_window, lost, next_index, now, offsets, own_element, read_field,
    read_record,
};
use crate::vcpu::{self, SWITCHES_KEPT, Vcpu};
use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel_str,
    macros::{map, raw_tracepoint, tracepoint},
    maps::{Array, HashMap, PerCpuArray},
    programs::{RawTracePointContext, TracePointContext},
};

#[map]
static KNOWN_IRQS: Array<KnownIrq> = Array::with_max_entries(IRQ_NUMBERS, 0);

#[map]
static SLOT_IDS: HashMap<SlotKey, u32> = HashMap::with_max_entries(64, 0);

#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(64, 0);

/// VF to the process that owns it; written by user space.
#[map]
static OWNERS: HashMap<u32, u32> = HashMap::with_max_entries(256, 0);

#[map]
static DELIVERY_IDS: HashMap<DeliveryKey, u32> = HashMap::with_max_entries(64, 0);

#[map]
static DELIVERIES: Array<Delivery> = Array::with_max_entries(64, 0);

/// `dispatch` is written by the CPU that takes the interrupt, the other stages by the vCPU's thread.
#[map]
static IRQ_HIST: Array<Hist> = Array::with_max_entries(64 * STAGES, 0);

#[map]
static IN_IRQ: PerCpuArray<InIrq> = PerCpuArray::with_max_entries(1, 0);

/// A handler's name while it is looked at.
#[map]
static NAME: PerCpuArray<[u8; NAME_LEN]> = PerCpuArray::with_max_entries(1, 0);

offsets!(
    OFF_IRQACTION_NAME,
    OFF_IRQACTION_DEV_ID,
    OFF_WORK_FUNC,
    REC_IRQ_ENTRY_IRQ,
    REC_IRQ_ENTRY_NAME,
    REC_ACCEPT_APICID,
    REC_ACCEPT_VEC,
    REC_INJ_VECTOR,
    REC_INJ_REINJECTED,
    REC_EOI_VECTOR
);

#[unsafe(no_mangle)]
static IRQFD_INJECT: u64 = 0;

#[unsafe(no_mangle)]
static INJ_TELLS_REINJECTION: u32 = 0;

#[inline(always)]
fn record(series: u32, stage: Stage, from: u64, to: u64) {
    if to < from {
        lost(Lost::Negative);
        return;
    }
    if let Some(hist) = element(&IRQ_HIST, series * STAGES + stage as u32) {
        hist.record(to - from);
    }
}

// ---- hard interrupt ----

// match-proto:v5.15:include/trace/events/irq.h:irq_handler_entry(int irq, struct irqaction *action)
#[raw_tracepoint(tracepoint = "irq_handler_entry")]
fn irq_entry_raw(ctx: RawTracePointContext) -> i32 {
    let irq = ctx.arg::<u32>(0);
    let action = ctx.arg::<u64>(1);
    let Some(known) = element(&KNOWN_IRQS, irq) else {
        lost(Lost::IrqBeyondTable);
        return 0;
    };
    if known.action == action && known.slot == 0 {
        return 0;
    }
    // Stamps come first in every program, so that its own cost does not shift one end of an interval only.
    let ns = now();
    // The eventfd context tells re-allocated interrupts apart that got the same number and memory.
    let dev_id = read_field(action, &OFF_IRQACTION_DEV_ID).unwrap_or(0);
    if known.action != action || known.dev_id != dev_id {
        look_at(known, irq, action, dev_id);
    }
    if known.slot != 0 {
        enter(known.slot, ns);
    }
    0
}

/// Where the name of a `struct irqaction` stands.
#[inline(always)]
pub(crate) fn name_address(action: u64) -> Option<u64> {
    read_field(action, &OFF_IRQACTION_NAME)
}

/// Finds out what an interrupt is by the name of its handler.
#[inline(never)]
fn look_at(known: &mut KnownIrq, irq: u32, action: u64, dev_id: u64) -> u32 {
    known.slot = 0;
    known.action = action;
    known.dev_id = dev_id;
    let Some(address) = name_address(action) else {
        lost(Lost::IrqNameUnreadable);
        return 0;
    };
    let Some(name) = own_element(&NAME) else { return 0 };
    // SAFETY: the buffer has NAME_LEN bytes; the helper checks the address.
    let read =
        unsafe { bpf_probe_read_kernel_str(name.as_mut_ptr().cast(), NAME_LEN as u32, address as *const _) };
    if read <= 0 {
        lost(Lost::IrqNameUnreadable);
        return 0;
    }
    if let Some(key) = parse_name(name) {
        known.slot = slot_of(key, irq);
        if known.slot == 0 {
            // Not to be remembered: the next interrupt tries again.
            known.action = 0;
        }
    }
    0
}

// Without raw tracepoints there is no handler to compare, so the name is looked at each time.
#[tracepoint(category = "irq", name = "irq_handler_entry")]
fn irq_entry_tp(ctx: TracePointContext) -> u32 {
    let ns = now();
    let (Some(irq), Some(location)) =
        (read_record::<u32>(&ctx, &REC_IRQ_ENTRY_IRQ), read_record::<u32>(&ctx, &REC_IRQ_ENTRY_NAME))
    else {
        return 0;
    };
    let Some(name) = own_element(&NAME) else { return 0 };
    // A `__data_loc` field: the lower half is the text's offset in the record.
    let address = aya_ebpf::EbpfContext::as_ptr(&ctx) as u64 + u64::from(location & 0xffff);
    // SAFETY: as in `look_at`.
    let read =
        unsafe { bpf_probe_read_kernel_str(name.as_mut_ptr().cast(), NAME_LEN as u32, address as *const _) };
    if read <= 0 {
        lost(Lost::IrqNameUnreadable);
        return 0;
    }
    if let Some(key) = parse_name(name) {
        let slot = slot_of(key, irq);
        if slot != 0 {
            enter(slot, ns);
        }
    }
    0
}

/// Index + 1 of a slot, which is made when it is new; 0 = no room, or no owner.
#[inline(always)]
fn slot_of(key: SlotKey, irq: u32) -> u32 {
    // References, not copies: an `Option<u32>` on its way through a register pair carries an undefined half, which
    // the verifier refuses to see stored.
    // SAFETY: values are u32 that are written whole.
    let Some(owner) = (unsafe { OWNERS.get(key.vf) }) else {
        lost(Lost::OwnerUnknown);
        return 0;
    };
    // SAFETY: as above.
    let index = match unsafe { SLOT_IDS.get(key) } {
        Some(index) => *index,
        None => {
            let index = new_slot(key);
            if index == NONE {
                lost(Lost::SlotsFull);
                return 0;
            }
            index
        }
    };
    let Some(slot) = element(&SLOTS, index) else { return 0 };
    slot.vf = key.vf;
    slot.slot = key.slot;
    slot.irq = irq;
    slot.owner = *owner;
    index + 1
}

const NONE: u32 = u32::MAX;

#[inline(always)]
fn new_slot(key: SlotKey) -> u32 {
    let index = next_index(Table::Slots);
    if element(&SLOTS, index).is_none() || SLOT_IDS.insert(key, index, 0).is_err() {
        return NONE;
    }
    index
}

#[inline(always)]
fn enter(slot_plus_1: u32, ns: u64) {
    if !in_window(ns) {
        return;
    }
    let (Some(slot), Some(irq)) = (element(&SLOTS, slot_plus_1 - 1), own_element(&IN_IRQ)) else { return };
    slot.raised += 1;
    slot.last_cpu = cpu();
    *irq = InIrq { raise_ns: ns, slot: slot_plus_1, accepts: 0, slow: 0, series: 0 };
}

// match-proto:v5.15:include/trace/events/irq.h:irq_handler_exit(int irq, struct irqaction *action, int ret)
#[raw_tracepoint(tracepoint = "irq_handler_exit")]
fn irq_exit_raw(_ctx: RawTracePointContext) -> i32 {
    leave();
    0
}

#[tracepoint(category = "irq", name = "irq_handler_exit")]
fn irq_exit_tp(_ctx: TracePointContext) -> u32 {
    leave();
    0
}

#[inline(always)]
fn leave() {
    let Some(irq) = own_element(&IN_IRQ) else { return };
    if irq.slot == 0 {
        return;
    }
    if irq.accepts == 0
        && let Some(slot) = element(&SLOTS, irq.slot - 1)
    {
        if irq.slow != 0 {
            slot.slow += 1;
        } else {
            slot.userspace += 1;
        }
    }
    irq.slot = 0;
}

// match-proto:v5.15:include/trace/events/workqueue.h:workqueue_queue_work(int req_cpu, struct pool_workqueue *pwq, struct work_struct *work)
#[raw_tracepoint(tracepoint = "workqueue_queue_work")]
fn irq_slow_raw(ctx: RawTracePointContext) -> i32 {
    let Some(irq) = own_element(&IN_IRQ) else { return 0 };
    if irq.slot != 0
        && let Some(function) = read_field::<u64>(ctx.arg::<u64>(2), &OFF_WORK_FUNC)
        && function == global(&IRQFD_INJECT)
    {
        irq.slow += 1;
    }
    0
}

// ---- accept, nested in the hard interrupt ----

// match-proto:v5.15:arch/x86/kvm/trace.h:kvm_apic_accept_irq(__u32 apicid, __u16 dm, __u16 tm, __u8 vec)
#[raw_tracepoint(tracepoint = "kvm_apic_accept_irq")]
fn irq_accept_raw(ctx: RawTracePointContext) -> i32 {
    accept(ctx.arg(0), ctx.arg::<u64>(3) as u8);
    0
}

#[tracepoint(category = "kvm", name = "kvm_apic_accept_irq")]
fn irq_accept_tp(ctx: TracePointContext) -> u32 {
    if let (Some(apicid), Some(vector)) =
        (read_record(&ctx, &REC_ACCEPT_APICID), read_record(&ctx, &REC_ACCEPT_VEC))
    {
        accept(apicid, vector);
    }
    0
}

#[inline(always)]
fn accept(vcpu_id: u32, vector: u8) {
    let Some(irq) = own_element(&IN_IRQ) else { return };
    if irq.slot == 0 {
        return;
    }
    let ns = now();
    irq.accepts += 1;
    let Some(slot) = element(&SLOTS, irq.slot - 1) else { return };
    let Some((series, vcpu)) = series_of(irq.slot - 1, slot, vcpu_id) else { return };
    irq.series = series + 1;
    let Some(delivery) = element(&DELIVERIES, series) else { return };
    claim_vector(vcpu, delivery, series, vector);
    delivery.accepted += 1;
    if vcpu.cpu == cpu() {
        delivery.same_cpu += 1;
    } else {
        delivery.cross_cpu += 1;
    }
    record(series, Stage::Dispatch, irq.raise_ns, ns);
    // SAFETY: a valid reference; volatile because the vCPU's CPU writes them meanwhile.
    let (running, switches) = unsafe {
        (
            core::ptr::read_volatile(&raw const vcpu.running),
            core::ptr::read_volatile(&raw const vcpu.switches),
        )
    };
    let asleep = if running == 0 { switches + 1 } else { 0 };
    if delivery.pending != 0 {
        delivery.coalesced += 1;
        if delivery.late == 0 {
            delivery.late_raise_ns = irq.raise_ns;
            delivery.late_accept_ns = ns;
            delivery.late_asleep = asleep;
            delivery.late = 1;
        }
        return;
    }
    delivery.late = 0;
    delivery.raise_ns = irq.raise_ns;
    delivery.accept_ns = ns;
    delivery.asleep = asleep;
    // SAFETY: a valid reference; volatile, so that it stays the last of these writes.
    unsafe { core::ptr::write_volatile(&raw mut delivery.pending, 1) };
}

/// The series of a slot's interrupts to a vCPU, and that vCPU.
#[inline(always)]
fn series_of(slot_index: u32, slot: &mut Slot, vcpu_id: u32) -> Option<(u32, &'static mut Vcpu)> {
    if slot.last_tid != 0
        && slot.last_vcpu_id == vcpu_id
        && let Some(vcpu) = vcpu::of_thread(slot.last_tid)
        && vcpu.tgid == slot.owner
        && vcpu.vcpu_id == vcpu_id
    {
        return Some((slot.last_series, vcpu));
    }
    let found = vcpu::thread_of(slot.owner, vcpu_id).and_then(|tid| Some((tid, vcpu::of_thread(tid)?)));
    let Some((tid, vcpu)) = found else {
        lost(Lost::VcpuUnknown);
        return None;
    };
    let key = DeliveryKey { slot: slot_index, tid };
    // SAFETY: a copy of a u32 that is written whole.
    let series = match unsafe { DELIVERY_IDS.get(key) } {
        Some(index) => *index,
        None => new_series(key, vcpu)?,
    };
    slot.last_vcpu_id = vcpu_id;
    slot.last_tid = tid;
    slot.last_series = series;
    Some((series, vcpu))
}

#[inline(always)]
fn new_series(key: DeliveryKey, vcpu: &Vcpu) -> Option<u32> {
    let index = next_index(Table::Deliveries);
    let Some(delivery) = element(&DELIVERIES, index) else {
        lost(Lost::DeliverySeriesFull);
        return None;
    };
    delivery.slot = key.slot;
    delivery.tgid = vcpu.tgid;
    delivery.vcpu_id = vcpu.vcpu_id;
    delivery.tid = key.tid;
    if DELIVERY_IDS.insert(key, index, 0).is_err() {
        lost(Lost::DeliverySeriesFull);
        return None;
    }
    Some(index)
}

/// Notes which series uses the vCPU's vector; another one that used it before loses what it had pending.
#[inline(always)]
fn claim_vector(vcpu: &mut Vcpu, delivery: &mut Delivery, series: u32, vector: u8) {
    let Some(owner) = vcpu.irq.vectors.get_mut(vector as usize) else { return };
    let former = u32::from(*owner);
    if former == series + 1 {
        return;
    }
    if former != 0
        && let Some(other) = element(&DELIVERIES, former - 1)
        && other.pending != 0
        && other.vector == u32::from(vector)
    {
        other.pending = 0;
        lost(Lost::PendingReplaced);
    }
    *owner = series as u16 + 1;
    // The guest moved this slot to another vector: whatever was pending on the old one is not this vector's.
    let old = delivery.vector;
    if old != u32::from(vector) {
        if delivery.pending != 0 {
            delivery.pending = 0;
            lost(Lost::PendingReplaced);
        }
        if let Some(old_owner) = vcpu.irq.vectors.get_mut(old as usize & 0xff)
            && u32::from(*old_owner) == series + 1
        {
            *old_owner = 0;
        }
        delivery.vector = u32::from(vector);
    }
}

// match-proto:v6.1:arch/x86/kvm/trace.h:kvm_apicv_accept_irq(__u32 apicid, __u16 dm, __u16 tm, __u8 vec)
// Follows kvm_apic_accept_irq when hardware takes over: neither injection nor EOI will be seen.
#[raw_tracepoint(tracepoint = "kvm_apicv_accept_irq")]
fn irq_apicv_raw(_ctx: RawTracePointContext) -> i32 {
    apicv();
    0
}

#[tracepoint(category = "kvm", name = "kvm_apicv_accept_irq")]
fn irq_apicv_tp(_ctx: TracePointContext) -> u32 {
    apicv();
    0
}

#[inline(always)]
fn apicv() {
    let Some(irq) = own_element(&IN_IRQ) else { return };
    if irq.slot == 0 || irq.series == 0 {
        return;
    }
    if let Some(delivery) = element(&DELIVERIES, irq.series - 1) {
        delivery.apicv += 1;
        delivery.pending = 0;
    }
}

// ---- in the vCPU's thread ----

// match-proto:v5.15:arch/x86/kvm/trace.h:kvm_inj_virq(unsigned int irq)
// match-proto:v6.1:arch/x86/kvm/trace.h:kvm_inj_virq(unsigned int vector, bool soft, bool reinjected)
#[raw_tracepoint(tracepoint = "kvm_inj_virq")]
fn irq_inject_raw(ctx: RawTracePointContext) -> i32 {
    // A bool argument leaves the upper bytes of its 64-bit place undefined.
    let reinjected = global(&INJ_TELLS_REINJECTION) != 0 && ctx.arg::<u64>(2) & 0xff != 0;
    inject(ctx.arg(0), reinjected);
    0
}

#[tracepoint(category = "kvm", name = "kvm_inj_virq")]
fn irq_inject_tp(ctx: TracePointContext) -> u32 {
    if let Some(vector) = read_record(&ctx, &REC_INJ_VECTOR) {
        inject(vector, read_record::<u8>(&ctx, &REC_INJ_REINJECTED).unwrap_or(0) != 0);
    }
    0
}

#[inline(always)]
fn inject(vector: u32, reinjected: bool) {
    if reinjected {
        // Of an injection that was called off before the entry, or interrupted after it: counted at its first.
        return;
    }
    let (_, tid) = current();
    let Some(vcpu) = vcpu::of_thread(tid) else { return };
    let Some(series) = vcpu.irq.vectors.get(vector as usize & 0xff).copied() else { return };
    // Kernels that do not tell a re-injection show it as the same vector again before the entry.
    if series == 0 || vcpu.irq.injected == u32::from(series) {
        return;
    }
    let Some(delivery) = element(&DELIVERIES, u32::from(series) - 1) else { return };
    // SAFETY: a valid reference; volatile, since another CPU sets it.
    if unsafe { core::ptr::read_volatile(&raw const delivery.pending) } != 0 {
        vcpu.irq.raise_ns = delivery.raise_ns;
        vcpu.irq.accept_ns = delivery.accept_ns;
        vcpu.irq.asleep = delivery.asleep;
        // From here on an accept is a new interrupt: KVM moved the vector from IRR to ISR.
        delivery.pending = 0;
    } else if delivery.late != 0 {
        vcpu.irq.raise_ns = delivery.late_raise_ns;
        vcpu.irq.accept_ns = delivery.late_accept_ns;
        vcpu.irq.asleep = delivery.late_asleep;
        delivery.late = 0;
        delivery.recovered += 1;
    } else {
        // Raised before the window.
        return;
    }
    vcpu.irq.injected = u32::from(series);
}

/// Called at each guest entry, before the guest runs.
#[inline(always)]
pub(crate) fn on_entry(vcpu: &mut Vcpu, ns: u64) {
    if vcpu.irq.injected == 0 {
        return;
    }
    let series = vcpu.irq.injected - 1;
    vcpu.irq.injected = 0;
    let Some(delivery) = element(&DELIVERIES, series) else { return };
    delivery.delivered += 1;
    delivery.service_ns = ns;
    record(series, Stage::Delivery, vcpu.irq.raise_ns, ns);
    let mut from = vcpu.irq.accept_ns;
    if vcpu.irq.asleep != 0 {
        // `asleep` is the number of the switch-in that ended the wait.
        let missed = vcpu.switches.wrapping_sub(vcpu.irq.asleep);
        if missed >= SWITCHES_KEPT as u64 {
            lost(Lost::WakeUnknown);
        } else if let Some(woken) = vcpu.switched_ns.get(vcpu.irq.asleep as usize & (SWITCHES_KEPT - 1)) {
            let woken = *woken;
            record(series, Stage::Wake, from, woken);
            from = from.max(woken);
        }
    }
    record(series, Stage::Inject, from, ns);
}

// match-proto:v5.15:arch/x86/kvm/trace.h:kvm_eoi(struct kvm_lapic *apic, int vector)
#[raw_tracepoint(tracepoint = "kvm_eoi")]
fn irq_eoi_raw(ctx: RawTracePointContext) -> i32 {
    eoi(ctx.arg(1));
    0
}

#[tracepoint(category = "kvm", name = "kvm_eoi")]
fn irq_eoi_tp(ctx: TracePointContext) -> u32 {
    if let Some(vector) = read_record(&ctx, &REC_EOI_VECTOR) {
        eoi(vector);
    }
    0
}

#[inline(always)]
fn eoi(vector: i32) {
    // -1: nothing was in service.
    let Ok(vector) = u8::try_from(vector) else { return };
    let (_, tid) = current();
    let Some(vcpu) = vcpu::of_thread(tid) else { return };
    let Some(series) = vcpu.irq.vectors.get(usize::from(vector)).copied() else { return };
    if series == 0 {
        return;
    }
    let Some(delivery) = element(&DELIVERIES, u32::from(series) - 1) else { return };
    if delivery.service_ns != 0 {
        record(u32::from(series) - 1, Stage::Service, delivery.service_ns, now());
        delivery.service_ns = 0;
    }
}
