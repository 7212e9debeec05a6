//! The kernel's own table of APIC vectors, read by a program that is run and never attached.
//!
//! debugfs tells a vector only where the kernel was built with CONFIG_GENERIC_IRQ_DEBUGFS, which Debian's is not, and
//! the event of its setting is over for interrupts that are there already.

use super::Loaded;
use crate::model::{CpuId, CpuSet, IrqNumber};
use crate::probes::vectors::HostVectors;
use aya::maps::{Array, MapData};
use aya::programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _};
use probe_ebpf::layout::{PER_CPU_OFFSET, VECTOR_IRQ};
use probe_ebpf::probes::irq_delivery::VECTORS;

const PROGRAM: &str = "irq_table_raw";
const MAP: &str = "VECTOR_TABLE";

impl Loaded {
    /// Which interrupt each vector of these CPUs serves now; empty where the kernel hides the table's address
    /// (`kernel.kptr_restrict`, CONFIG_KALLSYMS_ALL).
    #[must_use]
    pub fn host_vectors(&mut self, cpus: &CpuSet) -> HostVectors {
        let symbols = [PER_CPU_OFFSET, VECTOR_IRQ].map(|name| self.facts.globals.get(name).copied());
        let [Some(offsets), Some(variable)] = symbols else { return HostVectors::new() };
        let mut vectors = HostVectors::new();
        for cpu in cpus.iter() {
            let Some(table) = self.run([offsets, variable, cpu.0.into()]) else { continue };
            for (vector, irq) in (0..=u8::MAX).zip(table).skip(1).filter(|(_, irq)| *irq != 0) {
                vectors.insert((IrqNumber(irq), CpuId(cpu.0)), vector);
            }
        }
        vectors
    }

    /// The table of one CPU; `None` when it cannot be read.
    fn run(&mut self, [offsets, variable, cpu]: [u64; 3]) -> Option<[u32; VECTORS]> {
        let mut args = [0; 12];
        args[..3].copy_from_slice(&[offsets, variable, cpu]);
        let program: &mut RawTracePoint = self.ebpf_mut().program_mut(PROGRAM)?.try_into().ok()?;
        if program.fd().is_err() {
            program.load().ok()?;
        }
        program.test_run(RawTracePointRunOptions { args, cpu: None }).ok()?;
        let table: Array<&MapData, [u32; VECTORS]> = self.ebpf_mut().map(MAP)?.try_into().ok()?;
        table.get(&0, 0).ok().filter(|table| table[0] == 1)
    }
}
