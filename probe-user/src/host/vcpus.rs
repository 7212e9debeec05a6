//! Which threads of a VMM run vCPUs: by their names, else by what KVM says in debugfs, else by what QEMU says itself.
//!
//! A monitor is asked last and seldom: it serves one client at a time, and somebody else may need it.

use super::qmp::query_cpus;
use super::reader::{Reader, list};
use super::vmm::vcpu_index;
use crate::model::topology::{Thread, Vcpu};
use crate::model::{Pid, Tid, VcpuId};
use std::collections::BTreeMap;

/// What is known of a VMM.
pub(super) struct Process<'a> {
    pub(super) pid: Pid,
    /// vCPUs that it has open.
    pub(super) vcpus: usize,
    /// Its monitor sockets, as it names them.
    pub(super) monitors: &'a [String],
}

/// A VMM's threads.
pub(super) struct Split {
    /// Those that run vCPUs, by index.
    pub(super) vcpus: Vec<Vcpu>,
    /// The others.
    pub(super) threads: Vec<Thread>,
    /// Why the monitor did not say what it was asked for.
    pub(super) unasked: Option<String>,
}

/// Tells vCPU threads from the others.
pub(super) fn split_threads(reader: &mut Reader<'_>, process: &Process<'_>, threads: Vec<Thread>) -> Split {
    let mut unasked = None;
    let mut by_tid: BTreeMap<Tid, u32> =
        threads.iter().filter_map(|t| Some((t.tid, vcpu_index(&t.comm)?))).collect();
    if by_tid.is_empty() {
        by_tid = vcpus_of_debugfs(reader, process.pid, &threads);
        if by_tid.len() < process.vcpus || has_gaps(&by_tid) {
            match ask_monitors(reader, process) {
                Ok(Some(told)) => by_tid = told,
                Ok(None) => {}
                Err(why) => unasked = Some(why),
            }
        }
    }
    let (vcpus, threads): (Vec<_>, Vec<_>) = threads.into_iter().partition(|t| by_tid.contains_key(&t.tid));
    let mut vcpus: Vec<Vcpu> = vcpus
        .into_iter()
        .filter_map(|thread| Some(Vcpu { index: VcpuId(*by_tid.get(&thread.tid)?), thread }))
        .collect();
    vcpus.sort_by_key(|vcpu| vcpu.index);
    Split { vcpus, threads, unasked }
}

/// Whether these are not QEMU's indices, which have no gap until a vCPU is added out of turn: KVM's are APIC ids, which
/// have some where the number of cores or threads is no power of two (target/i386/kvm, `kvm_arch_vcpu_id()`).
fn has_gaps(by_tid: &BTreeMap<Tid, u32>) -> bool {
    by_tid.values().any(|index| usize::try_from(*index).is_ok_and(|index| index >= by_tid.len()))
}

/// What the first monitor that answers says; `None` when there is no monitor.
fn ask_monitors(reader: &Reader<'_>, process: &Process<'_>) -> Result<Option<BTreeMap<Tid, u32>>, String> {
    let mut unasked = Vec::new();
    for path in process.monitors {
        // As the VMM sees it: it may run in a container, or name a path below its own folder.
        let base = if path.starts_with('/') { "root" } else { "cwd" };
        let seen = reader.proc(format!("{}/{base}/{}", process.pid, path.trim_start_matches('/')));
        match query_cpus(&seen, process.pid) {
            Ok(told) => return Ok(Some(told)),
            Err(error) => unasked.push(format!("its monitor {path} was not asked: {error}")),
        }
    }
    if unasked.is_empty() { Ok(None) } else { Err(unasked.join(", ")) }
}

/// `kvm/<pid>-<fd>/vcpuN/pid`, where `<pid>` is the thread that made the virtual machine (virt/kvm/kvm_main.c,
/// `kvm_create_vm_debugfs`) and the file exists from 6.1 on. N is KVM's vcpu_id.
fn vcpus_of_debugfs(reader: &mut Reader<'_>, pid: Pid, threads: &[Thread]) -> BTreeMap<Tid, u32> {
    let kvm = reader.sys("kernel/debug/kvm");
    let mut found = BTreeMap::new();
    // Without root debugfs cannot be listed; the missing vCPUs are reported by the caller.
    for name in list(&kvm).unwrap_or_default() {
        let maker = name.split_once('-').and_then(|(maker, _)| maker.parse::<u32>().ok());
        if !maker.is_some_and(|m| m == pid.0 || threads.iter().any(|t| t.tid.0 == m)) {
            continue;
        }
        let vm = kvm.join(&name);
        for index in reader.numbered(&vm, "vcpu") {
            let path = vm.join(format!("vcpu{index}/pid"));
            let tid = reader.value(&path, "a thread id", |text| text.parse().ok());
            // 0: its thread has not run it yet, as in a guest that was started paused (`vcpu_get_pid()`).
            if let Some(tid) = tid.filter(|tid| *tid != 0) {
                found.insert(Tid(tid), index);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use crate::host::fixture::Tree;
    use crate::host::qmp::testing::{CPUS, GREETING, monitor};
    use crate::host::read_topology;

    /// A QEMU without names of threads, which says of itself what it says on its monitor; debugfs says these ids.
    fn vcpus(debugfs: &[(u32, u32)], options: &[&str], said: &[&str]) -> (Vec<(u32, u32)>, Vec<String>) {
        let tree = Tree::new();
        // The monitor is this process's.
        let pid = std::process::id();
        let name = "qemu-system-x86";
        let args: Vec<&str> = ["qemu-system-x86_64", "-name", "vm1"].iter().chain(options).copied().collect();
        tree.process(1, &["init"], &[(1, "init", "0")]);
        tree.process(pid, &args, &[(pid, name, "0-3"), (257, name, "0-3"), (258, name, "0-3")]);
        tree.open(pid, &["anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0", "anon_inode:kvm-vcpu:1"]);
        tree.file("sys/devices/system/cpu/online", "0-3\n");
        for (tid, id) in debugfs {
            tree.file(&format!("sys/kernel/debug/kvm/{pid}-9/vcpu{id}/pid"), &format!("{tid}\n"));
        }
        let sockets = tree.path("sockets");
        std::fs::create_dir(&sockets).unwrap();
        tree.link(&format!("proc/{pid}/root"), sockets.to_str().unwrap());
        if !said.is_empty() {
            monitor(&sockets.join("qmp"), said);
        }
        let mut topology = read_topology(&tree.root());
        topology.problems.retain(|problem| problem.starts_with("guest"));
        let guest = topology.guests.pop().unwrap();
        let vcpus = guest.vcpus.iter().map(|vcpu| (vcpu.index.0, vcpu.thread.tid.0)).collect();
        (vcpus, topology.problems)
    }

    #[test]
    fn a_monitor_says_what_nothing_else_does() {
        const QMP: &[&str] = &["-qmp", "unix:/qmp,server=on"];
        const ANSWERS: &[&str] = &[GREETING, r#"{"return": {}}"#, CPUS];
        let check = |ids: &[(u32, u32)], options, said, expected: &[(u32, u32)], problem: Option<&str>| {
            let (found, problems) = vcpus(ids, options, said);
            assert_eq!(found, expected, "{ids:?}");
            match (problem, &problems[..]) {
                (None, []) => {}
                (Some(part), [told]) => assert!(told.contains(part), "{told}"),
                _ => panic!("{ids:?}: {problems:?}"),
            }
        };
        let both = [(0, 257), (1, 258)];
        check(&[], QMP, ANSWERS, &both, None);
        // They have not run yet.
        check(&[(0, 0), (0, 1)], QMP, ANSWERS, &both, None);
        // debugfs is enough; nobody is asked.
        check(&[(257, 0), (258, 1)], QMP, &[], &both, None);
        // Its numbers are APIC ids.
        check(&[(257, 0), (258, 4)], QMP, ANSWERS, &both, None);
        check(&[(257, 0), (258, 4)], &[], &[], &[(0, 257), (4, 258)], None);
        check(
            &[(257, 0), (258, 4)],
            QMP,
            &[],
            &[(0, 257), (4, 258)],
            Some("by APIC id, and not as QEMU does; its monitor /qmp"),
        );
        check(&[], QMP, &[], &[], Some("later); its monitor /qmp was not asked: No such file"));
        check(&[], QMP, &["hello"], &[], Some("was not asked"));
        check(&[], &[], &[], &[], Some("2 of its 2 vCPU threads are not known by name"));
    }
}
