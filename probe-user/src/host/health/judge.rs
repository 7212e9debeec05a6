//! Facts in, findings out. Pure; one function for each thing that is looked at, in the order they are printed.

use super::{Access, Finding, HealthFacts};
use crate::{
    host::Posting,
    model::{
        CpuSet, NumaNode,
        topology::{Guest, Vf},
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// Judges a host. Every check gives at least one finding, also when all is well.
#[must_use]
pub fn examine(facts: &HealthFacts) -> Vec<Finding> {
    CHECKS.iter().flat_map(|check| check(facts)).collect()
}

const CHECKS: &[fn(&HealthFacts) -> Vec<Finding>] = &[
    privileges,
    lockdown,
    btf,
    tracefs,
    bpf,
    kvm,
    iommu,
    posting,
    sriov,
    guests,
    numa,
    irqbalance,
    isolation,
    smt,
    threaded_irqs,
    reading,
];

/// Capability numbers (`include/uapi/linux/capability.h`) and what vfprobe needs each for.
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;
const WISHED: [(u32, &str, &str); 3] = [
    (19, "CAP_SYS_PTRACE", "guests of other users are not seen"),
    (23, "CAP_SYS_NICE", "threads cannot be pinned"),
    (2, "CAP_DAC_READ_SEARCH", "tracefs and debugfs cannot be read"),
];

fn privileges(facts: &HealthFacts) -> Vec<Finding> {
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

fn lockdown(facts: &HealthFacts) -> Vec<Finding> {
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

fn btf(facts: &HealthFacts) -> Vec<Finding> {
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

fn tracefs(facts: &HealthFacts) -> Vec<Finding> {
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

fn bpf(facts: &HealthFacts) -> Vec<Finding> {
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

fn kvm(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "KVM";
    let vendor: Vec<&str> =
        facts.kvm_modules.iter().map(String::as_str).filter(|name| *name != "kvm").collect();
    let parameter = |name: &str| facts.host.kvm_parameters.get(name).map(|value| format!("{name}={value}"));
    let shown = ["kvm_intel.enable_apicv", "kvm_amd.avic", "kvm.halt_poll_ns"];
    let shown: Vec<String> = shown.into_iter().filter_map(parameter).collect();
    if !facts.dev_kvm {
        let module = match facts.host.cpu_vendor.as_str() {
            "GenuineIntel" => "kvm_intel",
            "AuthenticAMD" | "HygonGenuine" => "kvm_amd",
            _ => "kvm",
        };
        return vec![Finding::fail(
            CHECK,
            "no /dev/kvm",
            "there are no guests to observe",
            format!("modprobe {module}, after virtualization is enabled in the firmware"),
        )];
    }
    let names = if vendor.is_empty() { "built in".to_owned() } else { vendor.join(", ") };
    let found = [vec![names], shown].concat().join(", ");
    if vendor.iter().any(|name| matches!(*name, "kvm_intel" | "kvm_amd")) {
        return vec![Finding::ok(CHECK, found)];
    }
    vec![Finding::warn(
        CHECK,
        found,
        "neither kvm_intel nor kvm_amd: VM exits and injections may not be traced",
        "none on this host; use one with VMX or SVM",
    )]
}

fn iommu(facts: &HealthFacts) -> Vec<Finding> {
    let mut findings = vec![if facts.iommus.is_empty() {
        Finding::warn(
            "IOMMU",
            "none is active",
            "VFs cannot be given to guests safely",
            "enable VT-d or AMD-Vi in the firmware; on Intel also boot with intel_iommu=on",
        )
    } else {
        Finding::ok("IOMMU", facts.iommus.join(", "))
    }];
    findings.push(if facts.interrupts_remapped {
        Finding::ok("interrupt remapping", "active")
    } else {
        Finding::warn(
            "interrupt remapping",
            "not active",
            "interrupts cannot be posted, and one that is moved stays where it is until it fires again",
            "enable VT-d or AMD-Vi in the firmware, boot without nointremap and intremap=off",
        )
    });
    if facts.unsafe_interrupts && !facts.interrupts_remapped {
        findings.push(Finding::warn(
            "interrupt remapping",
            "vfio is allowed to do without (allow_unsafe_interrupts)",
            "a guest can forge interrupts of others",
            "echo N | tee /sys/module/{vfio_iommu_type1,iommufd}/parameters/allow_unsafe_interrupts",
        ));
    }
    findings
}

fn posting(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "delivery";
    vec![match &facts.posting {
        Posting::Possible => Finding::ok(
            CHECK,
            "hardware may deliver VF interrupts past the host: pin vCPUs, and let tune find the rest",
        ),
        Posting::Impossible(reason) => {
            Finding::ok(CHECK, format!("the host takes VF interrupts ({reason}): their placement matters"))
        }
    }]
}

fn all_vfs(facts: &HealthFacts) -> impl Iterator<Item = &Vf> {
    facts.topology.guests.iter().flat_map(|guest| &guest.vfs).chain(&facts.topology.free_vfs)
}

fn sriov(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "SR-IOV";
    let cost = "there are no VF interrupts to observe";
    let mut drivers: BTreeMap<&str, usize> = BTreeMap::new();
    for vf in all_vfs(facts) {
        *drivers.entry(vf.driver.as_deref().unwrap_or("no driver")).or_default() += 1;
    }
    if drivers.is_empty() {
        return vec![match facts.sriov.first() {
            Some(pf) => Finding::warn(
                CHECK,
                format!("{} has no VFs (it can have {})", pf.address, pf.total),
                cost,
                format!("echo 1 >/sys/bus/pci/devices/{}/sriov_numvfs", pf.address),
            ),
            None => Finding::warn(
                CHECK,
                "no device that can have VFs",
                cost,
                "enable SR-IOV in the firmware; cargo xtask lab emulates such a host",
            ),
        }];
    }
    let shown: Vec<String> = drivers.iter().map(|(driver, count)| format!("{count} {driver}")).collect();
    let found = format!("VFs: {}", shown.join(", "));
    if drivers.keys().any(|driver| driver.contains("vfio")) {
        return vec![Finding::ok(CHECK, found)];
    }
    let first = all_vfs(facts).next().map(|vf| vf.address.to_string()).unwrap_or_default();
    vec![Finding::warn(
        CHECK,
        found,
        "no VF can be given to a guest by vfio",
        format!(
            "modprobe vfio-pci; echo vfio-pci >/sys/bus/pci/devices/{first}/driver_override; \
             echo {first} >/sys/bus/pci/devices/{first}/driver/unbind; echo {first} >/sys/bus/pci/drivers_probe"
        ),
    )]
}

fn guests(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "guests";
    let guests = &facts.topology.guests;
    let with_vf = guests.iter().filter(|guest| !guest.vfs.is_empty()).count();
    if with_vf == 0 {
        return vec![Finding::warn(
            CHECK,
            format!("{} running, none holds a VF", guests.len()),
            "there is nothing to observe yet",
            "start a guest with -device vfio-pci,host=ADDRESS",
        )];
    }
    vec![Finding::ok(CHECK, format!("{} running, {with_vf} with VFs", guests.len()))]
}

/// Nodes of the CPUs that a guest's vCPUs may run on.
fn nodes_of(facts: &HealthFacts, guest: &Guest) -> BTreeSet<NumaNode> {
    let cpus: CpuSet = guest.vcpus.iter().flat_map(|vcpu| vcpu.thread.affinity.iter()).collect();
    facts.topology.cpus.iter().filter(|cpu| cpus.contains(cpu.id)).filter_map(|cpu| cpu.node).collect()
}

fn numa(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "NUMA";
    let mut findings = Vec::new();
    for guest in &facts.topology.guests {
        let nodes = nodes_of(facts, guest);
        for vf in &guest.vfs {
            let Some(node) = vf.numa_node.filter(|node| !nodes.is_empty() && !nodes.contains(node)) else {
                continue;
            };
            findings.push(Finding::warn(
                CHECK,
                format!("VF {} is on node {node}, no vCPU of {} may run there", vf.address, guest.name),
                "interrupts and packets cross the link between the nodes",
                format!("pin its vCPUs to CPUs {}", vf.local_cpus),
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "no guest is kept away from its VF's node"));
    }
    findings
}

fn irqbalance(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "irqbalance";
    vec![match facts.irqbalance {
        None => Finding::ok(CHECK, "not running"),
        Some(pid) => Finding::warn(
            CHECK,
            format!("running (pid {pid})"),
            "it may move interrupts that vfprobe has placed",
            "systemctl stop irqbalance, or ban the guarded CPUs: IRQBALANCE_BANNED_CPULIST=LIST",
        ),
    }]
}

/// CPU lists of a boot option; words before the list (`isolcpus=domain,managed_irq,2-3`) are skipped.
fn boot_cpus(cmdline: &str, option: &str) -> Option<CpuSet> {
    let value =
        cmdline.split_ascii_whitespace().find_map(|word| word.strip_prefix(option)?.strip_prefix('='))?;
    let parts = value.split(',').filter(|part| part.starts_with(|c: char| c.is_ascii_digit()));
    parts.collect::<Vec<_>>().join(",").parse().ok()
}

fn isolation(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "isolation";
    let cpus = |wanted: fn(&crate::model::topology::Cpu) -> bool| -> CpuSet {
        facts.topology.cpus.iter().filter(|cpu| wanted(cpu)).map(|cpu| cpu.id).collect()
    };
    let (isolated, tickless) = (cpus(|cpu| cpu.isolated), cpus(|cpu| cpu.nohz_full));
    let mut findings = Vec::new();
    if isolated.is_empty() {
        findings.push(Finding::warn(
            CHECK,
            "no CPU is isolated",
            "the scheduler puts other threads beside vCPUs",
            "boot with isolcpus=managed_irq,domain,LIST",
        ));
    } else {
        findings.push(Finding::ok(CHECK, format!("isolated: CPUs {isolated}")));
    }
    if tickless.is_empty() {
        findings.push(Finding::warn(
            CHECK,
            "no CPU is without a tick",
            "the timer interrupts every vCPU 100 to 1000 times a second",
            "boot with nohz_full=LIST rcu_nocbs=LIST",
        ));
    } else {
        findings.push(Finding::ok(CHECK, format!("without a tick: CPUs {tickless}")));
    }
    if let Some(irqaffinity) = boot_cpus(&facts.host.cmdline, "irqaffinity") {
        let both = irqaffinity.intersection(&isolated);
        if !both.is_empty() {
            findings.push(Finding::warn(
                CHECK,
                format!("irqaffinity= names isolated CPUs {both}"),
                "device interrupts start there",
                format!("boot with irqaffinity={}", irqaffinity.difference(&isolated)),
            ));
        }
    }
    findings
}

fn smt(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "SMT";
    let cpus = &facts.topology.cpus;
    if cpus.iter().all(|cpu| cpu.siblings.len() < 2) {
        return vec![Finding::ok(CHECK, "off: every CPU is a core of its own")];
    }
    // vCPUs that are pinned to single CPUs, by core.
    let mut on_core: BTreeMap<&CpuSet, Vec<String>> = BTreeMap::new();
    for guest in &facts.topology.guests {
        for vcpu in &guest.vcpus {
            let pinned = vcpu.thread.affinity.first().filter(|_| vcpu.thread.affinity.len() == 1);
            if let Some(cpu) = pinned.and_then(|id| cpus.iter().find(|cpu| cpu.id == id)) {
                on_core.entry(&cpu.siblings).or_default().push(format!("{}/{}", guest.name, vcpu.index));
            }
        }
    }
    let shared: Vec<Finding> = on_core
        .into_iter()
        .filter(|(_, vcpus)| vcpus.len() > 1)
        .map(|(core, vcpus)| {
            Finding::warn(
                CHECK,
                format!("vCPUs {} are pinned to one core (CPUs {core})", vcpus.join(", ")),
                "they take turns in its execution units",
                "pin them to different cores",
            )
        })
        .collect();
    if shared.is_empty() {
        return vec![Finding::ok(CHECK, "on, no core is shared by pinned vCPUs")];
    }
    shared
}

fn threaded_irqs(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "interrupt threads";
    vec![if facts.threaded_irqs {
        Finding::warn(
            CHECK,
            "handlers run in threads (PREEMPT_RT or threadirqs)",
            "each VF interrupt waits for its thread irq/N-vfio to run",
            "boot without threadirqs, or raise the threads' priority: chrt -f -p 90 TID",
        )
    } else {
        Finding::ok(CHECK, "handlers run at once")
    }]
}

fn reading(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "reading";
    let problems = &facts.topology.problems;
    if problems.is_empty() {
        return vec![Finding::ok(CHECK, "all of /proc and /sys that is needed")];
    }
    let fix = "run as root; vfprobe topology lists them all";
    let cost = "what is named there is missing from every answer";
    problems.iter().take(3).map(|problem| Finding::warn(CHECK, problem, cost, fix)).collect()
}
