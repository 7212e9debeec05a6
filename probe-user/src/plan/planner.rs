//! From facts and a policy to a plan: the order of the parts, and what they share.

use super::error::Fault;
use super::pins::{self, Assigned};
use super::{FoundKnobs, ThreadTarget, helpers, keep_off, knobs, owners, vectors};
use super::{Isolate, Need, Others, PLAN_SCHEMA, Plan, PlanError, Policy, Role, Step, Target, TargetKey};
use crate::model::owners::Owners;
use crate::model::seen::Seen;
use crate::model::topology::{Guest, Thread, Topology};
use crate::model::{CpuSet, HostThread, IrqNumber, Pid};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of the host.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// CPUs, guests, VFs, interrupts.
    pub topology: &'a Topology,
    /// All threads of the host but vfprobe's own; needed only to isolate threads, else empty.
    pub threads: &'a [HostThread],
    /// Knobs with what they are set to; needed only for those that the policy names.
    pub knobs: &'a FoundKnobs,
    /// Who else sets such things here.
    pub owners: &'a Owners,
    /// Whether KVM delivers interrupts to running vCPUs without an exit (APICv, AVIC); `None` when that is not known.
    pub virtual_apic: Option<bool>,
    /// What was seen of vectors before, where somebody looked: the reasons tell it. What follows from it is in the topology.
    pub seen: Option<&'a Seen>,
    /// What the kernel has refused to move before.
    pub immovable: &'a BTreeSet<TargetKey>,
    /// Interrupts whose mask the kernel offers for reading only. Older kernels do not tell, and refuse the write.
    pub fixed: &'a BTreeSet<IrqNumber>,
}

/// The CPUs a plan is about.
pub(super) struct Ground {
    pub(super) guarded: CpuSet,
    /// As the policy says; else online and not guarded, without isolated CPUs as long as others remain.
    pub(super) housekeeping: CpuSet,
    /// Whether the policy says so: then what is moved goes to them and to no other.
    named: bool,
}

/// Steps and notes while they are collected.
pub(super) struct Draft<'a> {
    pub(super) ground: &'a Ground,
    pub(super) owners: &'a Owners,
    pub(super) virtual_apic: Option<bool>,
    pub(super) seen: Option<&'a Seen>,
    immovable: &'a BTreeSet<TargetKey>,
    pub(super) fixed: &'a BTreeSet<IrqNumber>,
    /// What is set as wanted already.
    held: BTreeSet<TargetKey>,
    steps: Vec<Step>,
    notes: Vec<String>,
}

/// Plans what has to change for `policy` to hold. Equal facts give equal plans, and the plan for a host on which the
/// policy holds already is empty.
///
/// # Errors
/// [`PlanError`] says which wish this host cannot meet.
pub fn plan(facts: &Facts<'_>, policy: &Policy) -> Result<Plan, PlanError> {
    draft(facts, policy, &BTreeMap::new()).map(|wanted| wanted.plan).map_err(|fault| fault.error)
}

/// A plan, and what it asks for that is there already.
pub(super) struct Wanted {
    pub(super) plan: Plan,
    /// Targets that are set as wanted.
    pub(super) wanted: BTreeSet<TargetKey>,
}

/// The same with what it is made from. Guests that are `held` stay as they are and keep the CPUs that were promised to them.
pub(super) fn draft(
    facts: &Facts<'_>,
    policy: &Policy,
    held: &BTreeMap<Pid, CpuSet>,
) -> Result<Wanted, Fault> {
    let topology = facts.topology;
    let assigned = pins::assign(topology, facts.owners, policy, held)?;
    let ground = ground(topology, policy, &assigned)?;
    for Assigned { policy, guest, .. } in assigned.iter().filter(|assigned| !assigned.held) {
        helpers::check(topology, facts.owners, policy, guest, &ground.guarded)
            .map_err(|error| Fault::of(guest, error))?;
    }
    let mut draft = Draft {
        ground: &ground,
        owners: facts.owners,
        virtual_apic: facts.virtual_apic,
        seen: facts.seen,
        held: BTreeSet::new(),
        immovable: facts.immovable,
        fixed: facts.fixed,
        steps: Vec::new(),
        notes: Vec::new(),
    };
    let ours: Vec<&Guest> = assigned.iter().map(|a| a.guest).collect();

    owners::name_others(&mut draft, &assigned);
    owners::irqbalance(&mut draft, policy, topology, &assigned);
    // Others leave first, so that a vCPU never moves to a CPU that is still busy. Undoing goes the other way.
    if ground.guarded.is_empty() {
        draft.note("no vCPU has a CPU of its own, so no CPU is guarded".to_owned());
    }
    if policy.default_affinity == Others::Move {
        keep_off::default_affinity(&mut draft, topology);
    }
    if policy.irqs == Others::Move {
        keep_off::irqs(&mut draft, topology, &ours);
    }
    if policy.isolate == Isolate::Threads {
        keep_off::threads(&mut draft, topology, facts.threads, &ours);
    }
    knobs::set(&mut draft, &policy.knobs, facts.knobs);
    for assigned in assigned.iter().filter(|assigned| !assigned.held) {
        pin_threads(&mut draft, assigned);
        vectors::place(&mut draft, topology, assigned);
    }

    let Draft { mut steps, notes, held, .. } = draft;
    if policy.limits.partial {
        // What the kernel refuses is left, and the rest is in force without it.
        steps.iter_mut().for_each(|step| step.need = Need::BestEffort);
    }
    let plan = Plan {
        schema: PLAN_SCHEMA,
        config: policy.name.clone(),
        guests: ours.iter().map(|g| g.name.clone()).collect(),
        guarded: ground.guarded,
        housekeeping: ground.housekeeping,
        steps,
        notes,
    };
    Ok(Wanted { plan, wanted: held })
}

fn ground(topology: &Topology, policy: &Policy, assigned: &[Assigned<'_>]) -> Result<Ground, PlanError> {
    let online = topology.online();
    let guarded = assigned.iter().fold(CpuSet::new(), |all, a| all.union(&a.guarded));
    if let Some(named) = &policy.housekeeping {
        pins::check_cpus(topology, named.iter())?;
        let clash = |a: &Assigned<'_>| Some((a.guest.name.clone(), a.guarded.intersection(named).first()?));
        return match assigned.iter().find_map(clash) {
            Some((guest, cpu)) => Err(PlanError::HousekeepingGuarded { guest, cpu }),
            None => Ok(Ground { guarded, housekeeping: named.clone(), named: true }),
        };
    }
    let rest = online.difference(&guarded);
    if rest.is_empty() {
        return Err(PlanError::NoHousekeeping(online.to_string()));
    }
    let isolated: CpuSet = topology.cpus.iter().filter(|c| c.isolated).map(|c| c.id).collect();
    let open = rest.difference(&isolated);
    Ok(Ground { guarded, housekeeping: if open.is_empty() { rest } else { open }, named: false })
}

/// The guest's own threads: first those that are not vCPUs leave, then the vCPUs get their CPUs.
fn pin_threads(draft: &mut Draft<'_>, assigned: &Assigned<'_>) {
    let guest = assigned.guest;
    helpers::place(draft, &assigned.policy.threads, guest);
    for vcpu in &guest.vcpus {
        let Some(&cpu) = assigned.pins.get(&vcpu.index) else { continue };
        let role = Role::Vcpu { guest: guest.name.clone(), index: vcpu.index };
        draft.push(Step {
            target: thread_target(guest.pid, &vcpu.thread, role),
            now: vcpu.thread.affinity.clone().into(),
            effective: None,
            new: cpu.into(),
            need: Need::Required,
            reason: format!("CPU {cpu} is promised to this vCPU"),
        });
    }
    let spare: CpuSet =
        assigned.guarded.iter().filter(|cpu| !assigned.pins.values().any(|p| p == cpu)).collect();
    if !spare.is_empty() {
        draft.note(format!("CPUs {spare} are guarded for {} though no vCPU is pinned to them", guest.name));
    }
}

pub(super) fn thread_target(pid: Pid, thread: &Thread, role: Role) -> Target {
    let Thread { tid, comm, start_time, affinity: _ } = thread;
    Target::Thread(ThreadTarget { pid, tid: *tid, start_time: *start_time, comm: comm.clone(), role })
}

impl Draft<'_> {
    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Adds a step, unless nothing would change or the kernel is known to refuse it.
    pub(super) fn push(&mut self, step: Step) {
        if step.now == step.new {
            self.held.insert(step.target.key());
            return;
        }
        if self.is_immovable(&step.target.key()) {
            let way_out = match &step.target {
                Target::Irq(irq) if irq.number != IrqNumber(0) => format!("; {}", self.booted()),
                _ => String::new(),
            };
            self.notes
                .push(format!("{} cannot be moved: the kernel refused it before{way_out}", step.target));
            return;
        }
        self.steps.push(step);
    }

    /// The way out for an interrupt that the kernel places itself (Documentation/admin-guide/kernel-parameters.txt, isolcpus).
    pub(super) fn booted(&self) -> String {
        let guarded = &self.ground.guarded;
        format!(
            "booted with isolcpus=managed_irq,domain,{guarded}, a managed one fires there only for these CPUs' own I/O"
        )
    }

    /// Whether the kernel has refused to move something before.
    pub(super) fn is_immovable(&self, key: &TargetKey) -> bool {
        self.immovable.contains(key)
    }

    /// Adds a step that takes guarded CPUs out of a mask, and those that are not for housekeeping where the policy says which
    /// are. A mask without guarded CPUs is left.
    pub(super) fn keep_off(
        &mut self,
        target: Target,
        now: &CpuSet,
        effective: Option<&CpuSet>,
        need: Need,
        reason: String,
    ) {
        let Ground { guarded, housekeeping, named } = self.ground;
        if now.intersection(guarded).is_empty() {
            return;
        }
        let limit = match &target {
            Target::Thread(thread) => self.owners.cpusets.get(&thread.tid),
            Target::DefaultAffinity | Target::Irq(_) | Target::Knob(_) => None,
        };
        let open = limit.map_or_else(|| housekeeping.clone(), |limit| limit.cpus.intersection(housekeeping));
        if let Some(limit) = limit.filter(|_| open.is_empty()) {
            let by = &limit.by;
            return self.notes.push(format!("{target} stays on guarded CPUs: {by} allows it no other CPU"));
        }
        // The CPUs of a queue or of a watchdog stay what they are; interrupts and threads would be moved to any that is left.
        let rest = match target {
            Target::DefaultAffinity | Target::Irq(_) | Target::Thread(_) if *named => {
                now.intersection(housekeeping)
            }
            _ => now.difference(guarded),
        };
        // What remains must hold a CPU that works: a mask of offline CPUs only is refused by the kernel.
        let usable = !rest.intersection(&open).is_empty();
        let new = if usable { rest } else { open };
        let (now, new) = (now.clone().into(), new.into());
        self.push(Step { target, now, effective: effective.cloned(), new, need, reason });
    }
}
