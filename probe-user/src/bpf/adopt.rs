//! What a freshly loaded object takes over from the one before: what was seen once and is not told again.

use super::Loaded;
use crate::probes::{MapReader, ReadError};
use aya::maps::{Array, HashMap};
use probe_ebpf::probes::irq_delivery::{Apicv, IRQ_NUMBERS, KnownIrq, Posted};

impl Loaded {
    /// Takes over what was seen of interrupts when they were set up: who enabled them, their vectors, and what KVM told
    /// the IOMMU.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn adopt(&mut self, former: &Self, irqs: &[u32]) -> Result<(), ReadError> {
        let (posted, apicv) = (former.maps().posted()?, former.maps().apicv()?);
        let mut map: HashMap<_, u32, Posted> = self.map_mut("POSTED")?;
        for (irq, posted) in posted {
            map.insert(irq, posted, 0).map_err(|e| super::loader::read_error("POSTED", e))?;
        }
        let mut map: HashMap<_, u32, Apicv> = self.map_mut("APICV")?;
        for (tgid, apicv) in apicv {
            // Its changes stay with the one that saw them.
            let apicv = Apicv { changes: 0, ..apicv };
            map.insert(tgid, apicv, 0).map_err(|e| super::loader::read_error("APICV", e))?;
        }
        for irq in irqs.iter().filter(|irq| **irq < IRQ_NUMBERS) {
            let (vector, known) = (former.maps().host_vector(*irq)?, former.known_irq(*irq)?);
            let mut map: Array<_, u32> = self.map_mut("IRQ_VECTORS")?;
            map.set(*irq, vector, 0).map_err(|e| super::loader::read_error("IRQ_VECTORS", e))?;
            let mut map: Array<_, KnownIrq> = self.map_mut("KNOWN_IRQS")?;
            let known = KnownIrq { action: 0, dev_id: 0, slot: 0, enabler: known.enabler };
            map.set(*irq, known, 0).map_err(|e| super::loader::read_error("KNOWN_IRQS", e))?;
        }
        Ok(())
    }

    fn known_irq(&self, irq: u32) -> Result<KnownIrq, ReadError> {
        super::maps::Maps(&self.ebpf, &self.facts).element("KNOWN_IRQS", irq)
    }
}
