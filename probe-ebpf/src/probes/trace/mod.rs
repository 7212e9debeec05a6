//! `trace`: single interrupts of VFs, hop by hop, as records in a ring.
//!
//! Nothing of it is attached unless somebody traces. Every record carries the name of its interrupt (VF, slot and the
//! time it was raised), given in the kernel: a record that the ring has no room for leaves a gap and never a wrong join.

/// What happened.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// `irq_handler_entry`. `a`: Linux interrupt number; `b`: 1 when work for the slot waits in the work queue already.
    Raised = 0,
    /// `irq_handler_exit`.
    Handled = 1,
    /// `workqueue_queue_work` of the irqfd's work: the slow path.
    Queued = 2,
    /// `workqueue_execute_start` of that work.
    Worked = 3,
    /// `kvm_apic_accept_irq`. `a`: guest vector; `b`: [`PENDING`], [`VCPU_RUNS`]; `c`: `vcpu_id`; `d`: the CPU where the
    /// vCPU runs or ran last.
    Accepted = 4,
    /// `kvm_apicv_accept_irq`: hardware does the rest.
    Hardware = 5,
    /// `sched_waking` of the vCPU's thread, by the current thread.
    Waking = 6,
    /// `sched_switch` to the vCPU's thread, from the current thread.
    SwitchedIn = 7,
    /// `sched_switch` from the vCPU's thread, which is current; `other`: to whom.
    SwitchedOut = 8,
    /// `kvm_exit`. `a`: reason; `b`: isa.
    Exited = 9,
    /// `kvm_vcpu_wakeup`: the end of a halt. `a`: 1 when the thread slept, 0 when it polled.
    HaltEnded = 10,
    /// `kvm_inj_virq`. `a`: guest vector.
    Injected = 11,
    /// `kvm_entry` after it.
    Entered = 12,
    /// `kvm_entry` without it, while it waits.
    PassedBy = 13,
    /// `kvm_eoi`. `a`: guest vector.
    Ended = 14,
}

impl Hop {
    /// All hops, by their number.
    pub const ALL: [Self; 15] = [
        Self::Raised,
        Self::Handled,
        Self::Queued,
        Self::Worked,
        Self::Accepted,
        Self::Hardware,
        Self::Waking,
        Self::SwitchedIn,
        Self::SwitchedOut,
        Self::Exited,
        Self::HaltEnded,
        Self::Injected,
        Self::Entered,
        Self::PassedBy,
        Self::Ended,
    ];
}

/// In [`Hop::Accepted`]: the vector was pending already.
pub const PENDING: u32 = 1;
/// In [`Hop::Accepted`]: the vCPU's thread was on a CPU.
pub const VCPU_RUNS: u32 = 2;

/// Bytes of a thread's name.
pub const COMM_LEN: usize = 16;

/// Which interrupt.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Id {
    /// When it was raised; 0 = none.
    pub raise_ns: u64,
    /// The VF (`PciAddress::packed`).
    pub vf: u32,
    /// MSI-X table index.
    pub slot: u32,
}

/// One record of the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When.
    pub ns: u64,
    /// The interrupt; without `raise_ns` the record is about a vCPU for which some interrupt waits.
    pub id: Id,
    /// A [`Hop`].
    pub hop: u32,
    /// The CPU on which it happened.
    pub cpu: u32,
    /// Process of the thread that was current.
    pub tgid: u32,
    /// The thread that was current; 0 = idle.
    pub tid: u32,
    /// Thread of the vCPU that it is about; 0 = not known.
    pub vcpu: u32,
    /// By hop.
    pub a: u32,
    /// By hop.
    pub b: u32,
    /// By hop.
    pub c: u32,
    /// By hop.
    pub d: u32,
    /// Unused.
    pub pad: u32,
    /// Name of the thread that was current.
    pub comm: [u8; COMM_LEN],
    /// By hop: name of another thread.
    pub other: [u8; COMM_LEN],
}

/// Which interrupts of a VF are traced; written by user space.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The process that owns the VF.
    pub tgid: u32,
    /// The only slot that is traced, or [`EVERY_SLOT`].
    pub slot: u32,
}

/// In [`Wanted`]: all slots.
pub const EVERY_SLOT: u32 = u32::MAX;

/// A vCPU's thread. Written by that thread and, on a switch, by the CPU it runs on; the counts by anybody, atomically.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TracedVcpu {
    /// Its process.
    pub tgid: u32,
    /// KVM's `vcpu_id`.
    pub vcpu_id: u32,
    /// 1 while it is on a CPU.
    pub running: u32,
    /// The CPU it runs on, or ran on last.
    pub cpu: u32,
    /// Interrupts accepted that were not pending.
    pub accepted: u64,
    /// Of these, entered or left to hardware.
    pub settled: u64,
    /// Time of the last accept.
    pub accept_ns: u64,
    /// Injected and not entered yet.
    pub injected: Id,
    /// Its vector.
    pub vector: u32,
    /// Unused.
    pub pad: u32,
}

/// A vector of a vCPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorKey {
    /// The vCPU's thread.
    pub tid: u32,
    /// Guest vector.
    pub vector: u32,
}

/// What is going on on it. `waiting` and `late` are written at accept, the rest by the vCPU's thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Vector {
    /// Accepted, not injected.
    pub waiting: Id,
    /// When.
    pub accept_ns: u64,
    /// The first that was accepted meanwhile. KVM clears the IRR bit some instructions before the injection event: one
    /// accepted in between is injected by itself after all.
    pub late: Id,
    /// Entered, not ended.
    pub service: Id,
}

/// An interrupt, or the work that injects for one, on this CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Inside {
    /// Which.
    pub id: Id,
    /// The process that owns its VF.
    pub tgid: u32,
    /// The thread that does the work; 0 in a hard interrupt.
    pub tid: u32,
}

/// What was not recorded. Indices of the per-CPU counter map `TRACE_LOST`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The ring was full: a hop is missing.
    RingFull = 0,
    /// An accept by a vCPU that has not entered its guest since tracing began: what follows is missing.
    VcpuUnknown = 1,
    /// No room for another vCPU.
    VcpusFull = 2,
    /// No room for another vector of a vCPU.
    VectorsFull = 3,
    /// No room for more work of the slow path.
    WorkFull = 4,
    /// An interrupt that was pending for too long is given up; the vector's next one takes its place.
    GivenUp = 5,
    /// The handler's name could not be read.
    NameUnreadable = 6,
}

impl Dropped {
    /// All causes, by index, with the word for them.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::RingFull, "ring_full"),
        (Self::VcpuUnknown, "vcpu_unknown"),
        (Self::VcpusFull, "vcpus_full"),
        (Self::VectorsFull, "vectors_full"),
        (Self::WorkFull, "work_full"),
        (Self::GivenUp, "given_up"),
        (Self::NameUnreadable, "irq_name_unreadable"),
    ];
}

/// How long a vCPU is watched after an accept, and an interrupt may be pending (ns).
pub const PATIENCE_NS: u64 = 1_000_000_000;

const _: () = assert!(size_of::<Id>() == 16);
const _: () = assert!(size_of::<Record>() == 24 + 40 + 2 * COMM_LEN);
const _: () = assert!(size_of::<TracedVcpu>() == 64);
const _: () = assert!(size_of::<Vector>() == 56);
const _: () = assert!(size_of::<Inside>() == 24);

#[cfg(feature = "user")]
mod pod {
    use super::{Inside, Record, TracedVcpu, Wanted};
    // SAFETY: `repr(C)`, integers only, no padding (sizes asserted above), every bit pattern is valid.
    unsafe impl aya::Pod for Inside {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Record {}
    // SAFETY: as above.
    unsafe impl aya::Pod for TracedVcpu {}
    // SAFETY: two u32.
    unsafe impl aya::Pod for Wanted {}
}

#[cfg(target_arch = "bpf")]
mod bpf;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places() {
        assert!(Hop::ALL.iter().enumerate().all(|(at, hop)| *hop as usize == at));
        assert!(Dropped::ALL.iter().enumerate().all(|(at, (cause, _))| *cause as usize == at));
    }
}
