//! Puts the host's pieces together: which guest owns which VF, and which interrupts are whose.

use super::{HostRoot, cpus::read_cpus, guests::read_guests, irqs, mode, reader::Reader, vfs::read_vfs};
use crate::model::topology::Topology;

/// Reads the whole topology. It never fails: what cannot be read is missing from the answer and named in its
/// `problems`.
#[must_use]
pub fn read_topology(root: &HostRoot) -> Topology {
    let mut reader = Reader::new(root);
    let cpus = read_cpus(&mut reader);
    let posting = mode::judge_posting(&mode::read_posting_facts(&mut reader));
    let irqs = irqs::read_irqs(&mut reader);
    let default_affinity = irqs::read_default_affinity(&mut reader);
    let mut slots = irqs::read_slots(&mut reader, &irqs, &posting);
    let mut guests = read_guests(&mut reader);
    let mut free_vfs = Vec::new();
    for found in read_vfs(&mut reader) {
        let mut vf = found.vf;
        vf.slots = slots.remove(&vf.address).unwrap_or_default();
        // An IOMMU group may hold devices that the group's owner did not take; those have another driver.
        let by_vfio = vf.driver.as_deref().is_some_and(|driver| driver.contains("vfio"));
        let owner = guests.iter_mut().find(|guest| guest.vfio.iter().any(|file| found.vfio.contains(file)));
        match owner.filter(|_| by_vfio || !vf.slots.is_empty()) {
            Some(owner) => owner.guest.vfs.push(vf),
            None => free_vfs.push(vf),
        }
    }
    let guests = guests.into_iter().map(|found| found.guest).collect();
    Topology { cpus, guests, free_vfs, irqs, default_affinity, problems: reader.problems }
}
