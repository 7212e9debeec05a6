//! Hosts and guests for tests, made from a few numbers.

use crate::model::topology::{Cpu, DeliveryMode, Guest, Irq, Slot, Thread, Topology, Vcpu, Vf, Vmm};
use crate::model::{CpuId, CpuSet, HostThread, IrqNumber, NumaNode, PciAddress, Pid, Tid, VcpuId};
use crate::plan::{Plan, Target};

/// Shape of a host: CPUs are numbered as most firmware does, all first threads of all cores, then the second ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostShape {
    pub(crate) nodes: u32,
    /// Cores per node.
    pub(crate) cores: u32,
    /// Threads per core.
    pub(crate) threads: u32,
}

/// A host of that shape, without guests, all online, one last-level cache per node.
pub(crate) fn host(shape: HostShape) -> Topology {
    let HostShape { nodes, cores, threads } = shape;
    let total = nodes * cores;
    let core_of = |id: u32| id % total;
    let all = 0..total * threads;
    let cpus: Vec<Cpu> = all
        .clone()
        .map(|id| {
            let node = core_of(id) / cores;
            Cpu {
                id: CpuId(id),
                online: true,
                node: Some(NumaNode(node)),
                siblings: all.clone().filter(|o| core_of(*o) == core_of(id)).map(CpuId).collect(),
                llc: all.clone().filter(|o| core_of(*o) / cores == node).map(CpuId).collect(),
                isolated: false,
                nohz_full: false,
            }
        })
        .collect();
    let default_affinity = Some(cpus.iter().map(|c| c.id).collect());
    Topology { cpus, default_affinity, ..Topology::default() }
}

pub(crate) fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

pub(crate) fn thread(tid: u32, comm: &str, affinity: &str) -> Thread {
    Thread {
        tid: Tid(tid),
        comm: comm.to_owned(),
        start_time: 1000 + u64::from(tid),
        affinity: cpus(affinity),
    }
}

/// A guest whose pid is derived from its name, with `vcpus` vCPUs, one emulator thread and one VF without vectors.
pub(crate) fn guest(name: &str, vcpus: u32, vf_node: Option<u32>) -> Guest {
    let number = u32::from(*name.as_bytes().last().unwrap() - b'0');
    let pid = 1000 * number;
    Guest {
        name: name.to_owned(),
        uuid: None,
        pid: Pid(pid),
        start_time: 1000 + u64::from(pid),
        vmm: Vmm::Qemu,
        libvirt: false,
        vcpus: (0..vcpus)
            .map(|i| Vcpu { index: VcpuId(i), thread: thread(pid + 10 + i, &format!("CPU {i}/KVM"), "0-3") })
            .collect(),
        threads: vec![thread(pid, "qemu", "0-3")],
        nics: Vec::new(),
        vfs: vec![Vf {
            address: PciAddress {
                domain: 0,
                bus: 1,
                device: 0x10,
                function: u8::try_from(number % 8).unwrap(),
            },
            index: None,
            pf: PciAddress { domain: 0, bus: 1, device: 0, function: 0 },
            pf_netdev: Some("eth0".to_owned()),
            numa_node: vf_node.map(NumaNode),
            local_cpus: CpuSet::new(),
            driver: Some("vfio-pci".to_owned()),
            iommu_group: None,
            slots: Vec::new(),
            counters: None,
        }],
    }
}

/// An interrupt with a handler.
pub(crate) fn irq(number: u32, actions: &str, affinity: &str) -> Irq {
    Irq {
        number: IrqNumber(number),
        chip: "IR-PCI-MSIX".to_owned(),
        actions: actions.to_owned(),
        affinity: Some(cpus(affinity)),
        effective_affinity: cpus(affinity).first().map(CpuSet::from),
        count: 0,
    }
}

/// Gives the first VF of guest number `at` vectors on interrupts from `first_irq` on.
pub(crate) fn add_slots(topology: &mut Topology, at: usize, first_irq: u32, slots: u16, affinity: &str) {
    let vf = &mut topology.guests[at].vfs[0];
    for slot in 0..slots {
        let number = first_irq + u32::from(slot);
        let action = format!("vfio-msix[{slot}]({})", vf.address);
        let entry = irq(number, &action, affinity);
        vf.slots.push(Slot {
            slot,
            irq: entry.number,
            affinity: entry.affinity.clone(),
            effective_affinity: entry.effective_affinity.clone(),
            host_vector: None,
            guest_vector: None,
            vcpu: None,
            mode: DeliveryMode::Remapped,
        });
        topology.irqs.push(entry);
    }
}

/// The host after every step of a plan was carried out.
pub(crate) fn settled(
    topology: &Topology,
    threads: &[HostThread],
    plan: &Plan,
) -> (Topology, Vec<HostThread>) {
    let (mut topology, mut threads) = (topology.clone(), threads.to_vec());
    for step in &plan.steps {
        let Some(new) = step.new.cpus().cloned() else { continue };
        match &step.target {
            Target::DefaultAffinity => topology.default_affinity = Some(new.clone()),
            Target::Irq(target) => {
                let vfs = topology.guests.iter_mut().flat_map(|g| &mut g.vfs);
                for slot in vfs.flat_map(|vf| &mut vf.slots).filter(|slot| slot.irq == target.number) {
                    slot.affinity = Some(new.clone());
                }
                for irq in topology.irqs.iter_mut().filter(|irq| irq.number == target.number) {
                    irq.affinity = Some(new.clone());
                }
            }
            Target::Thread(target) => {
                let guests = topology.guests.iter_mut();
                let of_guests = guests
                    .flat_map(|g| g.threads.iter_mut().chain(g.vcpus.iter_mut().map(|v| &mut v.thread)));
                let all = of_guests.chain(threads.iter_mut().map(|t| &mut t.thread));
                for thread in all.filter(|t| t.tid == target.tid) {
                    thread.affinity = new.clone();
                }
            }
            Target::Knob(_) => {}
        }
    }
    (topology, threads)
}
