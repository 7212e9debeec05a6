//! Whether vfprobe may and can observe: privileges, lockdown, types, tracefs, BPF.

use super::super::{Access, Finding, HealthFacts};

/// Capability numbers (`include/uapi/linux/capability.h`) and what vfprobe needs each for.
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;
const WISHED: [(u32, &str, &str); 3] = [
    (19, "CAP_SYS_PTRACE", "guests of other users are not seen"),
    (23, "CAP_SYS_NICE", "threads cannot be pinned"),
    (2, "CAP_DAC_READ_SEARCH", "tracefs and debugfs cannot be read"),
];

pub(super) fn privileges(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "privileges";
    let Some(caps) = facts.capabilities else {
        return vec![Finding::warn(
            CHECK,
            "this process's capabilities are not known",
            "what will be refused shows only when it is tried",
            "mount -t proc proc /proc",
        )];
    };
    let has = |bit: u32| caps & 1 << bit != 0;
    let may_load = has(SYS_ADMIN) || (has(BPF) && has(PERFMON));
    if !may_load {
        return vec![Finding::fail(
            CHECK,
            "neither CAP_SYS_ADMIN nor CAP_BPF with CAP_PERFMON",
            "no BPF program can be loaded: nothing can be traced",
            "run as root: sudo vfprobe ...",
        )];
    }
    let missing: Vec<_> = WISHED.iter().filter(|(bit, _, _)| !has(*bit)).collect();
    if missing.is_empty() {
        return vec![Finding::ok(CHECK, "all that is needed")];
    }
    let names: Vec<&str> = missing.iter().map(|(_, name, _)| *name).collect();
    let costs: Vec<&str> = missing.iter().map(|(_, _, cost)| *cost).collect();
    vec![Finding::warn(
        CHECK,
        format!("no {}", names.join(", ")),
        costs.join("; "),
        "run as root: sudo vfprobe ...",
    )]
}

pub(super) fn lockdown(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "lockdown";
    let fix = "boot without lockdown= (Secure Boot turns it on: mokutil --disable-validation)";
    vec![match facts.lockdown.as_deref() {
        None => Finding::ok(CHECK, "not active"),
        Some("confidentiality") => Finding::fail(
            CHECK,
            "confidentiality",
            "BPF may not read kernel memory, which the probes do",
            fix,
        ),
        Some(mode) => Finding::warn(
            CHECK,
            mode,
            "debugfs is closed: vCPU threads must have telling names, host vectors are not known",
            fix,
        ),
    }]
}

/// Cost of a missing description of kvm; figures of an empty program: 34-38 ns classic, 16-22 ns raw.
const MODULE_COST: &str =
    "KVM's raw tracepoints cannot be used: classic ones cost some 20 ns more for every event";

pub(super) fn btf(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "BTF";
    let kernel = match &facts.kernel_btf {
        Access::Readable => Finding::ok(CHECK, "this kernel describes its types"),
        Access::Absent => Finding::fail(
            CHECK,
            "no /sys/kernel/btf/vmlinux",
            "probes cannot find their way in this kernel's structures",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as distributions' are",
        ),
        Access::Refused(cause) => Finding::fail(
            CHECK,
            cause,
            "probes cannot find their way in this kernel's structures",
            "run as root",
        ),
    };
    let module = match &facts.kvm_btf {
        None | Some(Access::Readable) => None,
        Some(Access::Absent) => Some(Finding::warn(
            CHECK,
            "no /sys/kernel/btf/kvm",
            MODULE_COST,
            "use a kernel built with CONFIG_DEBUG_INFO_BTF_MODULES=y",
        )),
        Some(Access::Refused(cause)) => Some(Finding::warn(CHECK, cause, MODULE_COST, "run as root")),
    };
    [Some(kernel), module].into_iter().flatten().collect()
}

pub(super) fn tracefs(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "tracefs";
    let cost = "reasons of VM exits cannot be told on kernels from 5.17 on";
    vec![match &facts.tracefs {
        Access::Readable => Finding::ok(CHECK, "readable"),
        Access::Absent => {
            Finding::warn(CHECK, "not mounted", cost, "mount -t tracefs tracefs /sys/kernel/tracing")
        }
        Access::Refused(cause) => Finding::warn(CHECK, cause, cost, "run as root"),
    }]
}

pub(super) fn bpf(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "BPF";
    let mut findings = Vec::new();
    if facts.bpf_jit == Some(0) {
        findings.push(Finding::warn(
            CHECK,
            "the just-in-time compiler is off",
            "programs are interpreted: every event costs several times as much",
            "sysctl net.core.bpf_jit_enable=1",
        ));
    }
    if facts.bpf_stats.is_some_and(|on| on != 0) {
        findings.push(Finding::warn(
            CHECK,
            "run-time statistics are on",
            "some 35-40 ns more for every event",
            "sysctl kernel.bpf_stats_enabled=0",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "compiled, without run-time statistics"));
    }
    findings
}

pub(super) fn reading(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "reading";
    let problems = &facts.topology.problems;
    if problems.is_empty() {
        return vec![Finding::ok(CHECK, "all of /proc and /sys that is needed")];
    }
    let fix = "run as root; vfprobe topology lists them all";
    let cost = "what is named there is missing from every answer";
    problems.iter().take(3).map(|problem| Finding::warn(CHECK, problem, cost, fix)).collect()
}
