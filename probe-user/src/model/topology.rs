//! How CPUs, guests, virtual functions and interrupts hang together at one moment.
//!
//! Plain facts, read by `host`; nothing here knows where they came from.

use super::{
    CpuId, CpuSet, IrqNumber, NumaNode, PciAddress, Pid, Tid, VcpuId, VfIndex, nic::Nic,
    vf_counters::VfCounters,
};
use serde::{Deserialize, Serialize};

/// Everything vfprobe needs to know of a host before it measures or plans.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// All present CPUs, ascending.
    pub cpus: Vec<Cpu>,
    /// Running KVM guests, by name, then pid.
    pub guests: Vec<Guest>,
    /// VFs that no guest owns, by address.
    pub free_vfs: Vec<Vf>,
    /// Every interrupt with a number, ascending; those of VFs included.
    pub irqs: Vec<Irq>,
    /// Mask that new interrupts get (`/proc/irq/default_smp_affinity`).
    pub default_affinity: Option<CpuSet>,
    /// What could not be read, one line each with path and cause. Never silently empty.
    pub problems: Vec<String>,
}

/// A host logical CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Its number.
    pub id: CpuId,
    /// Whether it is online now.
    pub online: bool,
    /// Its NUMA node, when the kernel says.
    pub node: Option<NumaNode>,
    /// CPUs of the same core, itself included.
    pub siblings: CpuSet,
    /// CPUs that share its last-level cache, itself included.
    pub llc: CpuSet,
    /// Whether `isolcpus=` or a partition isolates it (`/sys/devices/system/cpu/isolated`).
    pub isolated: bool,
    /// Whether its tick stops for a single task (`/sys/devices/system/cpu/nohz_full`).
    pub nohz_full: bool,
}

/// The program that runs a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vmm {
    /// QEMU, also when libvirt started it.
    Qemu,
    /// Cloud Hypervisor.
    CloudHypervisor,
    /// Firecracker.
    Firecracker,
    /// Another program that holds a KVM virtual machine.
    Other,
}

/// A running guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Its name as the VMM was told, else `<vmm>-<pid>`.
    pub name: String,
    /// Its uuid, when the VMM was told one.
    pub uuid: Option<String>,
    /// The VMM's process.
    pub pid: Pid,
    /// Start time of that process (clock ticks since boot, `/proc/PID/stat` field 22): guards against pid reuse.
    pub start_time: u64,
    /// The program.
    pub vmm: Vmm,
    /// Whether libvirt manages it (by its name in the command line or cgroup).
    pub libvirt: bool,
    /// vCPUs by index.
    pub vcpus: Vec<Vcpu>,
    /// All other threads of the process: emulator, I/O, vhost.
    pub threads: Vec<Thread>,
    /// VFs it owns, by address.
    pub vfs: Vec<Vf>,
    /// Its other network cards, by the host's interface. Session files from before they were read have none.
    #[serde(default)]
    pub nics: Vec<Nic>,
}

/// A thread whose affinity can be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Its number.
    pub tid: Tid,
    /// Its name.
    pub comm: String,
    /// Start time (clock ticks since boot): guards against tid reuse.
    pub start_time: u64,
    /// CPUs it may run on.
    pub affinity: CpuSet,
}

/// A vCPU and the thread that runs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vcpu {
    /// Its index in the guest.
    pub index: VcpuId,
    /// The thread.
    #[serde(flatten)]
    pub thread: Thread,
}

/// A virtual function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vf {
    /// Its PCI address.
    pub address: PciAddress,
    /// Its index under the PF.
    pub index: Option<VfIndex>,
    /// The physical function.
    pub pf: PciAddress,
    /// The PF's network interface, when a driver made one.
    pub pf_netdev: Option<String>,
    /// NUMA node of the device; `None` when the firmware does not say.
    pub numa_node: Option<NumaNode>,
    /// CPUs local to the device (`local_cpulist`).
    pub local_cpus: CpuSet,
    /// Bound driver.
    pub driver: Option<String>,
    /// IOMMU group.
    pub iommu_group: Option<u32>,
    /// MSI-X vectors in use, by table index.
    pub slots: Vec<Slot>,
    /// What the PF's driver counts for it; `None` when nobody was asked or its PF's driver tells nothing of it. Only
    /// `vfprobe topology` asks: elsewhere a topology is older than the figures would have to be.
    #[serde(default)]
    pub counters: Option<VfCounters>,
}

/// One MSI-X vector of a VF: the stable name of an interrupt source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// MSI-X table index.
    pub slot: u16,
    /// The host interrupt that serves it now.
    pub irq: IrqNumber,
    /// Affinity asked for.
    pub affinity: Option<CpuSet>,
    /// Where it really goes.
    pub effective_affinity: Option<CpuSet>,
    /// Host APIC vector, when known.
    pub host_vector: Option<u8>,
    /// Vector the guest's LAPIC gets, when known.
    pub guest_vector: Option<u8>,
    /// The vCPU it goes to, when known.
    pub vcpu: Option<VcpuId>,
    /// How it reaches the guest.
    pub mode: DeliveryMode,
}

/// How an interrupt reaches its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryMode {
    /// The host takes the interrupt and injects it.
    Remapped,
    /// Hardware delivers it (VT-d posted interrupts, AVIC); the host sees nothing.
    Posted,
    /// The VMM reads the eventfd and injects it.
    Userspace,
    /// Not known.
    Unknown,
}

impl DeliveryMode {
    /// The word used in tables, labels and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Remapped => "remapped",
            Self::Posted => "posted",
            Self::Userspace => "userspace",
            Self::Unknown => "unknown",
        }
    }
}

/// Any interrupt with a Linux number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Irq {
    /// Its number.
    pub number: IrqNumber,
    /// Chip name as `/proc/interrupts` shows it; `IR-` means that interrupt remapping is active.
    pub chip: String,
    /// Names of its handlers, empty when none is installed.
    pub actions: String,
    /// Affinity asked for.
    pub affinity: Option<CpuSet>,
    /// Where it really goes.
    pub effective_affinity: Option<CpuSet>,
    /// Times it has fired since boot, all CPUs together.
    pub count: u64,
}

impl Topology {
    /// Online CPUs.
    #[must_use]
    pub fn online(&self) -> CpuSet {
        self.cpus.iter().filter(|c| c.online).map(|c| c.id).collect()
    }

    /// CPUs that were promised to vCPUs: those that pinned vCPU threads may run on.
    #[must_use]
    pub fn promised(&self) -> CpuSet {
        let online = self.online();
        let pins = self.guests.iter().flat_map(|g| &g.vcpus).map(|v| v.thread.affinity.intersection(&online));
        pins.filter(|pin| *pin != online).fold(CpuSet::new(), |all, pin| all.union(&pin))
    }

    /// The guests that `wanted` names: an exact name, uuid or pid.
    pub fn find_guests<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a Guest> {
        self.guests.iter().filter(move |g| {
            g.name == wanted || g.uuid.as_deref() == Some(wanted) || g.pid.to_string() == wanted
        })
    }

    /// All VFs: those of guests, then those that no guest owns.
    pub fn vfs(&self) -> impl Iterator<Item = &Vf> {
        self.guests.iter().flat_map(|guest| &guest.vfs).chain(&self.free_vfs)
    }

    /// As [`Topology::vfs`], to be changed.
    pub fn vfs_mut(&mut self) -> impl Iterator<Item = &mut Vf> {
        self.guests.iter_mut().flat_map(|guest| &mut guest.vfs).chain(&mut self.free_vfs)
    }

    /// The interrupt of that number.
    #[must_use]
    pub fn irq(&self, number: IrqNumber) -> Option<&Irq> {
        self.irqs.iter().find(|irq| irq.number == number)
    }
}
