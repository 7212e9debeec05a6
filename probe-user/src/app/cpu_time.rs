//! CPU time of guests' threads while something is measured: what the host pays for a path, in the VMM and in vhost.

use crate::host::{HostRoot, read_cpu_time};
use crate::model::Tid;
use crate::model::topology::Topology;
use crate::probes::packet_path;
use crate::stats::{Counter, Labels};
use std::collections::BTreeMap;

/// CPU time of all threads of all guests within a window.
#[derive(Clone, Debug, Default)]
pub(super) struct CpuTime {
    /// The guests, as they were last looked at.
    topology: Topology,
    /// When the window opened, by thread and its start time.
    start: BTreeMap<(Tid, u64), u64>,
    /// What was counted when it closed.
    end: Option<Vec<Counter>>,
}

impl CpuTime {
    pub(super) fn of(topology: &Topology) -> Self {
        Self { topology: topology.clone(), ..Self::default() }
    }

    /// Guests have come or gone.
    pub(super) fn update(&mut self, topology: &Topology) {
        self.topology = topology.clone();
    }

    /// The window opens now.
    pub(super) fn open(&mut self, root: &HostRoot) {
        let times =
            threads(&self.topology).filter_map(|(_, _, key)| Some((key, read_cpu_time(root, key.0)?)));
        self.start = times.collect();
        self.end = None;
    }

    /// The window closes now.
    pub(super) fn close(&mut self, root: &HostRoot) {
        self.end = Some(self.now(root));
    }

    /// What each guest's threads took within the window, by kind.
    pub(super) fn counters(&self, root: &HostRoot) -> Vec<Counter> {
        self.end.clone().unwrap_or_else(|| self.now(root))
    }

    /// Until now. A thread that came since counts whole, one that has ended is not known any more.
    fn now(&self, root: &HostRoot) -> Vec<Counter> {
        let mut sums: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (guest, kind, key) in threads(&self.topology) {
            let Some(now) = read_cpu_time(root, key.0) else { continue };
            let before = self.start.get(&key).copied().unwrap_or(0);
            *sums.entry((guest, kind)).or_default() += now.saturating_sub(before);
        }
        let counter = |((guest, kind), value): ((&str, &str), u64)| Counter {
            probe: packet_path::SPEC.name.into(),
            name: "cpu_ns".into(),
            labels: Labels::from([("guest".into(), guest.into()), ("kind".into(), kind.into())]),
            value,
        };
        sums.into_iter().map(counter).collect()
    }
}

/// Guest, kind and identity of all threads.
fn threads(topology: &Topology) -> impl Iterator<Item = (&str, &'static str, (Tid, u64))> {
    topology.guests.iter().flat_map(|guest| {
        let vcpus = guest.vcpus.iter().map(|vcpu| ("vcpu", &vcpu.thread));
        let others = guest.threads.iter().map(|thread| {
            // Threads of the kernel are called `vhost-<pid>`, its threads inside the VMM too.
            (if thread.comm.starts_with("vhost-") { "vhost" } else { "vmm" }, thread)
        });
        vcpus.chain(others).map(|(kind, t)| (guest.name.as_str(), kind, (t.tid, t.start_time)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Tree;
    use crate::host::read_topology;

    #[test]
    fn only_what_was_taken_within_the_window_counts() {
        let tree = Tree::new();
        tree.process(
            40,
            &["qemu-system-x86_64", "-name", "guest=vm1"],
            &[(40, "qemu", "0-1"), (41, "CPU 0/KVM", "1")],
        );
        tree.open(40, &["anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0"]);
        let root = tree.root();
        let topology = read_topology(&root);
        let at = |vmm: u64, vcpu: u64| {
            tree.file("proc/40/schedstat", &format!("{vmm} 0 0\n"));
            tree.file("proc/41/schedstat", &format!("{vcpu} 0 0\n"));
        };
        let taken = |time: &CpuTime| {
            let all = time.counters(&root);
            all.iter().map(|c| (c.labels["kind"].clone(), c.value)).collect::<Vec<_>>()
        };
        let both = |vcpu, vmm| vec![("vcpu".to_owned(), vcpu), ("vmm".to_owned(), vmm)];
        at(5, 1000);
        let mut time = CpuTime::of(&topology);
        at(7, 5000);
        time.open(&root);
        at(8, 5400);
        assert_eq!(taken(&time), both(400, 1));
        at(10, 6000);
        time.close(&root);
        at(50, 900_000);
        assert_eq!(taken(&time), both(1000, 3));
        time.open(&root);
        assert_eq!(taken(&time), both(0, 0));
    }
}
