//! Virtual functions: every PCI device that says which physical function it belongs to.

use super::{
    reader::{Reader, link_name},
    vfio::VfioFile,
};
use crate::model::{NumaNode, PciAddress, VfIndex, topology::Vf};
use std::{collections::BTreeMap, path::Path};

/// A VF, and the vfio files that stand for it.
#[derive(Debug)]
pub(super) struct FoundVf {
    pub(super) vf: Vf,
    pub(super) vfio: Vec<VfioFile>,
}

/// What all VFs of one physical function share.
#[derive(Debug)]
struct PhysicalFunction {
    netdev: Option<String>,
    index_of: BTreeMap<PciAddress, VfIndex>,
}

/// All VFs of the host, by address. Their slots are still empty.
pub(super) fn read_vfs(reader: &mut Reader<'_>) -> Vec<FoundVf> {
    let devices = reader.sys("bus/pci/devices");
    let mut pfs: BTreeMap<PciAddress, PhysicalFunction> = BTreeMap::new();
    let mut vfs = Vec::new();
    for name in reader.names(&devices) {
        let dir = devices.join(&name);
        let Some(pf) = link_name(&dir.join("physfn")).and_then(|n| n.parse::<PciAddress>().ok()) else {
            continue;
        };
        let Ok(address) = name.parse::<PciAddress>() else { continue };
        let known = pfs.entry(pf).or_insert_with(|| read_pf(reader, &devices.join(pf.to_string())));
        let (index, pf_netdev) = (known.index_of.get(&address).copied(), known.netdev.clone());
        vfs.push(read_vf(reader, &dir, address, pf, index, pf_netdev));
    }
    vfs.sort_by_key(|found| found.vf.address);
    vfs
}

fn read_pf(reader: &mut Reader<'_>, dir: &Path) -> PhysicalFunction {
    let mut index_of = BTreeMap::new();
    for index in reader.numbered(dir, "virtfn") {
        let target = link_name(&dir.join(format!("virtfn{index}")));
        if let Some(address) = target.and_then(|name| name.parse().ok()) {
            index_of.insert(address, VfIndex(index));
        }
    }
    // In switchdev mode the ports that represent VFs sit beside the PF's own; theirs are called `pf0vf3`
    // (Documentation/networking/switchdev.rst of the kernel sources).
    let net = dir.join("net");
    let netdev = reader.names(&net).into_iter().find(|name| {
        let port = std::fs::read_to_string(net.join(name).join("phys_port_name")).unwrap_or_default();
        !port.contains("pf")
    });
    PhysicalFunction { netdev, index_of }
}

fn read_vf(
    reader: &mut Reader<'_>,
    dir: &Path,
    address: PciAddress,
    pf: PciAddress,
    index: Option<VfIndex>,
    pf_netdev: Option<String>,
) -> FoundVf {
    let node = reader.value(&dir.join("numa_node"), "a node number or -1", |text| text.parse::<i64>().ok());
    let iommu_group = link_name(&dir.join("iommu_group")).and_then(|name| name.parse().ok());
    let mut vfio: Vec<VfioFile> = iommu_group.into_iter().map(VfioFile::Group).collect();
    vfio.extend(reader.numbered(&dir.join("vfio-dev"), "vfio").into_iter().map(VfioFile::Device));
    let vf = Vf {
        address,
        index,
        pf,
        pf_netdev,
        // -1 is the kernel's "no node", not node 0.
        numa_node: node.and_then(|n| u32::try_from(n).ok()).map(NumaNode),
        local_cpus: reader.cpu_list(&dir.join("local_cpulist")).unwrap_or_default(),
        driver: link_name(&dir.join("driver")),
        iommu_group,
        slots: Vec::new(),
        counters: None,
    };
    FoundVf { vf, vfio }
}
