//! What the kernel was told at boot to keep off some CPUs, and where its options contradict each other or the pins.

use super::super::{Finding, HealthFacts};
use super::{alone, isolated};
use crate::model::CpuSet;

/// CPU lists of a boot option; words before the list (`isolcpus=domain,managed_irq,2-3`) are skipped. `None` when the
/// option is not there, or written in a way that is not understood here (`all`, `N`, strides).
fn boot_cpus(cmdline: &str, option: &str) -> Option<CpuSet> {
    let value =
        cmdline.split_ascii_whitespace().find_map(|word| word.strip_prefix(option)?.strip_prefix('='))?;
    let words = ["domain", "managed_irq", "nohz"];
    let parts = value.split(',').filter(|part| !words.contains(part));
    parts.collect::<Vec<_>>().join(",").parse().ok()
}

pub(super) fn isolation(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "isolation";
    let isolated = isolated(facts);
    let cpus = &facts.topology.cpus;
    let tickless: CpuSet = cpus.iter().filter(|cpu| cpu.nohz_full).map(|cpu| cpu.id).collect();
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
    findings.extend(contradictions(facts, &isolated, &tickless));
    findings
}

/// Boot options that work against each other, or against the pins.
fn contradictions(facts: &HealthFacts, isolated: &CpuSet, tickless: &CpuSet) -> Vec<Finding> {
    const CHECK: &str = "isolation";
    let boot = |option| boot_cpus(&facts.host.cmdline, option).unwrap_or_default();
    let mut findings = Vec::new();
    let mut unless_empty = |cpus: &CpuSet, found: &dyn Fn() -> String, cost: &str, fix: String| {
        if !cpus.is_empty() {
            findings.push(Finding::warn(CHECK, found(), cost, fix));
        }
    };
    let not_in_effect = boot("isolcpus").difference(isolated);
    unless_empty(
        &not_in_effect,
        &|| format!("isolcpus= names CPUs {not_in_effect}, but the scheduler does not leave them alone"),
        "the scheduler puts other threads beside vCPUs there",
        "boot with isolcpus=managed_irq,domain,LIST: without domain, managed_irq alone isolates no CPU"
            .to_owned(),
    );
    if !isolated.is_empty() && !tickless.is_empty() {
        let ticking = isolated.difference(tickless);
        unless_empty(
            &ticking,
            &|| format!("CPUs {ticking} are isolated, but keep their tick"),
            "the timer interrupts a vCPU there 100 to 1000 times a second",
            format!("boot with nohz_full={}", isolated.union(tickless)),
        );
        let balanced = tickless.difference(isolated);
        unless_empty(
            &balanced,
            &|| format!("CPUs {balanced} are without a tick, but not isolated"),
            "the scheduler puts other threads there; with two threads on the CPU the tick is back",
            format!("boot with isolcpus=managed_irq,domain,{}", isolated.union(tickless)),
        );
    }
    // nohz_full= moves RCU's callbacks off its CPUs by itself (rcu_init_nohz, kernel/rcu/tree_nocb.h).
    let callbacks = isolated.difference(tickless).difference(&boot("rcu_nocbs"));
    if boot_cpus(&facts.host.cmdline, "rcu_nocbs").is_some() || !facts.host.cmdline.contains("rcu_nocbs=") {
        unless_empty(
            &callbacks,
            &|| format!("RCU callbacks run on isolated CPUs {callbacks}"),
            "a softirq of up to some 100 us takes the CPU from its vCPU whenever memory was freed there",
            format!("boot with rcu_nocbs={isolated}"),
        );
    }
    let irqaffinity = boot("irqaffinity");
    let interrupted = irqaffinity.intersection(isolated);
    let rest = irqaffinity.difference(isolated);
    unless_empty(
        &interrupted,
        &|| format!("irqaffinity= names isolated CPUs {interrupted}"),
        "device interrupts start there",
        if rest.is_empty() {
            "boot with irqaffinity=LIST of CPUs that are not isolated".to_owned()
        } else {
            format!("boot with irqaffinity={rest}")
        },
    );
    if !isolated.is_empty() {
        let open = alone(facts).difference(isolated);
        unless_empty(
            &open,
            &|| format!("vCPUs have CPUs {open} alone, which are not among the isolated ones"),
            "the scheduler puts other threads beside them",
            format!(
                "pin these vCPUs to isolated CPUs ({isolated}), or boot with isolcpus= that names theirs too"
            ),
        );
    }
    findings
}

/// Where interrupts start that a driver asks for from now on.
pub(super) fn new_interrupts(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "new interrupts";
    let Some(mask) = &facts.topology.default_affinity else {
        return vec![Finding::ok(CHECK, "their CPUs are not known")];
    };
    let disturbed = mask.intersection(&alone(facts));
    if disturbed.is_empty() {
        return vec![Finding::ok(
            CHECK,
            format!("start on CPUs {}", mask.intersection(&facts.topology.online())),
        )];
    }
    let online = facts.topology.online();
    let rest = mask.intersection(&online).difference(&disturbed);
    let rest = if rest.is_empty() { online.difference(&disturbed) } else { rest };
    vec![Finding::warn(
        CHECK,
        format!("may start on CPUs {disturbed}, which vCPUs have alone"),
        "each one takes the CPU from its vCPU for some us",
        format!(
            "vfprobe apply keeps them off; by hand: echo {} >/proc/irq/default_smp_affinity",
            rest.to_mask()
        ),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_boot_options() {
        for (cmdline, expected) in [
            ("isolcpus=2-3", Some("2-3")),
            ("quiet isolcpus=managed_irq,domain,2,5-6 x", Some("2,5-6")),
            ("isolcpus=nohz,domain,1", Some("1")),
            ("isolcpus=1-31:1/2", None),
            ("isolcpus=all", None),
            ("xisolcpus=1", None),
            ("isolcpus", None),
        ] {
            let found = boot_cpus(cmdline, "isolcpus").map(|cpus| cpus.to_string());
            assert_eq!(found.as_deref(), expected, "{cmdline}");
        }
    }
}
