//! The programs of `irq_delivery`: hard interrupt, slow path, accept, what happens in the vCPU's thread, and how an
//! interrupt is set up.
//!
//! Here: the maps that they share.

mod accept;
mod hard_irq;
mod setup;
mod slow_path;
mod vcpu_thread;

pub(crate) use hard_irq::{left_for, name_address};
pub(crate) use slow_path::is_injection;
pub(crate) use vcpu_thread::{is_reinjection, on_entry};

use super::{Delivery, DeliveryKey, IRQ_NUMBERS, InIrq, KnownIrq, STAGES, Slot, SlotKey, Stage};
use crate::control::Lost;
use crate::hist::Hist;
use crate::kernel::{element, lost};
use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};

#[map]
static KNOWN_IRQS: Array<KnownIrq> = Array::with_max_entries(IRQ_NUMBERS, 0);

#[map]
static SLOT_IDS: HashMap<SlotKey, u32> = HashMap::with_max_entries(64, 0);

#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(64, 0);

#[map]
static DELIVERY_IDS: HashMap<DeliveryKey, u32> = HashMap::with_max_entries(64, 0);

#[map]
static DELIVERIES: Array<Delivery> = Array::with_max_entries(64, 0);

/// `dispatch` is written by the CPU on which the interrupt is accepted, the other stages by the vCPU's thread.
#[map]
static IRQ_HIST: Array<Hist> = Array::with_max_entries(64 * STAGES, 0);

#[map]
static IN_IRQ: PerCpuArray<InIrq> = PerCpuArray::with_max_entries(1, 0);

/// As `IN_IRQ`, for the work queue's thread that injects on this CPU.
#[map]
static IN_WORK: PerCpuArray<InIrq> = PerCpuArray::with_max_entries(1, 0);

/// Gives up what a series had on its way when its slot's interrupt was freed: KVM forgets it with the guest's reset, and
/// the next user of the vector must not end it.
#[inline(always)]
fn renew(delivery: &mut Delivery, generation: u64) {
    if delivery.generation == generation {
        return;
    }
    if delivery.pending != 0 {
        lost(Lost::IrqFreed);
    }
    delivery.pending = 0;
    delivery.late = 0;
    delivery.service_ns = 0;
    delivery.generation = generation;
}

/// The slot's `generation` now.
#[inline(always)]
fn generation(slot: u32) -> u64 {
    match element(&SLOTS, slot) {
        // SAFETY: a valid reference; volatile, since whoever frees the interrupt writes it meanwhile.
        Some(slot) => unsafe { core::ptr::read_volatile(&raw const slot.generation) },
        None => 0,
    }
}

#[inline(always)]
fn record(series: u32, stage: Stage, from: u64, to: u64) {
    if to < from {
        lost(Lost::Negative);
        return;
    }
    if let Some(hist) = element(&IRQ_HIST, series * STAGES + stage as u32) {
        hist.record(to - from);
    }
}
