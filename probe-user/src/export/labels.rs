//! What the labels of metrics mean: for docs/metrics.md.

/// What each label means. Every label of the registry is here once.
pub static LABELS: &[(&str, &str)] = &[
    ("asked", "CPU list asked for"),
    ("by", "name of the thread that preempted"),
    ("by_kind", "`kernel` or `user`"),
    ("cause", "why something was lost or cannot be seen"),
    ("config", "the configuration that was in force: `baseline`, or the applied one's name"),
    ("cpu", "number of the host's CPU"),
    ("cpus", "CPU list"),
    ("direction", "`to_guest` or `from_guest`"),
    ("effective", "CPU list that the interrupt controller is set to"),
    ("guest", "the guest's name"),
    ("guest_vector", "vector that the guest's interrupt controller gets; absent: not known"),
    ("hop", "part of a packet's way: `bridge`, `qdisc`, `ring`, or all of it, `total` (probes.md)"),
    ("host_vector", "APIC vector on the host's CPU; absent: not known"),
    ("irq", "Linux interrupt number on the host"),
    (
        "kind",
        "of noise `irq`, `vector`, `softirq`, `kernel-thread`, `user-thread` or `nmi`; of network softirqs `net_rx` or `net_tx`; of exits `host`, `nmi`, `window` or `apic` (probes.md)",
    ),
    ("mode", "delivery mode"),
    ("netdev", "network interface of the host"),
    (
        "path",
        "who moves packets between the host's interface and the guest: `emulated`, `virtio`, `vhost`, `tap` (not known); \
         for devices of no guest `bridge` or `uplink`",
    ),
    ("pci_address", "PCI address of the VF"),
    ("pf", "network interface of the PF"),
    ("pid", "process of the VMM"),
    ("point", "`received`, `queued`, `sent` or `read` (probes.md)"),
    ("probe", "the probe's name (probes.md)"),
    (
        "reason",
        "exit reason by its name in KVM; why the kernel dropped a packet; for `vfprobe_probe_info` the hook, or why the probe does not run",
    ),
    ("slot", "MSI-X table index of the VF's vector"),
    ("source", "name of what took the CPU, as the kernel has it"),
    ("stage", "part of the way: `dispatch`, `wake`, `inject`, `delivery`, `service` (probes.md)"),
    ("state", "state of the probe"),
    ("tid", "thread of the vCPU"),
    ("uuid", "the guest's uuid"),
    ("vcpu", "index of the vCPU in its guest"),
    ("vector", "APIC vector on the host's CPU"),
    ("version", "release"),
    ("vf", "PCI address of the VF; in `vfprobe_vf_*` its number under the PF"),
    ("vmm", "program that runs the guest"),
];

#[cfg(test)]
mod tests {
    use super::LABELS;
    use crate::export::registry::METRICS;
    use std::collections::BTreeSet;

    #[test]
    fn every_label_is_explained_once_and_used() {
        let used: BTreeSet<&str> = METRICS.iter().flat_map(|m| m.labels).copied().collect();
        let explained: BTreeSet<&str> = LABELS.iter().map(|(label, _)| *label).collect();
        assert_eq!(used, explained);
        assert_eq!(explained.len(), LABELS.len());
    }
}
