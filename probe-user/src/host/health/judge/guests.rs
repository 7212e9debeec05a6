//! Guests and their VFs: who they are, and on which CPUs they run.

use super::super::{Finding, HealthFacts};
use super::{alone, isolated};
use crate::model::{
    CpuId, CpuSet, NumaNode,
    topology::{Guest, Vf},
};
use std::collections::{BTreeMap, BTreeSet};

fn all_vfs(facts: &HealthFacts) -> impl Iterator<Item = &Vf> {
    facts.topology.guests.iter().flat_map(|guest| &guest.vfs).chain(&facts.topology.free_vfs)
}

pub(super) fn sriov(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "SR-IOV";
    let cost = "there are no VF interrupts to observe";
    let mut drivers: BTreeMap<&str, usize> = BTreeMap::new();
    for vf in all_vfs(facts) {
        *drivers.entry(vf.driver.as_deref().unwrap_or("no driver")).or_default() += 1;
    }
    if drivers.is_empty() {
        return vec![match facts.sriov.first() {
            Some(pf) => Finding::warn(
                CHECK,
                format!("{} has no VFs (it can have {})", pf.address, pf.total),
                cost,
                format!("echo 1 >/sys/bus/pci/devices/{}/sriov_numvfs", pf.address),
            ),
            None => Finding::warn(
                CHECK,
                "no device that can have VFs",
                cost,
                "enable SR-IOV in the firmware; cargo xtask lab emulates such a host",
            ),
        }];
    }
    let shown: Vec<String> = drivers.iter().map(|(driver, count)| format!("{count} {driver}")).collect();
    let found = format!("VFs: {}", shown.join(", "));
    if drivers.keys().any(|driver| driver.contains("vfio")) {
        return vec![Finding::ok(CHECK, found)];
    }
    let first = all_vfs(facts).next().map(|vf| vf.address.to_string()).unwrap_or_default();
    vec![Finding::warn(
        CHECK,
        found,
        "no VF can be given to a guest by vfio",
        format!(
            "modprobe vfio-pci; echo vfio-pci >/sys/bus/pci/devices/{first}/driver_override; \
             echo {first} >/sys/bus/pci/devices/{first}/driver/unbind; echo {first} >/sys/bus/pci/drivers_probe"
        ),
    )]
}

pub(super) fn guests(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "guests";
    let guests = &facts.topology.guests;
    let with_vf = guests.iter().filter(|guest| !guest.vfs.is_empty()).count();
    if let ([], Some(problem)) = (&guests[..], facts.topology.problems.first()) {
        let cost = "guests and their VFs may be missing from every answer";
        return vec![Finding::warn(CHECK, format!("not known: {problem}"), cost, "run as root")];
    }
    if with_vf == 0 {
        return vec![Finding::warn(
            CHECK,
            format!("{} running, none holds a VF", guests.len()),
            "there is nothing to observe yet",
            "start a guest with -device vfio-pci,host=ADDRESS",
        )];
    }
    vec![Finding::ok(CHECK, format!("{} running, {with_vf} with VFs", guests.len()))]
}

/// Nodes of the CPUs that a guest's vCPUs may run on.
fn nodes_of(facts: &HealthFacts, guest: &Guest) -> BTreeSet<NumaNode> {
    let cpus: CpuSet = guest.vcpus.iter().flat_map(|vcpu| vcpu.thread.affinity.iter()).collect();
    facts.topology.cpus.iter().filter(|cpu| cpus.contains(cpu.id)).filter_map(|cpu| cpu.node).collect()
}

pub(super) fn numa(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "NUMA";
    let mut findings = Vec::new();
    for guest in &facts.topology.guests {
        let nodes = nodes_of(facts, guest);
        for vf in &guest.vfs {
            let Some(node) = vf.numa_node.filter(|node| !nodes.is_empty() && !nodes.contains(node)) else {
                continue;
            };
            findings.push(Finding::warn(
                CHECK,
                format!("VF {} is on node {node}, no vCPU of {} may run there", vf.address, guest.name),
                "interrupts and packets cross the link between the nodes",
                format!("pin its vCPUs to CPUs {}", vf.local_cpus),
            ));
        }
    }
    for guest in facts.topology.guests.iter().filter(|guest| !guest.vfs.is_empty()) {
        let nodes = nodes_of(facts, guest);
        if nodes.len() > 1 {
            let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            findings.push(Finding::warn(
                CHECK,
                format!("vCPUs of {} may run on nodes {}", guest.name, nodes.join(", ")),
                "its memory lies on one of them: a vCPU on another reads it across the link between the nodes",
                "pin its vCPUs to the CPUs of one node, its VF's, and bind its memory there (numactl --membind)",
            ));
        }
    }
    if findings.is_empty() {
        findings
            .push(Finding::ok(CHECK, "no guest with a VF is spread over nodes or kept away from its VF's"));
    }
    findings
}

pub(super) fn smt(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "SMT";
    let cpus = &facts.topology.cpus;
    if cpus.iter().all(|cpu| cpu.siblings.len() < 2) {
        return vec![Finding::ok(CHECK, "off: every CPU is a core of its own")];
    }
    let mut on_core: BTreeMap<&CpuSet, (CpuSet, Vec<String>)> = BTreeMap::new();
    for (name, cpu) in pinned(facts) {
        if let Some(cpu) = cpus.iter().find(|known| known.id == cpu) {
            let (taken, names) = on_core.entry(&cpu.siblings).or_default();
            taken.insert(cpu.id);
            names.push(name);
        }
    }
    let isolated = isolated(facts);
    let mut open = CpuSet::new();
    let mut findings = Vec::new();
    for (core, (taken, names)) in on_core {
        // Those on one and the same CPU are the business of the pins.
        if taken.len() > 1 {
            findings.push(Finding::warn(
                CHECK,
                format!("vCPUs {} are pinned to one core (CPUs {core})", names.join(", ")),
                "they take turns in its execution units",
                "pin them to different cores",
            ));
        }
        open =
            open.union(&core.difference(&taken).difference(&isolated).intersection(&facts.topology.online()));
    }
    if !open.is_empty() {
        findings.push(Finding::warn(
            CHECK,
            format!("other threads may run on CPUs {open}, beside pinned vCPUs on the same cores"),
            "whatever runs there takes turns with the vCPU in the core's execution units",
            format!("boot with isolcpus= that names CPUs {open} too, or take them offline while guests run"),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "on, no core is shared by pinned vCPUs"));
    }
    findings
}

/// vCPUs that are pinned to one CPU, and that CPU.
fn pinned(facts: &HealthFacts) -> impl Iterator<Item = (String, CpuId)> {
    facts.topology.guests.iter().flat_map(|guest| {
        let vcpus = guest.vcpus.iter();
        vcpus
            .filter_map(|vcpu| Some((format!("{}/{}", guest.name, vcpu.index), vcpu.thread.affinity.only()?)))
    })
}

pub(super) fn pins(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "pins";
    let (alone, isolated) = (alone(facts), isolated(facts));
    let mut findings = Vec::new();
    for guest in &facts.topology.guests {
        // Where nothing balances, a thread stays on the CPU on which it started, together with the others.
        let (stuck, floating): (Vec<_>, Vec<_>) = guest
            .vcpus
            .iter()
            .filter(|vcpu| vcpu.thread.affinity.len() > 1)
            .partition(|vcpu| vcpu.thread.affinity.difference(&isolated).is_empty());
        if let Some(vcpu) = stuck.first() {
            findings.push(Finding::warn(
                CHECK,
                format!(
                    "{} vCPUs of {} may run on several isolated CPUs ({})",
                    stuck.len(),
                    guest.name,
                    vcpu.thread.affinity
                ),
                "the scheduler does not balance there: they may stay together on one CPU and wait for each other",
                pin_command(&guest.name),
            ));
        }
        if !floating.is_empty() && !guest.vfs.is_empty() {
            findings.push(Finding::warn(
                CHECK,
                format!(
                    "{} of {} vCPUs of {} have no CPU of their own",
                    floating.len(),
                    guest.vcpus.len(),
                    guest.name
                ),
                "the scheduler moves them, with cold caches after each move, and interrupts do not follow",
                pin_command(&guest.name),
            ));
        }
        // Threads that may also run elsewhere are not put on isolated CPUs.
        let disturbing: Vec<CpuSet> = guest
            .threads
            .iter()
            .map(|thread| {
                let elsewhere = thread.affinity.difference(&isolated);
                if elsewhere.is_empty() { thread.affinity.clone() } else { elsewhere }
            })
            .map(|cpus| cpus.intersection(&alone))
            .filter(|cpus| !cpus.is_empty())
            .collect();
        if !disturbing.is_empty() {
            let cpus = disturbing.iter().fold(CpuSet::new(), |all, cpus| all.union(cpus));
            findings.push(Finding::warn(
                CHECK,
                format!(
                    "{} other threads of {} may run on CPUs {cpus}, which vCPUs have alone",
                    disturbing.len(),
                    guest.name
                ),
                "an emulator, I/O or vhost thread there stops the vCPU for its time slice, up to some ms",
                pin_command(&guest.name),
            ));
        }
    }
    let mut on_cpu: BTreeMap<CpuId, Vec<String>> = BTreeMap::new();
    for (name, cpu) in pinned(facts) {
        on_cpu.entry(cpu).or_default().push(name);
    }
    for (cpu, names) in on_cpu.into_iter().filter(|(_, names)| names.len() > 1) {
        findings.push(Finding::warn(
            CHECK,
            format!("vCPUs {} are pinned to CPU {cpu}", names.join(", ")),
            "while one runs the others wait, a time slice of some ms each",
            "pin each vCPU to a CPU of its own: vfprobe apply --guest G --cpus auto --placement keep",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            match alone.is_empty() {
                true => "no guest with a VF lacks any".to_owned(),
                false => format!("vCPUs have CPUs {alone} alone"),
            },
        ));
    }
    findings
}

/// Pins vCPUs and moves a guest's other threads away.
fn pin_command(guest: &str) -> String {
    format!("vfprobe apply --guest {guest} --cpus auto --placement keep")
}
