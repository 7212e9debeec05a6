//! Names of exits to user space, without their `KVM_EXIT_` prefix.
//!
//! Source: `include/uapi/linux/kvm.h` of Linux 7.3, where the numbers follow each other from 0.

use probe_ebpf::probes::vm_exit::USER_INTERRUPTED;

/// The name of a `KVM_EXIT_*` reason, by its place in the counters.
#[must_use]
pub(super) fn user_exit_name(reason: usize) -> String {
    if reason == USER_INTERRUPTED {
        // The ioctl returned an error, nearly always EINTR: a signal for the VMM.
        return "interrupted".to_owned();
    }
    USER_EXITS.get(reason).map_or_else(|| format!("KVM_EXIT_{reason}"), |name| (*name).to_owned())
}

const USER_EXITS: &[&str] = &[
    "UNKNOWN",
    "EXCEPTION",
    "IO",
    "HYPERCALL",
    "DEBUG",
    "HLT",
    "MMIO",
    "IRQ_WINDOW_OPEN",
    "SHUTDOWN",
    "FAIL_ENTRY",
    "INTR",
    "SET_TPR",
    "TPR_ACCESS",
    "S390_SIEIC",
    "S390_RESET",
    "DCR",
    "NMI",
    "INTERNAL_ERROR",
    "OSI",
    "PAPR_HCALL",
    "S390_UCONTROL",
    "WATCHDOG",
    "S390_TSCH",
    "EPR",
    "SYSTEM_EVENT",
    "S390_STSI",
    "IOAPIC_EOI",
    "HYPERV",
    "ARM_NISV",
    "X86_RDMSR",
    "X86_WRMSR",
    "DIRTY_RING_FULL",
    "AP_RESET_HOLD",
    "X86_BUS_LOCK",
    "XEN",
    "RISCV_SBI",
    "RISCV_CSR",
    "NOTIFY",
    "LOONGARCH_IOCSR",
    "MEMORY_FAULT",
    "TDX",
    "ARM_SEA",
    "ARM_LDST64B",
    "SNP_REQ_CERTS",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_and_unknown_reasons() {
        for (reason, name) in [
            (2, "IO"),
            (6, "MMIO"),
            (10, "INTR"),
            (24, "SYSTEM_EVENT"),
            (37, "NOTIFY"),
            (43, "SNP_REQ_CERTS"),
            (45, "KVM_EXIT_45"),
            (USER_INTERRUPTED, "interrupted"),
        ] {
            assert_eq!(user_exit_name(reason), name);
        }
    }
}
