//! Keeping what does not belong to a guest off its CPUs: other interrupts, the default mask, other threads.

use super::planner::{Draft, thread_target};
use super::{IrqTarget, Need, Role, Target, VectorName};
use crate::model::topology::{Guest, Irq, Topology, Vf};
use crate::model::{HostThread, IrqNumber, Tid};
use std::collections::{BTreeMap, BTreeSet};

/// Takes guarded CPUs out of the mask that new interrupts get.
pub(super) fn default_affinity(draft: &mut Draft<'_>, topology: &Topology) {
    match &topology.default_affinity {
        Some(now) => draft.keep_off(
            Target::DefaultAffinity,
            now,
            None,
            Need::Required,
            "interrupts that appear later stay off guarded CPUs".to_owned(),
        ),
        None => draft.note("the default mask of new interrupts could not be read: left".to_owned()),
    }
}

/// Moves interrupts that are not vectors of our guests' VFs off guarded CPUs. Spare ones, without a handler, cannot
/// disturb anybody and are left.
pub(super) fn irqs(draft: &mut Draft<'_>, topology: &Topology, ours: &[&Guest]) {
    let own: BTreeSet<IrqNumber> = ours.iter().flat_map(|g| &g.vfs).flat_map(vf_irqs).collect();
    let vectors: BTreeMap<IrqNumber, VectorName> = all_vfs(topology).flat_map(named_slots).collect();
    for irq in topology.irqs.iter().filter(|irq| !irq.actions.is_empty() && !own.contains(&irq.number)) {
        let Irq { number, chip: _, actions, affinity, effective_affinity, count: _ } = irq;
        let Some(affinity) = affinity else {
            draft.note(format!("the mask of irq {number} {actions} could not be read: left"));
            continue;
        };
        let target =
            IrqTarget { number: *number, actions: actions.clone(), vector: vectors.get(number).copied() };
        let mut reason = "may fire on a guarded CPU".to_owned();
        if draft.fixed.contains(number) && *number != IrqNumber(0) {
            reason = format!("{reason}; will be left, since the kernel places it itself: {}", draft.booted());
        }
        draft.keep_off(Target::Irq(target), affinity, effective_affinity.as_ref(), Need::BestEffort, reason);
    }
}

/// Moves threads of other processes and of the kernel off guarded CPUs.
pub(super) fn threads(draft: &mut Draft<'_>, topology: &Topology, threads: &[HostThread], ours: &[&Guest]) {
    let guest_tids: BTreeSet<Tid> = ours
        .iter()
        .flat_map(|g| g.threads.iter().chain(g.vcpus.iter().map(|v| &v.thread)))
        .map(|t| t.tid)
        .collect();
    let foreign_vcpus: BTreeMap<Tid, String> = topology
        .guests
        .iter()
        .filter(|g| !ours.iter().any(|o| o.pid == g.pid))
        .flat_map(|g| g.vcpus.iter().map(|v| (v.thread.tid, format!("{} vCPU {}", g.name, v.index))))
        .collect();
    let mut bound = 0_usize;
    for HostThread { pid, parent: _, thread, kernel, bound: is_bound } in threads {
        let on_guarded = !thread.affinity.intersection(&draft.ground.guarded).is_empty();
        if !on_guarded || guest_tids.contains(&thread.tid) || ours.iter().any(|g| g.pid == *pid) {
            continue;
        }
        if *is_bound {
            bound += 1;
            continue;
        }
        // `irq/N-name`: the kernel moves it after its interrupt (kernel/irq/manage.c, irq_thread_check_affinity()).
        if *kernel && thread.comm.starts_with("irq/") {
            continue;
        }
        if let Some(vcpu) = foreign_vcpus.get(&thread.tid)
            && thread.affinity.is_subset(&draft.ground.guarded)
        {
            let cpus = &thread.affinity;
            draft.note(format!(
                "{vcpu} is pinned to guarded CPUs {cpus} and was left; give the guests distinct CPUs"
            ));
            continue;
        }
        draft.keep_off(
            thread_target(*pid, thread, Role::Host),
            &thread.affinity,
            None,
            Need::BestEffort,
            "may run on a guarded CPU".to_owned(),
        );
    }
    if bound > 0 {
        draft.note(format!("{bound} kernel threads are bound to guarded CPUs and cannot be moved"));
    }
}

fn all_vfs(topology: &Topology) -> impl Iterator<Item = &Vf> {
    topology.guests.iter().flat_map(|g| &g.vfs).chain(&topology.free_vfs)
}

fn vf_irqs(vf: &Vf) -> impl Iterator<Item = IrqNumber> + '_ {
    vf.slots.iter().map(|slot| slot.irq)
}

fn named_slots(vf: &Vf) -> impl Iterator<Item = (IrqNumber, VectorName)> + '_ {
    vf.slots.iter().map(|slot| (slot.irq, VectorName { vf: vf.address, slot: slot.slot }))
}
