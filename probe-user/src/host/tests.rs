//! Tests of the whole reading: captured and generated hosts, and what can go wrong on them.

use super::{
    fixture::{Card, ICE, IXGBE, LAB, LAB_VHOST, LARGE, Large, MLX5, Tree, generate},
    read_facts, read_topology,
};
use crate::model::{
    CpuId, NumaNode,
    nic::Nic,
    topology::{DeliveryMode, Guest, Topology, Vf, Vmm},
};

fn lab() -> Tree {
    Tree::captured(LAB)
}

fn guest<'a>(topology: &'a Topology, name: &str) -> &'a Guest {
    topology.guests.iter().find(|g| g.name == name).unwrap()
}

fn vf_line(vf: &Vf) -> String {
    let slots: Vec<String> = vf
        .slots
        .iter()
        .map(|s| {
            let [asked, effective] =
                [&s.affinity, &s.effective_affinity].map(|c| c.clone().unwrap().to_string());
            format!("{}={}:{asked}:{effective}:{}", s.slot, s.irq, s.mode.as_str())
        })
        .collect();
    format!(
        "{} vf{} of {} ({}) node {:?} cpus {} {} group {} {}",
        vf.address,
        vf.index.unwrap(),
        vf.pf,
        vf.pf_netdev.as_deref().unwrap(),
        vf.numa_node,
        vf.local_cpus,
        vf.driver.as_deref().unwrap_or("-"),
        vf.iommu_group.unwrap(),
        slots.join(" ")
    )
}

#[test]
fn the_captured_lab_host() {
    let tree = lab();
    let t = read_topology(&tree.root());
    assert_eq!(t.problems, [] as [&str; 0]);
    assert_eq!(t.online().to_string(), "0-3");
    assert!(t.cpus.iter().all(|c| c.node == Some(NumaNode(0)) && c.llc.to_string() == "0-3"));
    assert!(t.cpus.iter().all(|c| c.siblings == c.id.into() && !c.isolated && !c.nohz_full));
    assert_eq!(t.default_affinity.as_ref().unwrap().to_string(), "0-3");

    let vm1 = guest(&t, "vm1");
    assert_eq!((vm1.vmm, vm1.libvirt, vm1.uuid.as_deref()), (Vmm::Qemu, false, None));
    let vcpus: Vec<String> = vm1
        .vcpus
        .iter()
        .map(|v| format!("{} {} {:?} {}", v.index, v.thread.tid, v.thread.comm, v.thread.affinity))
        .collect();
    assert_eq!(vcpus, ["0 233 \"CPU 0/KVM\" 0-3", "1 234 \"CPU 1/KVM\" 0-3"]);
    assert_eq!(vm1.start_time, 3330);
    let others: Vec<&str> = vm1.threads.iter().map(|t| t.comm.as_str()).collect();
    assert_eq!(others, ["qemu-system-x86", "qemu-system-x86", "kvm-nx-lpage-re", "kvm-pit/223"]);
    assert_eq!(
        vm1.vfs.iter().map(vf_line).collect::<Vec<_>>(),
        ["0000:01:10.0 vf0 of 0000:01:00.0 (eth0) node None cpus 0-3 vfio-pci group 8 \
          0=37:0-3:3:remapped 1=38:0-3:0:remapped 2=39:0-3:1:remapped"]
    );
    let vm2 = guest(&t, "vm2");
    assert_eq!(vm2.uuid.as_deref(), Some("11111111-2222-3333-4444-555555555555"));
    let owned: Vec<String> = vm2.vfs.iter().map(|vf| vf.address.to_string()).collect();
    assert_eq!(owned, ["0000:01:10.2", "0000:01:10.4"]);
    assert_eq!(t.free_vfs.iter().map(|vf| vf.address.to_string()).collect::<Vec<_>>(), ["0000:01:10.6"]);
    let irq = t.irq(vm1.vfs[0].slots[1].irq).unwrap();
    assert_eq!((irq.chip.as_str(), irq.count), ("IR-PCI-MSIX-0000:01:10.0", 51));
}

#[test]
fn the_captured_lab_hosts_facts() {
    let (facts, problems) = read_facts(&lab().root());
    assert_eq!(problems, [] as [&str; 0]);
    assert!(facts.kernel.starts_with("6.12."), "{}", facts.kernel);
    assert_eq!(facts.cpu_vendor, "AuthenticAMD");
    assert_eq!(facts.kvm_parameters.get("kvm.halt_poll_ns").map(String::as_str), Some("200000"));
    assert_eq!(facts.kvm_parameters.get("kvm_amd.avic").map(String::as_str), Some("N"));
}

#[test]
fn the_captured_host_with_a_guest_on_vhost_and_without_thread_names() {
    let t = read_topology(&Tree::captured(LAB_VHOST).root());
    assert_eq!(t.problems, [] as [&str; 0]);
    let vm2 = guest(&t, "vm2");
    let vcpus: Vec<(u32, &str)> = vm2.vcpus.iter().map(|v| (v.index.0, v.thread.comm.as_str())).collect();
    assert_eq!(vcpus, [(0, "qemu-system-x86"), (1, "qemu-system-x86")]);
    let others: Vec<&str> = vm2.threads.iter().map(|t| t.comm.as_str()).collect();
    assert_eq!(others, ["qemu-system-x86", "qemu-system-x86", "vhost-236", "kvm-pit/236"]);
    assert_eq!((vm2.vfs.len(), t.free_vfs.len()), (0, 3));
    assert_eq!(guest(&t, "vm1").nics, []);
}

fn nic_line(nic: &Nic) -> String {
    let Nic { netdev, ifindex, path, card, queues, vhost, bridge, uplinks } = nic;
    let (card, bridge) = (card.as_deref().unwrap_or("-"), bridge.as_deref().unwrap_or("-"));
    format!("{netdev} {ifindex:?} {} {card} {queues} {vhost:?} {bridge} {}", path.as_str(), uplinks.join("+"))
}

fn nic_lines(tree: &Tree, name: &str) -> Vec<String> {
    let t = read_topology(&tree.root());
    assert_eq!(t.problems, [] as [&str; 0]);
    guest(&t, name).nics.iter().map(nic_line).collect()
}

/// An interface, with the links that a netlink `ip link` of this shape leaves in sysfs.
fn interface(tree: &Tree, name: &str, index: u32, files: &[&str], lower: &[&str]) {
    let dir = format!("sys/class/net/{name}");
    tree.file(&format!("{dir}/ifindex"), &format!("{index}\n"));
    for file in files {
        tree.file(&format!("{dir}/{file}"), "x\n");
    }
    for below in lower {
        tree.link(&format!("{dir}/lower_{below}"), &format!("../{below}"));
    }
}

#[test]
fn cards_on_a_bridge_over_a_bond_and_in_another_namespace() {
    // The capture holds no sysfs of interfaces and no fdinfo: both are laid out here.
    let tree = Tree::captured(LAB_VHOST);
    tree.file("proc/236/fdinfo/9", "pos:\t0\nflags:\t0104002\nmnt_id:\t25\nino:\t7\niff:\ttap0\n");
    assert_eq!(nic_lines(&tree, "vm2"), ["tap0 None vhost virtio-net-pci 1 Some(true) - "]);
    // Another interface of that name, in this namespace, is not the guest's.
    interface(&tree, "tap0", 7, &[], &[]);
    tree.link("sys/class/net/tap0/master", "../br0");
    assert_eq!(nic_lines(&tree, "vm2"), ["tap0 None vhost virtio-net-pci 1 Some(true) - "]);
    interface(&tree, "tap0", 7, &["tun_flags"], &[]);
    interface(&tree, "br0", 5, &[], &["tap0", "bond0"]);
    interface(&tree, "bond0", 4, &[], &["eth1", "eth0"]);
    interface(&tree, "eth0", 2, &["device/vendor"], &[]);
    interface(&tree, "eth1", 3, &["device/vendor"], &[]);
    assert_eq!(nic_lines(&tree, "vm2"), ["tap0 Some(7) vhost virtio-net-pci 1 Some(true) br0 eth0+eth1"]);
    // Links that lead in a circle end.
    tree.link("sys/class/net/eth0/lower_br0", "../br0");
    assert_eq!(nic_lines(&tree, "vm2"), ["tap0 Some(7) vhost virtio-net-pci 1 Some(true) br0 eth0+eth1"]);
    // A file that was opened and not attached is no card.
    tree.file("proc/236/fdinfo/9", "pos:\t0\niff:\t\n");
    assert_eq!(nic_lines(&tree, "vm2"), [] as [&str; 0]);
}

#[test]
fn which_cards_are_served_by_vhost() {
    let args = "qemu-system-x86_64 -name vm9 -netdev tap,id=a,ifname=t0,vhost=on -device virtio-net-pci,netdev=a \
                -netdev tap,id=b,ifname=t1 -device e1000,netdev=b";
    let [t0, t1] = ["t0 None", "t1 None"];
    // Target of descriptors 3, 4, ...; interface of each tun file.
    let tun = "/dev/net/tun";
    for (cmdline, files, interfaces, expected) in [
        (
            args,
            vec![tun, tun],
            vec!["t0", "t1"],
            [
                format!("{t0} virtio virtio-net-pci 1 Some(false) - "),
                format!("{t1} emulated e1000 1 Some(false) - "),
            ],
        ),
        (
            args,
            vec![tun, tun, "/dev/vhost-net"],
            vec!["t0", "t1"],
            [
                format!("{t0} vhost virtio-net-pci 1 Some(true) - "),
                format!("{t1} emulated e1000 1 Some(false) - "),
            ],
        ),
        (
            "own-vmm",
            vec![tun, tun, tun, "/dev/vhost-net"],
            vec!["t0", "t1", "t1"],
            [format!("{t0} tap - 1 None - "), format!("{t1} tap - 2 None - ")],
        ),
        (
            "own-vmm",
            vec![tun, tun, "/dev/vhost-net", "/dev/vhost-net"],
            vec!["t0", "t1"],
            [format!("{t0} vhost - 1 Some(true) - "), format!("{t1} vhost - 1 Some(true) - ")],
        ),
    ] {
        let tree = lab();
        let args: Vec<&str> = cmdline.split_whitespace().collect();
        tree.process(900, &args, &[(900, "qemu", "0")]);
        tree.open(900, &files);
        tree.open(900, &["anon_inode:kvm-vm"]);
        for (n, name) in interfaces.iter().enumerate() {
            tree.file(&format!("proc/900/fdinfo/{}", 3 + n), &format!("pos:\t0\niff:\t{name}\n"));
        }
        let t = read_topology(&tree.root());
        let found = t.guests.iter().find(|g| g.pid.0 == 900).unwrap();
        assert_eq!(found.nics.iter().map(nic_line).collect::<Vec<_>>(), expected, "{cmdline} {files:?}");
    }
}

#[test]
fn macvtap_is_found_by_its_index() {
    let tree = lab();
    tree.open(277, &["/dev/tap12"]);
    // In another namespace no name is known; the file's own is shown.
    assert_eq!(nic_lines(&tree, "vm2"), ["tap12 None macvtap - 1 Some(false) - "]);
    interface(&tree, "macvtap0", 12, &[], &["eth0"]);
    interface(&tree, "eth0", 2, &["device/vendor"], &[]);
    assert_eq!(nic_lines(&tree, "vm2"), ["macvtap0 Some(12) macvtap - 1 Some(false) - eth0"]);
}

#[test]
fn large_hosts() {
    for (card, first, last) in [
        (IXGBE, "0000:3b:10.0", "0000:3b:1f.4"),
        (ICE, "0000:3b:01.0", "0000:3b:08.6"),
        (MLX5, "0000:3b:00.2", "0000:3b:08.0"),
    ] {
        assert_eq!([card.vf(0), card.vf(62)], [first, last]);
        a_large_host(card);
    }
}

fn a_large_host(card: Card) {
    let tree = generate(&Large { card, ..LARGE });
    let t = read_topology(&tree.root());
    assert_eq!(t.problems, [] as [&str; 0]);
    assert_eq!((t.cpus.len(), t.guests.len(), t.free_vfs.len()), (128, 64, 0));
    assert_eq!(t.irqs.len(), 128 + 63 * 5);
    let cpu = &t.cpus[97];
    assert_eq!((cpu.node, cpu.siblings.to_string().as_str()), (Some(NumaNode(1)), "33,97"));
    assert_eq!(cpu.llc.to_string(), "32-63,96-127");
    let isolated: Vec<CpuId> = t.cpus.iter().filter(|c| c.isolated).map(|c| c.id).collect();
    assert_eq!(isolated, [CpuId(2), CpuId(3)]);
    for n in 0..64 {
        let vm = guest(&t, &format!("vm{n}"));
        assert_eq!((vm.vcpus.len(), vm.threads.len(), vm.vfs.len()), (4, 1, usize::from(n < 63)));
        for vf in &vm.vfs {
            assert_eq!((vf.address.to_string(), vf.pf_netdev.as_deref()), (card.vf(n), Some("eth0")));
            assert_eq!((vf.index.unwrap().0, vf.numa_node, vf.slots.len()), (n, Some(NumaNode(1)), 5));
            // APICv and an IOMMU that posts: nothing that can be read says which way it goes.
            assert!(vf.slots.iter().all(|s| s.mode == DeliveryMode::Unknown));
        }
    }
}

#[test]
fn without_thread_names_debugfs_tells_the_vcpus() {
    let tree = lab();
    for tid in [233, 234] {
        let path = format!("proc/223/task/{tid}/stat");
        let stat = std::fs::read_to_string(tree.path(&path)).unwrap();
        let (head, tail) = (stat.split_once('(').unwrap().0, stat.rsplit_once(')').unwrap().1);
        tree.file(&path, &format!("{head}(qemu-system-x86){tail}"));
    }
    let t = read_topology(&tree.root());
    let vcpus: Vec<(u32, u32)> = guest(&t, "vm1").vcpus.iter().map(|v| (v.index.0, v.thread.tid.0)).collect();
    assert_eq!((vcpus, t.problems.len()), (vec![(0, 233), (1, 234)], 0));

    tree.remove("sys/kernel/debug/kvm");
    let t = read_topology(&tree.root());
    assert!(guest(&t, "vm1").vcpus.is_empty());
    assert_eq!(
        t.problems,
        ["guest vm1 (pid 223): 2 of its 2 vCPU threads are not known by name, nor by debugfs \
          kvm/223-*/vcpu*/pid (root, kernel 6.1 or later); start QEMU with -name vm1,debug-threads=on"]
    );
}

#[test]
fn other_programs_and_the_vfio_device_file() {
    let tree = lab();
    tree.process(
        900,
        &["/firecracker", "--id", "fc1"],
        &[(900, "firecracker", "0"), (901, "fc_vcpu 0", "1")],
    );
    tree.open(900, &["anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0"]);
    tree.process(910, &["cloud-hypervisor"], &[(910, "cloud-hyperviso", "0"), (911, "vcpu0", "2")]);
    tree.open(910, &["anon_inode:kvm-vm", "/dev/vfio/devices/vfio3"]);
    tree.process(920, &["./own-vmm"], &[(920, "own (v) mm", "0-3")]);
    tree.open(920, &["anon_inode:kvm-vm"]);
    tree.process(930, &[], &[(930, "vhost-900", "0-1")]);
    let t = read_topology(&tree.root());
    let names: Vec<&str> = t.guests.iter().map(|g| g.name.as_str()).collect();
    assert_eq!(names, ["cloud-hypervisor-910", "fc1", "own (v) mm-920", "vm1", "vm2"]);
    let ch = guest(&t, "cloud-hypervisor-910");
    assert_eq!((ch.vcpus.len(), ch.vfs[0].address.to_string().as_str()), (1, "0000:01:10.6"));
    assert!(t.free_vfs.is_empty());
    let fc = guest(&t, "fc1");
    assert_eq!(fc.threads.iter().map(|t| t.comm.as_str()).collect::<Vec<_>>(), ["firecracker", "vhost-900"]);
    assert_eq!(guest(&t, "own (v) mm-920").vmm, Vmm::Other);
}

#[test]
fn a_vf_with_a_host_driver_is_free_and_shown() {
    let tree = lab();
    tree.link("sys/bus/pci/devices/0000:01:10.6/driver", "../../../../bus/pci/drivers/igbvf");
    let t = read_topology(&tree.root());
    assert_eq!(t.free_vfs[0].driver.as_deref(), Some("igbvf"));
    tree.remove("sys/bus/pci/devices/0000:01:10.6/driver");
    assert_eq!(read_topology(&tree.root()).free_vfs[0].driver, None);
}

#[test]
fn what_vanishes_is_no_problem() {
    let tree = lab();
    for path in ["proc/277/task/283/stat", "proc/277/task/293", "proc/irq/38", "proc/223/task/223/status"] {
        tree.remove(path);
    }
    let t = read_topology(&tree.root());
    let slot = &guest(&t, "vm1").vfs[0].slots[1];
    assert_eq!((slot.affinity.as_ref(), slot.effective_affinity.as_ref()), (None, None));
    // vm2 holds one vCPU whose thread has just gone.
    assert!(guest(&t, "vm2").vcpus.is_empty());
    assert_eq!(t.problems, [] as [&str; 0]);
    tree.remove("proc/277/stat");
    let t = read_topology(&tree.root());
    assert_eq!(t.guests.len(), 1);
    assert_eq!(t.problems, [] as [&str; 0]);
    assert_eq!(t.free_vfs.len(), 3, "the VFs of a guest that is gone are free");
}

#[test]
fn problems_name_path_line_and_text() {
    let tree = lab();
    let check = |path: &str, content: &str, expected: &str| {
        let before = std::fs::read_to_string(tree.path(path)).unwrap();
        tree.file(path, content);
        let expected = expected.replace("ROOT", tree.path("").to_str().unwrap().trim_end_matches('/'));
        assert_eq!(read_topology(&tree.root()).problems, [expected]);
        tree.file(path, &before);
    };
    check(
        "proc/223/task/233/status",
        "Name:\tx\nCpus_allowed_list:\tq\n",
        "ROOT/proc/223/task/233/status: line 2: expected a CPU list, found \"Cpus_allowed_list:\\tq\"",
    );
    check(
        "proc/irq/38/smp_affinity_list",
        "x\n",
        "ROOT/proc/irq/38/smp_affinity_list: line 1: expected a CPU list, found \"x\"",
    );
    check(
        "sys/bus/pci/devices/0000:01:10.0/numa_node",
        "?",
        "ROOT/sys/bus/pci/devices/0000:01:10.0/numa_node: line 1: expected a node number or -1, found \"?\"",
    );
}

#[test]
fn an_empty_tree_says_what_is_missing() {
    let tree = Tree::new();
    let t = read_topology(&tree.root());
    let problems = t.problems.join("\n").replace(tree.path("").to_str().unwrap(), "/");
    assert_eq!(
        problems,
        "/sys/devices/system/cpu: not there, so no CPU is known: mount sysfs\n\
         /proc/interrupts: not there, so no interrupt is known: mount procfs\n\
         /proc: process 1 is not visible, so others may be hidden too (hidepid, or not mounted): run as root"
    );
}

#[test]
fn cpus_that_are_offline_or_say_little() {
    let tree = lab();
    let dir = "sys/devices/system/cpu";
    tree.file(&format!("{dir}/online"), "0-2\n");
    tree.file(&format!("{dir}/nohz_full"), "  (null)\n");
    tree.remove(&format!("{dir}/cpu3/topology"));
    for cpu in 0..4 {
        tree.remove(&format!("{dir}/cpu{cpu}/cache"));
    }
    // A node may have memory and no CPU.
    tree.file("sys/devices/system/node/node1/cpulist", "\n");
    let t = read_topology(&tree.root());
    assert_eq!(t.problems, [] as [&str; 0]);
    let shown: Vec<String> =
        t.cpus.iter().map(|c| format!("{} {} {} {}", c.id, c.online, c.siblings, c.llc)).collect();
    assert_eq!(shown, ["0 true 0 0", "1 true 1 1", "2 true 2 2", "3 false 3 3"]);
    assert!(t.cpus.iter().all(|c| !c.nohz_full));
    tree.remove(&format!("{dir}/present"));
    assert_eq!(read_topology(&tree.root()).cpus.len(), 3, "without a list of present CPUs, those online");
}
