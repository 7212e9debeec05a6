//! `irq_delivery`: where the time goes between a VF's interrupt on the host and its handling in the guest.
//!
//! The join needs no kernel structure: KVM accepts the interrupt nested in the VF's hard interrupt, on the same CPU,
//! which ties host interrupt, vCPU and guest vector. Where KVM leaves the injection to a work queue, the work's address
//! ties the two. Everything else happens in the vCPU's thread. An accept that belongs to no interrupt of a VF (timer,
//! IPI) is never looked at, so equal vector numbers do not mix.

mod posted;

pub use posted::{Posted, VCPU_INFO_AMD, VCPU_INFO_INTEL, VCPU_INFO_UNKNOWN, irte, irte_after};

/// Stages, in the order of their histograms within a series.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// `irq_handler_entry` to `kvm_apic_accept_irq`; every accept counts, also one that is coalesced.
    Dispatch = 0,
    /// Accept to the vCPU thread running again; only when it was not running.
    Wake = 1,
    /// Accept, or the end of `wake`, to the guest entry after `kvm_inj_virq`.
    Inject = 2,
    /// `irq_handler_entry` to that guest entry.
    Delivery = 3,
    /// That guest entry to `kvm_eoi`.
    Service = 4,
}

/// Number of stages.
pub const STAGES: u32 = 5;

impl Stage {
    /// All stages by index, with their names.
    pub const ALL: [(Self, &'static str); STAGES as usize] = [
        (Self::Dispatch, "dispatch"),
        (Self::Wake, "wake"),
        (Self::Inject, "inject"),
        (Self::Delivery, "delivery"),
        (Self::Service, "service"),
    ];
}

/// Entries of the table that remembers what each Linux interrupt number is.
pub const IRQ_NUMBERS: u32 = 16384;

/// What an interrupt number was found to be. Valid while the handler (`action`, `dev_id`) stays the same, and until it
/// is enabled or freed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KnownIrq {
    /// Address of its `struct irqaction`; 0 = not looked at.
    pub action: u64,
    /// Its `dev_id`: of a VFIO interrupt the eventfd context, which differs after each re-allocation.
    pub dev_id: u64,
    /// Index + 1 of the slot; 0 = not a VF's interrupt.
    pub slot: u32,
    /// Process that enabled the interrupt: of a VFIO interrupt the VMM. 0 = not seen.
    pub enabler: u32,
}

/// A VF's MSI-X vector slot, and its counters. Written by the CPU that takes the interrupt; an edge interrupt is
/// taken by one CPU at a time.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// The VF (`PciAddress::packed`).
    pub vf: u32,
    /// MSI-X table index.
    pub slot: u32,
    /// Linux number of the interrupt that served it last.
    pub irq: u32,
    /// VMM that owns the VF; 0 = not in use.
    pub owner: u32,
    /// Interrupts taken by the host.
    pub raised: u64,
    /// Of these: left to the irqfd work queue, because they could not be injected from the hard interrupt.
    pub slow: u64,
    /// Of `slow`: raised while the work was waiting already, which then injects once for all.
    pub slow_merged: u64,
    /// Time of the first interrupt of the work that waits; 0 = none waits. Cleared by the thread that starts it.
    pub slow_raise_ns: u64,
    /// Of these: neither accepted in the hard interrupt nor handed to the workqueue: the VMM reads the eventfd.
    pub userspace: u64,
    /// `vcpu_id` of the last destination.
    pub last_vcpu_id: u32,
    /// Its thread; 0 = none yet.
    pub last_tid: u32,
    /// Its series.
    pub last_series: u32,
    /// CPU that took the last interrupt.
    pub last_cpu: u32,
    /// Index of `last_tid` in `VCPUS`.
    pub last_vcpu: u32,
    /// Unused.
    pub pad: u32,
    /// How often its interrupt was freed: the guest was reset, its driver unbound, the eventfd exchanged. What was on
    /// its way then is given up.
    pub generation: u64,
    /// Interrupts that more than one vCPU accepted.
    pub multicast: u64,
}

/// Name of a slot, as its handler's name tells.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotName {
    /// The VF (`PciAddress::packed`).
    pub vf: u32,
    /// MSI-X table index.
    pub slot: u32,
}

/// A slot in the hands of one VMM: a VF that goes to another guest begins anew.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotKey {
    /// The VF (`PciAddress::packed`).
    pub vf: u32,
    /// MSI-X table index.
    pub slot: u32,
    /// The VMM's process.
    pub owner: u32,
}

/// APIC vectors of a CPU (`NR_VECTORS`, arch/x86/include/asm/irq_vectors.h).
pub const VECTORS: usize = 256;

/// Where an interrupt's APIC vector was set to go last: the vector in the low byte, above it the CPU; 0 = not seen.
#[inline(always)]
#[must_use]
pub fn pack_vector(vector: u32, cpu: u32) -> u32 {
    cpu << 8 | vector & 0xff
}

/// Bit of a packed place that an exit told (`left_for`), and not the kernel as it set the vector. The next exit may change
/// it, where nothing else does.
pub const BY_EXIT: u32 = 1 << 31;

/// The vector and the CPU of a packed place; `None` when it was not seen.
#[must_use]
pub fn unpack_vector(packed: u32) -> Option<(u8, u32)> {
    (packed != 0).then_some((packed as u8, (packed & !BY_EXIT) >> 8))
}

/// Whether an APIC vector can be a device's of its own. The lowest is the kernel's, for vectors that were moved away, in
/// some versions; 0xeb stands for any number of devices where MSIs are posted to the host, and is a device's elsewhere;
/// those above are the kernel's (arch/x86/include/asm/irq_vectors.h).
#[inline(always)]
#[must_use]
pub fn is_device_vector(vector: u32) -> bool {
    0x20 < vector && vector < 0xeb
}

/// Whether hardware may deliver interrupts to a guest. Key: the VMM's process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apicv {
    /// Reasons against it (`APICV_INHIBIT_REASON_*`, arch/x86/include/asm/kvm_host.h), one bit each; 0 = it may.
    pub inhibits: u64,
    /// How often they changed.
    pub changes: u64,
}

/// A slot's interrupts to one vCPU. Key: slot index and vCPU thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryKey {
    /// Index in `SLOTS`.
    pub slot: u32,
    /// The vCPU's thread.
    pub tid: u32,
}

/// State and counters of a (slot, vCPU) series. Histograms stand in `IRQ_HIST` at `index * STAGES + stage`.
///
/// `pending` and what belongs to it is written at accept by the CPU that takes the interrupt and taken over by the
/// vCPU's thread at injection; the rest is written by the vCPU's thread. KVM itself orders the two: it sets the
/// vector's IRR bit after the accept event, and injects only what it finds there.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// Index in `SLOTS`.
    pub slot: u32,
    /// The vCPU's thread; 0 = not in use.
    pub tid: u32,
    /// The VMM's process.
    pub tgid: u32,
    /// KVM's `vcpu_id`.
    pub vcpu_id: u32,
    /// Guest vector of the last accept.
    pub vector: u32,
    /// 1 = accepted and not injected yet.
    pub pending: u32,
    /// Time of the interrupt that is pending.
    pub raise_ns: u64,
    /// Time of its accept.
    pub accept_ns: u64,
    /// Guest entry of the interrupt now in service; 0 = none.
    pub service_ns: u64,
    /// Accepts.
    pub accepted: u64,
    /// Guest entries that carried one.
    pub delivered: u64,
    /// Accepts while one was pending already.
    pub coalesced: u64,
    /// Accepts on the CPU where the vCPU runs or ran last.
    pub same_cpu: u64,
    /// Accepts on another CPU.
    pub cross_cpu: u64,
    /// Of `coalesced`: injected by itself after all, see `late`. User space subtracts them.
    pub recovered: u64,
    /// As `raise_ns`, of the first accept that found one pending.
    pub late_raise_ns: u64,
    /// As `accept_ns`, of that accept.
    pub late_accept_ns: u64,
    /// 1 = the above are set. KVM clears the IRR bit some instructions before the injection event; an accept in
    /// between finds one pending and yet is a new interrupt, which the next injection shows.
    pub late: u64,
    /// Of `accepted`: by the irqfd work queue.
    pub slow: u64,
    /// Accepts that hardware delivers (`kvm_apicv_accept_irq`): injection and EOI are invisible.
    pub apicv: u64,
    /// The slot's `generation` at the last accept; `pending`, `late` and `service_ns` belong to it.
    pub generation: u64,
}

/// A vCPU's part: the interrupt injected since the last entry, and whose each vector is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VcpuIrq {
    /// Index + 1 of the series injected and not entered yet; 0 = none.
    pub injected: u32,
    /// Unused.
    pub pad: u32,
    /// Copied from the series at injection.
    pub raise_ns: u64,
    /// Copied from the series at injection.
    pub accept_ns: u64,
    /// Index + 1 of the series that uses a vector; 0 = none.
    pub vectors: [u16; 256],
}

/// What this CPU's hard interrupt, or the work that injects for one, is about.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct InIrq {
    /// Time of `irq_handler_entry`.
    pub raise_ns: u64,
    /// Index + 1 of the slot; 0 = not in a VF's interrupt that counts.
    pub slot: u32,
    /// Accepts so far.
    pub accepts: u32,
    /// How often it was handed to the work queue; of the work itself, 1.
    pub slow: u32,
    /// Index + 1 of the series of the last accept.
    pub series: u32,
    /// 1 = work for the slot was waiting already when the interrupt came.
    pub queued: u32,
    /// The thread that does the work; 0 in a hard interrupt.
    pub tid: u32,
    /// The vector for which a vCPU left its guest on this CPU, until the next interrupt has been handled; 0 = none, or not
    /// told.
    pub exit_vector: u32,
    /// That vCPU's thread.
    pub exit_tid: u32,
}

const _: () = assert!(size_of::<KnownIrq>() == 24);
const _: () = assert!(size_of::<Slot>() == 96);
const _: () = assert!(size_of::<Delivery>() == 144);
const _: () = assert!(size_of::<InIrq>() == 40);
const _: () = assert!(size_of::<VcpuIrq>() == 24 + 512);

/// Takes `vfio-msix[3](0000:01:10.0)` or `vfio-msi[0](...)` apart: the name that vfio-pci gives its interrupts
/// (drivers/vfio/pci/vfio_pci_intrs.c). `None` for any other name. `name` may go on after the closing bracket.
#[inline(always)]
#[must_use]
pub fn parse_name(name: &[u8; NAME_LEN]) -> Option<SlotName> {
    if name[..8] != *b"vfio-msi" {
        return None;
    }
    let mut at = if name[8] == b'x' { 9 } else { 8 };
    if name[at] != b'[' {
        return None;
    }
    at += 1;
    let mut slot = 0u32;
    let mut digits = 0;
    while digits < 4 && at < NAME_LEN {
        let digit = name[at].wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        slot = slot * 10 + u32::from(digit);
        at += 1;
        digits += 1;
    }
    // "](" then DDDD:BB:DD.F: the address always has this length for domains up to ffff.
    if digits == 0 || at + 15 > NAME_LEN || name[at] != b']' || name[at + 1] != b'(' {
        return None;
    }
    at += 2;
    let mut address = 0u64;
    let mut i = 0;
    while i < 12 {
        let byte = name[at + i];
        let separator = i == 4 || i == 7 || i == 10;
        if separator {
            if byte != if i == 10 { b'.' } else { b':' } {
                return None;
            }
        } else {
            let value = hex(byte)?;
            address = if i == 11 { address << 3 | (value & 7) } else { address << 4 | value };
        }
        i += 1;
    }
    // Now 16 bits of domain, 8 of bus, 8 of device (whose upper three are 0) and 3 of function.
    let (domain_bus, devfn) = (address >> 11, address & 0xff);
    (name[at + 12] == b')').then_some(SlotName { vf: (domain_bus << 8 | devfn) as u32, slot })
}

/// Bytes of a name that are looked at: `vfio-msix[2047](0000:01:10.0)` and its end.
pub const NAME_LEN: usize = 32;

#[inline(always)]
fn hex(byte: u8) -> Option<u64> {
    match byte {
        b'0'..=b'9' => Some(u64::from(byte - b'0')),
        b'a'..=b'f' => Some(u64::from(byte - b'a') + 10),
        _ => None,
    }
}

#[cfg(feature = "user")]
mod pod {
    use super::{Apicv, Delivery, DeliveryKey, InIrq, KnownIrq, Posted, Slot, SlotKey};
    // SAFETY: as below.
    unsafe impl aya::Pod for Apicv {}
    // SAFETY: `repr(C)`, integers only, no padding (sizes asserted above), every bit pattern is valid.
    unsafe impl aya::Pod for Delivery {}
    // SAFETY: as above.
    unsafe impl aya::Pod for DeliveryKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for InIrq {}
    // SAFETY: as above.
    unsafe impl aya::Pod for KnownIrq {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Posted {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Slot {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SlotKey {}
}

#[cfg(target_arch = "bpf")]
pub(crate) mod bpf;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<(u32, u32)> {
        let mut name = [0; NAME_LEN];
        name[..text.len()].copy_from_slice(text.as_bytes());
        parse_name(&name).map(|k| (k.vf, k.slot))
    }

    #[test]
    fn a_vector_and_its_cpu_share_a_word() {
        for (vector, cpu) in [(96, 2), (255, 0), (32, 511)] {
            assert_eq!(unpack_vector(pack_vector(vector, cpu)), Some((vector as u8, cpu)));
        }
        assert_eq!(unpack_vector(0), None);
        assert_eq!(unpack_vector(pack_vector(96, 2) | BY_EXIT), Some((96, 2)));
    }

    #[test]
    fn vectors_of_devices() {
        // FIRST_EXTERNAL_VECTOR, the PIC's first, the paper's; posted MSIs, the local timer, the spurious one.
        for (vector, expected) in [
            (0x20, false),
            (0x21, true),
            (0x30, true),
            (96, true),
            (0xeb, false),
            (0xec, false),
            (0xff, false),
        ] {
            assert_eq!(is_device_vector(vector), expected, "{vector:#x}");
        }
    }

    #[test]
    fn names_of_vfio_interrupts() {
        let cases = [
            ("vfio-msix[0](0000:01:10.0)", Some((0x0000_0180, 0))),
            ("vfio-msix[12](0000:01:10.3)", Some((0x0000_0183, 12))),
            ("vfio-msi[0](1234:ab:1f.7)", Some((0x1234_abff, 0))),
            ("vfio-msix[2047](ffff:ff:00.1)", Some((0xffff_ff01, 2047))),
            ("vfio-intx(0000:01:10.0)", None),
            ("vfio-msix[](0000:01:10.0)", None),
            ("vfio-msix[1](0000:01:10.0", None),
            ("vfio-msix[1](0000:01-10.0)", None),
            ("vfio-msix[1](00g0:01:10.0)", None),
            ("virtio0-req.0", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
