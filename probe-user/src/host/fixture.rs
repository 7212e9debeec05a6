//! Hosts for tests: trees of `/proc` and `/sys` laid out in a temporary folder, captured or generated.
//!
//! Knows the kernel's file formats on its own account and shares no code with the readers.

use super::HostRoot;
use std::{
    fmt::Write as _,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// The emulated lab's host on Debian 6.12: 4 CPUs, an 82576 with 4 VFs, guests vm1 (2 vCPUs, 1 VF) and vm2 (1 vCPU,
/// 2 VFs).
pub(crate) const LAB: &str = include_str!("../../../tests/hosts/lab-6.12.tree");

/// The same on Debian 6.1: vm1 as above; vm2 without thread names, without a VF, with virtio-net on vhost.
pub(crate) const LAB_VHOST: &str = include_str!("../../../tests/hosts/lab-6.1.tree");

/// A laid-out host, removed when dropped.
pub(crate) struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    pub(crate) fn new() -> Self {
        // In memory where there is such a file system: a large host on a disk takes seconds.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self { dir: dir.unwrap() }
    }

    /// Lays out a capture (format: tests/hosts/capture.py).
    pub(crate) fn captured(text: &str) -> Self {
        let tree = Self::new();
        let mut lines = text.lines().filter(|line| !line.starts_with('#')).peekable();
        while let Some(line) = lines.next() {
            let (kind, rest) = line.split_once(' ').unwrap();
            if kind == "link" {
                let (path, target) = rest.split_once(" -> ").unwrap();
                tree.link(path, target);
                continue;
            }
            if kind == "dir" {
                fs::create_dir_all(tree.path(rest)).unwrap();
                continue;
            }
            let mut content = Vec::new();
            while let Some(line) = lines.next_if(|line| line.starts_with('\t')) {
                content.push(line[1..].replace("\\0", "\0").replace("\\\\", "\\"));
            }
            let end = if kind == "file" { "\n" } else { "" };
            tree.file(rest, &(content.join("\n") + end));
        }
        tree
    }

    pub(crate) fn root(&self) -> HostRoot {
        HostRoot::under(self.dir.path())
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Does something at a path, with its folders made when they are missing: hosts have some thousand files.
    fn at(&self, path: &str, act: impl Fn(&Path) -> io::Result<()>) {
        let path = self.path(path);
        let result = act(&path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => fs::create_dir_all(path.parent().unwrap()).and_then(|()| act(&path)),
            io::ErrorKind::AlreadyExists => fs::remove_file(&path).and_then(|()| act(&path)),
            _ => Err(error),
        });
        result.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Writes a file, with its folders.
    pub(crate) fn file(&self, path: &str, content: &str) {
        self.at(path, |path| fs::write(path, content));
    }

    /// Makes a symbolic link, in place of one that is there.
    pub(crate) fn link(&self, path: &str, target: &str) {
        self.at(path, |path| symlink(target, path));
    }

    /// Removes a file or folder.
    pub(crate) fn remove(&self, path: &str) {
        let path: &Path = &self.path(path);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    /// A process with one thread for each (tid, name, CPUs).
    pub(crate) fn process(&self, pid: u32, args: &[&str], threads: &[(u32, &str, &str)]) {
        let cmdline: String = args.iter().flat_map(|arg| [arg, "\0"]).collect();
        self.file(&format!("proc/{pid}/cmdline"), &cmdline);
        self.file(&format!("proc/{pid}/cgroup"), "0::/\n");
        fs::create_dir_all(self.path(&format!("proc/{pid}/fd"))).unwrap();
        for (n, (tid, comm, cpus)) in threads.iter().enumerate() {
            let start = 1000 + tid;
            let stat = format!("{tid} ({comm}) S{} {start} 0\n", " 0".repeat(18));
            let status = format!("Name:\t{comm}\nTgid:\t{pid}\nCpus_allowed_list:\t{cpus}\n");
            if n == 0 {
                self.file(&format!("proc/{pid}/comm"), &format!("{comm}\n"));
                self.file(&format!("proc/{pid}/stat"), &stat);
            }
            self.file(&format!("proc/{pid}/task/{tid}/stat"), &stat);
            self.file(&format!("proc/{pid}/task/{tid}/status"), &status);
        }
    }

    /// Opens files in a process: the links' targets, from descriptor 3 on.
    pub(crate) fn open(&self, pid: u32, targets: &[&str]) {
        let taken = fs::read_dir(self.path(&format!("proc/{pid}/fd"))).unwrap().count();
        for (n, target) in targets.iter().enumerate() {
            self.link(&format!("proc/{pid}/fd/{}", 3 + taken + n), target);
        }
    }
}

/// A network card as a generated host has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Card {
    /// The PF's driver.
    pub(crate) driver: &'static str,
    /// The driver that hands VFs to guests.
    vfio: &'static str,
    /// Where VF n is, from the PF on: how far its routing id is from the PF's (SR-IOV: First VF Offset, VF Stride).
    offset: u32,
    stride: u32,
    /// Whether VMMs open a file for each device (`/dev/vfio/devices/vfio<N>`, with iommufd) instead of one for its group.
    cdev: bool,
    /// Whether each VF has a representor among the PF's interfaces (switchdev).
    switchdev: bool,
}

/// Intel 82599.
pub(crate) const IXGBE: Card =
    Card { driver: "ixgbe", vfio: "vfio-pci", offset: 128, stride: 2, cdev: false, switchdev: false };
/// Intel E810, its VFs handed over by device.
pub(crate) const ICE: Card =
    Card { driver: "ice", vfio: "vfio-pci", offset: 8, stride: 1, cdev: true, switchdev: false };
/// NVIDIA ConnectX with a driver of its own for handing over, and representors.
pub(crate) const MLX5: Card =
    Card { driver: "mlx5_core", vfio: "mlx5_vfio_pci", offset: 2, stride: 1, cdev: true, switchdev: true };

impl Card {
    /// PCI address of VF n.
    pub(crate) fn vf(&self, n: u32) -> String {
        let at = self.offset + n * self.stride;
        format!("0000:3b:{:02x}.{:x}", at / 8, at % 8)
    }

    /// What the driver calls the PF's interrupt n.
    fn interrupt(&self, n: u32) -> String {
        match self.driver {
            "ice" => format!("ice-eth0-TxRx-{n}"),
            "mlx5_core" => format!("mlx5_comp{n}@pci:{PF}"),
            _ => format!("eth0-TxRx-{n}"),
        }
    }

    /// The vfio file of VF n.
    fn file(&self, n: u32) -> String {
        if self.cdev { format!("/dev/vfio/devices/vfio{n}") } else { format!("/dev/vfio/{}", 100 + n) }
    }
}

const PF: &str = "0000:3b:00.0";

/// Size of a generated host.
pub(crate) struct Large {
    /// Sockets, each a NUMA node with one last-level cache.
    pub(crate) sockets: u32,
    /// Cores in a socket, each with two threads: CPU n and n + cores of all sockets.
    pub(crate) cores: u32,
    /// Guests, each with `vcpus` vCPUs and, as long as there are any, one VF.
    pub(crate) guests: u32,
    pub(crate) vcpus: u32,
    pub(crate) vfs: u32,
    /// Vectors of each VF.
    pub(crate) slots: u32,
    pub(crate) card: Card,
}

/// Two sockets, SMT, 128 CPUs, 64 guests, 63 VFs.
pub(crate) const LARGE: Large =
    Large { sockets: 2, cores: 32, guests: 64, vcpus: 4, vfs: 63, slots: 5, card: IXGBE };

/// Generates a host. Guest n is `vm<n>` with pid 10000 + 100 n; VF n is in IOMMU group 100 + n.
pub(crate) fn generate(size: &Large) -> Tree {
    let (tree, card) = (Tree::new(), size.card);
    let cpus = size.sockets * size.cores * 2;
    let all = format!("0-{}", cpus - 1);
    tree.file("proc/1/comm", "init\n");
    fs::create_dir_all(tree.path("proc/1/fd")).unwrap();
    cpu_tree(&tree, size, &all);
    tree.file("sys/module/kvm_intel/parameters/enable_apicv", "Y\n");
    tree.file("sys/class/iommu/dmar0/intel-iommu/cap", "19ed008c40780c66\n");

    let header: String = (0..cpus).map(|n| format!("{:>11}", format!("CPU{n}"))).collect();
    let mut interrupts = format!("    {header}\n");
    let mut irq = 0;
    let mut row = |irq_cpu: u32, chip: &str, action: &str| {
        irq += 1;
        let counts: String = (0..cpus).map(|n| format!(" {:>10}", u32::from(n == irq_cpu) * 7)).collect();
        writeln!(interrupts, "{irq:>4}:{counts}  {chip} {}-edge      {action}", irq * 2).unwrap();
        tree.file(&format!("proc/irq/{irq}/smp_affinity_list"), &format!("{all}\n"));
        tree.file(&format!("proc/irq/{irq}/effective_affinity_list"), &format!("{irq_cpu}\n"));
    };
    for n in 0..cpus {
        row(n, "IR-PCI-MSI", &card.interrupt(n));
    }
    pci_function(&tree, PF, card.driver, 50);
    let net = format!("sys/bus/pci/devices/{PF}/net");
    tree.file(&format!("{net}/eth0/address"), "52:54:00:00:00:01\n");
    if card.switchdev {
        tree.file(&format!("{net}/eth0/phys_port_name"), "p0\n");
    }
    for n in 0..size.vfs {
        let vf = card.vf(n);
        pci_function(&tree, &vf, card.vfio, 100 + n);
        tree.link(&format!("sys/bus/pci/devices/{vf}/physfn"), &format!("../{PF}"));
        tree.link(&format!("sys/bus/pci/devices/{PF}/virtfn{n}"), &format!("../{vf}"));
        if card.cdev {
            tree.file(&format!("sys/bus/pci/devices/{vf}/vfio-dev/vfio{n}/dev"), &format!("243:{n}\n"));
        }
        if card.switchdev {
            tree.file(&format!("{net}/a{n}/phys_port_name"), &format!("pf0vf{n}\n"));
        }
        for slot in 0..size.slots {
            row((n + slot) % cpus, "IR-PCI-MSIX-x", &format!("vfio-msix[{slot}]({vf})"));
        }
    }
    tree.file("proc/interrupts", &interrupts);
    tree.file("proc/irq/default_smp_affinity", "ffffffff,ffffffff,ffffffff,ffffffff\n");

    for n in 0..size.guests {
        let pid = 10_000 + 100 * n;
        let mut threads = vec![(pid, "qemu-system-x86".to_owned(), all.clone())];
        for v in 0..size.vcpus {
            threads.push((pid + 1 + v, format!("CPU {v}/KVM"), (n % cpus).to_string()));
        }
        let threads: Vec<(u32, &str, &str)> =
            threads.iter().map(|(tid, comm, cpus)| (*tid, comm.as_str(), cpus.as_str())).collect();
        let name = format!("guest=vm{n},debug-threads=on");
        tree.process(pid, &["/usr/bin/qemu-system-x86_64", "-name", &name], &threads);
        let container = if card.cdev { "/dev/iommu" } else { "/dev/vfio/vfio" };
        let mut files = vec!["/dev/null".to_owned(), "anon_inode:kvm-vm".to_owned(), container.to_owned()];
        files.extend((0..size.vcpus).map(|v| format!("anon_inode:kvm-vcpu:{v}")));
        files.extend((0..10 * size.vcpus).map(|_| "anon_inode:[eventfd]".to_owned()));
        files.extend((n < size.vfs).then(|| card.file(n)));
        tree.open(pid, &files.iter().map(String::as_str).collect::<Vec<_>>());
    }
    tree
}

fn cpu_tree(tree: &Tree, size: &Large, all: &str) {
    let (cores, total) = (size.cores, size.sockets * size.cores);
    let dir = "sys/devices/system/cpu";
    for name in ["online", "present"] {
        tree.file(&format!("{dir}/{name}"), &format!("{all}\n"));
    }
    tree.file(&format!("{dir}/isolated"), "2-3\n");
    tree.file(&format!("{dir}/nohz_full"), "(null)\n");
    for socket in 0..size.sockets {
        let (low, high) = (socket * cores, socket * cores + cores - 1);
        let of_socket = format!("{low}-{high},{}-{}", low + total, high + total);
        tree.file(&format!("sys/devices/system/node/node{socket}/cpulist"), &format!("{of_socket}\n"));
        for core in low..=high {
            for cpu in [core, core + total] {
                let cpu_dir = format!("{dir}/cpu{cpu}");
                let pair = format!("{core},{}\n", core + total);
                tree.file(&format!("{cpu_dir}/topology/thread_siblings_list"), &pair);
                for (index, level) in [(0, 1), (1, 1), (2, 2), (3, 3)] {
                    let shared = if level == 3 { format!("{of_socket}\n") } else { pair.clone() };
                    tree.file(&format!("{cpu_dir}/cache/index{index}/level"), &format!("{level}\n"));
                    tree.file(&format!("{cpu_dir}/cache/index{index}/shared_cpu_list"), &shared);
                }
            }
        }
    }
}

fn pci_function(tree: &Tree, address: &str, driver: &str, group: u32) {
    let dir = format!("sys/bus/pci/devices/{address}");
    tree.file(&format!("{dir}/numa_node"), "1\n");
    tree.file(&format!("{dir}/local_cpulist"), "32-63,96-127\n");
    tree.link(&format!("{dir}/driver"), &format!("../../../../bus/pci/drivers/{driver}"));
    tree.link(&format!("{dir}/iommu_group"), &format!("../../../../kernel/iommu_groups/{group}"));
}
