//! Knobs of the host: in which files they are, how values are spelt there, and what they are set to.

use super::{HostRoot, reader::Reader};
use crate::model::knob::{Knob, NetQueue, Value};
use crate::model::{CpuId, CpuSet};
use std::path::PathBuf;

/// How a value is spelt in a knob's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnobForm {
    /// A CPU list.
    List,
    /// A CPU mask.
    Mask,
    /// Anything else.
    Text,
}

/// Where a knob is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnobFile {
    /// The file that it is read from. It may say what was asked for where `write` says what came of it.
    pub read: PathBuf,
    /// The file that it is written to.
    pub write: PathBuf,
    /// How the value is spelt in both.
    pub form: KnobForm,
}

impl KnobForm {
    /// What is expected in such a file.
    #[must_use]
    pub fn expected(self) -> &'static str {
        match self {
            Self::List => "a CPU list",
            Self::Mask => "a CPU mask",
            Self::Text => "a text",
        }
    }

    /// The value that a file's text says; `None` when it is not of this form.
    #[must_use]
    pub fn parse(self, text: &str) -> Option<Value> {
        match self {
            Self::List => text.trim().parse::<CpuSet>().ok().map(Value::Cpus),
            Self::Mask => CpuSet::parse_mask(text).ok().map(Value::Cpus),
            Self::Text => Some(Value::text(text)),
        }
    }

    /// The text to write; `None` for a value that such a file cannot hold.
    #[must_use]
    pub fn print(self, value: &Value) -> Option<String> {
        match (self, value) {
            (Self::List, Value::Cpus(cpus)) => Some(cpus.to_string()),
            (Self::Mask, Value::Cpus(cpus)) => Some(cpus.to_mask()),
            (Self::Text, Value::Text { text }) => Some(text.clone()),
            _ => None,
        }
    }
}

/// Where a knob is on the host under `root`; `None` for one that is not in a file.
#[must_use]
pub fn knob_file(root: &HostRoot, knob: &Knob) -> Option<KnobFile> {
    let same = |path: PathBuf, form| Some(KnobFile { read: path.clone(), write: path, form });
    match knob {
        Knob::HaltPoll => same(root.sys.join("module/kvm/parameters/halt_poll_ns"), KnobForm::Text),
        Knob::Workqueues => {
            let dir = root.sys.join("devices/virtual/workqueue");
            // Isolated cpuset partitions take CPUs out of what was asked for; newer kernels tell the two apart
            // (kernel/workqueue.c, `wq_requested_unbound_cpumask`).
            let requested = dir.join("cpumask_requested");
            let write = dir.join("cpumask");
            let read = if requested.exists() { requested } else { write.clone() };
            Some(KnobFile { read, write, form: KnobForm::Mask })
        }
        Knob::Watchdogs => same(root.proc.join("sys/kernel/watchdog_cpumask"), KnobForm::List),
        Knob::IdleLatency { cpu } => {
            let path = format!("devices/system/cpu/cpu{cpu}/power/pm_qos_resume_latency_us");
            same(root.sys.join(path), KnobForm::Text)
        }
        Knob::Rps(NetQueue { netdev, ifindex: _, queue }) => {
            same(root.sys.join(format!("class/net/{netdev}/queues/rx-{queue}/rps_cpus")), KnobForm::Mask)
        }
        Knob::Xps(NetQueue { netdev, ifindex: _, queue }) => {
            same(root.sys.join(format!("class/net/{netdev}/queues/tx-{queue}/xps_cpus")), KnobForm::Mask)
        }
        Knob::IrqbalanceBans { .. } => None,
    }
}

/// The file with the index of a queue's device, which tells it from a later one of the same name.
#[must_use]
pub fn ifindex_file(root: &HostRoot, queue: &NetQueue) -> PathBuf {
    root.sys.join("class/net").join(&queue.netdev).join("ifindex")
}

/// All knobs there are, with what they are set to: those of the host, of these CPUs and of these network devices. The
/// second value names what could not be read.
#[must_use]
pub fn read_knobs(root: &HostRoot, cpus: &CpuSet, netdevs: &[String]) -> (Vec<(Knob, Value)>, Vec<String>) {
    let mut reader = Reader::new(root);
    let host = [Knob::HaltPoll, Knob::Workqueues, Knob::Watchdogs].into_iter();
    let idle = cpus.iter().map(|cpu: CpuId| Knob::IdleLatency { cpu });
    let mut knobs: Vec<Knob> = host.chain(idle).collect();
    for netdev in netdevs {
        // A name is one part of a path: with a slash it would lead elsewhere.
        if netdev.contains('/') {
            continue;
        }
        let dir = reader.sys(format!("class/net/{netdev}"));
        let Some(ifindex) = reader.value(&dir.join("ifindex"), "a number", |text| text.parse().ok()) else {
            continue;
        };
        let queue = |queue| NetQueue { netdev: netdev.clone(), ifindex, queue };
        let queues = dir.join("queues");
        knobs.extend(reader.numbered(&queues, "rx-").into_iter().map(|n| Knob::Rps(queue(n))));
        knobs.extend(reader.numbered(&queues, "tx-").into_iter().map(|n| Knob::Xps(queue(n))));
    }
    let mut found = Vec::new();
    for knob in knobs {
        let Some(KnobFile { read, write: _, form }) = knob_file(root, &knob) else { continue };
        if let Some(value) = reader.value(&read, form.expected(), |text| form.parse(text)) {
            found.push((knob, value));
        }
    }
    (found, reader.problems)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Tree;

    #[test]
    fn knobs_of_a_host() {
        let tree = Tree::new();
        tree.file("sys/module/kvm/parameters/halt_poll_ns", "200000\n");
        tree.file("sys/devices/virtual/workqueue/cpumask", "f\n");
        tree.file("proc/sys/kernel/watchdog_cpumask", "0-3\n");
        tree.file("sys/devices/system/cpu/cpu2/power/pm_qos_resume_latency_us", "n/a\n");
        tree.file("sys/class/net/eth0/ifindex", "7\n");
        tree.file("sys/class/net/eth0/queues/rx-0/rps_cpus", "0\n");
        tree.file("sys/class/net/eth0/queues/tx-10/xps_cpus", "00000000,00000003\n");
        tree.file("sys/class/net/eth1/ifindex", "8\n");
        tree.file("sys/class/net/eth1/queues/rx-0/rps_cpus", "f\n");
        let devices = ["eth0", "eth9", "../eth1"].map(str::to_owned);
        let (found, problems) = read_knobs(&tree.root(), &"2-3".parse().unwrap(), &devices);
        assert_eq!(problems, Vec::<String>::new());
        let lines: Vec<String> = found.iter().map(|(knob, value)| format!("{knob}: {value}")).collect();
        assert_eq!(
            lines,
            [
                "halt_poll_ns of kvm: 200000",
                "CPUs of unbound workqueues: 0-3",
                "CPUs that watchdogs watch: 0-3",
                "idle latency limit of CPU 2 in us: n/a",
                "eth0 receive queue 0 RPS: none",
                "eth0 transmit queue 10 XPS: 0-1",
            ]
        );
        // What was asked for counts, where the kernel tells it.
        tree.file("sys/devices/virtual/workqueue/cpumask_requested", "3\n");
        tree.file("proc/sys/kernel/watchdog_cpumask", "x\n");
        let (found, problems) = read_knobs(&tree.root(), &CpuSet::new(), &[]);
        assert_eq!(found[1], (Knob::Workqueues, Value::Cpus("0-1".parse().unwrap())));
        assert!(problems[0].contains("watchdog_cpumask"), "{problems:?}");
    }

    #[test]
    fn forms() {
        let cpus = |list: &str| Value::Cpus(list.parse().unwrap());
        for (form, text, value) in [
            (KnobForm::List, "0-1,3", cpus("0-1,3")),
            (KnobForm::Mask, "b", cpus("0-1,3")),
            (KnobForm::Mask, "0", cpus("")),
            (KnobForm::Text, "n/a", Value::text("n/a")),
        ] {
            assert_eq!(form.parse(&format!("{text}\n")), Some(value.clone()));
            assert_eq!(form.print(&value).as_deref(), Some(text));
        }
        assert_eq!(KnobForm::Mask.parse("0-1"), None);
        assert_eq!(KnobForm::Text.print(&cpus("1")), None);
        assert_eq!(KnobForm::List.print(&Value::text("1")), None);
    }
}
