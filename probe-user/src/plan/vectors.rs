//! Where the interrupts of a guest's VFs go.

use super::pins::Assigned;
use super::planner::{Draft, Ground};
use super::{IrqTarget, Need, Placement, Policy, Step, Target, VectorName, named};
use crate::model::seen::Seen;
use crate::model::topology::{Cpu, DeliveryMode, Slot, Topology, Vf};
use crate::model::{CpuId, CpuSet};
use std::time::Duration;

/// Whether the plan depends on what only a look at interrupts shows: whether hardware delivers them, and which of several
/// vCPUs they are for.
#[must_use]
pub fn wants_look(topology: &Topology, policy: &Policy) -> bool {
    let found = named::find(topology, &policy.guests).unwrap_or_default();
    found.iter().any(|(table, guest)| {
        guest.vfs.iter().any(|vf| {
            let to_be_known = |slot: &Slot| match table.placement_of(vf.address) {
                Placement::Keep => false,
                Placement::Housekeeping => slot.mode == DeliveryMode::Unknown,
                Placement::Own | Placement::Near | Placement::Auto => {
                    slot.mode == DeliveryMode::Unknown || (slot.vcpu.is_none() && guest.vcpus.len() > 1)
                }
            };
            vf.slots.iter().any(to_be_known)
        })
    })
}

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
    let vcpu = target_vcpu(draft.seen, assigned, vf, slot, order);
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
            "{name}: the vCPU of {} that it is for has no CPU of its own, so there is no own CPU",
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
/// drivers give queue n's vector to vCPU n where nobody says otherwise. `None` when that vCPU has no CPU of its own.
fn target_vcpu(
    seen: Option<&Seen>,
    assigned: &Assigned<'_>,
    vf: &Vf,
    slot: &Slot,
    order: usize,
) -> Option<TargetVcpu> {
    let vcpus = &assigned.guest.vcpus;
    let known = slot.vcpu.filter(|known| vcpus.iter().any(|vcpu| vcpu.index == *known));
    let by_order = || Some(vcpus.get(order.checked_rem(vcpus.len())?)?.index);
    let vcpu = known.or_else(by_order)?;
    let cpu = assigned.pins.get(&vcpu).copied()?;
    let because = match (known, vcpus.len()) {
        (_, 1) => ", the only one".to_owned(),
        (Some(_), _) => {
            let length = seen.and_then(Seen::length).unwrap_or_default();
            let share = seen.map_or((0, 0), |seen| seen.share(assigned.guest.pid, vf.address, slot, vcpu));
            sighting(share, length)
        }
        (None, _) => match seen.and_then(Seen::length) {
            Some(length) => format!("; by queue order: no interrupt was seen in {}", seconds(length)),
            None => "; by queue order: not seen".to_owned(),
        },
    };
    Some(TargetVcpu { cpu, why: format!("CPU {cpu} runs vCPU {vcpu}{because}") })
}

/// How it is known that a vector is for a vCPU: how many of its interrupts were, and of how many.
fn sighting((own, all): (u64, u64), length: Duration) -> String {
    let length = seconds(length);
    match (own, all) {
        (0, _) | (_, 0) => ", which the interrupt is for".to_owned(),
        (1, 1) => format!("; seen: the one interrupt of {length} was for it"),
        (own, all) if own == all => format!("; seen: all {all} interrupts of {length} were for it"),
        (own, all) => {
            format!("; seen: {own} of {all} interrupts of {length} were for it, the last among them")
        }
    }
}

fn seconds(length: Duration) -> String {
    format!("{} s", (length.as_secs_f64() * 10.0).round() / 10.0)
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
