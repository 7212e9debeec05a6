//! The accept by a vCPU's APIC: it ties slot, vCPU and guest vector together.

use super::slow_path::cause;
use super::{DELIVERIES, DELIVERY_IDS, SLOTS, generation, record, renew};
use crate::control::{Lost, Table};
use crate::kernel::{SEEN, cpu, element, lost, next_index, now, offsets, read_record};
use crate::probes::irq_delivery::{Delivery, DeliveryKey, Slot, Stage};
use crate::signs::{Sign, sign};
use crate::vcpu::{self, Vcpu};
use aya_ebpf::{
    macros::raw_tracepoint,
    programs::{RawTracePointContext, TracePointContext},
};

offsets!(REC_ACCEPT_APICID, REC_ACCEPT_VEC);

// match-proto:v5.15:arch/x86/kvm/trace.h:kvm_apic_accept_irq(__u32 apicid, __u16 dm, __u16 tm, __u8 vec)
#[raw_tracepoint(tracepoint = "kvm_apic_accept_irq")]
fn irq_accept_raw(ctx: RawTracePointContext) -> i32 {
    accept(ctx.arg(0), ctx.arg::<u64>(3) as u8);
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "tracepoint/kvm/kvm_apic_accept_irq")]
fn irq_accept_tp(ctx: *mut core::ffi::c_void) -> u32 {
    let ctx = TracePointContext::new(ctx);
    if let (Some(apicid), Some(vector)) =
        (read_record(&ctx, &REC_ACCEPT_APICID), read_record(&ctx, &REC_ACCEPT_VEC))
    {
        accept(apicid, vector);
    }
    SEEN
}

#[inline(always)]
fn accept(vcpu_id: u32, vector: u8) {
    let Some(irq) = cause() else { return };
    let ns = now();
    irq.accepts += 1;
    let Some(slot) = element(&SLOTS, irq.slot - 1) else { return };
    if irq.accepts == 2 {
        slot.multicast += 1;
    }
    let Some((series, vcpu)) = series_of(irq.slot - 1, slot, vcpu_id) else { return };
    irq.series = series + 1;
    let Some(delivery) = element(&DELIVERIES, series) else { return };
    renew(delivery, generation(irq.slot - 1));
    claim_vector(vcpu, delivery, series, vector);
    delivery.accepted += 1;
    delivery.slow += u64::from(irq.tid != 0);
    if vcpu.cpu == cpu() {
        delivery.same_cpu += 1;
    } else {
        delivery.cross_cpu += 1;
    }
    record(series, Stage::Dispatch, irq.raise_ns, ns);
    if delivery.pending != 0 {
        delivery.coalesced += 1;
        if delivery.late == 0 {
            delivery.late_raise_ns = irq.raise_ns;
            delivery.late_accept_ns = ns;
            delivery.late = 1;
        }
        return;
    }
    delivery.late = 0;
    delivery.raise_ns = irq.raise_ns;
    delivery.accept_ns = ns;
    // SAFETY: a valid reference; volatile, so that it stays the last of these writes.
    unsafe { core::ptr::write_volatile(&raw mut delivery.pending, 1) };
}

/// The series of a slot's interrupts to a vCPU, and that vCPU.
#[inline(always)]
fn series_of(slot_index: u32, slot: &mut Slot, vcpu_id: u32) -> Option<(u32, &'static mut Vcpu)> {
    if slot.last_tid != 0
        && slot.last_vcpu_id == vcpu_id
        && let Some(vcpu) = vcpu::at(slot.last_vcpu)
        && vcpu.live == slot.last_tid
        && vcpu.tgid == slot.owner
        && vcpu.vcpu_id == vcpu_id
    {
        return Some((slot.last_series, vcpu));
    }
    let found = vcpu::thread_of(slot.owner, vcpu_id).and_then(|tid| Some((tid, vcpu::of_thread(tid)?)));
    let Some((tid, (vcpu_index, vcpu))) = found else {
        lost(Lost::VcpuUnknown);
        return None;
    };
    let key = DeliveryKey { slot: slot_index, tid };
    // SAFETY: a copy of a u32 that is written whole.
    let series = match unsafe { DELIVERY_IDS.get(key) } {
        Some(index) => *index,
        None => new_series(key, vcpu)?,
    };
    if slot.last_tid != tid {
        sign(Sign::Destination);
    }
    slot.last_vcpu_id = vcpu_id;
    slot.last_tid = tid;
    slot.last_vcpu = vcpu_index;
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

#[unsafe(no_mangle)]
#[unsafe(link_section = "tracepoint/kvm/kvm_apicv_accept_irq")]
fn irq_apicv_tp(_ctx: *mut core::ffi::c_void) -> u32 {
    apicv();
    SEEN
}

#[inline(always)]
fn apicv() {
    let Some(irq) = cause() else { return };
    if irq.series == 0 {
        return;
    }
    if let Some(delivery) = element(&DELIVERIES, irq.series - 1) {
        delivery.apicv += 1;
        delivery.pending = 0;
    }
}
