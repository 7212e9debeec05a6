//! How an interrupt is set up: who enables it, which vector and CPU it gets, when it is freed, and whether hardware
//! takes it past the host. None of these events is frequent. And the kernel's own table of a CPU's vectors, read when
//! user space asks.

use super::{KNOWN_IRQS, SLOTS};
use crate::control::Lost;
use crate::kernel::{SEEN, cpu, current, element, global, lost, offsets, read, read_field, read_record};
use crate::probes::irq_delivery::{
    Apicv, BY_EXIT, IRQ_NUMBERS, KnownIrq, Posted, VCPU_INFO_UNKNOWN, VECTORS, irte, irte_after, pack_vector,
};
use crate::signs::{Sign, sign};
use crate::vcpu;
use aya_ebpf::{
    macros::{fexit, map, raw_tracepoint},
    maps::{Array, HashMap},
    programs::{FExitContext, RawTracePointContext, TracePointContext},
};

/// Vector and CPU of each interrupt (`pack_vector`).
#[map]
static IRQ_VECTORS: Array<u32> = Array::with_max_entries(IRQ_NUMBERS, 0);

/// The interrupt behind each vector of the CPU that was asked for last; 0 = none. Vector 0 is an exception's: its place
/// says whether the table could be read.
#[map]
static VECTOR_TABLE: Array<[u32; VECTORS]> = Array::with_max_entries(1, 0);

#[map]
static POSTED: HashMap<u32, Posted> = HashMap::with_max_entries(64, 0);

#[map]
static APICV: HashMap<u32, Apicv> = HashMap::with_max_entries(64, 0);

offsets!(OFF_IRQ_DESC_IRQ, OFF_AMD_PI_GUEST_MODE, REC_PI_IRQ, REC_PI_VCPU_ID, REC_PI_VECTOR, REC_PI_SET);

/// 1 when the raw tracepoint `kvm_pi_irte_update` passes a vCPU's address instead of its number, else 0.
#[unsafe(no_mangle)]
static PI_PASSES_VCPU: u32 = 0;

/// Whose structure `vcpu_info` is (`VCPU_INFO_...`).
#[unsafe(no_mangle)]
static VCPU_INFO: u32 = VCPU_INFO_UNKNOWN;

// match-proto:v5.15:arch/x86/include/asm/trace/irq_vectors.h:vector_config(unsigned int irq, unsigned int vector, unsigned int cpu, unsigned int apicdest)
#[raw_tracepoint(tracepoint = "vector_config")]
fn irq_vector_raw(ctx: RawTracePointContext) -> i32 {
    if let Some(place) = element(&IRQ_VECTORS, ctx.arg(0)) {
        *place = pack_vector(ctx.arg(1), ctx.arg(2));
    }
    0
}

/// An interrupt's handler begins, and a vCPU's thread left its guest for this vector. They belong together when the thread
/// is the one that is interrupted, and has not entered the guest since.
#[inline(always)]
pub(super) fn left_for(irq: u32, vector: u32, exit_tid: u32) {
    let (_, tid) = current();
    if tid != exit_tid {
        return;
    }
    let Some(vcpu) = vcpu::of_thread_here(tid) else { return };
    if vcpu.exit.exit_ns == 0 {
        return;
    }
    if let Some(place) = element(&IRQ_VECTORS, irq)
        // What the kernel set stands: an interrupt that is being moved may still come by its former vector.
        && (*place == 0 || *place & BY_EXIT != 0)
    {
        *place = pack_vector(vector, cpu()) | BY_EXIT;
    }
}

// match-proto:v5.15:arch/x86/include/asm/trace/irq_vectors.h:vector_activate(unsigned int irq, bool is_managed, bool can_reserve, bool reserve)
// Within the system call by which the VMM has the interrupt requested.
#[raw_tracepoint(tracepoint = "vector_activate")]
fn irq_enabled_raw(ctx: RawTracePointContext) -> i32 {
    if let Some(known) = element(&KNOWN_IRQS, ctx.arg(0)) {
        let (enabler, _) = current();
        // Also what is no VF's is looked at again: a handler may get the memory of the one before.
        *known = KnownIrq { action: 0, dev_id: 0, slot: 0, enabler };
    }
    sign(Sign::Setup);
    0
}

// match-proto:v5.15:arch/x86/include/asm/trace/irq_vectors.h:vector_deactivate(unsigned int irq, bool is_managed, bool can_reserve, bool reserve)
#[raw_tracepoint(tracepoint = "vector_deactivate")]
fn irq_freed_raw(ctx: RawTracePointContext) -> i32 {
    let irq = ctx.arg::<u32>(0);
    if let Some(place) = element(&IRQ_VECTORS, irq) {
        *place = 0;
    }
    let _ = POSTED.remove(irq);
    let Some(known) = element(&KNOWN_IRQS, irq) else { return 0 };
    if known.slot != 0
        && let Some(slot) = element(&SLOTS, known.slot - 1)
    {
        slot.generation += 1;
        sign(Sign::Setup);
    }
    *known = KnownIrq { action: 0, dev_id: 0, slot: 0, enabler: 0 };
    0
}

// match-proto:v5.15:arch/x86/kvm/trace.h:kvm_pi_irte_update(unsigned int host_irq, unsigned int vcpu_id, unsigned int gsi, unsigned int gvec, u64 pi_desc_addr, bool set)
// match-proto:v6.18:arch/x86/kvm/trace.h:kvm_pi_irte_update(unsigned int host_irq, struct kvm_vcpu *vcpu, unsigned int gsi, unsigned int gvec, bool set)
#[raw_tracepoint(tracepoint = "kvm_pi_irte_update")]
fn irq_posted_raw(ctx: RawTracePointContext) -> i32 {
    // A bool argument leaves the upper bytes of its 64-bit place undefined.
    if global(&PI_PASSES_VCPU) != 0 {
        let vcpu_id = vcpu::id_of(ctx.arg(1)).unwrap_or(u32::MAX);
        posted(ctx.arg(0), vcpu_id, ctx.arg(3), ctx.arg::<u64>(4) & 0xff != 0);
    } else {
        posted(ctx.arg(0), ctx.arg(1), ctx.arg(3), ctx.arg::<u64>(5) & 0xff != 0);
    }
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "tracepoint/kvm/kvm_pi_irte_update")]
fn irq_posted_tp(ctx: *mut core::ffi::c_void) -> u32 {
    let ctx = TracePointContext::new(ctx);
    if let (Some(irq), Some(vcpu_id), Some(vector), Some(set)) = (
        read_record(&ctx, &REC_PI_IRQ),
        read_record(&ctx, &REC_PI_VCPU_ID),
        read_record(&ctx, &REC_PI_VECTOR),
        read_record::<u8>(&ctx, &REC_PI_SET),
    ) {
        posted(irq, vcpu_id, vector, set != 0);
    }
    SEEN
}

#[inline(always)]
fn posted(irq: u32, vcpu_id: u32, vector: u32, set: bool) {
    let before = told(irq);
    keep(irq, Posted { set: u32::from(set), vcpu_id, vector, updates: before.updates + 1, ..before });
}

#[inline(always)]
fn keep(irq: u32, told: Posted) {
    if POSTED.insert(irq, told, 0).is_err() {
        lost(Lost::PostedFull);
    }
}

/// What is known of an interrupt's entry in the IOMMU so far. KVM's work queue may be the one that takes an interrupt back:
/// the VMM is whoever was the first to speak of it.
#[inline(always)]
fn told(irq: u32) -> Posted {
    // SAFETY: a copy; torn at worst between two changes of one interrupt, which KVM makes under a lock.
    match unsafe { POSTED.get(irq) } {
        Some(before) => *before,
        None => {
            let (tgid, _) = current();
            Posted { set: 0, vcpu_id: u32::MAX, vector: 0, tgid, updates: 0, irte: irte::UNSEEN }
        }
    }
}

// match-proto:v5.15:kernel/irq/manage.c:int irq_set_vcpu_affinity(unsigned int irq, void *vcpu_info)
// At its return, when the IOMMU's driver has done what it can and said so in `vcpu_info`. On x86 only KVM calls it.
#[fexit(function = "irq_set_vcpu_affinity")]
fn irq_affinity_ret(ctx: FExitContext) -> i32 {
    let (irq, info) = (ctx.arg::<u32>(0), ctx.arg::<u64>(1));
    // What the function returned stands behind its arguments; the helper for it is younger than 5.15.
    let returned = ctx.arg::<i32>(2);
    let guest_mode = read_field::<u8>(info, &OFF_AMD_PI_GUEST_MODE).map(|mode| mode != 0);
    let before = told(irq);
    let left = irte_after(before.irte, returned, info, global(&VCPU_INFO), guest_mode);
    keep(irq, Posted { irte: left, ..before });
    0
}

// match-proto:v6.1:arch/x86/kvm/trace.h:kvm_apicv_inhibit_changed(int reason, bool set, unsigned long inhibits)
// In a thread of the VMM: the event does not say which machine it is about.
#[raw_tracepoint(tracepoint = "kvm_apicv_inhibit_changed")]
fn irq_inhibit_raw(ctx: RawTracePointContext) -> i32 {
    let (tgid, _) = current();
    // SAFETY: a copy; as in `posted`.
    let changes = match unsafe { APICV.get(tgid) } {
        Some(before) => before.changes + 1,
        None => 1,
    };
    if APICV.insert(tgid, Apicv { inhibits: ctx.arg(2), changes }, 0).is_err() {
        lost(Lost::ApicvFull);
    }
    0
}

/// Run by user space (BPF_PROG_TEST_RUN), never attached. Arguments: addresses of `__per_cpu_offset` and of the per-CPU
/// variable `vector_irq`, and a CPU. Without CONFIG_GENERIC_IRQ_DEBUGFS nothing else tells which vector an interrupt has.
#[raw_tracepoint(tracepoint = "vector_config")]
fn irq_table_raw(ctx: RawTracePointContext) -> i32 {
    let (offsets, variable, cpu) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1), ctx.arg::<u32>(2));
    let Some(table) = element(&VECTOR_TABLE, 0) else { return 0 };
    table[0] = 0;
    let Some(offset) = read::<u64>(offsets.wrapping_add(8 * u64::from(cpu))) else { return 0 };
    let mut address = offset.wrapping_add(variable);
    for place in table.iter_mut() {
        // A `struct irq_desc *`; NULL or one of a few invalid addresses where the vector is not in use.
        let desc = read::<u64>(address).unwrap_or(0);
        *place = read_field(desc, &OFF_IRQ_DESC_IRQ).unwrap_or(0);
        address = address.wrapping_add(8);
    }
    table[0] = 1;
    0
}
