//! CPU time of guests' threads while something is measured: what the host pays for a path, in the VMM and in vhost.

use crate::host::{HostRoot, read_cpu_time};
use crate::model::Tid;
use crate::model::topology::Topology;
use crate::probes::packet_path;
use crate::stats::{Counter, Labels};
use std::collections::BTreeMap;

/// CPU time at the start, by thread and its start time.
#[derive(Clone, Debug, Default)]
pub(super) struct CpuTime {
    start: BTreeMap<(Tid, u64), u64>,
}

impl CpuTime {
    /// Looks at all threads of all guests.
    pub(super) fn start(root: &HostRoot, topology: &Topology) -> Self {
        let times = threads(topology).filter_map(|(_, _, key)| Some((key, read_cpu_time(root, key.0)?)));
        Self { start: times.collect() }
    }

    /// What each guest's threads took since, by kind. A thread that came since counts whole, one that has ended is
    /// not known any more.
    pub(super) fn counters(&self, root: &HostRoot, topology: &Topology) -> Vec<Counter> {
        let mut sums: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (guest, kind, key) in threads(topology) {
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
