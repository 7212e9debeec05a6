//! Choosing CPUs for vCPUs: near the VF, on distinct cores, away from CPU 0 and from other guests.

use super::PlanError;
use crate::model::owners::Owners;
use crate::model::topology::{Cpu, Guest, Topology, Vf};
use crate::model::{CpuId, CpuSet};

/// The CPU where the kernel puts what it does not place elsewhere; the last to give to a guest.
const BOOT_CPU: CpuId = CpuId(0);

/// Chooses one CPU per vCPU of `guest`, in vCPU order, none of them in `taken` or in `kept`, which is for the host; where
/// nothing is, at least one free CPU is left.
///
/// Pins that somebody made already are kept when each vCPU has a CPU of its own: whoever made them had a reason, and
/// planning again after these choices were applied must change nothing.
pub(super) fn choose(
    topology: &Topology,
    owners: &Owners,
    guest: &Guest,
    taken: &CpuSet,
    kept: &CpuSet,
) -> Result<Vec<CpuId>, PlanError> {
    let taken = &taken.union(kept);
    if let Some(pins) = present_pins(topology, guest, taken) {
        return Ok(pins);
    }
    let free: Vec<&Cpu> = topology.cpus.iter().filter(|c| c.online && !taken.contains(c.id)).collect();
    if free.len() < guest.vcpus.len() + usize::from(kept.is_empty()) {
        return Err(PlanError::HostTooSmall {
            guest: guest.name.clone(),
            vcpus: guest.vcpus.len(),
            free: free.len(),
        });
    }
    let near = near_cpus(topology, guest);
    let boot_core: CpuSet =
        topology.cpus.iter().filter(|c| c.siblings.contains(BOOT_CPU)).map(|c| c.id).collect();
    let mut chosen: Vec<CpuId> = Vec::new();
    for vcpu in &guest.vcpus {
        let limit = owners.cpusets.get(&vcpu.thread.tid);
        let busy: CpuSet = taken.iter().chain(chosen.iter().copied()).collect();
        // Smaller is better: each entry is a fault, the gravest first.
        let faults = |cpu: &Cpu| {
            (
                cpu.id == BOOT_CPU,
                !cpu.siblings.intersection(&busy).is_empty(),
                !near.contains(cpu.id),
                !cpu.isolated,
                boot_core.contains(cpu.id),
                cpu.id,
            )
        };
        let best = free
            .iter()
            .filter(|c| !chosen.contains(&c.id) && limit.is_none_or(|limit| limit.cpus.contains(c.id)))
            .min_by_key(|c| faults(c));
        match (best, limit) {
            (Some(best), _) => chosen.push(best.id),
            (None, Some(limit)) => {
                return Err(PlanError::NoneInCpuset {
                    guest: guest.name.clone(),
                    what: format!("vCPU {}", vcpu.index),
                    limit: Box::new(limit.clone()),
                });
            }
            (None, None) => unreachable!("more CPUs are free than the guest has vCPUs"),
        }
    }
    Ok(chosen)
}

/// The CPUs that the vCPUs are pinned to, when that is one each, all different, online and nobody else's.
pub(super) fn present_pins(topology: &Topology, guest: &Guest, taken: &CpuSet) -> Option<Vec<CpuId>> {
    let free = topology.online().difference(taken);
    let mut pins = Vec::new();
    for vcpu in &guest.vcpus {
        let cpu = vcpu.thread.affinity.only().filter(|cpu| free.contains(*cpu) && !pins.contains(cpu))?;
        pins.push(cpu);
    }
    (pins.len() < topology.online().len()).then_some(pins)
}

/// Online CPUs near the guest's first VF whose place is known; all of them when none is.
fn near_cpus(topology: &Topology, guest: &Guest) -> CpuSet {
    guest
        .vfs
        .iter()
        .map(|vf| local_cpus(topology, vf))
        .find(|local| !local.is_empty())
        .unwrap_or_else(|| topology.online())
}

/// CPUs on the VF's node, or else those that the device calls local; empty when neither is known.
fn local_cpus(topology: &Topology, vf: &Vf) -> CpuSet {
    match vf.numa_node {
        Some(node) => {
            topology.cpus.iter().filter(|c| c.online && c.node == Some(node)).map(|c| c.id).collect()
        }
        None => vf.local_cpus.intersection(&topology.online()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{HostShape, guest, host};

    #[test]
    fn choices() {
        let flat = HostShape { nodes: 1, cores: 4, threads: 1 };
        let smt = HostShape { nodes: 1, cores: 4, threads: 2 };
        let two_nodes = HostShape { nodes: 2, cores: 2, threads: 2 };
        let check = |shape: HostShape, vf_node: Option<u32>, vcpus: u32, taken: &str, expect: &str| {
            let mut topology = host(shape);
            topology.guests.push(guest("vm1", vcpus, vf_node));
            let (kept, taken) = (CpuSet::new(), taken.parse().unwrap());
            let got = choose(&topology, &Owners::default(), &topology.guests[0], &taken, &kept);
            let got = match got {
                Ok(cpus) => cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
                Err(error) => error.to_string().split(';').next().unwrap().to_owned(),
            };
            assert_eq!(got, expect, "{shape:?} {vf_node:?} {vcpus} {taken:?}");
        };
        check(flat, None, 1, "", "1");
        check(flat, None, 3, "", "1,2,3");
        check(flat, None, 1, "1", "2");
        check(
            flat,
            None,
            4,
            "",
            "guest \"vm1\" needs 4 CPUs of its own and one must remain for the host, but only 4 of the online CPUs \
             are neither promised to another guest nor kept for the host",
        );
        // Siblings are n and n + cores: distinct cores first, the boot CPU's core after the others.
        check(smt, None, 3, "", "1,2,3");
        check(smt, None, 4, "", "1,2,3,4");
        check(smt, None, 5, "", "1,2,3,4,5");
        check(smt, None, 2, "1", "2,3");
        // Node 1 holds CPUs 2, 3 and their siblings 6, 7.
        check(two_nodes, Some(1), 2, "", "2,3");
        check(two_nodes, Some(0), 2, "", "1,4");
        check(two_nodes, Some(1), 3, "", "2,3,1");
    }

    #[test]
    fn present_pins_stay_unless_they_clash() {
        let mut topology = host(HostShape { nodes: 1, cores: 4, threads: 1 });
        topology.guests.push(guest("vm1", 2, None));
        let mut check = |first: &str, second: &str, taken: &str, expect: [u32; 2]| {
            topology.guests[0].vcpus[0].thread.affinity = first.parse().unwrap();
            topology.guests[0].vcpus[1].thread.affinity = second.parse().unwrap();
            let (kept, taken) = (CpuSet::new(), taken.parse().unwrap());
            let got = choose(&topology, &Owners::default(), &topology.guests[0], &taken, &kept);
            assert_eq!(got, Ok(expect.map(CpuId).to_vec()), "{first} {second} {taken}");
        };
        check("3", "0", "", [3, 0]);
        check("3", "3", "", [1, 2]);
        check("3", "0-3", "", [1, 2]);
        check("3", "1", "1", [2, 3]);
        check("3", "9", "", [1, 2]);
    }

    #[test]
    fn isolated_cpus_come_first_among_equals() {
        let mut topology = host(HostShape { nodes: 1, cores: 4, threads: 1 });
        topology.cpus[3].isolated = true;
        topology.guests.push(guest("vm1", 1, None));
        assert_eq!(
            choose(&topology, &Owners::default(), &topology.guests[0], &CpuSet::new(), &CpuSet::new()),
            Ok(vec![CpuId(3)])
        );
    }
}
