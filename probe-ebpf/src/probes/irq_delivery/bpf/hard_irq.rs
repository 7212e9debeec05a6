//! The host's hard interrupt: what it is, when it begins, and what became of it at its end.

use super::{IN_IRQ, KNOWN_IRQS, SLOT_IDS, SLOTS, setup};
use crate::control::{Lost, Table};
use crate::kernel::{
    SEEN, cpu, current, element, in_window, lost, next_index, now, offsets, own_element, read_field,
    read_record,
};
use crate::probes::irq_delivery::{
    InIrq, KnownIrq, NAME_LEN, SlotKey, SlotName, is_device_vector, parse_name,
};
use crate::signs::{Sign, sign};
use crate::vcpu;
use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel_str,
    macros::{map, raw_tracepoint},
    maps::{HashMap, PerCpuArray},
    programs::{RawTracePointContext, TracePointContext},
};

/// VF to the process that owns it; written by user space.
#[map]
static OWNERS: HashMap<u32, u32> = HashMap::with_max_entries(256, 0);

/// A handler's name while it is looked at.
#[map]
static NAME: PerCpuArray<[u8; NAME_LEN]> = PerCpuArray::with_max_entries(1, 0);

offsets!(OFF_IRQACTION_NAME, OFF_IRQACTION_DEV_ID, REC_IRQ_ENTRY_IRQ, REC_IRQ_ENTRY_NAME);

// match-proto:v5.15:include/trace/events/irq.h:irq_handler_entry(int irq, struct irqaction *action)
#[raw_tracepoint(tracepoint = "irq_handler_entry")]
fn irq_entry_raw(ctx: RawTracePointContext) -> i32 {
    let irq = ctx.arg::<u32>(0);
    let action = ctx.arg::<u64>(1);
    let Some(known) = element(&KNOWN_IRQS, irq) else {
        lost(Lost::IrqBeyondTable);
        return 0;
    };
    if known.action == action && known.slot == 0 {
        return 0;
    }
    // Stamps come first in every program, so that its own cost does not shift one end of an interval only.
    let ns = now();
    // Who enabled it is known, so enabling is seen, and whatever is allocated anew under this number was forgotten then.
    if known.action != action || known.enabler == 0 {
        // The eventfd context tells re-allocated interrupts apart that got the same number and memory.
        let dev_id = read_field(action, &OFF_IRQACTION_DEV_ID).unwrap_or(0);
        if known.action != action || known.dev_id != dev_id {
            look_at(known, irq, action, dev_id);
        }
    }
    if known.slot != 0 {
        enter(known.slot, ns);
    }
    0
}

/// Where the name of a `struct irqaction` stands.
#[inline(always)]
pub(crate) fn name_address(action: u64) -> Option<u64> {
    read_field(action, &OFF_IRQACTION_NAME)
}

/// Finds out what an interrupt is by the name of its handler.
#[inline(never)]
fn look_at(known: &mut KnownIrq, irq: u32, action: u64, dev_id: u64) -> u32 {
    known.slot = 0;
    known.action = action;
    known.dev_id = dev_id;
    let Some(address) = name_address(action) else {
        lost(Lost::IrqNameUnreadable);
        return 0;
    };
    let Some(name) = own_element(&NAME) else { return 0 };
    // SAFETY: the buffer has NAME_LEN bytes; the helper checks the address.
    let read =
        unsafe { bpf_probe_read_kernel_str(name.as_mut_ptr().cast(), NAME_LEN as u32, address as *const _) };
    if read <= 0 {
        lost(Lost::IrqNameUnreadable);
        return 0;
    }
    if let Some(name) = parse_name(name) {
        known.slot = slot_of(name, irq, known.enabler);
        if known.slot == 0 {
            // Not to be remembered: the next interrupt tries again.
            known.action = 0;
        }
    }
    0
}

// Without raw tracepoints there is no handler to compare, so the name is looked at each time.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tracepoint/irq/irq_handler_entry")]
fn irq_entry_tp(ctx: *mut core::ffi::c_void) -> u32 {
    let ctx = TracePointContext::new(ctx);
    let ns = now();
    let (Some(irq), Some(location)) =
        (read_record::<u32>(&ctx, &REC_IRQ_ENTRY_IRQ), read_record::<u32>(&ctx, &REC_IRQ_ENTRY_NAME))
    else {
        return SEEN;
    };
    let Some(name) = own_element(&NAME) else { return SEEN };
    // A `__data_loc` field: the lower half is the text's offset in the record.
    let address = aya_ebpf::EbpfContext::as_ptr(&ctx) as u64 + u64::from(location & 0xffff);
    // SAFETY: as in `look_at`.
    let read =
        unsafe { bpf_probe_read_kernel_str(name.as_mut_ptr().cast(), NAME_LEN as u32, address as *const _) };
    if read <= 0 {
        lost(Lost::IrqNameUnreadable);
        return SEEN;
    }
    if let Some(name) = parse_name(name)
        && let Some(known) = element(&KNOWN_IRQS, irq)
    {
        known.slot = slot_of(name, irq, known.enabler);
        if known.slot != 0 {
            enter(known.slot, ns);
        }
    }
    SEEN
}

/// Index + 1 of a slot, which is made when it is new; 0 = no room, or no owner.
#[inline(always)]
fn slot_of(name: SlotName, irq: u32, enabler: u32) -> u32 {
    let owner = owner_of(name.vf, enabler);
    if owner == 0 {
        lost(Lost::OwnerUnknown);
        return 0;
    }
    let key = SlotKey { vf: name.vf, slot: name.slot, owner };
    // A reference, not a copy: an `Option<u32>` on its way through a register pair carries an undefined half, which
    // the verifier refuses to see stored.
    // SAFETY: values are u32 that are written whole.
    let index = match unsafe { SLOT_IDS.get(key) } {
        Some(index) => *index,
        None => {
            let index = new_slot(key);
            if index == NONE {
                lost(Lost::SlotsFull);
                return 0;
            }
            index
        }
    };
    let Some(slot) = element(&SLOTS, index) else { return 0 };
    slot.vf = key.vf;
    slot.slot = key.slot;
    slot.irq = irq;
    slot.owner = owner;
    index + 1
}

/// The process whose guest has a VF; 0 = not known. What user space told is up to some seconds old; who enabled the
/// interrupt is not, but may be no VMM at all (DPDK): one that is has been seen to enter its first vCPU.
#[inline(always)]
fn owner_of(vf: u32, enabler: u32) -> u32 {
    if enabler != 0 && vcpu::is_guest(enabler) {
        return enabler;
    }
    // SAFETY: as above.
    match unsafe { OWNERS.get(vf) } {
        Some(owner) => *owner,
        None => 0,
    }
}

const NONE: u32 = u32::MAX;

#[inline(always)]
fn new_slot(key: SlotKey) -> u32 {
    let index = next_index(Table::Slots);
    if element(&SLOTS, index).is_none() || SLOT_IDS.insert(key, index, 0).is_err() {
        return NONE;
    }
    sign(Sign::Setup);
    index
}

#[inline(always)]
fn enter(slot_plus_1: u32, ns: u64) {
    if !in_window(ns) {
        return;
    }
    let (Some(slot), Some(irq)) = (element(&SLOTS, slot_plus_1 - 1), own_element(&IN_IRQ)) else { return };
    slot.raised += 1;
    slot.last_cpu = cpu();
    if irq.exit_vector != 0 {
        setup::left_for(slot.irq, irq.exit_vector, irq.exit_tid);
    }
    let queued = u32::from(slot.slow_raise_ns != 0);
    *irq = InIrq {
        raise_ns: ns,
        slot: slot_plus_1,
        accepts: 0,
        slow: 0,
        series: 0,
        queued,
        tid: 0,
        exit_vector: 0,
        exit_tid: 0,
    };
}

/// A vCPU left its guest for a vector of the host. Its handler follows on this CPU before interrupts are enabled.
#[inline(always)]
pub(crate) fn left_for(vector: u32) {
    if is_device_vector(vector)
        && let Some(irq) = own_element(&IN_IRQ)
    {
        irq.exit_vector = vector;
        irq.exit_tid = current().1;
    }
}

// match-proto:v5.15:include/trace/events/irq.h:irq_handler_exit(int irq, struct irqaction *action, int ret)
#[raw_tracepoint(tracepoint = "irq_handler_exit")]
fn irq_exit_raw(_ctx: RawTracePointContext) -> i32 {
    leave();
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "tracepoint/irq/irq_handler_exit")]
fn irq_exit_tp(_ctx: *mut core::ffi::c_void) -> u32 {
    leave();
    SEEN
}

#[inline(always)]
fn leave() {
    let Some(irq) = own_element(&IN_IRQ) else { return };
    // That was its interrupt, also when it is no VF's.
    irq.exit_vector = 0;
    if irq.slot == 0 {
        return;
    }
    if irq.accepts == 0
        && let Some(slot) = element(&SLOTS, irq.slot - 1)
    {
        if irq.slow != 0 {
            slot.slow += 1;
        } else if irq.queued != 0 {
            // Work that waits already is not queued again, so there was no event: one injection serves both.
            slot.slow += 1;
            slot.slow_merged += 1;
        } else {
            slot.userspace += 1;
        }
    }
    irq.slot = 0;
}
