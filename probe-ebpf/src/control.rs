//! What user space tells the programs, and what they tell of themselves: the window, and what was lost.

/// The time span that counts. An event belongs to it by the time of its first stage: an interrupt raised inside is
/// followed to its end even when that lies outside.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// First nanosecond that counts (CLOCK_MONOTONIC).
    pub from_ns: u64,
    /// First nanosecond that no longer counts.
    pub until_ns: u64,
}

impl Window {
    /// Whether a moment lies inside.
    #[inline(always)]
    #[must_use]
    pub fn contains(&self, ns: u64) -> bool {
        ns >= self.from_ns && ns < self.until_ns
    }
}

/// What a program could not count where it belongs. Indices of the per-CPU counter map `LOST`; never reused.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The interrupt's number is beyond the table.
    IrqBeyondTable = 0,
    /// The handler's name could not be read or is not of the known form.
    IrqNameUnreadable = 1,
    /// No room for another VF vector slot.
    SlotsFull = 2,
    /// No room for another (slot, vCPU) series.
    DeliverySeriesFull = 3,
    /// An interrupt of a VF whose owner is not known yet.
    OwnerUnknown = 4,
    /// An interrupt for a vCPU that has not entered its guest since the start.
    VcpuUnknown = 5,
    /// No room for another vCPU.
    VcpusFull = 6,
    /// No room for another (vCPU, reason) series.
    ExitSeriesFull = 7,
    /// A stage that would end before it began (clocks of two CPUs, or a race); not recorded.
    Negative = 8,
    /// The vCPU was scheduled too often between accept and entry to tell when it first ran again.
    WakeUnknown = 9,
    /// A pending interrupt was given up: its vector was taken over by another slot.
    PendingReplaced = 10,
    /// A vCPU was given a CPU while it was thought asleep: its wakeup was not seen, and its wait not recorded.
    WakeupUnseen = 11,
    /// No room for another (vCPU, preempter).
    PreemptersFull = 12,
    /// No room for another (CPU, source) series.
    NoiseSeriesFull = 13,
    /// An interval ended that is not the one opened last; those open were dropped.
    NoiseUnmatched = 14,
    /// More intervals nested than there is room for.
    NoiseTooDeep = 15,
    /// An injection by the irqfd work queue that could not be told which interrupt it belongs to, or reached no vCPU.
    SlowUnjoined = 16,
    /// A followed packet was given up for a newer one.
    FlightEvicted = 17,
    /// A packet could not be followed: no room.
    FlightsFull = 18,
    /// A hop that would end before it began (clocks of two CPUs); not recorded.
    PathNegative = 19,
    /// No room for another kind of drop.
    PathDropsFull = 20,
    /// An interrupt on its way to the guest was given up: the guest was reset, its driver unbound, or the eventfd
    /// exchanged.
    IrqFreed = 21,
    /// No room for another (vCPU, host vector).
    ExitVectorsFull = 22,
    /// An exit, or a stay in the guest, that would end before it began; not recorded.
    ExitNegative = 23,
    /// A state of a vCPU's thread that would end before it began; not recorded.
    SchedNegative = 24,
    /// A source of noise that would end before it began, or be shorter than what was nested in it; not recorded.
    NoiseNegative = 25,
    /// The guest was left although no entry was seen since it was left before; the former exit is not recorded.
    EntryUnseen = 26,
    /// No room for another interrupt that hardware may deliver.
    PostedFull = 27,
    /// No room for another guest whose hardware delivery was inhibited.
    ApicvFull = 28,
}

impl Lost {
    /// All causes, by index: the probe that loses, and the word used in labels.
    pub const ALL: [(Self, &'static str, &'static str); 29] = [
        (Self::IrqBeyondTable, "irq_delivery", "irq_number_beyond_table"),
        (Self::IrqNameUnreadable, "irq_delivery", "irq_name_unreadable"),
        (Self::SlotsFull, "irq_delivery", "slots_full"),
        (Self::DeliverySeriesFull, "irq_delivery", "series_full"),
        (Self::OwnerUnknown, "irq_delivery", "owner_unknown"),
        (Self::VcpuUnknown, "irq_delivery", "vcpu_unknown"),
        (Self::VcpusFull, "vcpu", "vcpus_full"),
        (Self::ExitSeriesFull, "vm_exit", "series_full"),
        (Self::Negative, "irq_delivery", "negative_interval"),
        (Self::WakeUnknown, "irq_delivery", "wake_unknown"),
        (Self::PendingReplaced, "irq_delivery", "pending_replaced"),
        (Self::WakeupUnseen, "vcpu_sched", "wakeup_unseen"),
        (Self::PreemptersFull, "vcpu_sched", "preempters_full"),
        (Self::NoiseSeriesFull, "cpu_noise", "series_full"),
        (Self::NoiseUnmatched, "cpu_noise", "unmatched_end"),
        (Self::NoiseTooDeep, "cpu_noise", "nested_too_deep"),
        (Self::SlowUnjoined, "irq_delivery", "slow_path_unjoined"),
        (Self::FlightEvicted, "packet_path", "followed_evicted"),
        (Self::FlightsFull, "packet_path", "followed_full"),
        (Self::PathNegative, "packet_path", "negative_interval"),
        (Self::PathDropsFull, "packet_path", "drops_full"),
        (Self::IrqFreed, "irq_delivery", "irq_freed"),
        (Self::ExitVectorsFull, "vm_exit", "host_vectors_full"),
        (Self::ExitNegative, "vm_exit", "negative_interval"),
        (Self::SchedNegative, "vcpu_sched", "negative_interval"),
        (Self::NoiseNegative, "cpu_noise", "negative_interval"),
        (Self::EntryUnseen, "vm_exit", "entry_unseen"),
        (Self::PostedFull, "irq_delivery", "posted_full"),
        (Self::ApicvFull, "irq_delivery", "apicv_full"),
    ];
}

/// Counters handed out by `NEXT`: which table the next index is for.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// `SLOTS`.
    Slots = 0,
    /// `DELIVERIES`.
    Deliveries = 1,
    /// `EXITS`.
    Exits = 2,
    /// `SCHED_HIST`.
    Scheds = 3,
    /// `NOISE`.
    Noise = 4,
    /// `FLIGHT_RING`: it goes round, so the number only ever grows.
    Flights = 5,
    /// `VCPUS`.
    Vcpus = 6,
}

/// Number of tables.
pub const TABLES: u32 = 7;

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, two u64, no padding, every bit pattern is valid.
unsafe impl aya::Pod for Window {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_stand_at_their_index() {
        for (i, (cause, _, _)) in Lost::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, i);
        }
    }
}
