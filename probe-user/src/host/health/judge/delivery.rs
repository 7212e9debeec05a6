//! How interrupts can reach guests: KVM, the IOMMU, posting, threads of handlers, free vectors.

use super::super::{Finding, HealthFacts};
use super::watched;
use crate::{host::Posting, model::CpuSet};

pub(super) fn kvm(facts: &HealthFacts) -> Vec<Finding> {
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

pub(super) fn iommu(facts: &HealthFacts) -> Vec<Finding> {
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

pub(super) fn posting(facts: &HealthFacts) -> Vec<Finding> {
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

pub(super) fn threaded_irqs(facts: &HealthFacts) -> Vec<Finding> {
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

/// Whether a running guest can be given interrupts without leaving it: APICv, AVIC.
pub(super) fn virtual_interrupts(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "APICv/AVIC";
    let parameters = &facts.host.kvm_parameters;
    let vendors = [("kvm_intel", "enable_apicv", "vid"), ("kvm_amd", "avic", "avic")];
    let Some((module, parameter, flag, value)) = vendors.into_iter().find_map(|(module, parameter, flag)| {
        Some((module, parameter, flag, parameters.get(&format!("{module}.{parameter}"))?))
    }) else {
        return vec![Finding::ok(CHECK, "not known: neither kvm_intel nor kvm_amd says")];
    };
    if !matches!(value.as_str(), "N" | "n" | "0") {
        return vec![Finding::ok(CHECK, format!("on ({module}.{parameter}={value})"))];
    }
    if !facts.cpu_flags.contains(flag) {
        let why =
            if facts.cpu_flags.is_empty() { "the CPU's flags are not known" } else { "the CPU has none" };
        return vec![Finding::ok(CHECK, format!("off: {why}"))];
    }
    vec![Finding::warn(
        CHECK,
        format!("off ({module}.{parameter}={value}), though the CPU has it"),
        "each interrupt for a running vCPU makes it exit, some 1 us, and nothing can be posted",
        format!("with no guest running: modprobe -r {module}; modprobe {module} {parameter}=1"),
    )]
}

/// Fewer free vectors than this on a CPU are few: a NIC's queues or one VF take them at once.
const FEW_VECTORS: u32 = 8;

pub(super) fn vectors(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "free vectors";
    let Some(free) = &facts.tuning.free_vectors else {
        return vec![Finding::ok(
            CHECK,
            "not known: the kernel tells root alone, and needs CONFIG_GENERIC_IRQ_DEBUGFS",
        )];
    };
    let watched = watched(facts);
    let of_watched = || free.iter().filter(|(cpu, _)| watched.contains(**cpu));
    let Some(least) = of_watched().map(|(_, count)| *count).min() else {
        return vec![Finding::ok(CHECK, format!("not known for CPUs {watched}"))];
    };
    if least >= FEW_VECTORS {
        return vec![Finding::ok(CHECK, format!("at least {least} on each of CPUs {watched}"))];
    }
    let short: CpuSet =
        of_watched().filter(|(_, count)| **count < FEW_VECTORS).map(|(cpu, _)| *cpu).collect();
    vec![Finding::warn(
        CHECK,
        format!("fewer than {FEW_VECTORS} on CPUs {short} (least: {least})"),
        "an interrupt that is to go there is refused (ENOSPC) and stays where it is",
        "move others away (vfprobe apply does), or give NICs fewer queues: ethtool -L DEV combined N",
    )]
}
