//! Planning again while an earlier plan is in force: what is still wanted stays as it is, what nobody wants any more goes
//! back to what it was, and only the difference is changed.
//!
//! The plan is made from the host as it was before vfprobe changed it, since what keeps off guarded CPUs depends on the
//! CPUs it had. Pins are the exception: a guest that has CPUs of its own keeps them.

use super::error::Fault;
use super::journal::Standing;
use super::planner::{Wanted, draft};
use super::{Facts, Need, Plan, PlanError, Policy, Role, Step, Target, TargetKey, ThreadTarget};
use crate::model::owners::{Owners, bans_of, bans_value};
use crate::model::topology::{Guest, Thread, Topology};
use crate::model::{CpuSet, HostThread, Knob, Pid, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What has to change for a policy to hold for all guests that it can hold for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// The changes.
    pub plan: Plan,
    /// What somebody else has set, and the policy has nothing against.
    pub ceded: BTreeSet<TargetKey>,
    /// The other guests.
    pub held: Vec<Held>,
}

/// A guest whose part of a policy the host cannot meet. What was done for it stays, so that it is no worse off than before,
/// and others are served as if it were theirs to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its name.
    pub guest: String,
    /// Why.
    pub error: PlanError,
    /// What stays.
    pub targets: BTreeSet<TargetKey>,
}

/// Plans what has to change for `policy` to hold on a host where `standing` has been written.
///
/// # Errors
/// [`PlanError`] says which wish this host cannot meet, unless it is one guest's: such are held.
pub fn plan_again(facts: &Facts<'_>, policy: &Policy, standing: &[Standing]) -> Result<Renewed, PlanError> {
    let mut held = Vec::new();
    let mut promised: BTreeMap<Pid, CpuSet> = BTreeMap::new();
    loop {
        let Fault { guest, error } = match plan_beside(facts, policy, standing, &promised) {
            Ok((plan, ceded)) => return Ok(Renewed { plan, ceded, held }),
            Err(fault) => fault,
        };
        let Some(guest) = facts.topology.guests.iter().find(|found| Some(found.pid) == guest) else {
            return Err(error);
        };
        let own: Vec<&Standing> = standing.iter().filter(|item| is_of(&item.target, guest)).collect();
        let pins = own.iter().filter(|item| is_pin(&item.target)).filter_map(|item| item.asked().cpus());
        if promised.insert(guest.pid, pins.flat_map(CpuSet::iter).collect()).is_some() {
            return Err(error);
        }
        let targets = own.iter().map(|item| item.target.key()).collect();
        held.push(Held { guest: guest.name.clone(), error, targets });
    }
}

fn plan_beside(
    facts: &Facts<'_>,
    policy: &Policy,
    standing: &[Standing],
    held: &BTreeMap<Pid, CpuSet>,
) -> Result<(Plan, BTreeSet<TargetKey>), Fault> {
    let guests = facts.topology.guests.iter().filter(|guest| held.contains_key(&guest.pid));
    let guests: Vec<&Guest> = guests.collect();
    let is_held = |target: &Target| guests.iter().any(|guest| is_of(target, guest));
    let mut host = Host {
        topology: facts.topology.clone(),
        threads: facts.threads.to_vec(),
        knobs: facts.knobs.to_vec(),
        owners: facts.owners.clone(),
    };
    // What somebody else has set since is planned from there. One of our former values is as good as ours, whoever has
    // written it, but what is found is what a step has to expect.
    let found = standing.iter().filter(|item| !is_held(&item.target));
    let found = found.filter_map(|item| Some((item, host.value(&item.target)?)));
    let (ours, theirs): (Vec<(&Standing, Value)>, Vec<_>) =
        found.partition(|(item, found)| item.ours.contains(found));
    let mut written: BTreeMap<TargetKey, &Value> = BTreeMap::new();
    for (item, found) in ours.iter().filter(|(item, _)| !is_pin(&item.target)) {
        host.set(&item.target, &item.old);
        written.insert(item.target.key(), found);
    }
    let Host { topology, threads, knobs, owners } = &host;
    let past = Facts { topology, threads, knobs, owners, ..*facts };
    let Wanted { mut plan, mut wanted } = draft(&past, policy, held)?;

    // Set as wanted in the past is what was found there: what has been written over it goes back.
    wanted.retain(|key| !written.contains_key(key));
    wanted.extend(plan.steps.iter().map(|step| step.target.key()));
    for step in &mut plan.steps {
        if let Some(found) = written.get(&step.target.key()) {
            step.now = (*found).clone();
        }
    }
    let online = facts.topology.online();
    plan.steps.retain(|step| step.now != step.new && !is_all_there_is(step, &online));
    let unwanted = ours.iter().rev().filter(|(item, _)| !wanted.contains(&item.target.key()));
    plan.steps.extend(unwanted.filter(|(item, found)| item.old != *found).map(|(item, found)| Step {
        target: item.target.clone(),
        now: found.clone(),
        effective: None,
        new: item.old.clone(),
        need: Need::BestEffort,
        reason: "what it was before is what it is to be now".to_owned(),
    }));
    let theirs = theirs.iter().filter(|(item, found)| !may_be_the_kernels(item, found));
    let mut ceded: BTreeSet<TargetKey> = theirs.map(|(item, _)| item.target.key()).collect();
    for step in &plan.steps {
        ceded.remove(&step.target.key());
    }
    Ok((plan, ceded))
}

/// Whether a thread has all CPUs that it is to have but those that are offline: some kernels take these out of its mask,
/// and give them back only to one who asks again when they are online.
fn is_all_there_is(step: &Step, online: &CpuSet) -> bool {
    match (&step.target, step.new.cpus(), step.now.cpus()) {
        (Target::Thread(_), Some(new), Some(now)) => new.intersection(online) == *now,
        _ => false,
    }
}

/// Whether a thread has some of the CPUs that it was given: some kernels take offline ones out of its mask and do not give them
/// back. That stays a drift which can be seen.
fn may_be_the_kernels(item: &Standing, found: &Value) -> bool {
    match (&item.target, item.asked().cpus(), found.cpus()) {
        (Target::Thread(_), Some(asked), Some(found)) => found.is_subset(asked),
        _ => false,
    }
}

fn is_pin(target: &Target) -> bool {
    matches!(target, Target::Thread(ThreadTarget { role: Role::Vcpu { .. }, .. }))
}

/// Whether a target is one of a guest's: a thread of it or an interrupt of its VFs.
fn is_of(target: &Target, guest: &Guest) -> bool {
    match target {
        Target::Thread(ThreadTarget { pid, role, .. }) => match role {
            Role::Vcpu { guest: name, .. } | Role::Emulator { guest: name } => {
                *pid == guest.pid || *name == guest.name
            }
            Role::Host => false,
        },
        Target::Irq(irq) => {
            irq.vector.is_some_and(|vector| guest.vfs.iter().any(|vf| vf.address == vector.vf))
        }
        Target::DefaultAffinity | Target::Knob(_) => false,
    }
}

/// Facts that can be changed, to have the host as it was.
struct Host {
    topology: Topology,
    threads: Vec<HostThread>,
    knobs: Vec<(Knob, Value)>,
    owners: Owners,
}

impl Host {
    /// What a target is set to; `None` when it is not among the facts.
    fn value(&self, target: &Target) -> Option<Value> {
        let cpus = match target {
            Target::DefaultAffinity => self.topology.default_affinity.clone()?,
            Target::Irq(irq) => {
                let found = self.topology.irq(irq.number).filter(|found| found.actions == irq.actions)?;
                found.affinity.clone()?
            }
            Target::Thread(thread) => {
                let of_guests = self
                    .topology
                    .guests
                    .iter()
                    .flat_map(|g| g.threads.iter().chain(g.vcpus.iter().map(|vcpu| &vcpu.thread)));
                let mut all = of_guests.chain(self.threads.iter().map(|thread| &thread.thread));
                all.find(|found| is_thread(found, thread))?.affinity.clone()
            }
            Target::Knob(Knob::IrqbalanceBans { pid, start_time }) => {
                let running = self.owners.irqbalance.as_ref()?;
                let same = (running.pid, running.start_time) == (*pid, *start_time);
                return running.setup.as_ref().ok().filter(|_| same).map(|setup| bans_value(&setup.bans));
            }
            Target::Knob(knob) => {
                return self.knobs.iter().find(|(found, _)| found == knob).map(|(_, value)| value.clone());
            }
        };
        Some(cpus.into())
    }

    fn set(&mut self, target: &Target, value: &Value) {
        match (target, value) {
            (Target::DefaultAffinity, Value::Cpus(cpus)) => {
                self.topology.default_affinity = Some(cpus.clone());
            }
            (Target::Irq(irq), Value::Cpus(cpus)) => {
                let slots = self.topology.guests.iter_mut().flat_map(|guest| &mut guest.vfs);
                for slot in slots.flat_map(|vf| &mut vf.slots).filter(|slot| slot.irq == irq.number) {
                    slot.affinity = Some(cpus.clone());
                }
                for found in self.topology.irqs.iter_mut().filter(|found| found.number == irq.number) {
                    found.affinity = Some(cpus.clone());
                }
            }
            (Target::Thread(thread), Value::Cpus(cpus)) => self.set_thread(thread, cpus),
            (Target::Knob(Knob::IrqbalanceBans { .. }), list) => {
                let setup = self.owners.irqbalance.as_mut().and_then(|running| running.setup.as_mut().ok());
                if let (Some(setup), Some(bans)) = (setup, bans_of(list)) {
                    setup.bans = bans;
                }
            }
            (Target::Knob(knob), value) => {
                for (_, found) in self.knobs.iter_mut().filter(|(found, _)| found == knob) {
                    found.clone_from(value);
                }
            }
            (_, Value::Text { .. }) => {}
        }
    }

    fn set_thread(&mut self, thread: &ThreadTarget, cpus: &CpuSet) {
        let guests = self.topology.guests.iter_mut();
        let of_guests =
            guests.flat_map(|g| g.threads.iter_mut().chain(g.vcpus.iter_mut().map(|vcpu| &mut vcpu.thread)));
        let all = of_guests.chain(self.threads.iter_mut().map(|thread| &mut thread.thread));
        for found in all.filter(|found| is_thread(found, thread)) {
            found.affinity = cpus.clone();
        }
    }
}

fn is_thread(found: &Thread, thread: &ThreadTarget) -> bool {
    (found.tid, found.start_time) == (thread.tid, thread.start_time)
}

#[cfg(test)]
mod tests;
