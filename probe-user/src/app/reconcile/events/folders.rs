//! Folders in which things come and go that a policy depends on: virtual machines with their vCPUs (KVM's part of debugfs,
//! which sends inotify events unlike procfs), and the socket of irqbalance.
//!
//! What libvirt writes below /run is not read here by anybody: what it sets is found in force, by the audit of settings.

use crate::host::HostRoot;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::path::PathBuf;

const MACHINES: &str = "a virtual machine or a vCPU was made or is gone";
const IRQBALANCE: &str = "irqbalance has started or ended";

/// What a folder is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Of a machine each, in it one of each vCPU: what is in both folders.
    Machines,
    /// Sockets.
    Irqbalance,
    /// Where the folder will be that is missing.
    Parent(&'static str),
}

/// Folders being watched.
#[derive(Debug)]
pub(super) struct Folders {
    inotify: OwnedFd,
    /// KVM's part of debugfs.
    machines: PathBuf,
    run: PathBuf,
    debug: PathBuf,
    kinds: BTreeMap<i32, Kind>,
}

impl AsFd for Folders {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl Folders {
    /// Begins to watch.
    pub(super) fn watch(root: &HostRoot) -> io::Result<Self> {
        let debug = root.sys.join("kernel/debug");
        let mut folders = Self {
            inotify: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?,
            machines: debug.join("kvm"),
            run: root.run.clone(),
            debug,
            kinds: BTreeMap::new(),
        };
        folders.add_all();
        Ok(folders)
    }

    /// Watches what is there now. What is watched already stays so: that is the same watch.
    fn add_all(&mut self) {
        let machines = self.machines.clone();
        if self.add(machines.clone(), Kind::Machines) {
            let entries = std::fs::read_dir(&machines).into_iter().flatten().flatten();
            let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            dirs.for_each(|dir| _ = self.add(dir.path(), Kind::Machines));
        } else {
            self.add(self.debug.clone(), Kind::Parent("kvm"));
        }
        if !self.add(self.run.join("irqbalance"), Kind::Irqbalance) {
            self.add(self.run.clone(), Kind::Parent("irqbalance"));
        }
    }

    /// What is not there, or may not be read, is not watched.
    fn add(&mut self, path: PathBuf, kind: Kind) -> bool {
        let what = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::ONLYDIR;
        let Ok(watch) = inotify::add_watch(&self.inotify, path, what) else { return false };
        self.kinds.insert(watch, kind);
        true
    }

    /// What has happened in them; `None` when that is nothing of interest.
    pub(super) fn read(&mut self) -> Option<&'static str> {
        let mut told = None;
        let mut again = false;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match events.next() {
                Ok(event) => {
                    let flags = event.events();
                    if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                        told = Some(super::OVERRUN);
                        continue;
                    }
                    let kind = self.kinds.get(&event.wd()).copied();
                    if flags.contains(ReadFlags::IGNORED) {
                        // The folder is gone, and may come again.
                        self.kinds.remove(&event.wd());
                        again = true;
                        continue;
                    }
                    let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
                    let name = name.unwrap_or_default();
                    let reason = match kind {
                        // Beside the folders are files with counters.
                        Some(Kind::Machines) => flags.contains(ReadFlags::ISDIR).then_some(MACHINES),
                        Some(Kind::Irqbalance) => name.ends_with(".sock").then_some(IRQBALANCE),
                        Some(Kind::Parent(missing)) if name == missing => {
                            Some(if missing == "kvm" { MACHINES } else { IRQBALANCE })
                        }
                        Some(Kind::Parent(_)) | None => None,
                    };
                    told = told.or(reason);
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        if told.is_some() || again {
            self.add_all();
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_comes_and_goes_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::under(dir.path());
        let (debug, run) = (root.sys.join("kernel/debug"), root.run.clone());
        fs::create_dir_all(&debug).unwrap();
        fs::create_dir_all(&run).unwrap();
        let mut folders = Folders::watch(&root).unwrap();
        let (kvm, irqbalance) = (debug.join("kvm"), run.join("irqbalance"));
        let mut step = |what: &str, act: &dyn Fn() -> io::Result<()>, expected: Option<&str>| {
            act().unwrap();
            assert_eq!(folders.read(), expected, "{what}");
        };
        step("nothing", &|| Ok(()), None);
        step("another daemon", &|| fs::write(run.join("other.pid"), "1"), None);
        step("irqbalance's folder", &|| fs::create_dir(&irqbalance), Some(IRQBALANCE));
        step("its socket", &|| fs::write(irqbalance.join("irqbalance7.sock"), ""), Some(IRQBALANCE));
        step("another file of it", &|| fs::write(irqbalance.join("note"), ""), None);
        step("its end", &|| fs::remove_file(irqbalance.join("irqbalance7.sock")), Some(IRQBALANCE));
        step("KVM is loaded", &|| fs::create_dir(&kvm), Some(MACHINES));
        step("a counter", &|| fs::write(kvm.join("exits"), ""), None);
        step("a machine", &|| fs::create_dir(kvm.join("7-3")), Some(MACHINES));
        step("its vCPU", &|| fs::create_dir(kvm.join("7-3/vcpu0")), Some(MACHINES));
        step("a counter of it", &|| fs::write(kvm.join("7-3/exits"), ""), None);
        step("its end", &|| fs::remove_dir_all(kvm.join("7-3")), Some(MACHINES));
        step("another of the same name", &|| fs::create_dir(kvm.join("7-3")), Some(MACHINES));
        step("its vCPU", &|| fs::create_dir(kvm.join("7-3/vcpu0")), Some(MACHINES));
        step("irqbalance's folder is gone", &|| fs::remove_dir_all(&irqbalance), Some(IRQBALANCE));
        step("and comes again", &|| fs::create_dir(&irqbalance), Some(IRQBALANCE));
        step("its socket", &|| fs::write(irqbalance.join("irqbalance8.sock"), ""), Some(IRQBALANCE));
        step("nothing more", &|| Ok(()), None);
    }
}
