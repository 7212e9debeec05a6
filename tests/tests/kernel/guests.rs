//! A virtual machine made here is found as a guest, with its vCPU threads, for as long as it lives.

use anyhow::Context;
use kvm_ioctls::Kvm;
use probe_user::{
    host::{HostRoot, read_topology},
    model::topology::{Topology, Vmm},
};
use std::{fs, sync::mpsc, thread};

fn own_guests(topology: &Topology) -> Vec<String> {
    let own = std::process::id();
    topology.guests.iter().filter(|guest| guest.pid.0 == own).map(|guest| guest.name.clone()).collect()
}

/// Sets this thread's name and gives its number: `/proc/thread-self` is `PID/task/TID`.
fn name_this_thread(name: &str) -> anyhow::Result<u32> {
    fs::write("/proc/thread-self/comm", name)?;
    let link = fs::read_link("/proc/thread-self")?;
    let tid = link.file_name().context("no thread in the link")?.to_string_lossy().parse()?;
    Ok(tid)
}

#[test]
fn a_virtual_machine_is_a_guest() {
    let kvm = Kvm::new().expect("/dev/kvm is needed: modprobe kvm_intel or kvm_amd, and run as root");
    let vm = kvm.create_vm().unwrap();
    let vcpus: Vec<_> = (0..2).map(|index| vm.create_vcpu(index).unwrap()).collect();

    let (named, names) = mpsc::channel();
    let (topology, tids) = thread::scope(|scope| {
        let mut release = Vec::new();
        for index in 0..vcpus.len() {
            let (stop, wait) = mpsc::channel::<()>();
            let named = named.clone();
            scope.spawn(move || {
                named.send((index, name_this_thread(&format!("CPU {index}/KVM")).unwrap())).unwrap();
                // Ends when the other side is dropped.
                let _ = wait.recv();
            });
            release.push(stop);
        }
        let mut tids: Vec<_> = (0..vcpus.len()).map(|_| names.recv().unwrap()).collect();
        tids.sort_unstable();
        let topology = read_topology(&HostRoot::live());
        drop(release);
        (topology, tids)
    });

    let own = std::process::id();
    let guest = topology.guests.iter().find(|guest| guest.pid.0 == own).unwrap();
    let found: Vec<(usize, u32)> =
        guest.vcpus.iter().map(|vcpu| (vcpu.index.0.try_into().unwrap(), vcpu.thread.tid.0)).collect();
    assert_eq!((found, guest.vmm), (tids, Vmm::Other));
    for vcpu in &guest.vcpus {
        assert!(!vcpu.thread.affinity.is_empty());
        assert!(vcpu.thread.start_time >= guest.start_time);
    }
    assert!(guest.threads.iter().any(|thread| thread.tid.0 == own), "the main thread is one of the others");

    drop((vcpus, vm));
    assert_eq!(
        own_guests(&read_topology(&HostRoot::live())),
        [] as [&str; 0],
        "a closed machine is no guest"
    );
}
