//! Where the interrupts of a guest's VFs go.

use super::pins::Assigned;
use super::planner::{Draft, Ground};
use super::{IrqTarget, Need, Placement, Step, Target, VectorName};
use crate::model::topology::{Cpu, DeliveryMode, Slot, Topology, Vf};
use crate::model::{CpuId, CpuSet, VcpuId};

/// Adds the steps that bring each vector of the guest's VFs to its place.
pub(super) fn place(draft: &mut Draft<'_>, topology: &Topology, assigned: &Assigned<'_>) {
    for own in &assigned.policy.vfs {
        if !assigned.guest.vfs.iter().any(|vf| vf.address == own.address) {
            draft.note(format!(
                "VF {} has a table in the policy, but is not one of {}'s",
                own.address, assigned.guest.name
            ));
        }
    }
    let wanted = |vf: &&Vf| assigned.policy.placement_of(vf.address) != Placement::Keep;
    if assigned.policy.placement == Placement::Keep && assigned.policy.vfs.is_empty() {
        return;
    }
    if assigned.guest.vfs.is_empty() {
        draft.note(format!("{} owns no VF: there is no interrupt to place", assigned.guest.name));
    }
    for vf in assigned.guest.vfs.iter().filter(wanted) {
        if vf.slots.is_empty() {
            draft.note(format!(
                "VF {} has no interrupt in use: its driver in the guest is not up",
                vf.address
            ));
        }
        for (order, slot) in vf.slots.iter().enumerate() {
            place_slot(draft, topology, assigned, vf, order, slot);
        }
    }
}

fn place_slot(
    draft: &mut Draft<'_>,
    topology: &Topology,
    assigned: &Assigned<'_>,
    vf: &Vf,
    order: usize,
    slot: &Slot,
) {
    let name = format!("VF {} slot {}", vf.address, slot.slot);
    if slot.mode == DeliveryMode::Posted {
        draft.note(format!("{name} is posted: hardware follows the vCPU, so its interrupt is left"));
        return;
    }
    let (Some(affinity), Some(irq)) = (&slot.affinity, topology.irq(slot.irq)) else {
        draft.note(format!("{name}: the mask of its interrupt {} could not be read: left", slot.irq));
        return;
    };
    let vcpu = target_vcpu(assigned, slot, order);
    let near = || near(topology, draft.ground, vf, vcpu.as_ref(), order);
    let own = || vcpu.as_ref().map(|v| (CpuSet::from(v.cpu), v.why.clone()));
    let because = |why: &str, (cpus, reason): (CpuSet, String)| (cpus, format!("{why}: {reason}"));
    let place = match assigned.policy.placement_of(vf.address) {
        Placement::Own => own(),
        Placement::Near => Some(near()),
        Placement::Auto => Some(match (draft.virtual_apic, own()) {
            (Some(false), Some(own)) => {
                because("without APICv or AVIC the vCPU leaves the guest anyway", own)
            }
            (Some(false), None) => near(),
            (Some(true), _) => because("APICv or AVIC lets the guest go on", near()),
            (None, _) => because("whether APICv or AVIC is on is not known", near()),
        }),
        Placement::Housekeeping => {
            Some((draft.ground.housekeeping.clone(), "any housekeeping CPU may take it".to_owned()))
        }
        Placement::Keep => None,
    };
    let Some((new, reason)) = place else {
        draft.note(format!(
            "{name}: no vCPU of {} has a CPU of its own, so there is no own CPU",
            assigned.guest.name
        ));
        return;
    };
    let target = IrqTarget {
        number: slot.irq,
        actions: irq.actions.clone(),
        vector: Some(VectorName { vf: vf.address, slot: slot.slot }),
    };
    draft.push(Step {
        target: Target::Irq(target),
        now: affinity.clone().into(),
        effective: slot.effective_affinity.clone(),
        new: new.into(),
        need: Need::Required,
        reason,
    });
}

/// The vCPU that a vector is for, its CPU, and how that is known.
struct TargetVcpu {
    cpu: CpuId,
    why: String,
}

/// The vCPU that the guest chose for the vector, or, as long as that has not been seen, one by the order of the queues:
/// drivers give queue n's vector to vCPU n where nobody says otherwise.
fn target_vcpu(assigned: &Assigned<'_>, slot: &Slot, order: usize) -> Option<TargetVcpu> {
    let cpu_of = |vcpu: VcpuId| assigned.pins.get(&vcpu).copied();
    if let Some(vcpu) = slot.vcpu
        && let Some(cpu) = cpu_of(vcpu)
    {
        return Some(TargetVcpu {
            cpu,
            why: format!("CPU {cpu} runs vCPU {vcpu}, which the interrupt is for"),
        });
    }
    let vcpus = &assigned.guest.vcpus;
    let vcpu = vcpus.get(order.checked_rem(vcpus.len())?)?.index;
    let cpu = cpu_of(vcpu)?;
    Some(TargetVcpu {
        cpu,
        why: format!("CPU {cpu} runs vCPU {vcpu}; its target is not known yet, so by queue order"),
    })
}

/// One housekeeping CPU close to the vCPU's CPU, or to the VF when the vCPU has none. Vectors are spread over those
/// that are equally close.
fn near(
    topology: &Topology,
    ground: &Ground,
    vf: &Vf,
    vcpu: Option<&TargetVcpu>,
    order: usize,
) -> (CpuSet, String) {
    let (llc, node, anchor) = match vcpu.and_then(|v| topology.cpus.iter().find(|c| c.id == v.cpu)) {
        Some(cpu) => (cpu.llc.clone(), node_cpus(topology, cpu), format!("CPU {}", cpu.id)),
        None => (CpuSet::new(), vf.local_cpus.clone(), format!("VF {}", vf.address)),
    };
    // A sibling of a guarded CPU would slow down the very vCPU that the interrupt is for.
    let beside: CpuSet = topology
        .cpus
        .iter()
        .filter(|c| !c.siblings.intersection(&ground.guarded).is_empty())
        .map(|c| c.id)
        .collect();
    let tiers = [
        (llc.difference(&beside), "shares the last-level cache with"),
        (llc, "shares the last-level cache (and a core with a guarded CPU) with"),
        (node.difference(&beside), "is on the NUMA node of"),
        (node, "is on the NUMA node (and shares a core with a guarded CPU) of"),
    ];
    for (tier, relation) in tiers {
        if let Some(cpu) = pick(&tier.intersection(&ground.housekeeping), order) {
            return (cpu.into(), format!("housekeeping CPU {cpu} {relation} {anchor}"));
        }
    }
    let cpu = pick(&ground.housekeeping, order).expect("planning stops when no housekeeping CPU is left");
    (
        cpu.into(),
        format!("no housekeeping CPU shares cache or node with {anchor}; CPU {cpu} is as good as any"),
    )
}

/// The `order`-th CPU, counted around; the lowest one, usually the boot CPU, only when it is alone.
fn pick(cpus: &CpuSet, order: usize) -> Option<CpuId> {
    let preferred: Vec<CpuId> = cpus.iter().filter(|cpu| *cpu != CpuId(0)).collect();
    match preferred.len() {
        0 => cpus.first(),
        n => preferred.get(order % n).copied(),
    }
}

fn node_cpus(topology: &Topology, cpu: &Cpu) -> CpuSet {
    match cpu.node {
        Some(node) => topology.cpus.iter().filter(|c| c.node == Some(node)).map(|c| c.id).collect(),
        None => CpuSet::new(),
    }
}
