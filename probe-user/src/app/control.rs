//! Changing the host and undoing it: facts are read, a plan is made, carried out, compared and undone.

use super::vectors::Looked;
use crate::apply::Host as _;
use crate::apply::{
    self, Applied, ApplyError, InForce, LiveHost, Options, Reality, RollbackError, RollbackOptions,
    RollbackReport, StateDir, StateError, TargetError, verify,
};
use crate::host::{
    HostRoot, read_fixed_irqs, read_host_threads, read_knobs, read_owners, read_topology, read_virtual_apic,
};
use crate::model::Value;
use crate::model::owners::Owner;
use crate::model::seen::Seen;
use crate::model::topology::Topology;
use crate::plan::journal::{Journal, Standing};
use crate::plan::{Facts, Isolate, Plan, PlanError, Policy, Renewed, Target, plan, plan_again, writer_of};
use std::collections::BTreeSet;
use tracing::{debug, warn};

/// Reads the host and plans what has to change for a policy to hold, with what was seen of vectors before.
///
/// # Errors
/// [`PlanError`] says which wish this host cannot meet.
pub fn make_plan(
    root: &HostRoot,
    state: &StateDir,
    policy: &Policy,
    looked: &Looked,
) -> Result<Plan, PlanError> {
    let mut topology = read_topology(root);
    let seen = match looked {
        Looked::Seen(seen) => Some(seen),
        Looked::Needless | Looked::Not(_) => None,
    };
    if let Some(seen) = seen {
        seen.fill(&mut topology);
    }
    let make = |facts: &Facts<'_>, _: &[Standing]| plan(facts, policy);
    let (mut plan, problems) = plan_with_problems(root, state, policy, topology, seen, make);
    if let (Looked::Not(why), Ok(plan)) = (looked, &mut plan) {
        plan.notes.push(format!(
            "interrupts were not looked at ({why}): vectors are taken to be for vCPUs in queue order, and to pass the host"
        ));
    }
    if let Some(first) = problems.first() {
        let count = problems.len();
        warn!(
            "{count} facts of the host could not be read, so the plan may be incomplete; the first: {first}"
        );
    }
    plan.map_err(|error| match (error, problems.into_iter().next()) {
        // Without root no guest is seen; that none runs would be wrong to say.
        (PlanError::NoSuchGuest { wanted, known }, Some(problem)) if known.is_empty() => {
            PlanError::Hidden { wanted, problem }
        }
        (error, _) => error,
    })
}

/// The same for a topology that was read already, for one who keeps a policy: what is in force is that policy's, so what it
/// no longer asks goes back, and a guest that it cannot be kept for stays as it is. What could not be read is told at the
/// level of debugging only.
///
/// # Errors
/// [`PlanError`] says which wish this host cannot meet.
pub(super) fn plan_on(
    root: &HostRoot,
    state: &StateDir,
    policy: &Policy,
    topology: Topology,
) -> Result<Renewed, PlanError> {
    let renew = |facts: &Facts<'_>, standing: &[Standing]| plan_again(facts, policy, standing);
    plan_with_problems(root, state, policy, topology, None, renew).0
}

/// What `make` plans from the facts that a policy needs and what stands; and what could not be read for it.
fn plan_with_problems<T>(
    root: &HostRoot,
    state: &StateDir,
    policy: &Policy,
    mut topology: Topology,
    seen: Option<&Seen>,
    make: impl FnOnce(&Facts<'_>, &[Standing]) -> Result<T, PlanError>,
) -> (Result<T, PlanError>, Vec<String>) {
    let mut problems = std::mem::take(&mut topology.problems);
    let threads = match policy.isolate {
        Isolate::None => Vec::new(),
        Isolate::Threads => {
            let (threads, more) = read_host_threads(root);
            problems.extend(more);
            threads
        }
    };
    let knobs = if policy.knobs.are_asked() {
        let (knobs, more) = read_knobs(root, &topology.online(), &policy.knobs.netdevs());
        problems.extend(more);
        knobs
    } else {
        Vec::new()
    };
    let (owners, more) = read_owners(root, &topology.guests);
    problems.extend(more);
    for problem in &problems {
        debug!("not read: {problem}");
    }
    let journal = match state.load() {
        Ok(journal) => journal,
        // Planning changes nothing; whoever applies is told about the journal.
        Err(error) => {
            debug!("the journal was not considered: {error}");
            Journal::default()
        }
    };
    let immovable: BTreeSet<_> = journal.immovable().collect();
    let fixed = read_fixed_irqs(root, &topology.irqs);
    let facts = Facts {
        topology: &topology,
        threads: &threads,
        knobs: &knobs,
        owners: &owners,
        virtual_apic: read_virtual_apic(root),
        seen,
        immovable: &immovable,
        fixed: &fixed,
    };
    (make(&facts, &journal.standing()), problems)
}

/// Brings a plan into force, or leaves the host as it was.
///
/// # Errors
/// [`ApplyError`] says whether anything was changed and whether that was undone.
pub fn apply_plan(
    root: &HostRoot,
    state: &StateDir,
    plan: &Plan,
    options: &Options<'_>,
) -> Result<Applied, ApplyError> {
    let lock = state.lock()?;
    apply::apply(&LiveHost::new(root.clone()), plan, &lock, options)
}

/// Undoes everything on record.
///
/// # Errors
/// [`RollbackError`] when it could not begin; what could not be undone is in the report.
pub fn roll_back(
    root: &HostRoot,
    state: &StateDir,
    options: &RollbackOptions,
) -> Result<RollbackReport, RollbackError> {
    let lock = state.lock()?;
    apply::rollback(&LiveHost::new(root.clone()), &lock, options)
}

/// What rollback would undo, the last first. Takes no lock.
///
/// # Errors
/// [`StateError`] when the journal cannot be read.
pub fn on_record(state: &StateDir) -> Result<Vec<Standing>, StateError> {
    let mut standing = state.load()?.standing();
    standing.reverse();
    Ok(standing)
}

/// Why the configuration in force is not known.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The journal cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The host cannot be read.
    #[error(transparent)]
    Host(#[from] TargetError),
}

/// Names of the configurations in force as the journal has them, which takes no look at what they have set; `None` while one is
/// being applied or undone. Takes no lock.
///
/// # Errors
/// [`StatusError`] when the journal cannot be read.
pub(super) fn settled(root: &HostRoot, state: &StateDir) -> Result<Option<Vec<String>>, StatusError> {
    let boot_id = LiveHost::new(root.clone()).boot_id()?;
    Ok(apply::settled(&state.load()?, &boot_id))
}

/// The configuration in force beside what is found on the host; `None` when there is none. Takes no lock.
///
/// # Errors
/// [`StatusError`] when the journal or the host cannot be read.
pub fn in_force(root: &HostRoot, state: &StateDir) -> Result<Option<InForce>, StatusError> {
    let host = LiveHost::new(root.clone());
    let boot_id = host.boot_id()?;
    Ok(verify(&host, &state.load()?, &boot_id))
}

/// The same, with who has written what is not as asked.
///
/// # Errors
/// [`StatusError`] when the journal or the host cannot be read.
pub fn status(root: &HostRoot, state: &StateDir) -> Result<Option<InForce>, StatusError> {
    let mut found = in_force(root, state)?;
    let checks = found.iter_mut().flat_map(|found| &mut found.checks);
    let drifted: Vec<_> = checks.filter(|check| matches!(check.reality, Reality::Drifted { .. })).collect();
    let mut writers = None;
    for check in drifted {
        let Reality::Drifted { found } = &check.reality else { continue };
        let writers = writers.get_or_insert_with(|| Writers::read(root));
        check.owner = Some(writers.of(&check.target, &check.asked, found));
    }
    Ok(found)
}

/// Who may have written settings: all that runs here and does so.
pub(super) struct Writers {
    owners: crate::model::owners::Owners,
    topology: Topology,
}

impl Writers {
    pub(super) fn read(root: &HostRoot) -> Self {
        let topology = read_topology(root);
        let (owners, problems) = read_owners(root, &topology.guests);
        for problem in problems {
            debug!("not read: {problem}");
        }
        Self { owners, topology }
    }

    /// Who has set a target to what is found.
    pub(super) fn of(&self, target: &Target, asked: &Value, found: &Value) -> Owner {
        writer_of(target, asked, found, &self.owners, &self.topology.online())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::{LAB, Tree};
    use crate::model::topology::DeliveryMode;
    use crate::model::{CpuId, VcpuId};
    use crate::plan::{Pins, Placement};

    #[test]
    fn what_was_seen_is_planned_with() {
        let tree = Tree::captured(LAB);
        let (root, state) = (tree.root(), StateDir::new(tree.path("run/vfprobe")));
        let pins = Pins::Cpus(vec![CpuId(2), CpuId(3)]);
        let policy = Policy::for_guest("vm1", pins, Placement::Own);
        let vectors = |looked: &Looked| -> (Vec<String>, Vec<String>) {
            let plan = make_plan(&root, &state, &policy, looked).unwrap();
            let ours = |target: &Target| matches!(target, Target::Irq(irq) if irq.vector.is_some_and(|v| v.vf.function == 0));
            let steps = plan.steps.iter().filter(|step| ours(&step.target));
            (steps.map(|step| format!("{} {}", step.target, step.new)).collect(), plan.notes)
        };
        let named = |lines: &[String], slot: u16, cpu: u32| {
            lines.iter().any(|line| line.ends_with(&format!(" VF 0000:01:10.0 slot {slot} {cpu}")))
        };
        // Not looked at: by the order of the queues.
        let (by_order, notes) = vectors(&Looked::Not("why".to_owned()));
        assert!(named(&by_order, 0, 2) && named(&by_order, 1, 3), "{by_order:?}");
        assert!(
            notes.iter().any(|note| note.starts_with("interrupts were not looked at (why): ")),
            "{notes:?}"
        );
        // Slot 0 is for the other vCPU, and slot 1 is posted.
        let mut topology = read_topology(&root);
        let slots = &mut topology.guests[0].vfs[0].slots;
        (slots[0].vcpu, slots[1].mode) = (Some(VcpuId(1)), DeliveryMode::Posted);
        let (seen, notes) = vectors(&Looked::Seen(Seen::of(&topology)));
        assert_eq!(seen.len(), by_order.len() - 1, "{seen:?}");
        assert!(named(&seen, 0, 3), "{seen:?}");
        assert!(notes.iter().any(|note| note.contains("slot 1 is posted")), "{notes:?}");
    }
}
