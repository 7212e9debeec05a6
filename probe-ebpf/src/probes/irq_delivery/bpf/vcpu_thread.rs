//! In the vCPU's thread: injection, guest entry, end of interrupt.

use super::{DELIVERIES, generation, record, renew};
use crate::control::Lost;
use crate::kernel::{SEEN, current, element, global, lost, now, offsets, read_record};
use crate::probes::irq_delivery::Stage;
use crate::vcpu::{self, Then, Vcpu};
use aya_ebpf::{
    macros::raw_tracepoint,
    programs::{RawTracePointContext, TracePointContext},
};

offsets!(REC_INJ_VECTOR, REC_INJ_REINJECTED, REC_EOI_VECTOR);

#[unsafe(no_mangle)]
static INJ_TELLS_REINJECTION: u32 = 0;

// match-proto:v5.15:arch/x86/kvm/trace.h:kvm_inj_virq(unsigned int irq)
// match-proto:v6.1:arch/x86/kvm/trace.h:kvm_inj_virq(unsigned int vector, bool soft, bool reinjected)
#[raw_tracepoint(tracepoint = "kvm_inj_virq")]
fn irq_inject_raw(ctx: RawTracePointContext) -> i32 {
    inject(ctx.arg(0), is_reinjection(&ctx));
    0
}

/// Whether the kernel says so.
#[inline(always)]
pub(crate) fn is_reinjection(ctx: &RawTracePointContext) -> bool {
    // A bool argument leaves the upper bytes of its 64-bit place undefined.
    global(&INJ_TELLS_REINJECTION) != 0 && ctx.arg::<u64>(2) & 0xff != 0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "tracepoint/kvm/kvm_inj_virq")]
fn irq_inject_tp(ctx: *mut core::ffi::c_void) -> u32 {
    let ctx = TracePointContext::new(ctx);
    if let Some(vector) = read_record(&ctx, &REC_INJ_VECTOR) {
        inject(vector, read_record::<u8>(&ctx, &REC_INJ_REINJECTED).unwrap_or(0) != 0);
    }
    SEEN
}

#[inline(always)]
fn inject(vector: u32, reinjected: bool) {
    if reinjected {
        // Of an injection that was called off before the entry, or interrupted after it: counted at its first.
        return;
    }
    let (_, tid) = current();
    let Some(vcpu) = vcpu::of_thread_here(tid) else { return };
    let Some(series) = vcpu.irq.vectors.get(vector as usize & 0xff).copied() else { return };
    // Kernels that do not tell a re-injection show it as the same vector again before the entry.
    if series == 0 || vcpu.irq.injected == u32::from(series) {
        return;
    }
    let Some(delivery) = element(&DELIVERIES, u32::from(series) - 1) else { return };
    renew(delivery, generation(delivery.slot));
    // SAFETY: a valid reference; volatile, since another CPU sets it.
    if unsafe { core::ptr::read_volatile(&raw const delivery.pending) } != 0 {
        vcpu.irq.raise_ns = delivery.raise_ns;
        vcpu.irq.accept_ns = delivery.accept_ns;
        // From here on an accept is a new interrupt: KVM moved the vector from IRR to ISR.
        delivery.pending = 0;
    } else if delivery.late != 0 {
        vcpu.irq.raise_ns = delivery.late_raise_ns;
        vcpu.irq.accept_ns = delivery.late_accept_ns;
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
    if delivery.generation != generation(delivery.slot) {
        // Called off: the guest was reset between injection and entry.
        lost(Lost::IrqFreed);
        return;
    }
    delivery.delivered += 1;
    delivery.service_ns = ns;
    record(series, Stage::Delivery, vcpu.irq.raise_ns, ns);
    let mut from = vcpu.irq.accept_ns;
    match vcpu::at_that_time(from, vcpu.switches, &vcpu.left_ns, &vcpu.switched_ns) {
        Then::Running => {}
        Then::WokenAt(woken) => {
            record(series, Stage::Wake, from, woken);
            from = woken;
        }
        Then::Unknown => lost(Lost::WakeUnknown),
    }
    record(series, Stage::Inject, from, ns);
}

// match-proto:v5.15:arch/x86/kvm/trace.h:kvm_eoi(struct kvm_lapic *apic, int vector)
#[raw_tracepoint(tracepoint = "kvm_eoi")]
fn irq_eoi_raw(ctx: RawTracePointContext) -> i32 {
    eoi(ctx.arg(1));
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "tracepoint/kvm/kvm_eoi")]
fn irq_eoi_tp(ctx: *mut core::ffi::c_void) -> u32 {
    let ctx = TracePointContext::new(ctx);
    if let Some(vector) = read_record(&ctx, &REC_EOI_VECTOR) {
        eoi(vector);
    }
    SEEN
}

#[inline(always)]
fn eoi(vector: i32) {
    // -1: nothing was in service.
    let Ok(vector) = u8::try_from(vector) else { return };
    let (_, tid) = current();
    let Some(vcpu) = vcpu::of_thread_here(tid) else { return };
    let Some(series) = vcpu.irq.vectors.get(usize::from(vector)).copied() else { return };
    if series == 0 {
        return;
    }
    let Some(delivery) = element(&DELIVERIES, u32::from(series) - 1) else { return };
    renew(delivery, generation(delivery.slot));
    if delivery.service_ns != 0 {
        record(u32::from(series) - 1, Stage::Service, delivery.service_ns, now());
        delivery.service_ns = 0;
    }
}
