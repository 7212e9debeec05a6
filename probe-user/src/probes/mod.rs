//! The probes as user space knows them: which hooks each needs, whether this kernel has them, and what its maps say.
//!
//! The specification part is pure; only `bpf` attaches anything. To add a probe: one file here, one in probe-ebpf,
//! one line in [`PROBES`].

pub mod cpu_noise;
mod exit_names;
pub mod facts;
pub mod hook;
pub mod irq_delivery;
pub mod packet_path;
pub mod trace;
mod user_exit_names;
pub mod vcpu;
pub mod vcpu_sched;
pub mod vectors;
pub mod vm_exit;

pub use facts::{Hidden, KernelFacts};
pub use hook::{Hook, Role, Variant};

use crate::model::path::Paths;
use crate::model::topology::Topology;
use crate::stats::Snapshot;
use serde::{Deserialize, Serialize};

/// What a probe is made of.
#[derive(Debug)]
pub struct ProbeSpec {
    /// Its name, as in labels and files.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// What must be there for it.
    pub needs: Needs,
    /// Hooks, in the order in which they are attached: ends of an interval before its start, so that nothing
    /// begins that cannot end.
    pub hooks: &'static [Hook],
    /// Reads its maps into a snapshot.
    pub collect: fn(&dyn MapReader, &Names<'_>, &ProbeReport, &mut Snapshot) -> Result<(), ReadError>,
}

/// What must be there for a probe to be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing but its hooks.
    Nothing,
    /// The probe `vcpu`.
    Vcpu,
    /// A CPU to look at: its programs cost a little on every CPU.
    GuardedCpus,
    /// A guest on a tap: its programs cost a little for every packet of the host.
    Taps,
}

/// All probes. `vcpu` comes first: others stand on it.
pub static PROBES: &[&ProbeSpec] = &[
    &vcpu::SPEC,
    &irq_delivery::SPEC,
    &vm_exit::SPEC,
    &vcpu_sched::SPEC,
    &cpu_noise::SPEC,
    &packet_path::SPEC,
];

/// The hooks of all probes, and of `trace`, which is loaded by itself.
pub fn every_hook() -> impl Iterator<Item = &'static Hook> {
    PROBES.iter().copied().chain([&trace::SPEC]).flat_map(|probe| probe.hooks)
}

/// A name in a fixed array, up to its first zero byte.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Reading maps by name, whatever holds them.
pub trait MapReader {
    /// The element of an array map.
    ///
    /// # Errors
    /// When the map or the element does not exist.
    fn hist(&self, map: &'static str, index: u32) -> Result<probe_ebpf::hist::Hist, ReadError>;
    /// As `hist`, for slots.
    ///
    /// # Errors
    /// When the map or the element does not exist.
    fn slot(&self, index: u32) -> Result<probe_ebpf::probes::irq_delivery::Slot, ReadError>;
    /// As `hist`, for (slot, vCPU) series.
    ///
    /// # Errors
    /// When the map or the element does not exist.
    fn delivery(&self, index: u32) -> Result<probe_ebpf::probes::irq_delivery::Delivery, ReadError>;
    /// As `hist`, for exit series.
    ///
    /// # Errors
    /// When the map or the element does not exist.
    fn exit(&self, index: u32) -> Result<probe_ebpf::probes::vm_exit::ExitSeries, ReadError>;
    /// As `hist`, for sources of noise.
    ///
    /// # Errors
    /// When the map or the element does not exist.
    fn noise(&self, index: u32) -> Result<probe_ebpf::probes::cpu_noise::NoiseSeries, ReadError>;
    /// How often a sign was seen.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn sign(&self, sign: probe_ebpf::signs::Sign) -> Result<u64, ReadError>;
    /// Who preempted vCPUs, and what that took.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn preempters(
        &self,
    ) -> Result<
        Vec<(probe_ebpf::probes::vcpu_sched::Preempter, probe_ebpf::probes::vcpu_sched::Preempted)>,
        ReadError,
    >;
    /// All vCPUs seen, with their thread ids.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn vcpus(&self) -> Result<Vec<(u32, probe_ebpf::vcpu::Vcpu)>, ReadError>;
    /// Where an interrupt's APIC vector was set to go (`irq_delivery::pack_vector`); 0 = not seen.
    ///
    /// # Errors
    /// When the map or the element does not exist.
    fn host_vector(&self, irq: u32) -> Result<u32, ReadError>;
    /// What KVM told the IOMMU of interrupts, by their numbers.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn posted(&self) -> Result<Vec<(u32, probe_ebpf::probes::irq_delivery::Posted)>, ReadError>;
    /// Whether hardware may deliver interrupts, by VMM process; those whose state has changed.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn apicv(&self) -> Result<Vec<(u32, probe_ebpf::probes::irq_delivery::Apicv)>, ReadError>;
    /// Exits by the host vector that caused them.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn exit_vectors(&self) -> Result<Vec<(probe_ebpf::probes::vm_exit::ExitVector, u64)>, ReadError>;
    /// Devices on guests' paths, by interface number.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn path_devices(&self) -> Result<Vec<(u32, probe_ebpf::probes::packet_path::Device)>, ReadError>;
    /// What passed a device, all CPUs together.
    ///
    /// # Errors
    /// When the map or the element does not exist.
    fn path_counts(&self, index: u32) -> Result<probe_ebpf::probes::packet_path::Counts, ReadError>;
    /// Dropped packets.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn path_drops(&self) -> Result<Vec<(probe_ebpf::probes::packet_path::DropKey, u64)>, ReadError>;
    /// How many packets were followed, all CPUs together; `most` is the largest of them.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn path_sampling(&self) -> Result<probe_ebpf::probes::packet_path::Sampling, ReadError>;
    /// What the network softirqs took, all CPUs together.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn path_softirqs(&self) -> Result<probe_ebpf::probes::packet_path::Softirqs, ReadError>;
    /// The kernel's name of a reason for dropping a packet.
    fn drop_reason(&self, reason: u32) -> String;
    /// How many entries of a table are in use.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn used(&self, table: probe_ebpf::control::Table) -> Result<u32, ReadError>;
}

/// In place of the process of figures whose process is gone: no process has this number.
pub const RETIRED: u32 = u32::MAX;

/// A map that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the BPF map {map}: {cause}")]
pub struct ReadError {
    /// The map.
    pub map: &'static str,
    /// Why.
    pub cause: String,
}

/// Turns the kernel's numbers into the names of a topology.
#[derive(Debug)]
pub struct Names<'a> {
    topology: &'a Topology,
    paths: Option<&'a Paths>,
}

impl<'a> Names<'a> {
    /// Names from a topology.
    #[must_use]
    pub fn new(topology: &'a Topology) -> Self {
        Self { topology, paths: None }
    }

    /// Also of the network devices on guests' paths.
    #[must_use]
    pub fn with_paths(self, paths: &'a Paths) -> Self {
        Self { paths: Some(paths), ..self }
    }

    /// The guest that a process runs; a process that the topology does not know is named by its number.
    #[must_use]
    pub fn guest(&self, tgid: u32) -> String {
        self.topology
            .guests
            .iter()
            .find(|g| g.pid.0 == tgid)
            .map_or_else(|| format!("pid-{tgid}"), |g| g.name.clone())
    }

    /// A vCPU's index. KVM's `vcpu_id` is an APIC id, which has holes in some CPU topologies; it stands in only
    /// when the thread is unknown.
    #[must_use]
    pub fn vcpu(&self, tid: u32, vcpu_id: u32) -> String {
        self.topology
            .guests
            .iter()
            .flat_map(|g| &g.vcpus)
            .find(|v| v.thread.tid.0 == tid)
            .map_or_else(|| vcpu_id.to_string(), |v| v.index.to_string())
    }
}

/// Whether a probe works here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Verdict {
    /// It counts; `missing` says which of its figures cannot be seen here, and why.
    Ready {
        /// One entry per hook that is missing: what it costs, and why.
        missing: Vec<Missing>,
    },
    /// It cannot work on this kernel.
    Unsupported {
        /// Why.
        reason: String,
    },
    /// There is nothing it could look at.
    NotApplicable {
        /// Why.
        reason: String,
    },
}

/// A hook that could not be attached, and what is not seen for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The event.
    pub event: String,
    /// The figure that is not observable.
    pub loses: String,
    /// Why it could not be attached.
    pub reason: String,
}

/// A probe's verdict and how it was attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// The probe.
    pub probe: String,
    /// Whether it works.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Attached programs: event and program type.
    pub attached: Vec<(String, String)>,
}

impl ProbeReport {
    /// Why a figure is not observable, when the hook behind it is missing.
    #[must_use]
    pub fn loses(&self, figure: &str) -> Option<&Missing> {
        match &self.verdict {
            Verdict::Ready { missing } => missing.iter().find(|m| m.loses == figure),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_and_programs_are_unique() {
        let names: BTreeSet<_> = PROBES.iter().map(|p| p.name).collect();
        assert_eq!(names.len(), PROBES.len());
        let programs: Vec<_> =
            every_hook().flat_map(|h| [h.raw, h.classic]).flatten().map(|v| v.program).collect();
        // Of one program at several events the event's arguments tell which it was.
        let programs: BTreeSet<_> = programs.into_iter().collect();
        // The kernel keeps 15 bytes of a program's name.
        let short: BTreeSet<_> = programs.iter().map(|p| &p[..p.len().min(15)]).collect();
        assert_eq!(short.len(), programs.len());
    }

    #[test]
    fn every_offset_a_hook_needs_is_in_the_layout() {
        use probe_ebpf::layout::{FIELDS, IRQFD_INJECT, MEMBERS, OPTIONAL};
        let known: BTreeSet<_> = MEMBERS
            .iter()
            .map(|m| m.global)
            .chain(FIELDS.iter().map(|f| f.global))
            .chain([IRQFD_INJECT])
            .filter(|global| !OPTIONAL.contains(global))
            .collect();
        let optional: BTreeSet<_> = OPTIONAL.iter().copied().collect();
        let needed: BTreeSet<_> = every_hook()
            .flat_map(|h| [h.raw, h.classic])
            .flatten()
            .flat_map(|v| v.needs.iter().copied())
            .filter(|global| !optional.contains(global))
            .collect();
        assert_eq!(known, needed, "left: layout, right: hooks");
    }
}
