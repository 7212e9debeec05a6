//! Names of VM exit codes, without their `EXIT_REASON_`/`SVM_EXIT_` prefix.
//!
//! Sources: `arch/x86/include/uapi/asm/vmx.h` and `svm.h` of Linux 7.3. A code without a name keeps its number.

/// `KVM_ISA_VMX` (arch/x86/kvm/trace.h).
pub(super) const VMX: u32 = 1;
/// `KVM_ISA_SVM`.
const SVM: u32 = 2;

/// The name of an exit code.
#[must_use]
pub(super) fn exit_name(isa: u32, code: u32) -> String {
    let table: &[(u32, &str)] = match isa {
        VMX => VMX_EXITS,
        SVM => SVM_EXITS,
        _ => return format!("isa{isa}_{code:#x}"),
    };
    match table.binary_search_by_key(&code, |(code, _)| *code) {
        Ok(at) => table[at].1.to_owned(),
        Err(_) if isa == VMX => format!("VMX_{code}"),
        Err(_) => format!("SVM_{code:#x}"),
    }
}

/// Whether the guest gave the CPU up: `HLT`, and SVM's halt that is left only without a pending virtual interrupt.
#[must_use]
pub(super) fn is_halt(isa: u32, code: u32) -> bool {
    matches!((isa, code), (VMX, 12) | (SVM, 0x78 | 0xa6))
}

/// What kind of interrupt made the vCPU leave its guest; `None` when none did. `host`: one for the host, that of a VF
/// included. `nmi`: SVM alone tells it from other exceptions. `window`: KVM waits for the guest to accept one. `apic`: the
/// guest's own interrupt controller needs KVM, for an EOI, a register, or a target that does not run.
#[must_use]
pub(super) fn interrupt_kind(isa: u32, code: u32) -> Option<&'static str> {
    Some(match (isa, code) {
        (VMX, 1) | (SVM, 0x60) => "host",
        (SVM, 0x61) => "nmi",
        (VMX, 7 | 8) | (SVM, 0x64) => "window",
        (VMX, 44 | 45 | 56) | (SVM, 0x401 | 0x402) => "apic",
        _ => return None,
    })
}

const VMX_EXITS: &[(u32, &str)] = &[
    (0, "EXCEPTION_NMI"),
    (1, "EXTERNAL_INTERRUPT"),
    (2, "TRIPLE_FAULT"),
    (3, "INIT_SIGNAL"),
    (4, "SIPI_SIGNAL"),
    (6, "OTHER_SMI"),
    (7, "INTERRUPT_WINDOW"),
    (8, "NMI_WINDOW"),
    (9, "TASK_SWITCH"),
    (10, "CPUID"),
    (12, "HLT"),
    (13, "INVD"),
    (14, "INVLPG"),
    (15, "RDPMC"),
    (16, "RDTSC"),
    (18, "VMCALL"),
    (19, "VMCLEAR"),
    (20, "VMLAUNCH"),
    (21, "VMPTRLD"),
    (22, "VMPTRST"),
    (23, "VMREAD"),
    (24, "VMRESUME"),
    (25, "VMWRITE"),
    (26, "VMOFF"),
    (27, "VMON"),
    (28, "CR_ACCESS"),
    (29, "DR_ACCESS"),
    (30, "IO_INSTRUCTION"),
    (31, "MSR_READ"),
    (32, "MSR_WRITE"),
    (33, "INVALID_STATE"),
    (34, "MSR_LOAD_FAIL"),
    (36, "MWAIT_INSTRUCTION"),
    (37, "MONITOR_TRAP_FLAG"),
    (39, "MONITOR_INSTRUCTION"),
    (40, "PAUSE_INSTRUCTION"),
    (41, "MCE_DURING_VMENTRY"),
    (43, "TPR_BELOW_THRESHOLD"),
    (44, "APIC_ACCESS"),
    (45, "EOI_INDUCED"),
    (46, "GDTR_IDTR"),
    (47, "LDTR_TR"),
    (48, "EPT_VIOLATION"),
    (49, "EPT_MISCONFIG"),
    (50, "INVEPT"),
    (51, "RDTSCP"),
    (52, "PREEMPTION_TIMER"),
    (53, "INVVPID"),
    (54, "WBINVD"),
    (55, "XSETBV"),
    (56, "APIC_WRITE"),
    (57, "RDRAND"),
    (58, "INVPCID"),
    (59, "VMFUNC"),
    (60, "ENCLS"),
    (61, "RDSEED"),
    (62, "PML_FULL"),
    (63, "XSAVES"),
    (64, "XRSTORS"),
    (67, "UMWAIT"),
    (68, "TPAUSE"),
    (74, "BUS_LOCK"),
    (75, "NOTIFY"),
    (76, "SEAMCALL"),
    (77, "TDCALL"),
    (84, "MSR_READ_IMM"),
    (85, "MSR_WRITE_IMM"),
];

const SVM_EXITS: &[(u32, &str)] = &[
    (0x0, "READ_CR0"),
    (0x2, "READ_CR2"),
    (0x3, "READ_CR3"),
    (0x4, "READ_CR4"),
    (0x8, "READ_CR8"),
    (0x10, "WRITE_CR0"),
    (0x12, "WRITE_CR2"),
    (0x13, "WRITE_CR3"),
    (0x14, "WRITE_CR4"),
    (0x18, "WRITE_CR8"),
    (0x20, "READ_DR0"),
    (0x21, "READ_DR1"),
    (0x22, "READ_DR2"),
    (0x23, "READ_DR3"),
    (0x24, "READ_DR4"),
    (0x25, "READ_DR5"),
    (0x26, "READ_DR6"),
    (0x27, "READ_DR7"),
    (0x30, "WRITE_DR0"),
    (0x31, "WRITE_DR1"),
    (0x32, "WRITE_DR2"),
    (0x33, "WRITE_DR3"),
    (0x34, "WRITE_DR4"),
    (0x35, "WRITE_DR5"),
    (0x36, "WRITE_DR6"),
    (0x37, "WRITE_DR7"),
    (0x40, "EXCP_DE"),
    (0x41, "EXCP_DB"),
    (0x43, "EXCP_BP"),
    (0x44, "EXCP_OF"),
    (0x45, "EXCP_BR"),
    (0x46, "EXCP_UD"),
    (0x47, "EXCP_NM"),
    (0x48, "EXCP_DF"),
    (0x4a, "EXCP_TS"),
    (0x4b, "EXCP_NP"),
    (0x4c, "EXCP_SS"),
    (0x4d, "EXCP_GP"),
    (0x4e, "EXCP_PF"),
    (0x50, "EXCP_MF"),
    (0x51, "EXCP_AC"),
    (0x52, "EXCP_MC"),
    (0x53, "EXCP_XM"),
    (0x60, "INTR"),
    (0x61, "NMI"),
    (0x62, "SMI"),
    (0x63, "INIT"),
    (0x64, "VINTR"),
    (0x65, "CR0_SEL_WRITE"),
    (0x66, "IDTR_READ"),
    (0x67, "GDTR_READ"),
    (0x68, "LDTR_READ"),
    (0x69, "TR_READ"),
    (0x6a, "IDTR_WRITE"),
    (0x6b, "GDTR_WRITE"),
    (0x6c, "LDTR_WRITE"),
    (0x6d, "TR_WRITE"),
    (0x6e, "RDTSC"),
    (0x6f, "RDPMC"),
    (0x70, "PUSHF"),
    (0x71, "POPF"),
    (0x72, "CPUID"),
    (0x73, "RSM"),
    (0x74, "IRET"),
    (0x75, "SWINT"),
    (0x76, "INVD"),
    (0x77, "PAUSE"),
    (0x78, "HLT"),
    (0x79, "INVLPG"),
    (0x7a, "INVLPGA"),
    (0x7b, "IOIO"),
    (0x7c, "MSR"),
    (0x7d, "TASK_SWITCH"),
    (0x7e, "FERR_FREEZE"),
    (0x7f, "SHUTDOWN"),
    (0x80, "VMRUN"),
    (0x81, "VMMCALL"),
    (0x82, "VMLOAD"),
    (0x83, "VMSAVE"),
    (0x84, "STGI"),
    (0x85, "CLGI"),
    (0x86, "SKINIT"),
    (0x87, "RDTSCP"),
    (0x88, "ICEBP"),
    (0x89, "WBINVD"),
    (0x8a, "MONITOR"),
    (0x8b, "MWAIT"),
    (0x8c, "MWAIT_COND"),
    (0x8d, "XSETBV"),
    (0x8e, "RDPRU"),
    (0x8f, "EFER_WRITE_TRAP"),
    (0x90, "CR0_WRITE_TRAP"),
    (0x91, "CR1_WRITE_TRAP"),
    (0x92, "CR2_WRITE_TRAP"),
    (0x93, "CR3_WRITE_TRAP"),
    (0x94, "CR4_WRITE_TRAP"),
    (0x95, "CR5_WRITE_TRAP"),
    (0x96, "CR6_WRITE_TRAP"),
    (0x97, "CR7_WRITE_TRAP"),
    (0x98, "CR8_WRITE_TRAP"),
    (0x99, "CR9_WRITE_TRAP"),
    (0x9a, "CR10_WRITE_TRAP"),
    (0x9b, "CR11_WRITE_TRAP"),
    (0x9c, "CR12_WRITE_TRAP"),
    (0x9d, "CR13_WRITE_TRAP"),
    (0x9e, "CR14_WRITE_TRAP"),
    (0x9f, "CR15_WRITE_TRAP"),
    (0xa2, "INVPCID"),
    (0xa5, "BUS_LOCK"),
    (0xa6, "IDLE_HLT"),
    (0x400, "NPF"),
    (0x401, "AVIC_INCOMPLETE_IPI"),
    (0x402, "AVIC_UNACCELERATED_ACCESS"),
    (0x403, "VMGEXIT"),
    (0xf0000000, "SW"),
    (0xffffffff, "ERR"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_for_the_search() {
        for table in [VMX_EXITS, SVM_EXITS] {
            assert!(table.windows(2).all(|w| w[0].0 < w[1].0));
        }
    }

    /// Of a trace of VMX that was published (linux-kernel, 30 March 2023, message
    /// ea3a8fbc-2bf8-7442-e498-3e5818384c83@grsecurity.net): what ftrace calls the exits, and the codes that the processor's
    /// manual has for them (Intel SDM vol. 3, appendix C).
    #[test]
    fn exits_are_named_as_in_a_trace_of_vmx() {
        for (code, name) in [
            (1, "EXTERNAL_INTERRUPT"),
            (10, "CPUID"),
            (28, "CR_ACCESS"),
            (31, "MSR_READ"),
            (32, "MSR_WRITE"),
            (47, "LDTR_TR"),
        ] {
            assert_eq!(exit_name(VMX, code), name);
        }
    }

    #[test]
    fn known_and_unknown_codes() {
        for (isa, code, name) in [
            (VMX, 1, "EXTERNAL_INTERRUPT"),
            (VMX, 12, "HLT"),
            (VMX, 999, "VMX_999"),
            (SVM, 0x78, "HLT"),
            (SVM, 0x400, "NPF"),
            (SVM, 0x3ff, "SVM_0x3ff"),
            (SVM, 0xf000_0000, "SW"),
            (SVM, u32::MAX, "ERR"),
            (7, 1, "isa7_0x1"),
        ] {
            assert_eq!(exit_name(isa, code), name);
        }
    }
}
