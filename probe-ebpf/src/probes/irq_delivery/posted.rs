//! Who delivers an interrupt, as KVM has it set in the IOMMU: hardware past the host, or the host.

/// What KVM told the IOMMU last of an interrupt, and what came of it. Key: its Linux number.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posted {
    /// 1 = hardware delivers it from then on, 0 = the host takes it.
    pub set: u32,
    /// KVM's `vcpu_id` of its target.
    pub vcpu_id: u32,
    /// Guest vector.
    pub vector: u32,
    /// Process that changed it: the VMM.
    pub tgid: u32,
    /// How often the event said so; 0 = what stands above was never told.
    pub updates: u64,
    /// What `irq_set_vcpu_affinity()` made of it: one of [`irte`].
    pub irte: u64,
}

impl Posted {
    /// Whether hardware delivers it; `None` when that cannot be told.
    ///
    /// The function is where it happens, so its word counts where there is one: KVM's event comes before it on Intel,
    /// whatever it will return; on AMD up to 6.15 it says what was asked for, also where AVIC was inhibited; and on Intel up
    /// to 6.12 it is not there when an interrupt is taken back because it suits no single vCPU any more.
    #[must_use]
    pub fn by_hardware(&self) -> Option<bool> {
        match self.irte {
            irte::POSTED => Some(true),
            irte::REMAPPED => Some(false),
            irte::UNSEEN if self.updates > 0 => Some(self.set != 0),
            _ => None,
        }
    }
}

/// How an interrupt's entry in the IOMMU stands (`irte`), as far as calls of `irq_set_vcpu_affinity()` show it.
pub mod irte {
    /// No call of the function has been seen.
    pub const UNSEEN: u64 = 0;
    /// The host takes the interrupt.
    pub const REMAPPED: u64 = 1;
    /// Hardware delivers it.
    pub const POSTED: u64 = 2;
    /// A call was seen, and what it left cannot be told: it failed, and nothing is known of the time before; or its
    /// argument cannot be read.
    pub const UNKNOWN: u64 = 3;
}

/// Whose structure `vcpu_info` of `irq_set_vcpu_affinity()` is: of neither vendor's that is known.
pub const VCPU_INFO_UNKNOWN: u32 = 0;
/// As above: of Intel's, which is there only for an interrupt that is to be posted (`struct vcpu_data`, since 6.17
/// `struct intel_iommu_pi_data`).
pub const VCPU_INFO_INTEL: u32 = 1;
/// As above: of AMD's, which says what is asked for (`struct amd_iommu_pi_data`, `is_guest_mode`).
pub const VCPU_INFO_AMD: u32 = 2;

/// How an entry stands after a call of `irq_set_vcpu_affinity()` that `returned` this, with `info` as the address of its
/// second argument. `before` is how it stood. `guest_mode` is AMD's `is_guest_mode` at the function's return: the IOMMU's
/// driver clears it where it can only remap.
#[inline(always)]
#[must_use]
pub fn irte_after(before: u64, returned: i32, info: u64, layout: u32, guest_mode: Option<bool>) -> u64 {
    if returned != 0 {
        return if before == irte::UNSEEN { irte::UNKNOWN } else { before };
    }
    if info == 0 {
        return irte::REMAPPED;
    }
    match (layout, guest_mode) {
        (VCPU_INFO_INTEL, _) | (VCPU_INFO_AMD, Some(true)) => irte::POSTED,
        (VCPU_INFO_AMD, Some(false)) => irte::REMAPPED,
        _ => irte::UNKNOWN,
    }
}

const _: () = assert!(size_of::<Posted>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_call_leaves_in_the_iommu() {
        use irte::{POSTED, REMAPPED, UNKNOWN, UNSEEN};
        const EINVAL: i32 = -22;
        const ENOSYS: i32 = -38;
        for (before, returned, info, layout, guest_mode, expected) in [
            // Taken back, on every vendor's.
            (UNSEEN, 0, 0, VCPU_INFO_INTEL, None, REMAPPED),
            (POSTED, 0, 0, VCPU_INFO_AMD, None, REMAPPED),
            (POSTED, 0, 0, VCPU_INFO_UNKNOWN, None, REMAPPED),
            // Given to a vCPU.
            (REMAPPED, 0, 8, VCPU_INFO_INTEL, None, POSTED),
            (UNSEEN, 0, 8, VCPU_INFO_AMD, Some(true), POSTED),
            // AMD also says by it that the host shall take the interrupt.
            (POSTED, 0, 8, VCPU_INFO_AMD, Some(false), REMAPPED),
            // Nobody knows what the argument says.
            (POSTED, 0, 8, VCPU_INFO_AMD, None, UNKNOWN),
            (POSTED, 0, 8, VCPU_INFO_UNKNOWN, None, UNKNOWN),
            // A call that failed changed nothing.
            (POSTED, EINVAL, 8, VCPU_INFO_INTEL, None, POSTED),
            (REMAPPED, EINVAL, 8, VCPU_INFO_AMD, Some(true), REMAPPED),
            (POSTED, EINVAL, 0, VCPU_INFO_INTEL, None, POSTED),
            (UNSEEN, ENOSYS, 8, VCPU_INFO_INTEL, None, UNKNOWN),
            (UNKNOWN, ENOSYS, 8, VCPU_INFO_INTEL, None, UNKNOWN),
        ] {
            let left = irte_after(before, returned, info, layout, guest_mode);
            assert_eq!(left, expected, "{before} {returned} {info} {layout} {guest_mode:?}");
        }
    }

    #[test]
    fn the_function_s_word_counts_before_the_event_s() {
        use irte::{POSTED, REMAPPED, UNKNOWN, UNSEEN};
        for (irte, updates, set, expected) in [
            (UNSEEN, 0, 0, None),
            (UNSEEN, 1, 1, Some(true)),
            (UNSEEN, 1, 0, Some(false)),
            (POSTED, 0, 0, Some(true)),
            (POSTED, 2, 0, Some(true)),
            (REMAPPED, 1, 1, Some(false)),
            (UNKNOWN, 1, 1, None),
        ] {
            let posted = Posted { set, vcpu_id: 0, vector: 43, tgid: 7, updates, irte };
            assert_eq!(posted.by_hardware(), expected, "{posted:?}");
        }
    }
}
