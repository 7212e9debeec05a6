//! `vcpu_sched`: how long a vCPU's thread waits for a CPU, who takes its CPU, and where its time goes.
//!
//! The thread's state is followed from one scheduler event to the next: running, runnable (woken or preempted),
//! blocked. Times count from the window's start.

/// Bytes of a thread's name (`TASK_COMM_LEN`, include/linux/sched.h).
pub const COMM_LEN: usize = 16;

/// `VcpuSched::state`: nothing seen yet.
pub const UNKNOWN: u32 = 0;
/// `VcpuSched::state`: on a CPU.
pub const RUNNING: u32 = 1;
/// `VcpuSched::state`: woken up, waits for a CPU.
pub const WOKEN: u32 = 2;
/// `VcpuSched::state`: taken off its CPU while it could have gone on.
pub const PREEMPTED: u32 = 3;
/// `VcpuSched::state`: asleep.
pub const BLOCKED: u32 = 4;

/// A vCPU thread's state and counters. Written by the CPU that switches it in or out, or wakes it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VcpuSched {
    /// One of the constants above.
    pub state: u32,
    /// Index + 1 of its histogram in `SCHED_HIST`; 0 = none.
    pub series: u32,
    /// Since when it is in that state (ns).
    pub since_ns: u64,
    /// Time on a CPU (ns), states that have ended.
    pub running_ns: u64,
    /// Time woken or preempted (ns), states that have ended.
    pub runnable_ns: u64,
    /// Time asleep (ns), states that have ended.
    pub blocked_ns: u64,
    /// Switch-ins on another CPU than the one before.
    pub migrations: u64,
    /// Who preempted it last.
    pub by: Preempter,
}

/// A thread that took the CPU, by name: worker threads of one pool share theirs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preempter {
    /// 1 = a kernel thread.
    pub kernel: u32,
    /// Its name.
    pub comm: [u8; COMM_LEN],
    /// Index in `VCPUS` of the vCPU that was preempted.
    pub vcpu: u32,
}

/// What a preempter took from a vCPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preempted {
    /// Times.
    pub n: u64,
    /// Until the vCPU ran again (ns), all times together.
    pub total_ns: u64,
    /// The longest (ns).
    pub max_ns: u64,
}

const _: () = assert!(size_of::<Preempter>() == 24);
const _: () = assert!(size_of::<VcpuSched>() == 48 + size_of::<Preempter>());

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, integers only, no padding (asserted above), every bit pattern is valid.
unsafe impl aya::Pod for Preempter {}
#[cfg(feature = "user")]
// SAFETY: `repr(C)`, three u64.
unsafe impl aya::Pod for Preempted {}

#[cfg(target_arch = "bpf")]
pub(crate) mod bpf {
    use super::*;
    use crate::control::{Lost, Table};
    use crate::hist::Hist;
    use crate::kernel::{counted, cpu, element, in_window, lost, next_index, read_field};
    use crate::vcpu::{self, Vcpu};
    use aya_ebpf::{
        macros::{map, raw_tracepoint},
        maps::{Array, HashMap},
        programs::RawTracePointContext,
    };

    /// Run-queue waits: written by the CPU that the thread is switched in on.
    #[map]
    static SCHED_HIST: Array<Hist> = Array::with_max_entries(64, 0);

    #[map]
    static PREEMPTERS: HashMap<Preempter, Preempted> = HashMap::with_max_entries(256, 0);

    crate::kernel::offsets!(OFF_TASK_COMM, OFF_TASK_FLAGS);

    /// include/linux/sched.h.
    const PF_KTHREAD: u32 = 0x0020_0000;

    /// Name and kind of a `struct task_struct`.
    #[inline(always)]
    pub(crate) fn name_of(task: u64) -> Option<(u32, [u8; COMM_LEN])> {
        let flags = read_field::<u32>(task, &OFF_TASK_FLAGS)?;
        let comm = read_field::<[u8; COMM_LEN]>(task, &OFF_TASK_COMM)?;
        Some((u32::from(flags & PF_KTHREAD != 0), comm))
    }

    /// A thread that was just found to run a vCPU.
    #[inline(always)]
    pub(crate) fn learn(vcpu: &mut Vcpu, ns: u64) {
        let index = next_index(Table::Scheds);
        // A full table shows as a vCPU without waits, which user space tells.
        vcpu.sched.series = if element(&SCHED_HIST, index).is_some() { index + 1 } else { 0 };
        vcpu.sched.state = RUNNING;
        vcpu.sched.since_ns = ns;
    }

    /// Ends the present state, and says when it began.
    #[inline(always)]
    fn end_state(sched: &mut VcpuSched, ns: u64) -> u64 {
        let began = sched.since_ns;
        if ns < began {
            // Clocks of two CPUs. The next state goes on where this one ended, so that no time counts twice.
            lost(Lost::SchedNegative);
            return began;
        }
        let spent = counted(sched.since_ns, ns);
        match sched.state {
            RUNNING => sched.running_ns += spent,
            WOKEN | PREEMPTED => sched.runnable_ns += spent,
            BLOCKED => sched.blocked_ns += spent,
            _ => {}
        }
        sched.since_ns = ns;
        began
    }

    /// The thread leaves its CPU to `next` (its `task_struct`).
    #[inline(always)]
    pub(crate) fn switched_out(vcpu: &mut Vcpu, runnable: bool, next: u64, ns: u64) {
        let sched = &mut vcpu.sched;
        end_state(sched, ns);
        sched.state = BLOCKED;
        if runnable {
            sched.state = PREEMPTED;
            if let Some((kernel, comm)) = name_of(next) {
                sched.by.kernel = kernel;
                sched.by.comm = comm;
            }
        }
    }

    /// The thread has ended: from its last switch on it is in no state.
    #[inline(always)]
    pub(crate) fn ended(vcpu: &mut Vcpu) {
        vcpu.sched.state = UNKNOWN;
    }

    /// The thread is given a CPU. Called before `vcpu.cpu` is set to it.
    #[inline(always)]
    pub(crate) fn switched_in(vcpu: &mut Vcpu, ns: u64) {
        let state = vcpu.sched.state;
        let began = end_state(&mut vcpu.sched, ns);
        vcpu.sched.state = RUNNING;
        if !in_window(began) || ns < began {
            return;
        }
        if vcpu.cpu != cpu() {
            vcpu.sched.migrations += 1;
        }
        let waited = ns - began;
        match state {
            WOKEN => {
                if vcpu.sched.series != 0
                    && let Some(hist) = element(&SCHED_HIST, vcpu.sched.series - 1)
                {
                    hist.record(waited);
                }
            }
            PREEMPTED => preempted(&mut vcpu.sched.by, vcpu.index, waited),
            // Its wakeup came before the attachment, or from a kernel that shows none.
            BLOCKED => lost(Lost::WakeupUnseen),
            _ => {}
        }
    }

    #[inline(always)]
    fn preempted(by: &mut Preempter, vcpu: u32, waited: u64) {
        by.vcpu = vcpu;
        let by = &*by;
        if let Some(known) = PREEMPTERS.get_ptr_mut(by) {
            // SAFETY: an element of a preallocated map; only the vCPU's own CPU writes it.
            let known = unsafe { &mut *known };
            known.n += 1;
            known.total_ns += waited;
            known.max_ns = known.max_ns.max(waited);
        } else {
            let first = Preempted { n: 1, total_ns: waited, max_ns: waited };
            if PREEMPTERS.insert(by, first, 0).is_err() {
                lost(Lost::PreemptersFull);
            }
        }
    }

    // match-proto:v5.15:include/trace/events/sched.h:sched_wakeup(struct task_struct *p)
    #[raw_tracepoint(tracepoint = "sched_wakeup")]
    fn sched_wakeup_raw(ctx: RawTracePointContext) -> i32 {
        let Some(tid) = vcpu::pid_of(ctx.arg::<u64>(0)) else { return 0 };
        if let Some(vcpu) = vcpu::hinted(tid)
            && vcpu.sched.state == BLOCKED
        {
            end_state(&mut vcpu.sched, crate::kernel::now());
            vcpu.sched.state = WOKEN;
        }
        0
    }
}
