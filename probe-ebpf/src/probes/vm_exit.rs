//! `vm_exit`: per vCPU and reason, how often the guest was left and how long the host kept the CPU
//! (`kvm_exit` to the next `kvm_entry` of that vCPU thread).

/// Exit codes with a place of their own in a vCPU's table: 0-255 of VMX and SVM, and SVM's 0x400-0x40f.
pub const DIRECT_CODES: usize = 256 + 16;

/// `KVM_EXIT_*` reasons counted by number; larger ones share the last but one.
pub const USER_REASONS: usize = 48;

/// Place of "KVM_RUN was interrupted" (`errno` set), which has no reason of its own.
pub const USER_INTERRUPTED: usize = USER_REASONS - 1;

/// A vCPU's state and counters.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VcpuExit {
    /// Time of the exit that has not been followed by an entry yet; 0 = none.
    pub exit_ns: u64,
    /// Its code.
    pub code: u32,
    /// Its instruction set: 1 VMX, 2 SVM (`KVM_ISA_*`, arch/x86/kvm/trace.h).
    pub isa: u32,
    /// Time of the last entry; 0 = unknown.
    pub entry_ns: u64,
    /// The guest's clock that KVM had read last, at that entry; [`CLOCK_UNKNOWN`] when it cannot be read.
    pub clock: u64,
    /// Time spent in the guest (ns).
    pub guest_ns: u64,
    /// Halts that ended while polling.
    pub polled: u64,
    /// Time of those halts (ns).
    pub polled_ns: u64,
    /// Halts that slept.
    pub waited: u64,
    /// Time of those halts (ns).
    pub waited_ns: u64,
    /// Exits to user space by `KVM_EXIT_*` reason.
    pub user: [u64; USER_REASONS],
    /// Index + 1 of the series of each direct code; 0 = none yet.
    pub series: [u16; DIRECT_CODES],
}

/// Identity of an exit series; its histogram stands in `EXIT_HIST` at the same index.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitSeries {
    /// The VMM's process; 0 = not in use.
    pub tgid: u32,
    /// The vCPU's thread.
    pub tid: u32,
    /// KVM's `vcpu_id`.
    pub vcpu_id: u32,
    /// Instruction set.
    pub isa: u32,
    /// Exit code, without VMX's flag bits.
    pub code: u32,
    /// Unused.
    pub pad: u32,
    /// Of the exits in its histogram: those of a fast path, which entered the guest again at once.
    pub fast: u64,
}

/// Key of a series whose code has no place in the vCPU's table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RareExit {
    /// The vCPU's index in `VCPUS`.
    pub vcpu: u32,
    /// Exit code.
    pub code: u32,
}

/// A host vector that made a vCPU leave its guest.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitVector {
    /// The vCPU's index in `VCPUS`.
    pub vcpu: u32,
    /// The APIC vector on its CPU.
    pub vector: u32,
}

/// `KVM_ISA_VMX` (arch/x86/kvm/trace.h).
pub const ISA_VMX: u32 = 1;

/// `EXIT_REASON_EXTERNAL_INTERRUPT` (arch/x86/include/uapi/asm/vmx.h).
const EXTERNAL_INTERRUPT: u32 = 1;

/// The host vector behind an exit, where the processor tells it: VMX, with bit 31 of the interruption information
/// (Intel SDM vol. 3, 25.9.2). SVM's `intr_info` is about the guest's own events.
#[inline(always)]
#[must_use]
pub fn host_vector(isa: u32, reason: u32, intr_info: u32) -> Option<u32> {
    let external = isa == ISA_VMX && reason & 0xffff == EXTERNAL_INTERRUPT;
    if external && intr_info >> 31 == 1 { Some(intr_info & 0xff) } else { None }
}

/// No clock of a guest: it would take centuries to get there.
pub const CLOCK_UNKNOWN: u64 = u64::MAX;

/// Whether the guest is entered again on a fast path: KVM reads the guest's clock behind the loop of `vcpu_enter_guest()`
/// (`vcpu->arch.last_guest_tsc`, arch/x86/kvm/x86.c), and a fast path stays in that loop.
#[inline(always)]
#[must_use]
pub fn is_fast(before: u64, now: u64) -> bool {
    now == before && now != CLOCK_UNKNOWN
}

const _: () = assert!(size_of::<ExitSeries>() == 32);
const _: () = assert!(size_of::<VcpuExit>() == 72 + 8 * USER_REASONS + 2 * DIRECT_CODES);

/// The code's place in a vCPU's table.
#[inline(always)]
#[must_use]
pub fn direct(code: u32) -> Option<usize> {
    match code {
        0..=0xff => Some(code as usize),
        0x400..=0x40f => Some(0x100 + (code as usize & 0xf)),
        _ => None,
    }
}

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, integers only, no padding (asserted above), every bit pattern is valid.
unsafe impl aya::Pod for ExitSeries {}
#[cfg(feature = "user")]
// SAFETY: `repr(C)`, two u32, no padding.
unsafe impl aya::Pod for RareExit {}
#[cfg(feature = "user")]
// SAFETY: as above.
unsafe impl aya::Pod for ExitVector {}

#[cfg(target_arch = "bpf")]
pub(crate) mod bpf {
    use super::*;
    use crate::control::{Lost, Table};
    use crate::hist::Hist;
    use crate::kernel::{
        SEEN, counted, current, element, in_window, lost, next_index, now, offsets, read_field, read_record,
    };
    use crate::probes::irq_delivery;
    use crate::vcpu::{self, Vcpu};
    use aya_ebpf::{
        macros::{map, raw_tracepoint},
        maps::{Array, HashMap},
        programs::{RawTracePointContext, TracePointContext},
    };

    #[map]
    static EXITS: Array<ExitSeries> = Array::with_max_entries(64, 0);

    /// Written by the vCPU's thread alone.
    #[map]
    static EXIT_HIST: Array<Hist> = Array::with_max_entries(64, 0);

    #[map]
    static RARE_EXITS: HashMap<RareExit, u32> = HashMap::with_max_entries(256, 0);

    /// Written by the vCPU's thread alone.
    #[map]
    static EXIT_VECTORS: HashMap<ExitVector, u64> = HashMap::with_max_entries(64, 0);

    offsets!(
        OFF_LAST_GUEST_TSC,
        REC_EXIT_REASON,
        REC_EXIT_ISA,
        REC_EXIT_INTR_INFO,
        REC_USERSPACE_REASON,
        REC_USERSPACE_ERRNO,
        REC_WAKEUP_NS,
        REC_WAKEUP_WAITED
    );

    #[inline(always)]
    fn on_exit(reason: u32, isa: u32, ns: u64) {
        let (_, tid) = current();
        let Some(vcpu) = vcpu::of_thread_here(tid) else { return };
        let exit = &mut vcpu.exit;
        if exit.exit_ns != 0 {
            lost(Lost::EntryUnseen);
        }
        if exit.entry_ns != 0 {
            if ns < exit.entry_ns {
                lost(Lost::ExitNegative);
            } else {
                exit.guest_ns += counted(exit.entry_ns, ns);
            }
        }
        exit.entry_ns = 0;
        exit.exit_ns = if in_window(ns) { ns } else { 0 };
        // The upper half of a VMX reason holds flags (failed entry, enclave, bus lock).
        exit.code = if isa == ISA_VMX { reason & 0xffff } else { reason };
        exit.isa = isa;
    }

    /// Called at each guest entry, before the guest runs. `kvm`: address of the `struct kvm_vcpu`, 0 when not known.
    #[inline(always)]
    pub(crate) fn on_entry(vcpu: &mut Vcpu, tid: u32, kvm: u64, ns: u64) {
        vcpu.exit.entry_ns = ns;
        let clock = read_field(kvm, &OFF_LAST_GUEST_TSC).unwrap_or(CLOCK_UNKNOWN);
        let fast = is_fast(vcpu.exit.clock, clock);
        vcpu.exit.clock = clock;
        if vcpu.exit.exit_ns == 0 {
            return;
        }
        let left = vcpu.exit.exit_ns;
        vcpu.exit.exit_ns = 0;
        if ns < left {
            lost(Lost::ExitNegative);
            return;
        }
        let Some(series) = series_of(vcpu, tid) else {
            lost(Lost::ExitSeriesFull);
            return;
        };
        if let Some(hist) = element(&EXIT_HIST, series) {
            hist.record(ns - left);
        }
        if fast && let Some(series) = element(&EXITS, series) {
            series.fast += 1;
        }
    }

    #[inline(always)]
    fn series_of(vcpu: &mut Vcpu, tid: u32) -> Option<u32> {
        let code = vcpu.exit.code;
        let Some(place) = direct(code) else { return rare_series_of(vcpu, tid) };
        let known = *vcpu.exit.series.get(place)?;
        if known != 0 {
            return Some(u32::from(known) - 1);
        }
        let index = new_series(vcpu, tid)?;
        *vcpu.exit.series.get_mut(place)? = index as u16 + 1;
        Some(index)
    }

    #[inline(always)]
    fn rare_series_of(vcpu: &Vcpu, tid: u32) -> Option<u32> {
        let key = RareExit { vcpu: vcpu.index, code: vcpu.exit.code };
        // SAFETY: a copy of a u32 that is written whole.
        if let Some(known) = unsafe { RARE_EXITS.get(key) } {
            return Some(*known);
        }
        let index = new_series(vcpu, tid)?;
        RARE_EXITS.insert(key, index, 0).ok()?;
        Some(index)
    }

    #[inline(always)]
    fn new_series(vcpu: &Vcpu, tid: u32) -> Option<u32> {
        let index = next_index(Table::Exits);
        let series = element(&EXITS, index)?;
        *series = ExitSeries {
            tgid: vcpu.tgid,
            tid,
            vcpu_id: vcpu.vcpu_id,
            isa: vcpu.exit.isa,
            code: vcpu.exit.code,
            pad: 0,
            fast: 0,
        };
        Some(index)
    }

    // match-proto:v5.15:arch/x86/kvm/trace.h:kvm_exit(unsigned int exit_reason, struct kvm_vcpu *vcpu, u32 isa)
    // Since v5.17 the raw arguments are (vcpu, isa): the reason is in the record only, see exit_tp.
    #[raw_tracepoint(tracepoint = "kvm_exit")]
    fn exit_raw(ctx: RawTracePointContext) -> i32 {
        on_exit(ctx.arg(0), ctx.arg(2), now());
        0
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "tracepoint/kvm/kvm_exit")]
    fn exit_tp(ctx: *mut core::ffi::c_void) -> u32 {
        let ctx = TracePointContext::new(ctx);
        let ns = now();
        if let Some((reason, isa)) = reason_of(&ctx) {
            on_exit(reason, isa, ns);
            if isa == ISA_VMX
                && let Some(info) = read_record(&ctx, &REC_EXIT_INTR_INFO)
                && let Some(vector) = host_vector(isa, reason, info)
            {
                by_vector(vector, ns);
                irq_delivery::bpf::left_for(vector);
            }
        }
        SEEN
    }

    /// Reason and isa in a record of `kvm_exit`.
    #[inline(always)]
    pub(crate) fn reason_of(ctx: &TracePointContext) -> Option<(u32, u32)> {
        Some((read_record(ctx, &REC_EXIT_REASON)?, read_record(ctx, &REC_EXIT_ISA)?))
    }

    #[inline(always)]
    fn by_vector(vector: u32, ns: u64) {
        let (_, tid) = current();
        if !in_window(ns) {
            return;
        }
        let Some(vcpu) = vcpu::of_thread_here(tid) else { return };
        let key = ExitVector { vcpu: vcpu.index, vector };
        if let Some(count) = EXIT_VECTORS.get_ptr_mut(key) {
            // SAFETY: an element of a preallocated map; only this thread writes it.
            unsafe { *count += 1 };
        } else if EXIT_VECTORS.insert(key, 1, 0).is_err() {
            lost(Lost::ExitVectorsFull);
        }
    }

    #[inline(always)]
    fn on_user_exit(reason: u32, errno: i32) {
        let (_, tid) = current();
        let Some(vcpu) = vcpu::of_thread_here(tid) else { return };
        // From here on the thread may run another vCPU.
        vcpu.kvm = 0;
        vcpu.returns_seen = 1;
        if !in_window(now()) {
            return;
        }
        let place = if errno < 0 { USER_INTERRUPTED } else { (reason as usize).min(USER_INTERRUPTED - 1) };
        if let Some(counter) = vcpu.exit.user.get_mut(place) {
            *counter += 1;
        }
    }

    // match-proto:v5.15:include/trace/events/kvm.h:kvm_userspace_exit(__u32 reason, int errno)
    #[raw_tracepoint(tracepoint = "kvm_userspace_exit")]
    fn user_exit_raw(ctx: RawTracePointContext) -> i32 {
        on_user_exit(ctx.arg(0), ctx.arg(1));
        0
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "tracepoint/kvm/kvm_userspace_exit")]
    fn user_exit_tp(ctx: *mut core::ffi::c_void) -> u32 {
        let ctx = TracePointContext::new(ctx);
        if let (Some(reason), Some(errno)) =
            (read_record(&ctx, &REC_USERSPACE_REASON), read_record(&ctx, &REC_USERSPACE_ERRNO))
        {
            on_user_exit(reason, errno);
        }
        SEEN
    }

    #[inline(always)]
    fn on_wakeup(halted_ns: u64, waited: bool) {
        if !in_window(now()) {
            return;
        }
        let (_, tid) = current();
        let Some(vcpu) = vcpu::of_thread_here(tid) else { return };
        if waited {
            vcpu.exit.waited += 1;
            vcpu.exit.waited_ns += halted_ns;
        } else {
            vcpu.exit.polled += 1;
            vcpu.exit.polled_ns += halted_ns;
        }
    }

    // match-proto:v5.15:include/trace/events/kvm.h:kvm_vcpu_wakeup(__u64 ns, bool waited, bool valid)
    #[raw_tracepoint(tracepoint = "kvm_vcpu_wakeup")]
    fn halt_raw(ctx: RawTracePointContext) -> i32 {
        // A bool argument leaves the upper bytes of its 64-bit place undefined.
        on_wakeup(ctx.arg(0), ctx.arg::<u64>(1) & 0xff != 0);
        0
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "tracepoint/kvm/kvm_vcpu_wakeup")]
    fn halt_tp(ctx: *mut core::ffi::c_void) -> u32 {
        let ctx = TracePointContext::new(ctx);
        if let (Some(ns), Some(waited)) =
            (read_record(&ctx, &REC_WAKEUP_NS), read_record::<u8>(&ctx, &REC_WAKEUP_WAITED))
        {
            on_wakeup(ns, waited != 0);
        }
        SEEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a trace of VMX that was published (linux-kernel, 30 March 2023, message
    /// ea3a8fbc-2bf8-7442-e498-3e5818384c83@grsecurity.net): reasons, `intr_info` beside them, and the vectors that these
    /// are (arch/x86/include/asm/irq_vectors.h: call function single, irq work).
    #[test]
    fn host_vectors_of_a_trace_of_vmx() {
        const CALL_FUNCTION_SINGLE: u32 = 0xfb;
        const IRQ_WORK: u32 = 0xf6;
        const CR_ACCESS: u32 = 28;
        const MSR_WRITE: u32 = 32;
        for (reason, info, expected) in [
            (EXTERNAL_INTERRUPT, 0x8000_00fb, Some(CALL_FUNCTION_SINGLE)),
            (EXTERNAL_INTERRUPT, 0x8000_00f6, Some(IRQ_WORK)),
            (CR_ACCESS, 0, None),
            (MSR_WRITE, 0, None),
        ] {
            assert_eq!(host_vector(ISA_VMX, reason, info), expected, "{reason} {info:#x}");
        }
    }

    #[test]
    fn a_clock_that_stands_still_is_a_fast_path_s() {
        for (before, now, expected) in [
            (5, 5, true),
            (5, 6, false),
            // A vCPU that has not left its guest but by fast paths.
            (0, 0, true),
            (CLOCK_UNKNOWN, CLOCK_UNKNOWN, false),
            (5, CLOCK_UNKNOWN, false),
            (CLOCK_UNKNOWN, 5, false),
        ] {
            assert_eq!(is_fast(before, now), expected, "{before} {now}");
        }
    }

    #[test]
    fn host_vectors_of_exits() {
        for (isa, reason, info, expected) in [
            (ISA_VMX, 1, 0x8000_0060, Some(96)),
            // A failed entry's flag is not part of the reason.
            (ISA_VMX, 0x8000_0001, 0x8000_00ec, Some(0xec)),
            (ISA_VMX, 1, 0x60, None),
            (ISA_VMX, 0, 0x8000_0202, None),
            (2, 1, 0x8000_0060, None),
            (2, 0x60, 0x8000_0060, None),
        ] {
            assert_eq!(host_vector(isa, reason, info), expected, "isa {isa} {reason:#x} {info:#x}");
        }
    }
}
