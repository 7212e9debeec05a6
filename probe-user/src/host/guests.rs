//! Running guests: any process that holds a KVM virtual machine, whatever program it is.

use super::{
    HostError,
    nic_options::parse_taps,
    nics::{NetFile, parse_net_path, read_nics},
    process::{read_start_time, read_thread},
    qmp::sockets,
    reader::{Reader, is_gone},
    vcpus::{Process, Split, split_threads},
    vfio::{VfioFile, parse_vfio_path},
    vmm::{Identity, identify, parse_cmdline},
};
use crate::model::{
    Pid, Tid,
    topology::{Guest, Vmm},
};
use std::{fs, io, path::Path};

/// A guest and the vfio files through which it owns devices.
#[derive(Debug)]
pub(super) struct FoundGuest {
    pub(super) guest: Guest,
    pub(super) vfio: Vec<VfioFile>,
}

/// What one process has open, as far as it concerns guests.
#[derive(Debug, Default)]
struct OpenFiles {
    is_vmm: bool,
    any: bool,
    vcpus: usize,
    vfio: Vec<VfioFile>,
    net: Vec<(u32, NetFile)>,
}

/// All guests, by name, then pid.
pub(super) fn read_guests(reader: &mut Reader<'_>) -> Vec<FoundGuest> {
    let proc = reader.root.proc.clone();
    let mut guests = Vec::new();
    let mut kernel_threads = Vec::new();
    let mut hidden = 0u32;
    let mut first_hidden = None;
    let pids = reader.numbered(&proc, "");
    if !pids.contains(&1) {
        let path = proc.display();
        reader.problems.push(format!(
            "{path}: process 1 is not visible, so others may be hidden too (hidepid, or not mounted): run as root"
        ));
    }
    for pid in pids.into_iter().map(Pid) {
        match read_open_files(&proc.join(format!("{pid}/fd"))) {
            Ok(files) if files.is_vmm => {
                let found = read_guest(reader, pid, &files);
                if let Some(Some(guest)) = reader.note(found) {
                    guests.push(FoundGuest { guest, vfio: files.vfio });
                }
            }
            Ok(files) if !files.any => kernel_threads.push(pid),
            Ok(_) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                hidden += 1;
                first_hidden.get_or_insert((pid, error));
            }
        }
    }
    if let Some((pid, error)) = first_hidden {
        let path = proc.join(format!("{pid}/fd"));
        reader.problems.push(format!(
            "{}: {error}; the open files of {hidden} processes cannot be read, guests among them are not shown: \
             run as root",
            path.display()
        ));
    }
    adopt_kernel_threads(&proc, &kernel_threads, &mut guests);
    guests.sort_by(|a, b| (&a.guest.name, a.guest.pid).cmp(&(&b.guest.name, b.guest.pid)));
    guests
}

fn read_open_files(dir: &Path) -> io::Result<OpenFiles> {
    let mut files = OpenFiles::default();
    for entry in fs::read_dir(dir)? {
        files.any = true;
        // A file that has been closed in the meantime says nothing.
        let path = entry?.path();
        let Ok(target) = fs::read_link(&path) else { continue };
        let Some(target) = target.to_str() else { continue };
        if target == "anon_inode:kvm-vm" {
            files.is_vmm = true;
        } else if target.starts_with("anon_inode:kvm-vcpu:") {
            files.vcpus += 1;
        } else if let Some(vfio) = parse_vfio_path(target) {
            files.vfio.push(vfio);
        } else if let Some(net) = parse_net_path(target)
            && let Some(fd) = path.file_name().and_then(|name| name.to_str()?.parse().ok())
        {
            files.net.push((fd, net));
        }
    }
    files.vfio.sort_unstable();
    files.vfio.dedup();
    Ok(files)
}

/// One guest; `None` when it has ended while it was read.
fn read_guest(reader: &mut Reader<'_>, pid: Pid, files: &OpenFiles) -> Result<Option<Guest>, HostError> {
    let dir = reader.proc(pid.to_string());
    let Some(start_time) = read_start_time(&reader.root.proc, pid)? else { return Ok(None) };
    let Some(comm) = reader.text(&dir.join("comm")) else { return Ok(None) };
    let cmdline = reader.text(&dir.join("cmdline")).unwrap_or_default();
    let cgroup = reader.text(&dir.join("cgroup")).unwrap_or_default();
    let comm = comm.trim_end_matches('\n');
    let args = parse_cmdline(&cmdline);
    let Identity { vmm, name, uuid, libvirt } = identify(comm, &args, &cgroup);
    let name = name.unwrap_or_else(|| match vmm {
        Vmm::Qemu => format!("qemu-{pid}"),
        Vmm::CloudHypervisor => format!("cloud-hypervisor-{pid}"),
        Vmm::Firecracker => format!("firecracker-{pid}"),
        Vmm::Other => format!("{comm}-{pid}"),
    });

    let task = dir.join("task");
    let tids = reader.numbered(&task, "");
    let mut threads = Vec::new();
    for tid in tids.iter().copied().map(Tid) {
        let thread = read_thread(&task, tid);
        threads.extend(reader.note(thread).flatten());
    }
    // A thread that could not be read may have been the one that is missed.
    let all_read = threads.len() == tids.len();
    let monitors = if vmm == Vmm::Qemu { sockets(&args) } else { Vec::new() };
    let Split { vcpus, threads, unasked } =
        split_threads(reader, &Process { pid, vcpus: files.vcpus, monitors: &monitors }, threads);
    let monitor = unasked.map_or_else(String::new, |why| format!("; {why}"));
    if all_read && vcpus.len() < files.vcpus {
        reader.problems.push(format!(
            "guest {name} (pid {pid}): {} of its {} vCPU threads are not known by name, nor by debugfs \
             kvm/{pid}-*/vcpu*/pid (root, kernel 6.1 or later){monitor}; start QEMU with -name {name},debug-threads=on",
            files.vcpus - vcpus.len(),
            files.vcpus
        ));
    } else if !monitor.is_empty() {
        reader.problems.push(format!(
            "guest {name} (pid {pid}): its vCPUs are numbered as KVM does, by APIC id, and not as QEMU does{monitor}; \
             start QEMU with -name {name},debug-threads=on"
        ));
    }
    let taps = if vmm == Vmm::Qemu { parse_taps(&args) } else { Vec::new() };
    let nics = read_nics(reader, pid.0, &files.net, &taps);
    Ok(Some(Guest { name, uuid, pid, start_time, vmm, libvirt, vcpus, threads, vfs: Vec::new(), nics }))
}

/// Up to 6.1, and again in some later stable kernels, vhost workers are kernel threads called `vhost-<pid>`; the PIT
/// of a guest is one called `kvm-pit/<pid>`. They work for the guest and belong to it.
fn adopt_kernel_threads(proc: &Path, candidates: &[Pid], guests: &mut [FoundGuest]) {
    if guests.is_empty() {
        return;
    }
    for pid in candidates {
        let dir = proc.join(pid.to_string());
        let Ok(comm) = fs::read_to_string(dir.join("comm")) else { continue };
        let comm = comm.trim_end();
        let owner = comm.strip_prefix("vhost-").or_else(|| comm.strip_prefix("kvm-pit/"));
        let Some(owner) = owner.and_then(|text| text.parse().ok()).map(Pid) else { continue };
        if let Some(found) = guests.iter_mut().find(|found| found.guest.pid == owner)
            && let Ok(Some(thread)) = read_thread(&dir.join("task"), Tid(pid.0))
        {
            found.guest.threads.push(thread);
        }
    }
}
