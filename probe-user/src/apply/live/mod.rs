//! The running host: masks in `/proc/irq`, threads by `sched_setaffinity(2)`, knobs by their files.

mod irqbalance;
mod knob;
mod writes;

use super::host::{Host, Observed, Refusal, Seen, TargetError};
use crate::host::{HostRoot, VfioKind, parse_allowed_cpus, parse_stat, parse_vfio_action, read_host_threads};
use crate::model::{CpuSet, HostThread, IrqNumber, Tid, Value};
use crate::plan::{IrqTarget, Target, ThreadTarget, VectorName};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities, sched_setaffinity};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use writes::{of_an_irq, refused_open, write_file};

/// The host under a [`HostRoot`]. Only that of [`HostRoot::live`] has threads that can be moved.
#[derive(Clone, Debug)]
pub struct LiveHost {
    root: HostRoot,
}

impl LiveHost {
    /// The host under `root`.
    #[must_use]
    pub fn new(root: HostRoot) -> Self {
        Self { root }
    }

    /// The CPUs that are online now: they come and go while a policy is kept. None when that cannot be read.
    fn online(&self) -> CpuSet {
        let online = self.root.sys.join("devices/system/cpu/online");
        fs::read_to_string(online).ok().and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    fn irq_dir(&self, irq: IrqNumber) -> PathBuf {
        self.root.proc.join("irq").join(irq.to_string())
    }

    /// Names of an interrupt's handlers, joined by commas (kernel/irq/irqdesc.c, `actions_show()`).
    fn actions_path(&self, irq: IrqNumber) -> PathBuf {
        self.root.sys.join("kernel/irq").join(irq.to_string()).join("actions")
    }

    /// By the thread's own number, not its process's: threads that the kernel runs for a guest are processes of their
    /// own. `/proc/TID` is not listed, but there (proc(5)).
    fn task_dir(&self, thread: &ThreadTarget) -> PathBuf {
        let tid = thread.tid.to_string();
        self.root.proc.join(&tid).join("task").join(&tid)
    }

    fn default_path(&self) -> PathBuf {
        self.root.proc.join("irq/default_smp_affinity")
    }

    fn observe_irq(&self, irq: &IrqTarget) -> Result<Seen, TargetError> {
        let dir = self.irq_dir(irq.number);
        let actions_path = self.actions_path(irq.number);
        let (Some(actions), Some(mask)) = (read(&actions_path)?, read(&dir.join("smp_affinity_list"))?)
        else {
            return Ok(Seen::Gone);
        };
        if !same_actions(&actions, &irq.actions) {
            let actions = actions.trim();
            let bearer = if actions.is_empty() { "nobody" } else { actions };
            return Ok(Seen::Replaced(bearer.to_owned()));
        }
        let effective_path = dir.join("effective_affinity_list");
        let effective = match read(&effective_path)? {
            Some(text) => Some(cpu_list(&effective_path, &text)?).filter(|cpus| !cpus.is_empty()),
            None => None,
        };
        let cpus = cpu_list(&dir.join("smp_affinity_list"), &mask)?;
        let name = actions.trim().to_owned();
        Ok(Seen::Here(Observed { name, value: cpus.into(), effective }))
    }

    fn observe_thread(&self, thread: &ThreadTarget) -> Result<Seen, TargetError> {
        let dir = self.task_dir(thread);
        let (stat_path, status_path) = (dir.join("stat"), dir.join("status"));
        let (Some(stat), Some(status)) = (read(&stat_path)?, read(&status_path)?) else {
            return Ok(Seen::Gone);
        };
        let malformed = |path: &Path, text: &str, expected| TargetError::Malformed {
            path: path.to_owned(),
            text: text.chars().take(80).collect(),
            expected,
        };
        let stat = parse_stat(&stat).map_err(|_| malformed(&stat_path, &stat, "a stat line"))?;
        let cpus =
            parse_allowed_cpus(&status).map_err(|_| malformed(&status_path, &status, "Cpus_allowed_list"))?;
        if stat.start_time != thread.start_time {
            return Ok(Seen::Replaced(stat.comm));
        }
        Ok(Seen::Here(Observed { name: stat.comm, value: cpus.into(), effective: None }))
    }

    fn write_thread(&self, tid: Tid, cpus: &CpuSet) -> Result<(), TargetError> {
        let refused =
            |refusal| TargetError::Refused { call: format!("sched_setaffinity({tid}, {cpus})"), refusal };
        if self.root != HostRoot::live() {
            // A laid-out tree has no threads, and its numbers are those of somebody else's threads here.
            return Err(refused(Refusal::Other(io::ErrorKind::Unsupported.into())));
        }
        let mut mask = rustix::thread::CpuSet::new();
        for cpu in cpus.iter() {
            let index = usize::try_from(cpu.0).map_err(|_| refused(Refusal::TooHigh))?;
            if index >= rustix::thread::CpuSet::MAX_CPU {
                return Err(refused(Refusal::TooHigh));
            }
            mask.set(index);
        }
        let pid = i32::try_from(tid.0).ok().and_then(rustix::process::Pid::from_raw);
        let Some(pid) = pid else { return Err(refused(Refusal::Gone)) };
        sched_setaffinity(Some(pid), &mask).map_err(|errno| {
            refused(match errno {
                Errno::SRCH => Refusal::Gone,
                Errno::INVAL => Refusal::OutsideCpuset,
                Errno::PERM => Refusal::Privilege("CAP_SYS_NICE"),
                other => Refusal::Other(other.into()),
            })
        })
    }
}

impl Host for LiveHost {
    fn observe(&self, target: &Target) -> Result<Seen, TargetError> {
        match target {
            Target::Irq(irq) => self.observe_irq(irq),
            Target::Thread(thread) => self.observe_thread(thread),
            Target::Knob(knob) => knob::observe(&self.root, knob),
            Target::DefaultAffinity => {
                let path = self.default_path();
                let Some(text) = read(&path)? else { return Ok(Seen::Gone) };
                let cpus = CpuSet::parse_mask(&text).map_err(|_| TargetError::Malformed {
                    path,
                    text: text.trim().to_owned(),
                    expected: "a CPU mask",
                })?;
                Ok(Seen::Here(Observed { name: String::new(), value: cpus.into(), effective: None }))
            }
        }
    }

    fn write(&self, target: &Target, value: &Value) -> Result<(), TargetError> {
        if let Target::Knob(knob) = target {
            return knob::write(&self.root, knob, value);
        }
        let Some(cpus) = value.cpus().filter(|cpus| !cpus.is_empty()) else {
            // As text this would be no write at all, and look like one that succeeded.
            let call = format!("setting {target} to no CPU");
            return Err(TargetError::Refused { call, refusal: Refusal::Offline });
        };
        match target {
            Target::Irq(irq) => {
                let path = self.irq_dir(irq.number).join("smp_affinity_list");
                write_file(&path, &cpus.to_string()).map_err(|error| of_an_irq(error, &path))
            }
            Target::DefaultAffinity => write_file(&self.default_path(), &cpus.to_mask()),
            Target::Thread(thread) => self.write_thread(thread.tid, cpus),
            Target::Knob(_) => Ok(()),
        }
    }

    fn may_write(&self, target: &Target) -> Result<(), TargetError> {
        let path = match target {
            Target::Irq(irq) => self.irq_dir(irq.number).join("smp_affinity_list"),
            Target::DefaultAffinity => self.default_path(),
            Target::Thread(thread) => return may_move(&self.task_dir(thread), thread.tid),
            Target::Knob(knob) => return knob::may_write(&self.root, knob),
        };
        match OpenOptions::new().write(true).open(&path) {
            Err(error) if !is_gone(&error) => {
                let error = refused_open(&path, error);
                Err(if matches!(target, Target::Irq(_)) { of_an_irq(error, &path) } else { error })
            }
            _ => Ok(()),
        }
    }

    fn same(&self, target: &Target, asked: &Value, found: &Value) -> bool {
        if asked == found {
            return true;
        }
        // Some kernels take offline CPUs out of the mask of a thread.
        match (target, asked.cpus(), found.cpus()) {
            (Target::Thread(_), Some(asked), Some(found)) => asked.intersection(&self.online()) == *found,
            _ => false,
        }
    }

    fn boot_id(&self) -> Result<String, TargetError> {
        let path = self.root.proc.join("sys/kernel/random/boot_id");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(source) => Err(TargetError::Read { path, source }),
        }
    }

    fn ticks(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
        let per_second = rustix::param::clock_ticks_per_second();
        seconds.unwrap_or(0) * per_second + nanos.unwrap_or(0) * per_second / 1_000_000_000
    }

    fn unix_time(&self) -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn irqs(&self) -> Result<Vec<(IrqTarget, CpuSet)>, TargetError> {
        let dir = self.root.proc.join("irq");
        let unreadable = |source| TargetError::Read { path: dir.clone(), source };
        let mut irqs = Vec::new();
        for entry in fs::read_dir(&dir).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            let Some(number) = name.to_str().and_then(|n| n.parse().ok()).map(IrqNumber) else { continue };
            let Some(actions) = read(&self.actions_path(number))? else { continue };
            let mask_path = self.irq_dir(number).join("smp_affinity_list");
            let Some(mask) = read(&mask_path)? else { continue };
            let actions = actions.trim().to_owned();
            if actions.is_empty() {
                continue;
            }
            let vector = parse_vfio_action(&actions)
                .filter(|found| found.kind != VfioKind::Intx)
                .map(|found| VectorName { vf: found.device, slot: found.slot });
            irqs.push((IrqTarget { number, actions, vector }, cpu_list(&mask_path, &mask)?));
        }
        Ok(irqs)
    }

    fn initial_affinity(&self, irq: IrqNumber, default: &CpuSet) -> CpuSet {
        let text = |path: PathBuf| fs::read_to_string(path).ok();
        let online = self.online();
        let usable = default.intersection(&online);
        let usable = if usable.is_empty() { online } else { usable };
        let node = text(self.irq_dir(irq).join("node")).and_then(|node| node.trim().parse::<u32>().ok());
        let local: Option<CpuSet> = node.and_then(|node| {
            text(self.root.sys.join(format!("devices/system/node/node{node}/cpulist")))?.parse().ok()
        });
        match local.map(|local| usable.intersection(&local)) {
            Some(local) if !local.is_empty() => local,
            _ => usable,
        }
    }

    fn threads(&self) -> Result<Vec<HostThread>, TargetError> {
        let (threads, problems) = read_host_threads(&self.root);
        match problems.into_iter().next() {
            Some(problem) if threads.is_empty() => {
                Err(TargetError::Read { path: self.root.proc.clone(), source: io::Error::other(problem) })
            }
            _ => Ok(threads),
        }
    }
}

/// The text of a file; `None` when what it is about is gone.
fn read(path: &Path) -> Result<Option<String>, TargetError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if is_gone(&error) => Ok(None),
        Err(source) => Err(TargetError::Read { path: path.to_owned(), source }),
    }
}

fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::NOENT, Errno::SRCH, Errno::NODEV, Errno::NXIO];
    gone.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn cpu_list(path: &Path, text: &str) -> Result<CpuSet, TargetError> {
    text.parse().map_err(|_| TargetError::Malformed {
        path: path.to_owned(),
        text: text.trim().to_owned(),
        expected: "a CPU list",
    })
}

/// `/proc/interrupts` separates handlers by a comma and a space, sysfs by a comma.
fn same_actions(a: &str, b: &str) -> bool {
    let names = |text: &str| text.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>();
    names(a) == names(b)
}

/// Moving a thread takes CAP_SYS_NICE, or a thread of the same user (sched_setaffinity(2)).
fn may_move(task: &Path, tid: Tid) -> Result<(), TargetError> {
    let capable = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_NICE));
    let own = || fs::metadata(task).is_ok_and(|meta| meta.uid() == rustix::process::geteuid().as_raw());
    if capable || own() {
        return Ok(());
    }
    Err(TargetError::Refused {
        call: format!("moving thread {tid}"),
        refusal: Refusal::Privilege("the capability CAP_SYS_NICE"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_in_both_spellings() {
        assert!(same_actions("a,b\n", "a, b"));
        assert!(same_actions("vfio-msix[1](0000:01:10.0)\n", "vfio-msix[1](0000:01:10.0)"));
        assert!(!same_actions("a\n", "a, b"));
    }

    fn cpus(list: &str) -> Value {
        list.parse::<CpuSet>().unwrap().into()
    }

    #[test]
    fn a_device_that_takes_nothing_more() {
        let dir = tree(30, "x", "0-3\n");
        let mask = dir.path().join("proc/irq/30/smp_affinity_list");
        fs::remove_file(&mask).unwrap();
        std::os::unix::fs::symlink("/dev/full", &mask).unwrap();
        let host = LiveHost::new(HostRoot::under(dir.path()));
        let irq = IrqTarget { number: IrqNumber(30), actions: "x".to_owned(), vector: None };
        let error = host.write(&Target::Irq(irq), &cpus("2")).unwrap_err();
        assert!(matches!(error.refusal(), Some(Refusal::NoVector)), "{error}");
        let error = host.write(&Target::DefaultAffinity, &cpus("")).unwrap_err();
        assert!(matches!(error.refusal(), Some(Refusal::Offline)), "{error}");
    }

    fn tree(irq: u32, actions: &str, mask: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put(&format!("proc/irq/{irq}/smp_affinity_list"), mask);
        put(&format!("proc/irq/{irq}/effective_affinity_list"), "1\n");
        put(&format!("sys/kernel/irq/{irq}/actions"), actions);
        put("proc/irq/default_smp_affinity", "f\n");
        put("sys/devices/system/cpu/online", "0-3\n");
        dir
    }

    #[test]
    fn interrupts_are_read_written_and_told_apart() {
        let dir = tree(30, "vfio-msix[0](0000:01:10.0)\n", "0-3\n");
        let host = LiveHost::new(HostRoot::under(dir.path()));
        let target = |actions: &str, number| {
            Target::Irq(IrqTarget { number: IrqNumber(number), actions: actions.to_owned(), vector: None })
        };
        let ours = target("vfio-msix[0](0000:01:10.0)", 30);
        let Seen::Here(observed) = host.observe(&ours).unwrap() else { panic!("it is there") };
        assert_eq!((observed.value.to_string(), observed.effective), ("0-3".to_owned(), "1".parse().ok()));
        host.write(&ours, &cpus("2")).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("proc/irq/30/smp_affinity_list")).unwrap(), "2");

        let other = host.observe(&target("nvme0q1", 30)).unwrap();
        assert_eq!(other, Seen::Replaced("vfio-msix[0](0000:01:10.0)".to_owned()));
        assert_eq!(host.observe(&target("x", 31)).unwrap(), Seen::Gone);
        let error = host.write(&target("x", 31), &cpus("2")).unwrap_err();
        assert!(matches!(error.refusal(), Some(Refusal::Gone)), "{error}");

        host.write(&Target::DefaultAffinity, &cpus("0-1")).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("proc/irq/default_smp_affinity")).unwrap(), "3");
        fs::write(dir.path().join("proc/irq/30/smp_affinity_list"), "x").unwrap();
        let error = host.observe(&ours).unwrap_err().to_string();
        assert!(error.ends_with("says \"x\" instead of a CPU list"), "{error}");
    }

    #[test]
    fn new_interrupts_start_on_their_node() {
        let dir = tree(30, "vfio-msix[2](0000:01:10.0)\n", "0-3\n");
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("sys/devices/system/node/node1/cpulist", "2-3\n");
        let host = LiveHost::new(HostRoot::under(dir.path()));
        let check = |node: &str, default: &str, expect: &str| {
            put("proc/irq/30/node", node);
            let found = host.initial_affinity(IrqNumber(30), &default.parse().unwrap());
            assert_eq!(found.to_string(), expect, "{node} {default}");
        };
        check("-1\n", "0-7", "0-3");
        check("1\n", "0-7", "2-3");
        check("1\n", "0-1", "0-1");
        check("0\n", "1", "1");
        check("0\n", "7", "0-3");

        let irqs = host.irqs().unwrap();
        assert_eq!(irqs.len(), 1);
        let vector = irqs[0].0.vector.unwrap();
        assert_eq!((vector.vf.to_string().as_str(), vector.slot), ("0000:01:10.0", 2));
    }

    #[test]
    fn cpus_that_go_offline_and_come_back_are_known_at_once() {
        let dir = tree(30, "x", "0-3");
        let host = LiveHost::new(HostRoot::under(dir.path()));
        let thread = Target::Thread(ThreadTarget {
            pid: crate::model::Pid(1),
            tid: Tid(1),
            start_time: 5,
            comm: "x".to_owned(),
            role: crate::plan::Role::Host,
        });
        for (online, asked, found, same, initial) in [
            ("0-3", "0-1,3", "0-1", false, "0-1,3"),
            // The kernel takes offline CPUs out of a thread's mask, and gives them back.
            ("0-2", "0-1,3", "0-1", true, "0-1"),
            ("0-2", "0-1,3", "0-1,3", true, "0-1"),
            ("0-2", "3", "0-2", false, "0-2"),
            ("0-3", "0-1,3", "0-1", false, "0-1,3"),
        ] {
            fs::write(dir.path().join("sys/devices/system/cpu/online"), online).unwrap();
            assert_eq!(host.same(&thread, &cpus(asked), &cpus(found)), same, "{online} {asked} {found}");
            assert!(!host.same(&Target::DefaultAffinity, &cpus("0-1,3"), &cpus("0-1")));
            let born = host.initial_affinity(IrqNumber(30), &asked.parse().unwrap());
            assert_eq!(born.to_string(), initial, "{online} {asked}");
        }
    }

    #[test]
    fn a_laid_out_tree_moves_no_thread() {
        let dir = tree(30, "x", "0-3");
        let host = LiveHost::new(HostRoot::under(dir.path()));
        let error = host.write_thread(Tid(1), &"0".parse().unwrap()).unwrap_err();
        assert!(error.to_string().starts_with("sched_setaffinity(1, 0): "), "{error}");
    }

    #[test]
    fn cpus_that_no_kernel_call_can_name() {
        let host = LiveHost::new(HostRoot::live());
        let error = host.write_thread(Tid(u32::MAX), &"4000".parse().unwrap()).unwrap_err();
        assert!(matches!(error.refusal(), Some(Refusal::TooHigh)), "{error}");
        let error = host.write_thread(Tid(u32::MAX), &"0".parse().unwrap()).unwrap_err();
        assert!(matches!(error.refusal(), Some(Refusal::Gone)), "{error}");
    }
}
