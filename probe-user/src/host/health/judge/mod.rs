//! Facts in, findings out. Pure; one function for each thing that is looked at, in the order they are printed.

mod delivery;
mod guests;
mod isolation;
mod memory;
mod observing;
mod power;
mod services;

use super::{Finding, HealthFacts};
use crate::model::CpuSet;

/// Judges a host. Every check gives at least one finding, also when all is well.
#[must_use]
pub fn examine(facts: &HealthFacts) -> Vec<Finding> {
    CHECKS.iter().flat_map(|check| check(facts)).collect()
}

const CHECKS: &[fn(&HealthFacts) -> Vec<Finding>] = &[
    observing::privileges,
    observing::lockdown,
    observing::btf,
    observing::tracefs,
    observing::bpf,
    delivery::kvm,
    delivery::virtual_interrupts,
    delivery::iommu,
    delivery::posting,
    delivery::vectors,
    guests::sriov,
    guests::guests,
    guests::pins,
    guests::numa,
    services::irqbalance,
    services::tuned,
    isolation::isolation,
    isolation::new_interrupts,
    guests::smt,
    delivery::threaded_irqs,
    power::governor,
    power::idle_states,
    power::halt_polling,
    memory::huge_pages,
    memory::merging,
    memory::balancing,
    services::watchdogs,
    observing::reading,
];

/// CPUs that a vCPU is pinned to alone: what else happens there, the vCPU waits for.
fn alone(facts: &HealthFacts) -> CpuSet {
    let online = facts.topology.online();
    let vcpus = facts.topology.guests.iter().flat_map(|guest| &guest.vcpus);
    vcpus.filter_map(|vcpu| vcpu.thread.affinity.only()).filter(|cpu| online.contains(*cpu)).collect()
}

/// CPUs whose sleep and speed matter to guests: those that vCPUs have alone, or all online ones while there are none.
fn watched(facts: &HealthFacts) -> CpuSet {
    let alone = alone(facts);
    if alone.is_empty() { facts.topology.online() } else { alone }
}

/// CPUs that the scheduler does not balance over.
fn isolated(facts: &HealthFacts) -> CpuSet {
    facts.topology.cpus.iter().filter(|cpu| cpu.isolated).map(|cpu| cpu.id).collect()
}
