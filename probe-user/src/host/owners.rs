//! Programs that set what vfprobe sets, found by their processes, files and control groups.

use super::HostRoot;
use super::irqbalance::ask_irqbalance;
use super::libvirt;
use super::process::read_start_time;
use super::reader::{Reader, one_line};
use crate::model::owners::{Cpuset, Irqbalance, Limiter, Owners, Tuned};
use crate::model::topology::Guest;
use crate::model::{CpuSet, Pid, Tid};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// What the kubelet's CPU manager keeps (pkg/kubelet/cm/cpumanager/state of Kubernetes).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CpuManagerState {
    /// By pod and container: the CPUs it has alone.
    #[serde(default)]
    entries: BTreeMap<String, BTreeMap<String, CpuSet>>,
}

/// Who else sets such things here. Control groups are read for the threads of these guests. The second value names what
/// could not be read.
#[must_use]
pub fn read_owners(root: &HostRoot, guests: &[Guest]) -> (Owners, Vec<String>) {
    let mut reader = Reader::new(root);
    let [irqbalance, tuned] = find_processes(&mut reader, ["irqbalance", "tuned"]);
    let irqbalance = irqbalance.and_then(|pid| {
        let start_time = read_start_time(&root.proc, pid).ok().flatten()?;
        let setup = ask_irqbalance(root, pid).map_err(|error| one_line(&error));
        Some(Irqbalance { pid, start_time, setup })
    });
    let tuned = tuned.map(|pid| {
        let profile = fs::read_to_string(root.etc.join("tuned/active_profile")).unwrap_or_default();
        Tuned { pid, profile: Some(profile.trim().to_owned()).filter(|profile| !profile.is_empty()) }
    });
    let mut cpusets = cpusets(&mut reader, guests);
    let online = reader.sys("devices/system/cpu/online");
    let online = reader.cpu_list(&online).unwrap_or_default();
    let libvirt::Pins { limits, unknown } = libvirt::read_pins(root, guests, &cpusets, &online);
    for (tid, pin) in limits {
        // The tighter one counts; they differ where the group is that of all threads.
        let limit = cpusets.entry(tid).or_insert_with(|| pin.clone());
        if pin.cpus.is_subset(&limit.cpus) {
            *limit = pin;
        }
    }
    let containers = containers(&mut reader);
    let owners = Owners { irqbalance, tuned, containers, cpusets, unknown_pins: unknown };
    (owners, reader.problems)
}

/// The first process of each name.
pub(super) fn find_processes<const N: usize>(reader: &mut Reader<'_>, wanted: [&str; N]) -> [Option<Pid>; N] {
    let proc = reader.root.proc.clone();
    let mut found = [None; N];
    for pid in reader.numbered(&proc, "") {
        let comm = fs::read_to_string(proc.join(format!("{pid}/comm"))).unwrap_or_default();
        if let Some(at) = wanted.iter().position(|name| *name == comm.trim_end()) {
            found[at].get_or_insert(Pid(pid));
        }
    }
    found
}

/// CPUs that containers have alone.
fn containers(reader: &mut Reader<'_>) -> CpuSet {
    let path = reader.root.var.join("lib/kubelet/cpu_manager_state");
    let state = reader.value(&path, "the state of a CPU manager", |text| {
        serde_json::from_str::<CpuManagerState>(text).ok()
    });
    let entries = state.map(|state| state.entries).unwrap_or_default();
    entries.values().flat_map(BTreeMap::values).fold(CpuSet::new(), |all, cpus| all.union(cpus))
}

/// The limits of the guests' threads, each group read once.
fn cpusets(reader: &mut Reader<'_>, guests: &[Guest]) -> BTreeMap<Tid, Cpuset> {
    let mut known: BTreeMap<String, Option<CpuSet>> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for guest in guests {
        for thread in guest.threads.iter().chain(guest.vcpus.iter().map(|vcpu| &vcpu.thread)) {
            // By the thread's own number: threads that the kernel runs for a guest are processes of their own.
            let path = reader.proc(format!("{tid}/task/{tid}/cpuset", tid = thread.tid));
            // Kernels without cpusets do not have the file.
            let Ok(group) = fs::read_to_string(&path) else { continue };
            let group = group.trim_end().to_owned();
            // A group outside of the namespace of control groups that vfprobe runs in cannot be looked up.
            if group.is_empty() || group == "/" || group.contains("/..") {
                continue;
            }
            let cpus = match known.get(&group) {
                Some(cpus) => cpus.clone(),
                None => {
                    let cpus = allowed(reader, &group);
                    known.insert(group.clone(), cpus.clone());
                    cpus
                }
            };
            if let Some(cpus) = cpus {
                found.insert(thread.tid, Cpuset { cpus, by: Limiter::Group(group) });
            }
        }
    }
    found
}

/// CPUs that a group may use: version 2 of control groups, or version 1.
fn allowed(reader: &mut Reader<'_>, group: &str) -> Option<CpuSet> {
    let below = |dir: &str, file: &str| -> PathBuf { PathBuf::from(format!("fs/cgroup{dir}{group}/{file}")) };
    let places = [below("", "cpuset.cpus.effective"), below("/cpuset", "cpuset.effective_cpus")];
    places.into_iter().find_map(|path| {
        let path = reader.sys(path);
        reader.cpu_list(&path).filter(|cpus| !cpus.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Tree;
    use crate::host::irqbalance;
    use crate::model::topology::{Thread, Vcpu, Vmm};
    use crate::model::{IrqNumber, VcpuId};

    fn thread(tid: u32) -> Thread {
        Thread { tid: Tid(tid), comm: "t".to_owned(), start_time: 1, affinity: CpuSet::new() }
    }

    fn guest() -> Guest {
        Guest {
            name: "vm1".to_owned(),
            uuid: None,
            pid: Pid(200),
            start_time: 1,
            vmm: Vmm::Qemu,
            libvirt: true,
            vcpus: vec![Vcpu { index: VcpuId(0), thread: thread(201) }],
            threads: vec![thread(200), thread(202)],
            nics: Vec::new(),
            vfs: Vec::new(),
        }
    }

    #[test]
    fn nobody() {
        let tree = Tree::new();
        assert_eq!(read_owners(&tree.root(), &[guest()]), (Owners::default(), Vec::new()));
    }

    #[test]
    fn daemons() {
        let tree = Tree::new();
        for (pid, comm) in [(70, "irqbalance"), (71, "tuned"), (72, "irqbalance")] {
            tree.file(&format!("proc/{pid}/comm"), &format!("{comm}\n"));
            let rest = vec!["0"; 18].join(" ");
            tree.file(&format!("proc/{pid}/stat"), &format!("{pid} ({comm}) S {rest} 4711 0 0\n"));
        }
        tree.file("etc/tuned/active_profile", "cpu-partitioning\n");
        let (owners, _) = read_owners(&tree.root(), &[]);
        let found = owners.irqbalance.unwrap();
        assert_eq!((found.pid, found.start_time, found.setup.is_err()), (Pid(70), 4711, true));
        let profile = Some("cpu-partitioning".to_owned());
        assert_eq!(owners.tuned, Some(Tuned { pid: Pid(71), profile }));

        irqbalance::testing::serve(&tree.root(), Pid(70), &[31]);
        let (owners, problems) = read_owners(&tree.root(), &[]);
        let setup = owners.irqbalance.unwrap().setup.unwrap();
        assert_eq!((setup.bans, problems), ([IrqNumber(31)].into(), Vec::new()));
    }

    #[test]
    fn control_groups() {
        // libvirt's groups, of version 2 and of version 1.
        for (dir, file) in [("", "cpuset.cpus.effective"), ("/cpuset", "cpuset.effective_cpus")] {
            let tree = Tree::new();
            let group = r"/machine.slice/machine-qemu\x2d1\x2dvm1.scope/libvirt";
            for (tid, part) in [(200, "emulator"), (201, "vcpu0")] {
                tree.file(&format!("proc/{tid}/task/{tid}/cpuset"), &format!("{group}/{part}\n"));
            }
            tree.file("proc/202/task/202/cpuset", "/\n");
            tree.file(&format!("sys/fs/cgroup{dir}{group}/vcpu0/{file}"), "2\n");
            tree.file(&format!("sys/fs/cgroup{dir}{group}/emulator/{file}"), "0-1\n");
            let (owners, problems) = read_owners(&tree.root(), &[guest()]);
            let lines: Vec<String> =
                owners.cpusets.iter().map(|(tid, set)| format!("{tid} {} {}", set.cpus, set.by)).collect();
            let group = format!("its control group {group}");
            assert_eq!(lines, [format!("200 0-1 {group}/emulator"), format!("201 2 {group}/vcpu0")]);
            assert!(owners.cpusets[&Tid(201)].remedy().contains("virsh vcpupin"));
            assert_eq!(problems, Vec::<String>::new());
        }
    }

    #[test]
    fn cpus_of_containers() {
        let tree = Tree::new();
        let file = "var/lib/kubelet/cpu_manager_state";
        let state = r#"{"policyName":"static","defaultCpuSet":"0,6-7","entries":{"a":{"x":"2-3","y":"5"},"b":{"z":"4"}},"checksum":1}"#;
        for (text, expected, problems) in [
            (state, "2-5", 0),
            (r#"{"policyName":"none","defaultCpuSet":"","checksum":1}"#, "", 0),
            ("x", "", 1),
        ] {
            tree.file(file, text);
            let (owners, found) = read_owners(&tree.root(), &[]);
            assert_eq!((owners.containers.to_string().as_str(), found.len()), (expected, problems), "{text}");
        }
    }
}
