//! Which thread runs which vCPU, whether it runs now, and since when: what the probes share.
//!
//! Learned in the kernel at each guest entry, so it works for every VMM and needs no thread names.

use crate::probes::{irq_delivery::VcpuIrq, vcpu_sched::VcpuSched, vm_exit::VcpuExit};

/// Switch-in times kept, a power of two.
pub const SWITCHES_KEPT: usize = 8;

/// One vCPU thread. Written by that thread and, on a switch, by the CPU it runs on.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Vcpu {
    /// Its process: the VMM.
    pub tgid: u32,
    /// KVM's `vcpu_id`: on x86 also the APIC id the guest sees.
    pub vcpu_id: u32,
    /// The CPU it runs on, or ran on last.
    pub cpu: u32,
    /// The thread; 0 = not in use.
    pub tid: u32,
    /// The same for as long as the thread lives; 0 = it has ended, and another one may have its number.
    pub live: u32,
    /// Its index in `VCPUS`, which no other thread gets: keys of what is counted by vCPU.
    pub index: u32,
    /// 1 = a return to the VMM has been seen, and so every later one will be.
    pub returns_seen: u32,
    /// Unused.
    pub pad: u32,
    /// Address of its `struct kvm_vcpu` while it cannot be another one: since an entry, until the thread returns to the
    /// VMM. 0 = not known, or returns are not seen.
    pub kvm: u64,
    /// How often it was switched in.
    pub switches: u64,
    /// Times of the last switch-ins (ns), at `switches % SWITCHES_KEPT`.
    pub switched_ns: [u64; SWITCHES_KEPT],
    /// When it was switched out before (ns), at the place of the switch-in that followed or will follow.
    pub left_ns: [u64; SWITCHES_KEPT],
    /// State of `vm_exit`.
    pub exit: VcpuExit,
    /// State of `irq_delivery`.
    pub irq: VcpuIrq,
    /// State of `vcpu_sched`.
    pub sched: VcpuSched,
}

/// A vCPU by what an interrupt's destination names.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuKey {
    /// The VMM's process.
    pub tgid: u32,
    /// KVM's `vcpu_id`.
    pub vcpu_id: u32,
}

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, integers only, 8-byte parts on 8-byte offsets (asserted below), every bit pattern is valid.
unsafe impl aya::Pod for Vcpu {}
#[cfg(feature = "user")]
// SAFETY: `repr(C)`, two u32, no padding.
unsafe impl aya::Pod for VcpuKey {}

const _: () = assert!(
    size_of::<Vcpu>()
        == 48 + 16 * SWITCHES_KEPT + size_of::<VcpuExit>() + size_of::<VcpuIrq>() + size_of::<VcpuSched>()
);

/// What a vCPU's thread did when an interrupt was accepted for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It was on a CPU.
    Running,
    /// It was not, and was given one at this time (ns).
    WokenAt(u64),
    /// It has been switched in too often since.
    Unknown,
}

/// What a thread did at `ns`, told afterwards from its last switches, as `Vcpu` keeps them. The thread itself asks, so it is
/// running.
///
/// By the times that the events have on their CPUs: a flag that another CPU sets tells what that CPU had come to when it
/// was looked at, some microseconds after the accept; meanwhile the thread may have been switched out or in.
#[inline(always)]
#[must_use]
pub fn at_that_time(
    ns: u64,
    switches: u64,
    left_ns: &[u64; SWITCHES_KEPT],
    switched_ns: &[u64; SWITCHES_KEPT],
) -> Then {
    let mut number = switches;
    for _ in 0..SWITCHES_KEPT {
        let place = number as usize & (SWITCHES_KEPT - 1);
        // On a CPU from then until the next switch-out, which was seen to be later.
        if number == 0 || switched_ns[place] <= ns {
            return Then::Running;
        }
        if left_ns[place] <= ns {
            return Then::WokenAt(switched_ns[place]);
        }
        number -= 1;
    }
    Then::Unknown
}

#[cfg(target_arch = "bpf")]
mod bpf {
    use super::*;
    use crate::control::{Lost, Table};
    use crate::kernel::{
        SEEN, current, element, global, lost, next_index, now, offsets, own_element, read_field, read_record,
    };
    use crate::probes::{irq_delivery, vcpu_sched, vm_exit};
    use crate::signs::{Sign, sign};
    use aya_ebpf::{
        macros::{map, raw_tracepoint},
        maps::{Array, HashMap, PerCpuArray},
        programs::{RawTracePointContext, TracePointContext},
    };

    #[map]
    static VCPUS: Array<Vcpu> = Array::with_max_entries(64, 0);

    /// Thread id to its index in `VCPUS`, for as long as the thread lives.
    #[map]
    static VCPU_IDS: HashMap<u32, u32> = HashMap::with_max_entries(64, 0);

    /// The vCPU thread that was looked for last on this CPU: its id, and above it index + 1; 0 = none. In one word, which
    /// is read and written whole. Spares the look-up in `VCPU_IDS` while a vCPU stays where it is.
    #[map]
    static HERE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

    #[map]
    static VCPU_TIDS: HashMap<VcpuKey, u32> = HashMap::with_max_entries(64, 0);

    /// A vCPU of zeroes to insert from: it is larger than a program's stack.
    #[map]
    static VCPU_ZERO: Array<Vcpu> = Array::with_max_entries(1, 0);

    /// One byte per low 16 bits of a thread id: "may be a vCPU". Spares a hash look-up on nearly every switch. It stays set
    /// when the thread ends, as other vCPUs may share it; a look-up more is all that this costs.
    #[map]
    static VCPU_HINT: Array<[u8; HINTS]> = Array::with_max_entries(1, 0);

    const HINTS: usize = 1 << 16;

    offsets!(
        OFF_KVM_VCPU_ID,
        OFF_TASK_PID,
        OFF_TASK_STATE,
        REC_ENTRY_VCPU_ID,
        REC_SWITCH_NEXT_PID,
        REC_SWITCH_PREV_STATE
    );

    #[unsafe(no_mangle)]
    static SWITCH_TELLS_STATE: u32 = 0;

    #[inline(always)]
    fn index_of(tid: u32) -> Option<u32> {
        // SAFETY: a copy of a u32 that is written whole.
        unsafe { VCPU_IDS.get(tid) }.copied()
    }

    /// The vCPU of an index.
    #[inline(always)]
    pub(crate) fn at(index: u32) -> Option<&'static mut Vcpu> {
        element(&VCPUS, index)
    }

    /// The vCPU that a thread runs, and its index: for threads that are not on this CPU.
    #[inline(always)]
    pub(crate) fn of_thread(tid: u32) -> Option<(u32, &'static mut Vcpu)> {
        let index = index_of(tid)?;
        Some((index, at(index)?))
    }

    /// The vCPU that a thread runs which is, was or will be on this CPU.
    #[inline(always)]
    pub(crate) fn of_thread_here(tid: u32) -> Option<&'static mut Vcpu> {
        let here = own_element(&HERE)?;
        // SAFETY: a valid reference; volatile, since an interrupt's program may write it meanwhile.
        let last = unsafe { core::ptr::read_volatile(&raw const *here) };
        if last as u32 == tid {
            return at(((last >> 32) as u32).wrapping_sub(1));
        }
        let index = index_of(tid)?;
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(&raw mut *here, (u64::from(index) + 1) << 32 | u64::from(tid)) };
        at(index)
    }

    /// As `of_thread_here`, at a switch. What the CPU remembers may be a thread of the same number that has ended since;
    /// it is forgotten here, so that what the thread does on the CPU until the next switch need not ask.
    #[inline(always)]
    fn of_thread_at_switch(tid: u32) -> Option<&'static mut Vcpu> {
        let vcpu = of_thread_here(tid)?;
        if vcpu.live == tid {
            return Some(vcpu);
        }
        forget_here();
        of_thread(tid).map(|(_, vcpu)| vcpu)
    }

    #[inline(always)]
    fn forget_here() {
        if let Some(here) = own_element(&HERE) {
            // SAFETY: as in `of_thread_here`.
            unsafe { core::ptr::write_volatile(&raw mut *here, 0) };
        }
    }

    /// The thread that runs a guest's vCPU.
    #[inline(always)]
    pub(crate) fn thread_of(tgid: u32, vcpu_id: u32) -> Option<u32> {
        // SAFETY: a copy of a u32 that is written whole.
        unsafe { VCPU_TIDS.get(VcpuKey { tgid, vcpu_id }) }.copied()
    }

    /// Whether a process has been seen to run a guest: the first vCPU of every x86 guest has the number 0.
    #[inline(always)]
    pub(crate) fn is_guest(tgid: u32) -> bool {
        // SAFETY: the value is not looked at.
        unsafe { VCPU_TIDS.get(VcpuKey { tgid, vcpu_id: 0 }) }.is_some()
    }

    #[inline(always)]
    fn may_be_vcpu(tid: u32) -> bool {
        let Some(hints) = VCPU_HINT.get(0) else { return false };
        hints.get(tid as usize & (HINTS - 1)).is_some_and(|hint| *hint != 0)
    }

    /// As `of_thread`; spares the look-up for most threads that run no vCPU.
    #[inline(always)]
    pub(crate) fn hinted(tid: u32) -> Option<&'static mut Vcpu> {
        if may_be_vcpu(tid) { of_thread(tid).map(|(_, vcpu)| vcpu) } else { None }
    }

    /// Thread id of a `struct task_struct`.
    #[inline(always)]
    pub(crate) fn pid_of(task: u64) -> Option<u32> {
        read_field(task, &OFF_TASK_PID)
    }

    /// `vcpu_id` of a `struct kvm_vcpu`.
    #[inline(always)]
    pub(crate) fn id_of(vcpu: u64) -> Option<u32> {
        read_field(vcpu, &OFF_KVM_VCPU_ID)
    }

    /// Makes the vCPU known, or refreshes its thread's entry when that ran another one before.
    #[inline(never)]
    fn learn(tid: u32, tgid: u32, vcpu_id: u32, ns: u64) -> u32 {
        let Some(zero) = VCPU_ZERO.get(0) else { return 0 };
        // SAFETY: values are u32 that are written whole. A reference, not a copy: see `irq_delivery`'s `slot_of`.
        let index = match unsafe { VCPU_IDS.get(tid) } {
            Some(index) if at(*index).is_some_and(|vcpu| vcpu.tgid == tgid) => *index,
            // Also where the end of a former thread of this number was not seen: what it counted stays its own.
            _ => next_index(Table::Vcpus),
        };
        if VCPUS.set(index, zero, 0).is_err()
            || VCPU_IDS.insert(tid, index, 0).is_err()
            || VCPU_TIDS.insert(VcpuKey { tgid, vcpu_id }, tid, 0).is_err()
        {
            lost(Lost::VcpusFull);
            return 0;
        }
        if let Some(vcpu) = at(index) {
            vcpu.tid = tid;
            vcpu.live = tid;
            vcpu.index = index;
            vcpu.tgid = tgid;
            vcpu.vcpu_id = vcpu_id;
            vcpu.cpu = crate::kernel::cpu();
            vcpu_sched::bpf::learn(vcpu, ns);
        }
        forget_here();
        if let Some(hints) = element(&VCPU_HINT, 0)
            && let Some(hint) = hints.get_mut(tid as usize & (HINTS - 1))
        {
            *hint = 1;
        }
        sign(Sign::Setup);
        1
    }

    /// A vCPU's thread has run for the last time. Its figures stay; its number does not mean it any more.
    #[inline(never)]
    fn end(vcpu: &mut Vcpu) -> u32 {
        let (tid, key) = (vcpu.tid, VcpuKey { tgid: vcpu.tgid, vcpu_id: vcpu.vcpu_id });
        vcpu.live = 0;
        vcpu.kvm = 0;
        vcpu_sched::bpf::ended(vcpu);
        forget_here();
        let _ = VCPU_IDS.remove(tid);
        // SAFETY: a copy of a u32 that is written whole.
        if unsafe { VCPU_TIDS.get(key) }.is_some_and(|present| *present == tid) {
            let _ = VCPU_TIDS.remove(key);
        }
        0
    }

    /// How a thread leaves its CPU.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Parting {
        /// It could go on.
        Runnable,
        /// It sleeps.
        Asleep,
        /// It has ended.
        Ended,
    }

    /// `kvm`: address of the `struct kvm_vcpu`, 0 when only its number is known. `vcpu_id` is asked where the address is
    /// not the one of the entry before: reading it is a tenth of what this program costs.
    #[inline(always)]
    fn on_entry(kvm: u64, vcpu_id: impl FnOnce() -> Option<u32>, ns: u64) {
        let (tgid, tid) = current();
        let vcpu = match of_thread_here(tid) {
            Some(vcpu) if kvm != 0 && vcpu.kvm == kvm && vcpu.tgid == tgid => vcpu,
            known => {
                let Some(vcpu_id) = vcpu_id() else { return };
                let vcpu = match known {
                    Some(vcpu) if vcpu.live == tid && vcpu.tgid == tgid && vcpu.vcpu_id == vcpu_id => vcpu,
                    _ => {
                        if learn(tid, tgid, vcpu_id, ns) == 0 {
                            return;
                        }
                        let Some(vcpu) = of_thread_here(tid) else { return };
                        vcpu
                    }
                };
                vcpu.kvm = if vcpu.returns_seen != 0 { kvm } else { 0 };
                vcpu
            }
        };
        vcpu.cpu = crate::kernel::cpu();
        irq_delivery::bpf::on_entry(vcpu, ns);
        vm_exit::bpf::on_entry(vcpu, tid, kvm, ns);
    }

    // match-proto:v5.15:arch/x86/kvm/trace.h:kvm_entry(struct kvm_vcpu *vcpu)
    // match-proto:v6.12:arch/x86/kvm/trace.h:kvm_entry(struct kvm_vcpu *vcpu, bool force_immediate_exit)
    #[raw_tracepoint(tracepoint = "kvm_entry")]
    fn vcpu_entry_raw(ctx: RawTracePointContext) -> i32 {
        let ns = now();
        let kvm = ctx.arg::<u64>(0);
        on_entry(kvm, || id_of(kvm), ns);
        0
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "tracepoint/kvm/kvm_entry")]
    fn vcpu_entry_tp(ctx: *mut core::ffi::c_void) -> u32 {
        let ctx = TracePointContext::new(ctx);
        let ns = now();
        on_entry(0, || read_record(&ctx, &REC_ENTRY_VCPU_ID), ns);
        SEEN
    }

    /// `next_task`: address of the next thread's `task_struct`, 0 when only its number is known.
    #[inline(always)]
    fn on_switch(next: u32, next_task: u64, parting: impl FnOnce() -> Parting) {
        // In sched_switch the current task is still the previous one.
        let (_, prev) = current();
        let (was, is) = (may_be_vcpu(prev), may_be_vcpu(next));
        if !was && !is {
            return;
        }
        let ns = now();
        if was && let Some(vcpu) = of_thread_at_switch(prev) {
            let next_in = vcpu.switches.wrapping_add(1) as usize & (SWITCHES_KEPT - 1);
            if let Some(place) = vcpu.left_ns.get_mut(next_in) {
                *place = ns;
            }
            let parting = parting();
            vcpu_sched::bpf::switched_out(vcpu, parting == Parting::Runnable, next_task, ns);
            if parting == Parting::Ended {
                end(vcpu);
            }
        }
        if is && let Some(vcpu) = of_thread_at_switch(next) {
            vcpu.switches += 1;
            if let Some(slot) = vcpu.switched_ns.get_mut(vcpu.switches as usize & (SWITCHES_KEPT - 1)) {
                *slot = ns;
            }
            vcpu_sched::bpf::switched_in(vcpu, ns);
            vcpu.cpu = crate::kernel::cpu();
        }
    }

    // match-proto:v5.15:include/trace/events/sched.h:sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next)
    // match-proto:v5.18:include/trace/events/sched.h:sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state)
    #[raw_tracepoint(tracepoint = "sched_switch")]
    fn vcpu_switch_raw(ctx: RawTracePointContext) -> i32 {
        let next_task = ctx.arg::<u64>(2);
        if let Some(next) = pid_of(next_task) {
            on_switch(next, next_task, || {
                // A bool argument leaves the upper bytes of its 64-bit place undefined.
                if ctx.arg::<u64>(0) & 0xff != 0 {
                    return Parting::Runnable;
                }
                // The argument is the state the scheduler acted on; the thread's own may have changed since.
                let state = if global(&SWITCH_TELLS_STATE) != 0 {
                    Some(ctx.arg::<u64>(3) as u32)
                } else {
                    read_field::<u32>(ctx.arg::<u64>(1), &OFF_TASK_STATE)
                };
                match state {
                    Some(0) => Parting::Runnable,
                    Some(state) if state & TASK_DEAD != 0 => Parting::Ended,
                    _ => Parting::Asleep,
                }
            });
        }
        0
    }

    /// The state in which a thread is switched away for the last time (include/linux/sched.h).
    const TASK_DEAD: u32 = 0x80;

    /// Bits of a recorded `prev_state` that mean asleep; those above say "preempted" (`TASK_REPORT_MAX`).
    const REPORTED: u64 = 0xff;

    /// Of these: `EXIT_DEAD` and `EXIT_ZOMBIE`, which a record has instead of `TASK_DEAD`.
    const RECORDED_DEAD: u64 = 0x30;

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "tracepoint/sched/sched_switch")]
    fn vcpu_switch_tp(ctx: *mut core::ffi::c_void) -> u32 {
        let ctx = TracePointContext::new(ctx);
        if let Some(next) = read_record(&ctx, &REC_SWITCH_NEXT_PID) {
            on_switch(next, 0, || match read_record::<u64>(&ctx, &REC_SWITCH_PREV_STATE) {
                Some(state) if state & REPORTED == 0 => Parting::Runnable,
                Some(state) if state & RECORDED_DEAD != 0 => Parting::Ended,
                _ => Parting::Asleep,
            });
        }
        SEEN
    }
}

#[cfg(target_arch = "bpf")]
pub(crate) use bpf::{at, hinted, id_of, is_guest, of_thread, of_thread_here, pid_of, thread_of};

#[cfg(test)]
mod tests {
    use super::*;
    use Then::{Running, Unknown, WokenAt};

    #[test]
    fn what_a_thread_did_at_a_time() {
        /// Switch-outs, each with the switch-in that follows, and what the thread did at time 100.
        type Case = (&'static [(u64, u64)], Then);
        let cases: [Case; 9] = [
            (&[], Running),
            // Asleep, and woken by it.
            (&[(50, 150)], WokenAt(150)),
            // Asleep, woken, preempted before it entered its guest: the wait ended with the first switch-in.
            (&[(50, 150), (160, 190)], WokenAt(150)),
            // Switched in just before, and just after.
            (&[(50, 99)], Running),
            (&[(50, 100)], Running),
            (&[(50, 101)], WokenAt(101)),
            // Fell asleep just before, and just after.
            (&[(50, 60), (100, 150)], WokenAt(150)),
            (&[(50, 60), (101, 150)], Running),
            (&[(50, 60), (101, 150), (160, 170)], Running),
        ];
        for (switches, expected) in cases {
            assert_eq!(at_100(switches), expected, "{switches:?}");
        }
    }

    #[test]
    fn too_many_switches_tell_nothing_and_one_less_does() {
        let after = |count: u64| (1..=count).map(|n| (100 + 10 * n, 105 + 10 * n));
        let asleep: Vec<(u64, u64)> = [(50, 105)].into_iter().chain(after(7)).collect();
        assert_eq!(at_100(&asleep), WokenAt(105));
        let forgotten: Vec<(u64, u64)> = [(50, 105)].into_iter().chain(after(8)).collect();
        assert_eq!(at_100(&forgotten), Unknown);
        let ran: Vec<(u64, u64)> = [(50, 60)].into_iter().chain(after(7)).collect();
        assert_eq!(at_100(&ran), Running);
    }

    fn at_100(switches: &[(u64, u64)]) -> Then {
        let (mut left_ns, mut switched_ns) = ([0; SWITCHES_KEPT], [0; SWITCHES_KEPT]);
        for (number, (left, switched)) in (1..).zip(switches) {
            left_ns[number % SWITCHES_KEPT] = *left;
            switched_ns[number % SWITCHES_KEPT] = *switched;
        }
        at_that_time(100, switches.len() as u64, &left_ns, &switched_ns)
    }
}
