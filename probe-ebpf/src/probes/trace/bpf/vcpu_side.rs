//! What happens to a vCPU's thread while an interrupt waits for it, and the interrupt's own end there.

use super::irq_side::TRACE_TIDS;
use super::{NOBODY, TRACE_VCPUS, add_one, dropped, emit, of_thread, of_vector, said, watched};
use crate::kernel::{SEEN, cpu, current, now};
use crate::probes::irq_delivery::bpf::is_reinjection;
use crate::probes::trace::{Dropped, Hop, Id, TracedVcpu};
use crate::probes::{vcpu_sched, vm_exit};
use crate::vcpu::{self, VcpuKey};
use aya_ebpf::{
    macros::{map, raw_tracepoint},
    maps::HashMap,
    programs::{RawTracePointContext, TracePointContext},
};

/// Guests whose vCPUs are looked at; written by user space.
#[map]
static TRACE_GUESTS: HashMap<u32, u32> = HashMap::with_max_entries(256, 0);

const NONE: Id = Id { raise_ns: 0, vf: 0, slot: 0 };

/// Records what happens to a vCPU's thread that an interrupt waits for.
#[inline(always)]
fn note(tid: u32, hop: Hop, a: u32, b: u32) {
    let Some(vcpu) = of_thread(tid) else { return };
    let ns = now();
    if watched(vcpu, ns) {
        emit(ns, NONE, hop, said(tid, a, b), NOBODY);
    }
}

// match-proto:v5.15:include/trace/events/sched.h:sched_waking(struct task_struct *p)
#[raw_tracepoint(tracepoint = "sched_waking")]
fn trace_waking_raw(ctx: RawTracePointContext) -> i32 {
    if let Some(tid) = vcpu::pid_of(ctx.arg(0)) {
        note(tid, Hop::Waking, 0, 0);
    }
    0
}

// match-proto:v5.15:include/trace/events/sched.h:sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next)
#[raw_tracepoint(tracepoint = "sched_switch")]
fn trace_switch_raw(ctx: RawTracePointContext) -> i32 {
    let next = ctx.arg::<u64>(2);
    let Some(next_tid) = vcpu::pid_of(next) else { return 0 };
    // In sched_switch the current task is still the previous one.
    let (_, prev_tid) = current();
    if let Some(vcpu) = of_thread(prev_tid) {
        vcpu.running = 0;
        let ns = now();
        if watched(vcpu, ns) {
            let to = vcpu_sched::bpf::name_of(next).map_or(NOBODY, |(_, comm)| comm);
            emit(ns, NONE, Hop::SwitchedOut, said(prev_tid, next_tid, 0), to);
        }
    }
    if let Some(vcpu) = of_thread(next_tid) {
        vcpu.cpu = cpu();
        vcpu.running = 1;
        let ns = now();
        if watched(vcpu, ns) {
            emit(ns, NONE, Hop::SwitchedIn, said(next_tid, 0, 0), NOBODY);
        }
    }
    0
}

// match-proto:v5.15:arch/x86/kvm/trace.h:kvm_exit(unsigned int exit_reason, struct kvm_vcpu *vcpu, u32 isa)
// Since v5.17 the raw arguments are (vcpu, isa): the reason is in the record only.
#[raw_tracepoint(tracepoint = "kvm_exit")]
fn trace_exit_raw(ctx: RawTracePointContext) -> i32 {
    note(current().1, Hop::Exited, ctx.arg(0), ctx.arg(2));
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "tracepoint/kvm/kvm_exit")]
fn trace_exit_tp(ctx: *mut core::ffi::c_void) -> u32 {
    let ctx = TracePointContext::new(ctx);
    if let Some((reason, isa)) = vm_exit::bpf::reason_of(&ctx) {
        note(current().1, Hop::Exited, reason, isa);
    }
    SEEN
}

// match-proto:v5.15:include/trace/events/kvm.h:kvm_vcpu_wakeup(__u64 ns, bool waited, bool valid)
#[raw_tracepoint(tracepoint = "kvm_vcpu_wakeup")]
fn trace_halt_raw(ctx: RawTracePointContext) -> i32 {
    // A bool argument leaves the upper bytes of its 64-bit place undefined.
    note(current().1, Hop::HaltEnded, u32::from(ctx.arg::<u64>(1) & 0xff != 0), 0);
    0
}

// match-proto:v5.15:arch/x86/kvm/trace.h:kvm_inj_virq(unsigned int irq)
// match-proto:v6.1:arch/x86/kvm/trace.h:kvm_inj_virq(unsigned int vector, bool soft, bool reinjected)
#[raw_tracepoint(tracepoint = "kvm_inj_virq")]
fn trace_inject_raw(ctx: RawTracePointContext) -> i32 {
    let (_, tid) = current();
    let vector = ctx.arg::<u32>(0);
    let Some(vcpu) = of_thread(tid) else { return 0 };
    let Some(state) = of_vector(tid, vector) else { return 0 };
    // Of an injection that was called off before the entry: its first stands. Kernels that do not tell show it as the
    // same vector again.
    if is_reinjection(&ctx) || (vcpu.injected.raise_ns != 0 && vcpu.vector == vector) {
        return 0;
    }
    let id = if state.waiting.raise_ns != 0 {
        let id = state.waiting;
        state.waiting.raise_ns = 0;
        id
    } else if state.late.raise_ns != 0 {
        let id = state.late;
        state.late.raise_ns = 0;
        add_one(&raw mut vcpu.accepted);
        id
    } else {
        return 0;
    };
    vcpu.injected = id;
    vcpu.vector = vector;
    emit(now(), id, Hop::Injected, said(tid, vector, 0), NOBODY);
    0
}

// match-proto:v5.15:arch/x86/kvm/trace.h:kvm_entry(struct kvm_vcpu *vcpu)
// match-proto:v6.12:arch/x86/kvm/trace.h:kvm_entry(struct kvm_vcpu *vcpu, bool force_immediate_exit)
#[raw_tracepoint(tracepoint = "kvm_entry")]
fn trace_entry_raw(ctx: RawTracePointContext) -> i32 {
    let ns = now();
    let (tgid, tid) = current();
    // SAFETY: only whether it is there is asked.
    if unsafe { TRACE_GUESTS.get(tgid) }.is_none() {
        return 0;
    }
    let Some(vcpu_id) = vcpu::id_of(ctx.arg(0)) else { return 0 };
    let vcpu = match of_thread(tid) {
        Some(vcpu) if vcpu.tgid == tgid && vcpu.vcpu_id == vcpu_id => vcpu,
        _ => {
            if !learn(tgid, tid, vcpu_id) {
                dropped(Dropped::VcpusFull);
                return 0;
            }
            let Some(vcpu) = of_thread(tid) else { return 0 };
            vcpu
        }
    };
    vcpu.cpu = cpu();
    if vcpu.injected.raise_ns == 0 {
        if watched(vcpu, ns) {
            emit(ns, NONE, Hop::PassedBy, said(tid, 0, 0), NOBODY);
        }
        return 0;
    }
    if let Some(state) = of_vector(tid, vcpu.vector) {
        state.service = vcpu.injected;
    }
    add_one(&raw mut vcpu.settled);
    emit(ns, vcpu.injected, Hop::Entered, said(tid, vcpu.vector, 0), NOBODY);
    vcpu.injected.raise_ns = 0;
    0
}

#[inline(always)]
fn learn(tgid: u32, tid: u32, vcpu_id: u32) -> bool {
    let fresh = TracedVcpu {
        tgid,
        vcpu_id,
        running: 1,
        cpu: 0,
        accepted: 0,
        settled: 0,
        accept_ns: 0,
        injected: NONE,
        vector: 0,
        pad: 0,
    };
    TRACE_VCPUS.insert(tid, fresh, 0).is_ok() && TRACE_TIDS.insert(VcpuKey { tgid, vcpu_id }, tid, 0).is_ok()
}

// match-proto:v5.15:arch/x86/kvm/trace.h:kvm_eoi(struct kvm_lapic *apic, int vector)
#[raw_tracepoint(tracepoint = "kvm_eoi")]
fn trace_eoi_raw(ctx: RawTracePointContext) -> i32 {
    // -1: nothing was in service.
    let Ok(vector) = u8::try_from(ctx.arg::<i32>(1)) else { return 0 };
    let (_, tid) = current();
    let Some(state) = of_vector(tid, u32::from(vector)) else { return 0 };
    if state.service.raise_ns != 0 {
        emit(now(), state.service, Hop::Ended, said(tid, u32::from(vector), 0), NOBODY);
        state.service.raise_ns = 0;
    }
    0
}
