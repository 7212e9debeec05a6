//! Which CPU each vCPU gets, and with it which CPUs are guarded. Wishes are checked against the host here.

use super::error::Fault;
use super::{GuestPolicy, Pins, PlanError, Policy, auto_pin, named};
use crate::model::owners::{Cpuset, Owners};
use crate::model::topology::{Guest, Topology};
use crate::model::{CpuId, CpuSet, Pid, VcpuId};
use std::collections::{BTreeMap, btree_map::Entry};

/// A guest of the policy, found on the host, with its CPUs.
pub(super) struct Assigned<'a> {
    pub(super) policy: &'a GuestPolicy,
    pub(super) guest: &'a Guest,
    /// The CPU of each vCPU that has one.
    pub(super) pins: BTreeMap<VcpuId, CpuId>,
    /// CPUs promised to this guest.
    pub(super) guarded: CpuSet,
    /// It stays as it is: its part of the policy cannot be met.
    pub(super) held: bool,
}

/// Finds the policy's guests and gives them their CPUs: those named in the policy first, then automatic choices. Guests that
/// are `held` have those that were promised to them and that they have.
pub(super) fn assign<'a>(
    topology: &'a Topology,
    owners: &Owners,
    policy: &'a Policy,
    held: &BTreeMap<Pid, CpuSet>,
) -> Result<Vec<Assigned<'a>>, Fault> {
    if policy.guests.is_empty() {
        return Err(PlanError::NoGuest.into());
    }
    let found = named::find(topology, &policy.guests)?;

    let mut cpus: BTreeMap<usize, Vec<CpuId>> = BTreeMap::new();
    let mut taken = pinned_by_others(topology, &found);
    let kept = policy.housekeeping.clone().unwrap_or_default();
    for (at, (wanted, guest)) in found.iter().enumerate() {
        if let Some(promised) = held.get(&guest.pid) {
            taken = taken.union(promised).union(&pinned_alone(topology, guest));
            continue;
        }
        match &wanted.pins {
            Pins::Auto => {}
            Pins::Keep => {
                taken = taken.union(&pinned_alone(topology, guest));
            }
            Pins::Cpus(list) => {
                check_list(topology, guest, list)
                    .and_then(|()| check_owners(owners, guest, list))
                    .map_err(|error| Fault::of(guest, error))?;
                let promised: CpuSet = list.iter().copied().collect();
                if let Some((cpu, first)) = promised_before(&found[..at], &cpus, &promised) {
                    let second = guest.name.clone();
                    return Err(Fault::of(guest, PlanError::CpuTwice { cpu, first, second }));
                }
                taken = taken.union(&promised);
                cpus.insert(at, list.clone());
            }
        }
    }
    // Guests that have CPUs of their own keep them: a guest that is started later must not drive another one away.
    let automatic: Vec<(usize, &Guest)> = found
        .iter()
        .enumerate()
        .filter(|(_, (wanted, guest))| wanted.pins == Pins::Auto && !held.contains_key(&guest.pid))
        .map(|(at, (_, guest))| (at, *guest))
        .collect();
    for (at, guest) in &automatic {
        let taken_here = with_containers(&taken, owners, guest);
        if let Some(list) = auto_pin::present_pins(topology, guest, &taken_here.union(&kept)) {
            taken = taken.union(&list.iter().copied().collect());
            cpus.insert(*at, list);
        }
    }
    for (at, guest) in automatic {
        if let Entry::Vacant(entry) = cpus.entry(at) {
            let taken_here = with_containers(&taken, owners, guest);
            let list = auto_pin::choose(topology, owners, guest, &taken_here, &kept)
                .map_err(|error| Fault::of(guest, error))?;
            taken = taken.union(&list.iter().copied().collect());
            entry.insert(list);
        }
    }

    Ok(found
        .into_iter()
        .enumerate()
        .map(|(at, (policy, guest))| match cpus.remove(&at) {
            Some(list) => Assigned {
                policy,
                guest,
                pins: guest.vcpus.iter().map(|v| v.index).zip(list.iter().copied()).collect(),
                guarded: list.into_iter().collect(),
                held: false,
            },
            None => Assigned {
                policy,
                guest,
                pins: own_cpus(topology, guest),
                guarded: held
                    .get(&guest.pid)
                    .map_or_else(CpuSet::new, CpuSet::clone)
                    .union(&pinned_alone(topology, guest)),
                held: held.contains_key(&guest.pid),
            },
        })
        .collect())
}

/// Whether all of these are CPUs of this host that are online.
pub(super) fn check_cpus(
    topology: &Topology,
    cpus: impl IntoIterator<Item = CpuId>,
) -> Result<(), PlanError> {
    for cpu in cpus {
        match topology.cpus.iter().find(|c| c.id == cpu) {
            None => {
                let present: CpuSet = topology.cpus.iter().map(|c| c.id).collect();
                return Err(PlanError::UnknownCpu { cpu, present: present.to_string() });
            }
            Some(known) if !known.online => return Err(PlanError::OfflineCpu(cpu)),
            Some(_) => {}
        }
    }
    Ok(())
}

fn check_list(topology: &Topology, guest: &Guest, list: &[CpuId]) -> Result<(), PlanError> {
    check_cpus(topology, list.iter().copied())?;
    if list.len() < guest.vcpus.len() {
        return Err(PlanError::TooFewCpus {
            guest: guest.name.clone(),
            vcpus: guest.vcpus.len(),
            cpus: list.len(),
        });
    }
    Ok(())
}

/// CPUs that a guest cannot have: those of others, and those that containers have alone, unless it runs in a pod itself;
/// then its control group says which are its own.
fn with_containers(taken: &CpuSet, owners: &Owners, guest: &Guest) -> CpuSet {
    if in_pod(owners, guest) { taken.clone() } else { taken.union(&owners.containers) }
}

fn in_pod(owners: &Owners, guest: &Guest) -> bool {
    let mut tids = guest.vcpus.iter().map(|vcpu| vcpu.thread.tid);
    tids.any(|tid| owners.cpusets.get(&tid).is_some_and(Cpuset::is_of_pod))
}

/// Whether others allow the vCPUs these CPUs.
fn check_owners(owners: &Owners, guest: &Guest, list: &[CpuId]) -> Result<(), PlanError> {
    for (vcpu, cpu) in guest.vcpus.iter().zip(list) {
        if let Some(limit) = owners.cpusets.get(&vcpu.thread.tid).filter(|set| !set.cpus.contains(*cpu)) {
            return Err(PlanError::OutsideCpuset {
                guest: guest.name.clone(),
                what: format!("vCPU {}", vcpu.index),
                cpu: *cpu,
                limit: Box::new(limit.clone()),
            });
        }
    }
    let of_container = list.iter().find(|cpu| owners.containers.contains(**cpu));
    match of_container.filter(|_| !in_pod(owners, guest)) {
        Some(cpu) => Err(PlanError::OfContainer { guest: guest.name.clone(), cpu: *cpu }),
        None => Ok(()),
    }
}

/// The first CPU of `wanted` that an earlier guest's list holds, and that guest.
fn promised_before(
    earlier: &[(&GuestPolicy, &Guest)],
    cpus: &BTreeMap<usize, Vec<CpuId>>,
    wanted: &CpuSet,
) -> Option<(CpuId, String)> {
    cpus.iter().find_map(|(at, list)| {
        let cpu = list.iter().copied().find(|cpu| wanted.contains(*cpu))?;
        Some((cpu, earlier.get(*at)?.1.name.clone()))
    })
}

/// CPUs on which vCPUs of guests outside the policy are pinned alone: somebody promised them.
fn pinned_by_others(topology: &Topology, found: &[(&GuestPolicy, &Guest)]) -> CpuSet {
    topology
        .guests
        .iter()
        .filter(|g| !found.iter().any(|(_, ours)| ours.pid == g.pid))
        .fold(CpuSet::new(), |all, guest| all.union(&pinned_alone(topology, guest)))
}

/// Online CPUs on which a vCPU of the guest is pinned alone.
fn pinned_alone(topology: &Topology, guest: &Guest) -> CpuSet {
    own_cpus(topology, guest).into_values().collect()
}

/// The online CPU of each vCPU that is pinned to one.
fn own_cpus(topology: &Topology, guest: &Guest) -> BTreeMap<VcpuId, CpuId> {
    let online = topology.online();
    let own = guest.vcpus.iter().filter_map(|v| Some((v.index, v.thread.affinity.only()?)));
    own.filter(|(_, cpu)| online.contains(*cpu)).collect()
}
