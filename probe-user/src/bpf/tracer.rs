//! The programs of `trace`, loaded by themselves: which VFs they follow, and the ring that they fill.

use super::facts::read_facts;
use super::loader::{LoadError, Sizes, attach_probe, load_object, read_error};
use crate::host::HostRoot;
use crate::probes::{KernelFacts, ProbeReport, ReadError, trace};
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use probe_ebpf::control::Window;
use probe_ebpf::probes::trace::{Dropped, Record, Wanted};
use std::collections::BTreeSet;

/// How many of each thing there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceSizes {
    /// Bytes of the ring; rounded up to a power of two of pages.
    pub ring: u32,
    /// vCPU threads.
    pub vcpus: u32,
    /// VF vector slots.
    pub slots: u32,
}

/// Loaded and attached programs. Dropping it detaches them.
pub struct Tracer {
    ebpf: Ebpf,
    report: ProbeReport,
    /// Records of a kind or size that is not known.
    unreadable: u64,
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracer").field("report", &self.report).finish_non_exhaustive()
    }
}

impl Tracer {
    /// Loads and attaches the programs for the VFs (packed addresses). Nothing is recorded until [`Tracer::open`].
    ///
    /// # Errors
    /// [`LoadError`] when nothing can work here; that the probe cannot is told by its report.
    pub fn new(root: &HostRoot, wanted: &[(u32, Wanted)], sizes: TraceSizes) -> Result<Self, LoadError> {
        let facts: KernelFacts = read_facts(root);
        // What counts is not attached, and gets no room.
        let rest = Sizes { vcpus: 1, slots: 1, deliveries: 1, exits: 1, noise: 1, devices: 1 };
        let mut ebpf = load_object(&facts, rest, Some(sizes))?;
        let guests: BTreeSet<u32> = wanted.iter().map(|(_, wanted)| wanted.tgid).collect();
        let mut map: HashMap<_, u32, Wanted> = typed(&mut ebpf, "TRACE_WANTED")?;
        for (vf, wanted) in wanted {
            map.insert(vf, wanted, 0).map_err(|e| read_error("TRACE_WANTED", e))?;
        }
        let mut map: HashMap<_, u32, u32> = typed(&mut ebpf, "TRACE_GUESTS")?;
        for guest in &guests {
            map.insert(guest, 1, 0).map_err(|e| read_error("TRACE_GUESTS", e))?;
        }
        let report = attach_probe(&mut ebpf, &trace::SPEC, &facts);
        Ok(Self { ebpf, report, unreadable: 0 })
    }

    /// How the programs fare.
    #[must_use]
    pub fn report(&self) -> &ProbeReport {
        &self.report
    }

    /// The programs and maps as aya has them: for tests that run single programs with arguments of their own.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Sets the span in which interrupts must be raised to be recorded.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn open(&mut self, window: Window) -> Result<(), ReadError> {
        let mut map: Array<_, Window> = typed(&mut self.ebpf, "WINDOW")?;
        map.set(0, window, 0).map_err(|e| read_error("WINDOW", e))
    }

    /// Takes what is in the ring.
    ///
    /// # Errors
    /// When the ring cannot be mapped.
    pub fn drain(&mut self) -> Result<Vec<Record>, ReadError> {
        let mut ring: RingBuf<&mut MapData> = typed(&mut self.ebpf, "TRACE_RING")?;
        let mut records = Vec::new();
        let mut unreadable = 0;
        while let Some(item) = ring.next() {
            if item.len() == size_of::<Record>() {
                // SAFETY: as many bytes as the type has, of which every bit pattern is valid; unaligned reads are fine.
                records.push(unsafe { item.as_ptr().cast::<Record>().read_unaligned() });
            } else {
                unreadable += 1;
            }
        }
        self.unreadable += unreadable;
        Ok(records)
    }

    /// What was not recorded, by cause: only causes that occurred.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn dropped(&self) -> Result<Vec<(&'static str, u64)>, ReadError> {
        const NAME: &str = "TRACE_LOST";
        let map = self.ebpf.map(NAME).ok_or_else(|| read_error(NAME, "no such map in the object"))?;
        let map: PerCpuArray<&MapData, u64> = map.try_into().map_err(|e| read_error(NAME, e))?;
        let mut all = Vec::new();
        for (cause, word) in Dropped::ALL {
            let sum = map.get(&(cause as u32), 0).map_err(|e| read_error(NAME, e))?.iter().sum();
            all.push((word, sum));
        }
        all.push(("record_unreadable", self.unreadable));
        all.retain(|(_, times)| *times > 0);
        Ok(all)
    }
}

fn typed<'a, M>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<M, ReadError>
where
    M: TryFrom<&'a mut aya::maps::Map>,
    M::Error: std::fmt::Display,
{
    let map = ebpf.map_mut(name).ok_or_else(|| read_error(name, "no such map in the object"))?;
    M::try_from(map).map_err(|e| read_error(name, e))
}
