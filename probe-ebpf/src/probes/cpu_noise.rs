//! `cpu_noise`: everything that takes a guarded CPU from its vCPU: device interrupts, APIC vectors, softirqs, other
//! threads, NMIs.
//!
//! Each interval counts net of those nested in it, so the sum over all sources is the time lost. vCPU threads and the
//! idle task are no noise: the CPU is theirs, or nobody's.

use super::vcpu_sched::COMM_LEN;

/// CPUs that can be guarded.
pub const CPUS: u32 = 8192;

/// Bytes of a source's name.
pub const SOURCE_LEN: usize = 32;

/// What kind of source took the CPU. Values of [`NoiseKey::kind`]; never reused.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A device interrupt; `id` is its Linux number.
    Irq = 1,
    /// An APIC vector with a handler of its own (local timer, IPIs); `id` is the vector.
    Vector = 2,
    /// A softirq; `id` is its number (include/linux/interrupt.h).
    Softirq = 3,
    /// A thread of the kernel, by name.
    KernelThread = 4,
    /// A thread of a program, by name.
    UserThread = 5,
    /// A non-maskable interrupt.
    Nmi = 6,
}

/// A source on a CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoiseKey {
    /// The CPU.
    pub cpu: u32,
    /// A [`Kind`].
    pub kind: u32,
    /// What the kind says; 0 for threads and NMIs.
    pub id: u32,
    /// A thread's name; zeroes for all others.
    pub comm: [u8; COMM_LEN],
}

/// A source in use; its histogram stands in `NOISE_HIST` at the same index.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NoiseSeries {
    /// Which.
    pub key: NoiseKey,
    /// Of a device interrupt the name of its handler.
    pub name: [u8; SOURCE_LEN],
}

/// Intervals open on a CPU at most: interrupts of four priorities nest far less deep.
pub const DEPTH: usize = 8;

/// An interval that has not ended.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Its start (ns).
    pub start_ns: u64,
    /// Time of what was nested in it so far (ns).
    pub nested_ns: u64,
    /// A [`Kind`]; 0 = not open.
    pub kind: u32,
    /// As in [`NoiseKey`].
    pub id: u32,
    /// Index + 1 of its series; 0 = not counted.
    pub series: u32,
    /// Unused.
    pub pad: u32,
}

/// What goes on on a CPU. Written by that CPU alone.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NoiseCpu {
    /// Interrupts and softirqs that are open.
    pub depth: u32,
    /// Which of the CPU's times under guard this is of, as in `GUARDED`; another's counts for nothing.
    pub generation: u32,
    /// The thread that runs.
    pub thread: Frame,
    /// What interrupts it, outermost first.
    pub frames: [Frame; DEPTH],
}

const _: () = assert!(size_of::<NoiseKey>() == 28);
const _: () = assert!(size_of::<NoiseSeries>() == 60);
const _: () = assert!(size_of::<Frame>() == 32);
const _: () = assert!(size_of::<NoiseCpu>() == 8 + 32 * (DEPTH + 1));

#[cfg(feature = "user")]
mod pod {
    use super::{NoiseCpu, NoiseKey, NoiseSeries};
    // SAFETY: `repr(C)`, integers only, no padding (sizes asserted above), every bit pattern is valid.
    unsafe impl aya::Pod for NoiseKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for NoiseSeries {}
    // SAFETY: as above.
    unsafe impl aya::Pod for NoiseCpu {}
}

#[cfg(target_arch = "bpf")]
mod bpf {
    use super::*;
    use crate::control::{Lost, Table};
    use crate::hist::Hist;
    use crate::kernel::{cpu, element, in_window, lost, next_index, now, own_element};
    use crate::probes::irq_delivery;
    use crate::probes::vcpu_sched;
    use crate::vcpu;
    use aya_ebpf::{
        helpers::generated::bpf_probe_read_kernel_str,
        macros::{map, raw_tracepoint},
        maps::{Array, HashMap, PerCpuArray},
        programs::RawTracePointContext,
    };

    /// 0 = the CPU is not guarded; else a number that is another each time it is guarded anew. Written by user space.
    #[map]
    static GUARDED: Array<u32> = Array::with_max_entries(CPUS, 0);

    #[map]
    static NOISE_CPU: PerCpuArray<NoiseCpu> = PerCpuArray::with_max_entries(1, 0);

    #[map]
    static NOISE_IDS: HashMap<NoiseKey, u32> = HashMap::with_max_entries(64, 0);

    #[map]
    static NOISE: Array<NoiseSeries> = Array::with_max_entries(64, 0);

    /// Written by the CPU in its key alone.
    #[map]
    static NOISE_HIST: Array<Hist> = Array::with_max_entries(64, 0);

    /// 0 = not guarded; else since which guarding.
    #[inline(always)]
    fn guarded(cpu: u32) -> u32 {
        GUARDED.get(cpu).map_or(0, |generation| *generation)
    }

    /// This CPU's state. What was open when the CPU was let go ended unseen, and is forgotten.
    #[inline(always)]
    fn own_state(generation: u32) -> Option<&'static mut NoiseCpu> {
        let state = own_element(&NOISE_CPU)?;
        if state.generation != generation {
            state.generation = generation;
            state.depth = 0;
            state.thread.kind = 0;
            state.thread.nested_ns = 0;
        }
        Some(state)
    }

    /// The `n`-th open interval. The depth is read anew and masked: a bound that LLVM knows it leaves out, and the
    /// verifier before 6.18 then sees none.
    #[inline(always)]
    fn frame(state: &mut NoiseCpu, below: u32) -> Option<&mut Frame> {
        // SAFETY: a valid reference.
        let depth = unsafe { core::ptr::read_volatile(&raw const state.depth) };
        state.frames.get_mut(depth.wrapping_sub(below) as usize & (DEPTH - 1))
    }

    /// Index + 1 of a source's series; 0 = no room.
    #[inline(always)]
    fn series_of(key: &NoiseKey, action: u64) -> u32 {
        // SAFETY: a copy of a u32 that is written whole.
        if let Some(known) = unsafe { NOISE_IDS.get(key) } {
            return *known + 1;
        }
        new_series(key, action)
    }

    #[inline(never)]
    fn new_series(key: &NoiseKey, action: u64) -> u32 {
        let index = next_index(Table::Noise);
        let Some(series) = element(&NOISE, index) else {
            lost(Lost::NoiseSeriesFull);
            return 0;
        };
        series.key = *key;
        if let Some(address) = irq_delivery::bpf::name_address(action) {
            // SAFETY: the buffer has SOURCE_LEN bytes; the helper checks the address.
            unsafe {
                bpf_probe_read_kernel_str(
                    series.name.as_mut_ptr().cast(),
                    SOURCE_LEN as u32,
                    address as *const _,
                )
            };
        }
        if NOISE_IDS.insert(key, index, 0).is_err() {
            lost(Lost::NoiseSeriesFull);
            return 0;
        }
        index + 1
    }

    /// Counts an interval that has ended; those that are cut by the window's ends do not count.
    #[inline(always)]
    fn record(frame: &Frame, ns: u64) -> u64 {
        if ns < frame.start_ns {
            lost(Lost::NoiseNegative);
            return 0;
        }
        let gross = ns - frame.start_ns;
        if gross < frame.nested_ns {
            lost(Lost::NoiseNegative);
        } else if frame.series != 0
            && in_window(frame.start_ns)
            && in_window(ns)
            && let Some(hist) = element(&NOISE_HIST, frame.series - 1)
        {
            hist.record(gross - frame.nested_ns);
        }
        gross
    }

    #[inline(always)]
    fn begin(kind: Kind, id: u32, action: u64) {
        let here = cpu();
        let generation = guarded(here);
        if generation == 0 {
            return;
        }
        let Some(state) = own_state(generation) else { return };
        if state.depth as usize >= DEPTH {
            lost(Lost::NoiseTooDeep);
            return;
        }
        let key = NoiseKey { cpu: here, kind: kind as u32, id, comm: [0; COMM_LEN] };
        let series = series_of(&key, action);
        // The stamp comes last: finding the series is not the source's time.
        if let Some(frame) = frame(state, 0) {
            *frame = Frame { start_ns: now(), nested_ns: 0, kind: kind as u32, id, series, pad: 0 };
        }
        state.depth += 1;
    }

    #[inline(always)]
    fn end(kind: Kind, id: u32) {
        // Before the stamp, which costs ten times as much and which other CPUs do not need.
        let generation = guarded(cpu());
        if generation == 0 {
            return;
        }
        let ns = now();
        let Some(state) = own_state(generation) else { return };
        // Begun before the attachment, or before the CPU was guarded.
        if state.depth == 0 {
            return;
        }
        state.depth -= 1;
        let Some(frame) = frame(state, 0).map(|frame| *frame) else { return };
        if frame.kind != kind as u32 || frame.id != id {
            state.depth = 0;
            lost(Lost::NoiseUnmatched);
            return;
        }
        let gross = record(&frame, ns);
        add_nested(state, gross);
    }

    /// Tells what is interrupted that this time was not its own.
    #[inline(always)]
    fn add_nested(state: &mut NoiseCpu, gross: u64) {
        if state.depth == 0 {
            state.thread.nested_ns += gross;
        } else if let Some(outer) = frame(state, 1) {
            outer.nested_ns += gross;
        }
    }

    // match-proto:v5.15:include/trace/events/irq.h:irq_handler_entry(int irq, struct irqaction *action)
    #[raw_tracepoint(tracepoint = "irq_handler_entry")]
    fn noise_irq_in(ctx: RawTracePointContext) -> i32 {
        begin(Kind::Irq, ctx.arg(0), ctx.arg(1));
        0
    }

    // match-proto:v5.15:include/trace/events/irq.h:irq_handler_exit(int irq, struct irqaction *action, int ret)
    #[raw_tracepoint(tracepoint = "irq_handler_exit")]
    fn noise_irq_out(ctx: RawTracePointContext) -> i32 {
        end(Kind::Irq, ctx.arg(0));
        0
    }

    // match-proto:v5.15:include/trace/events/irq.h:softirq_entry(unsigned int vec_nr)
    #[raw_tracepoint(tracepoint = "softirq_entry")]
    fn noise_soft_in(ctx: RawTracePointContext) -> i32 {
        begin(Kind::Softirq, ctx.arg(0), 0);
        0
    }

    #[raw_tracepoint(tracepoint = "softirq_exit")]
    fn noise_soft_out(ctx: RawTracePointContext) -> i32 {
        end(Kind::Softirq, ctx.arg(0));
        0
    }

    // match-proto:v5.15:arch/x86/include/asm/trace/irq_vectors.h:local_timer_entry(int vector)
    // One program for all vectors: the argument says which.
    #[raw_tracepoint(tracepoint = "local_timer_entry")]
    fn noise_vec_in(ctx: RawTracePointContext) -> i32 {
        begin(Kind::Vector, ctx.arg(0), 0);
        0
    }

    #[raw_tracepoint(tracepoint = "local_timer_exit")]
    fn noise_vec_out(ctx: RawTracePointContext) -> i32 {
        end(Kind::Vector, ctx.arg(0));
        0
    }

    // match-proto:v5.15:include/trace/events/nmi.h:nmi_handler(void *handler, s64 delta_ns, int handled)
    #[raw_tracepoint(tracepoint = "nmi_handler")]
    fn noise_nmi(ctx: RawTracePointContext) -> i32 {
        let here = cpu();
        let generation = guarded(here);
        if generation == 0 {
            return 0;
        }
        let Some(state) = own_state(generation) else { return 0 };
        let key = NoiseKey { cpu: here, kind: Kind::Nmi as u32, id: 0, comm: [0; COMM_LEN] };
        let (spent, ns) = (ctx.arg::<u64>(1), now());
        let start_ns = ns.saturating_sub(spent);
        let frame =
            Frame { start_ns, nested_ns: 0, kind: key.kind, id: 0, series: series_of(&key, 0), pad: 0 };
        let gross = record(&frame, ns);
        add_nested(state, gross);
        0
    }

    // match-proto:v5.15:include/trace/events/sched.h:sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next)
    #[raw_tracepoint(tracepoint = "sched_switch")]
    fn noise_switch(ctx: RawTracePointContext) -> i32 {
        let here = cpu();
        let generation = guarded(here);
        if generation == 0 {
            return 0;
        }
        let ns = now();
        let Some(state) = own_state(generation) else { return 0 };
        if state.depth != 0 {
            // A kernel that schedules inside of softirqs (PREEMPT_RT): what is open cannot be followed.
            state.depth = 0;
            lost(Lost::NoiseUnmatched);
        }
        if state.thread.kind != 0 {
            let thread = state.thread;
            record(&thread, ns);
            state.thread.kind = 0;
        }
        let next = ctx.arg::<u64>(2);
        let Some(tid) = vcpu::pid_of(next) else { return 0 };
        state.thread.nested_ns = 0;
        if tid == 0 || vcpu::hinted(tid).is_some() {
            return 0;
        }
        let Some((kernel, comm)) = vcpu_sched::bpf::name_of(next) else { return 0 };
        let kind = if kernel != 0 { Kind::KernelThread } else { Kind::UserThread } as u32;
        let key = NoiseKey { cpu: here, kind, id: 0, comm };
        let series = series_of(&key, 0);
        state.thread = Frame { start_ns: ns, nested_ns: 0, kind, id: 0, series, pad: 0 };
        0
    }
}
