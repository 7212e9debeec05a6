//! The topology as text: guests with their vCPUs and VFs, VFs that are free, CPUs, and why a `-` is a `-`.

use crate::{
    cli::paint::{Cell, Paint, Style, columns},
    model::{
        CpuSet,
        nic::{Nic, PathKind},
        topology::{DeliveryMode, Guest, Irq, Slot, Topology, Vf, Vmm},
        vf_counters::VfCounters,
    },
};
use std::collections::{BTreeMap, BTreeSet};

const UNKNOWN: &str = "-";

/// Why something is not known. Each reason that occurs is explained once, at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    HostVector,
    GuestVector,
    Mode,
    Node,
    Driver,
    Group,
    Affinity,
    Counter,
}

impl Reason {
    fn text(self) -> &'static str {
        match self {
            Self::HostVector => {
                "host vector: told by kernels with CONFIG_GENERIC_IRQ_DEBUGFS, or by vfprobe topology -d 1s, to root"
            }
            Self::GuestVector => {
                "guest vector, vCPU: seen when an interrupt arrives; vfprobe topology -d 10s waits for it"
            }
            Self::Mode => {
                "mode unknown: hardware may deliver these past the host; vfprobe topology -d 10s watches"
            }
            Self::Node => "node: the firmware does not say where the device is (numa_node is -1)",
            Self::Driver => "driver: none is bound",
            Self::Group => "IOMMU group: no IOMMU is active",
            Self::Affinity => "asked, CPU: the interrupt went away while it was read, or is not started",
            Self::Counter => "packets, bytes, dropped: 0 or not reported: the kernel says 0 for both",
        }
    }
}

/// Renders the tree. `whole_host` is false when it was narrowed to one guest: then free VFs are left out.
pub(super) fn render(topology: &Topology, whole_host: bool, paint: Paint) -> String {
    Renderer { paint, reasons: BTreeSet::new(), out: String::new() }.render(topology, whole_host)
}

struct Renderer {
    paint: Paint,
    reasons: BTreeSet<Reason>,
    out: String,
}

impl Renderer {
    fn render(mut self, topology: &Topology, whole_host: bool) -> String {
        if topology.guests.is_empty() {
            self.line("no KVM guest is running");
            self.out.push('\n');
        }
        for guest in &topology.guests {
            self.guest(topology, guest);
            self.out.push('\n');
        }
        if whole_host && !topology.free_vfs.is_empty() {
            let title = self.paint.text(Style::Strong, "VFs without a guest");
            self.line(&title);
            for vf in &topology.free_vfs {
                self.vf(topology, vf, false);
            }
            self.out.push('\n');
        }
        self.cpus(topology);
        if !self.reasons.is_empty() {
            self.out.push('\n');
            for reason in std::mem::take(&mut self.reasons) {
                let note = self.paint.text(Style::Faint, &format!("{UNKNOWN} {}", reason.text()));
                self.line(&note);
            }
        }
        if !topology.problems.is_empty() {
            self.out.push('\n');
            let title = self.paint.text(Style::Warning, "could not be read");
            self.line(&title);
            for problem in &topology.problems {
                self.line(&format!("  {problem}"));
            }
        }
        self.out
    }

    fn line(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }

    /// A value, or `-` with the reason noted.
    fn or_unknown(&mut self, value: Option<impl ToString>, reason: Reason) -> String {
        match value {
            Some(value) => value.to_string(),
            None => {
                self.reasons.insert(reason);
                UNKNOWN.to_owned()
            }
        }
    }

    fn guest(&mut self, topology: &Topology, guest: &Guest) {
        let Guest { name, uuid, pid, start_time: _, vmm, libvirt, vcpus, threads, vfs, nics } = guest;
        let program = match vmm {
            Vmm::Qemu => "QEMU",
            Vmm::CloudHypervisor => "Cloud Hypervisor",
            Vmm::Firecracker => "Firecracker",
            Vmm::Other => "unknown VMM",
        };
        let mut title = format!("{}  {program}, pid {pid}", self.paint.text(Style::Strong, name));
        if *libvirt {
            title.push_str(", libvirt");
        }
        if let Some(uuid) = uuid {
            title.push_str(", ");
            title.push_str(uuid);
        }
        self.line(&title);
        let cpus_cell = |affinity: &CpuSet| format!("CPUs {affinity}");
        let mut rows: Vec<Vec<Cell>> = vcpus
            .iter()
            .map(|vcpu| {
                let thread = format!("thread {} ({})", vcpu.thread.tid, vcpu.thread.comm);
                vec![
                    format!("vCPU {}", vcpu.index).into(),
                    thread.into(),
                    cpus_cell(&vcpu.thread.affinity).into(),
                ]
            })
            .collect();
        let mut others: BTreeMap<&CpuSet, usize> = BTreeMap::new();
        for thread in threads {
            *others.entry(&thread.affinity).or_default() += 1;
        }
        for (affinity, count) in others {
            let threads = format!("{count} thread{}", if count == 1 { "" } else { "s" });
            rows.push(vec!["other".into(), threads.into(), cpus_cell(affinity).into()]);
        }
        self.out.push_str(&columns(self.paint, "  ", &rows));
        if vfs.is_empty() {
            self.line("  no VF");
        }
        for vf in vfs {
            self.vf(topology, vf, true);
        }
        for nic in nics {
            let line = self.nic(nic);
            self.line(&line);
        }
    }

    fn nic(&self, nic: &Nic) -> String {
        let Nic { netdev, ifindex, path, card, queues, vhost, bridge, uplinks } = nic;
        let plural = if *queues == 1 { "" } else { "s" };
        let mut line = format!(
            "  {}  {} path, {}, {queues} queue{plural}",
            self.paint.text(Style::Strong, &format!("NIC {netdev}")),
            path.as_str(),
            card.as_deref().map_or_else(|| "card not known".to_owned(), |card| format!("card {card}")),
        );
        match (path, vhost) {
            (PathKind::Macvtap, Some(true)) => line.push_str(", by vhost"),
            (PathKind::Macvtap, Some(false)) => line.push_str(", by the VMM"),
            (PathKind::Tap | PathKind::Macvtap, None) => line.push_str(", not known whether by vhost"),
            _ => {}
        }
        match (ifindex, bridge) {
            (None, _) => line.push_str(", not in this network namespace"),
            (Some(_), Some(bridge)) => line.push_str(&format!(", bridge {bridge}")),
            (Some(_), None) if *path != PathKind::Macvtap => line.push_str(", no bridge"),
            (Some(_), None) => {}
        }
        if ifindex.is_some() {
            let uplinks = if uplinks.is_empty() { "none".to_owned() } else { uplinks.join(", ") };
            line.push_str(&format!(", uplink {uplinks}"));
        }
        line
    }

    fn vf(&mut self, topology: &Topology, vf: &Vf, owned: bool) {
        let Vf { address, index, pf, pf_netdev, numa_node, local_cpus, driver, iommu_group, slots, counters } =
            vf;
        let index = index.map_or_else(String::new, |index| format!("number {index} "));
        let netdev = pf_netdev.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
        let node = match numa_node {
            Some(node) => format!("{node} (CPUs {local_cpus})"),
            None => self.or_unknown(None::<&str>, Reason::Node),
        };
        // vfio-pci and the drivers derived from it (mlx5_vfio_pci, ...) all have it in their names.
        let by_vfio = driver.as_ref().is_some_and(|name| name.contains("vfio"));
        let style = if owned && !by_vfio { Style::Warning } else { Style::Plain };
        let driver = self.or_unknown(driver.as_ref(), Reason::Driver);
        let driver = self.paint.text(style, &driver);
        let group = self.or_unknown(*iommu_group, Reason::Group);
        let name = self.paint.text(Style::Strong, &format!("VF {address}"));
        self.line(&format!(
            "  {name}  {index}of PF {pf}{netdev}, node {node}, driver {driver}, IOMMU group {group}"
        ));
        if owned && !by_vfio {
            self.line("    not bound to vfio-pci: the guest cannot get its interrupts");
        }
        if let Some(counters) = counters {
            self.counters(counters);
        }
        if slots.is_empty() {
            if owned {
                self.line("    no interrupts: the guest has not enabled MSI-X on it");
            }
            return;
        }
        let head = ["slot", "irq", "asked", "vector@CPU", "guest vector", "vCPU", "mode", "fired"];
        let mut rows: Vec<Vec<Cell>> = vec![head.iter().map(|text| Cell::new(Style::Faint, text)).collect()];
        for slot in slots {
            let irq = topology.irq(slot.irq);
            rows.push(self.slot(slot, irq));
        }
        self.out.push_str(&columns(self.paint, "    ", &rows));
    }

    fn counters(&mut self, counters: &VfCounters) {
        let VfCounters {
            rx_packets,
            rx_bytes,
            rx_dropped,
            broadcast,
            multicast,
            tx_packets,
            tx_bytes,
            tx_dropped,
        } = counters;
        if !counters.reported() {
            self.reasons.insert(Reason::Counter);
            self.line("    packets not reported");
            return;
        }
        let of_these = [(broadcast, "broadcast"), (multicast, "multicast")];
        let of_these = of_these.iter().filter_map(|(n, what)| n.map(|n| format!("{n} {what}")));
        let of_these = of_these.collect::<Vec<_>>().join(", ");
        let of_these = if of_these.is_empty() { of_these } else { format!(" ({of_these})") };
        let mut figures = |packets, of_these: &str, bytes, dropped| {
            let [packets, bytes, dropped] =
                [packets, bytes, dropped].map(|figure| self.or_unknown(figure, Reason::Counter));
            format!("{packets} packets{of_these}, {bytes} bytes, {dropped} dropped")
        };
        let received = figures(*rx_packets, &of_these, *rx_bytes, *rx_dropped);
        let sent = figures(*tx_packets, "", *tx_bytes, *tx_dropped);
        self.line(&format!("    received {received}; sent {sent}"));
    }

    fn slot(&mut self, slot: &Slot, irq: Option<&Irq>) -> Vec<Cell> {
        let Slot { slot, irq: number, affinity, effective_affinity, host_vector, guest_vector, vcpu, mode } =
            slot;
        let vector = self.or_unknown(*host_vector, Reason::HostVector);
        let cpu = self.or_unknown(effective_affinity.as_ref(), Reason::Affinity);
        let style = match mode {
            DeliveryMode::Posted => Style::Good,
            DeliveryMode::Userspace => Style::Warning,
            DeliveryMode::Remapped | DeliveryMode::Unknown => Style::Plain,
        };
        if *mode == DeliveryMode::Unknown {
            self.reasons.insert(Reason::Mode);
        }
        vec![
            slot.into(),
            number.into(),
            self.or_unknown(affinity.as_ref(), Reason::Affinity).into(),
            format!("{vector}@{cpu}").into(),
            // The kernel and its tools print guest vectors in either base.
            self.or_unknown(guest_vector.map(|v| format!("{v} ({v:#x})")), Reason::GuestVector).into(),
            self.or_unknown(*vcpu, Reason::GuestVector).into(),
            Cell::new(style, mode.as_str()),
            self.or_unknown(irq.map(|irq| irq.count), Reason::Affinity).into(),
        ]
    }

    fn cpus(&mut self, topology: &Topology) {
        let set = |wanted: &dyn Fn(&crate::model::topology::Cpu) -> bool| -> CpuSet {
            topology.cpus.iter().filter(|cpu| wanted(cpu)).map(|cpu| cpu.id).collect()
        };
        let online = topology.online();
        let offline = set(&|cpu| !cpu.online);
        let cores: BTreeSet<&CpuSet> = topology.cpus.iter().map(|cpu| &cpu.siblings).collect();
        let nodes: BTreeSet<_> = topology.cpus.iter().map(|cpu| cpu.node).collect();
        let caches: BTreeSet<&CpuSet> =
            topology.cpus.iter().filter(|c| c.online).map(|cpu| &cpu.llc).collect();
        let title = self.paint.text(Style::Strong, "CPUs");
        let threads = cores.iter().map(|core| core.len()).max().unwrap_or(0);
        let smt =
            if threads > 1 { format!("{} cores of {threads} threads", cores.len()) } else { "no SMT".into() };
        self.line(&format!("{title}  {online} online, {smt}"));

        let list = |set: &CpuSet| if set.is_empty() { "none".to_owned() } else { set.to_string() };
        let mut rows: Vec<Vec<Cell>> = Vec::new();
        for node in nodes {
            let name = node.map_or_else(|| "no node".to_owned(), |node| format!("node {node}"));
            rows.push(vec![name.into(), set(&|cpu| cpu.node == node).into()]);
        }
        if caches.len() > 1 {
            let lists: Vec<String> = caches.iter().map(ToString::to_string).collect();
            rows.push(vec!["last-level caches".into(), lists.join("  ").into()]);
        }
        if !offline.is_empty() {
            rows.push(vec!["offline".into(), offline.into()]);
        }
        rows.push(vec!["isolated".into(), list(&set(&|cpu| cpu.isolated)).into()]);
        rows.push(vec!["nohz_full".into(), list(&set(&|cpu| cpu.nohz_full)).into()]);
        let default = self.or_unknown(topology.default_affinity.as_ref(), Reason::Affinity);
        rows.push(vec!["new interrupts go to".into(), default.into()]);
        let pinned: CpuSet = topology
            .guests
            .iter()
            .flat_map(|guest| &guest.vcpus)
            .filter(|vcpu| vcpu.thread.affinity != online)
            .flat_map(|vcpu| vcpu.thread.affinity.iter().collect::<Vec<_>>())
            .collect();
        rows.push(vec!["vCPUs are pinned to".into(), list(&pinned).into()]);
        self.out.push_str(&columns(self.paint, "  ", &rows));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{
        fixture::{LAB, LARGE, Tree, generate},
        read_topology,
    };

    #[test]
    fn the_captured_lab_host() {
        let topology = read_topology(&Tree::captured(LAB).root());
        let text = render(&topology, true, Paint::default());
        assert_eq!(text, include_str!("../../../../tests/hosts/lab-6.12.topology.txt"));
        assert!(!text.lines().any(|line| line.ends_with(' ')));
    }

    #[test]
    fn a_large_host_says_what_it_cannot_know_once() {
        let topology = read_topology(&generate(&LARGE).root());
        let text = render(&topology, true, Paint::default());
        let end: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("CPUs")).collect();
        assert_eq!(
            end,
            [
                "CPUs  0-127 online, 64 cores of 2 threads",
                "  node 0                0-31,64-95",
                "  node 1                32-63,96-127",
                "  last-level caches     0-31,64-95  32-63,96-127",
                "  isolated              2-3",
                "  nohz_full             none",
                "  new interrupts go to  0-127",
                "  vCPUs are pinned to   0-63",
                "",
                "- host vector: told by kernels with CONFIG_GENERIC_IRQ_DEBUGFS, or by vfprobe topology -d 1s, to root",
                "- guest vector, vCPU: seen when an interrupt arrives; vfprobe topology -d 10s waits for it",
                "- mode unknown: hardware may deliver these past the host; vfprobe topology -d 10s watches",
            ]
        );
    }

    #[test]
    fn cards_say_their_path_and_what_is_not_known() {
        let nic = |path, card: Option<&str>, ifindex, vhost, bridge: Option<&str>, uplinks: &[&str]| Nic {
            netdev: "tap0".into(),
            ifindex,
            path,
            card: card.map(str::to_owned),
            queues: if uplinks.is_empty() { 1 } else { 4 },
            vhost,
            bridge: bridge.map(str::to_owned),
            uplinks: uplinks.iter().map(|name| (*name).to_owned()).collect(),
        };
        let (virtio, index) = (Some("virtio-net-pci"), Some(7));
        for (nic, expected) in [
            (
                nic(PathKind::Vhost, virtio, index, Some(true), Some("br0"), &["eth0", "eth1"]),
                "vhost path, card virtio-net-pci, 4 queues, bridge br0, uplink eth0, eth1",
            ),
            (
                nic(PathKind::Emulated, Some("e1000"), index, Some(false), Some("br0"), &[]),
                "emulated path, card e1000, 1 queue, bridge br0, uplink none",
            ),
            (
                nic(PathKind::Virtio, virtio, index, Some(false), None, &[]),
                "virtio path, card virtio-net-pci, 1 queue, no bridge, uplink none",
            ),
            (
                nic(PathKind::Tap, None, None, None, None, &[]),
                "tap path, card not known, 1 queue, not known whether by vhost, not in this network namespace",
            ),
            (
                nic(PathKind::Macvtap, virtio, index, Some(true), None, &["eth0"]),
                "macvtap path, card virtio-net-pci, 4 queues, by vhost, uplink eth0",
            ),
        ] {
            let mut topology = read_topology(&Tree::captured(LAB).root());
            topology.guests[0].nics = vec![nic];
            let text = render(&topology, true, Paint::default());
            let line = format!("  NIC tap0  {expected}");
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn counters_that_are_not_reported_are_no_zeroes() {
        let some = std::num::NonZeroU64::new;
        let mut topology = read_topology(&Tree::captured(LAB).root());
        let none = VfCounters::default();
        let full = VfCounters {
            rx_packets: some(12),
            rx_bytes: some(3400),
            rx_dropped: some(1),
            broadcast: some(2),
            multicast: some(3),
            tx_packets: some(5),
            tx_bytes: some(600),
            tx_dropped: some(7),
        };
        let note = "- packets, bytes, dropped: 0 or not reported: the kernel says 0 for both";
        for (counters, line, noted) in [
            (none, "packets not reported", true),
            (
                full,
                "received 12 packets (2 broadcast, 3 multicast), 3400 bytes, 1 dropped; \
                 sent 5 packets, 600 bytes, 7 dropped",
                false,
            ),
            (
                VfCounters { rx_packets: some(12), rx_bytes: some(3400), tx_packets: some(1), ..none },
                "received 12 packets, 3400 bytes, - dropped; sent 1 packets, - bytes, - dropped",
                true,
            ),
        ] {
            topology.vfs_mut().for_each(|vf| vf.counters = Some(counters));
            let text = render(&topology, true, Paint::default());
            let found = text.lines().filter(|l| l.trim_start() == line).count();
            assert_eq!(found, topology.vfs().count(), "{line}\n{text}");
            assert_eq!(text.lines().any(|line| line == note), noted, "{text}");
        }
    }

    #[test]
    fn nothing_and_problems_are_said() {
        let topology = Topology { problems: vec!["/proc/x: gone wrong".into()], ..Topology::default() };
        let text = render(&topology, true, Paint::default());
        assert!(text.starts_with("no KVM guest is running\n"), "{text}");
        assert!(text.ends_with("could not be read\n  /proc/x: gone wrong\n"), "{text}");
    }
}
