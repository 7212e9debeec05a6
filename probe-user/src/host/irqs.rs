//! Interrupts of the host with their affinities, and the vector slots of VFs among them.

use super::{
    HostError, HostRoot,
    interrupts::{InterruptRow, VfioInterrupt, VfioKind, parse_interrupts, parse_vfio_action},
    mode::Posting,
    reader::{Reader, read_text},
};
use crate::model::{
    CpuSet, IrqNumber, PciAddress,
    topology::{DeliveryMode, Irq, Slot},
};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;

/// All numbered interrupts, ascending.
pub(super) fn read_irqs(reader: &mut Reader<'_>) -> Vec<Irq> {
    let path = reader.proc("interrupts");
    let Some(text) = reader.text(&path) else {
        reader
            .problems
            .push(format!("{}: not there, so no interrupt is known: mount procfs", path.display()));
        return Vec::new();
    };
    let (rows, refused) = parse_interrupts(&text);
    for source in refused {
        let path = path.clone();
        reader.note::<()>(Err(HostError::Parse { path, source }));
    }
    let mut irqs: Vec<Irq> = rows.into_iter().map(|row| with_affinity(reader, row)).collect();
    irqs.sort_by_key(|irq| irq.number);
    irqs
}

/// How often each numbered interrupt has fired since boot, all CPUs together; nothing where that cannot be read.
#[must_use]
pub fn read_interrupt_counts(root: &HostRoot) -> BTreeMap<IrqNumber, u64> {
    let text = read_text(&root.proc.join("interrupts")).ok().flatten().unwrap_or_default();
    parse_interrupts(&text).0.into_iter().map(|row| (row.number, row.count)).collect()
}

/// Interrupts whose mask nobody may write: newer kernels tell so that they place them themselves, as managed or per-CPU ones
/// (kernel/irq/proc.c, `register_irq_proc()`).
#[must_use]
pub fn read_fixed_irqs(root: &HostRoot, irqs: &[Irq]) -> BTreeSet<IrqNumber> {
    let is_fixed = |number: &IrqNumber| {
        let path = root.proc.join(format!("irq/{number}/smp_affinity_list"));
        std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o222 == 0)
    };
    irqs.iter().map(|irq| irq.number).filter(is_fixed).collect()
}

fn with_affinity(reader: &mut Reader<'_>, row: InterruptRow) -> Irq {
    let InterruptRow { number, count, chip, actions } = row;
    let dir = reader.proc(format!("irq/{number}"));
    let affinity = reader.cpu_list(&dir.join("smp_affinity_list"));
    // Empty until the interrupt has been started.
    let effective = reader.cpu_list(&dir.join("effective_affinity_list")).filter(|cpus| !cpus.is_empty());
    Irq { number, chip, actions, affinity, effective_affinity: effective, count }
}

/// The vector slots among the interrupts, by device, ascending.
pub(super) fn read_slots(
    reader: &mut Reader<'_>,
    irqs: &[Irq],
    posting: &Posting,
) -> BTreeMap<PciAddress, Vec<Slot>> {
    let mut slots: BTreeMap<PciAddress, Vec<Slot>> = BTreeMap::new();
    for irq in irqs {
        let Some(VfioInterrupt { device, kind, slot }) = parse_vfio_action(&irq.actions) else { continue };
        if kind == VfioKind::Intx {
            continue;
        }
        slots.entry(device).or_default().push(Slot {
            slot,
            irq: irq.number,
            affinity: irq.affinity.clone(),
            effective_affinity: irq.effective_affinity.clone(),
            host_vector: read_host_vector(reader, irq),
            guest_vector: None,
            vcpu: None,
            mode: match posting {
                _ if !irq.chip.starts_with("IR-") => DeliveryMode::Remapped,
                Posting::Impossible(_) => DeliveryMode::Remapped,
                Posting::Possible => DeliveryMode::Unknown,
            },
        });
    }
    for of_device in slots.values_mut() {
        of_device.sort_by_key(|slot| slot.slot);
    }
    slots
}

/// The APIC vector, where the kernel was built to tell (CONFIG_GENERIC_IRQ_DEBUGFS; Debian's is not).
fn read_host_vector(reader: &mut Reader<'_>, irq: &Irq) -> Option<u8> {
    let path = reader.sys(format!("kernel/debug/irq/irqs/{}", irq.number));
    // Not being root is no news here: it is said once where it matters, and the vector is optional.
    parse_host_vector(&std::fs::read_to_string(path).ok()?)
}

/// Finds ` Vector:    34` (`x86_vector_debug_show()`, arch/x86/kernel/apic/vector.c); 0 means none is assigned.
fn parse_host_vector(text: &str) -> Option<u8> {
    let value = text.lines().find_map(|line| line.trim_start().strip_prefix("Vector:"))?;
    value.trim().parse().ok().filter(|vector| *vector != 0)
}

/// `/proc/irq/default_smp_affinity`.
pub(super) fn read_default_affinity(reader: &mut Reader<'_>) -> Option<CpuSet> {
    let path = reader.proc("irq/default_smp_affinity");
    reader.value(&path, "a CPU mask", |text| CpuSet::parse_mask(text).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Tree;
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_mask_that_nobody_may_write_is_fixed() {
        let tree = Tree::new();
        let irq = |(number, mode): (u32, Option<u32>)| {
            let path = format!("proc/irq/{number}/smp_affinity_list");
            if let Some(mode) = mode {
                tree.file(&path, "2\n");
                set_permissions(tree.path(&path), Permissions::from_mode(mode)).unwrap();
            }
            let (number, chip, actions) = (IrqNumber(number), "IR-PCI-MSIX".to_owned(), "x".to_owned());
            Irq { number, chip, actions, affinity: None, effective_affinity: None, count: 0 }
        };
        let irqs = [(44, Some(0o644)), (45, Some(0o444)), (46, None)].map(irq);
        assert_eq!(read_fixed_irqs(&tree.root(), &irqs), BTreeSet::from([IrqNumber(45)]));
    }

    #[test]
    fn host_vectors() {
        for (text, expected) in [
            (
                "handler:  handle_edge_irq\n    chip:    APIC\n     Vector:    34\n     Target:     2\n",
                Some(34),
            ),
            ("Vector:     0\n", None),
            ("Vector: 300\n", None),
            ("handler: x\n", None),
            ("", None),
        ] {
            assert_eq!(parse_host_vector(text), expected, "{text:?}");
        }
    }
}
