//! How fast a CPU is, and how fast it wakes: governor, idle states, polling before sleep.

use super::super::{Finding, HealthFacts};
use super::watched;
use crate::model::CpuSet;

/// Idle states that take no longer than this to leave do not matter beside what KVM itself needs for a wakeup.
const QUICK_US: u32 = 10;

pub(super) fn governor(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "governor";
    let policies = &facts.tuning.frequency;
    if policies.is_empty() {
        return vec![Finding::ok(CHECK, "Linux does not choose frequencies here")];
    }
    let watched = watched(facts);
    let mut slow = CpuSet::new();
    let mut names: Vec<&str> = Vec::new();
    for policy in policies {
        // Where hardware chooses by itself, the preference decides and the governor says little.
        let fast = policy.governor == "performance" || policy.preference.as_deref() == Some("performance");
        let cpus = policy.cpus.intersection(&watched);
        if !fast && !cpus.is_empty() {
            slow = slow.union(&cpus);
            names.push(&policy.governor);
        }
    }
    names.sort_unstable();
    names.dedup();
    if slow.is_empty() {
        return vec![Finding::ok(CHECK, format!("performance on CPUs {watched}"))];
    }
    vec![Finding::warn(
        CHECK,
        format!("{} on CPUs {slow}", names.join(", ")),
        "after a pause the CPU works at a low frequency until the governor looks again, up to some 10 ms",
        format!("cpupower -c {slow} frequency-set -g performance"),
    )]
}

pub(super) fn idle_states(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "C-states";
    let watched = watched(facts);
    let idle = &facts.tuning.idle;
    if idle.is_empty() {
        return vec![Finding::ok(CHECK, "Linux does not choose idle states here")];
    }
    let of_watched = || idle.iter().filter(|(cpu, _)| watched.contains(**cpu));
    let Some((_, deepest)) = of_watched().max_by_key(|(_, state)| state.exit_us) else {
        return vec![Finding::ok(CHECK, format!("none on CPUs {watched}"))];
    };
    let found = format!("{} is the deepest, left within {} us", deepest.name, deepest.exit_us);
    if deepest.exit_us <= QUICK_US {
        return vec![Finding::ok(CHECK, found)];
    }
    let slow: CpuSet =
        of_watched().filter(|(_, state)| state.exit_us > QUICK_US).map(|(cpu, _)| *cpu).collect();
    vec![Finding::warn(
        CHECK,
        format!("CPUs {slow}: {found}"),
        format!("an interrupt for a halted vCPU waits up to {} us for its CPU to wake", deepest.exit_us),
        format!("cpupower -c {slow} idle-set -D {}", QUICK_US + 1),
    )]
}

pub(super) fn halt_polling(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "halt polling";
    let value = facts.host.kvm_parameters.get("kvm.halt_poll_ns").and_then(|value| value.parse::<u64>().ok());
    vec![match value {
        Some(0) => Finding::warn(
            CHECK,
            "off (kvm.halt_poll_ns=0)",
            "a vCPU that halts sleeps at once: each interrupt for it pays the scheduler's wakeup and the C-state",
            "echo 200000 >/sys/module/kvm/parameters/halt_poll_ns",
        ),
        Some(ns) => Finding::ok(CHECK, format!("up to {} us before a halted vCPU sleeps", ns / 1000)),
        None => Finding::ok(CHECK, "not known: KVM is not loaded"),
    }]
}
