//! What wakes the controller: the bell of the probes, what the kernel tells of devices, folders, and the ends of guests.
//!
//! An event says that something is worth a look, and never what the host is like: that is read. So an event too many costs a
//! look, and one that is lost costs the time until the next audit. All are asked for before the host is looked at for the
//! first time, so that nothing falls between. What cannot be heard is looked at instead, and that is said once.

mod ends;
mod folders;

use super::Observed;
use super::watch::TICK;
use crate::bpf::Bell;
use crate::host::{HostRoot, Received, Uevent, UeventSocket};
use ends::Ends;
pub(super) use ends::Process;
use folders::Folders;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd as _, BorrowedFd};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// More came than there was room for.
const OVERRUN: &str = "events were lost";

/// What can be waited for.
#[derive(Debug)]
pub(super) struct Events {
    root: HostRoot,
    bell: Option<Bell>,
    uevents: Option<UeventSocket>,
    folders: Option<Folders>,
    ends: Ends,
    /// Why nothing of the probes can be heard; the last that was said.
    deaf: Option<String>,
    /// Since when nothing is listened to, for a moment.
    heard: Option<Instant>,
    /// What was found while not waiting.
    found: Option<&'static str>,
}

impl Events {
    /// Begins to listen. Says in the log what cannot be heard.
    pub(super) fn listen(root: &HostRoot) -> Self {
        let uevents = UeventSocket::open()
            .inspect_err(|error| {
                warn!(
                    "events of devices cannot be heard, so CPUs and devices are looked at instead: {error}"
                );
            })
            .ok();
        let folders = Folders::watch(root)
            .inspect_err(|error| {
                warn!("folders cannot be watched, so virtual machines are looked at instead: {error}");
            })
            .ok();
        Self {
            root: root.clone(),
            bell: None,
            uevents,
            folders,
            ends: Ends::default(),
            deaf: None,
            heard: None,
            found: None,
        }
    }

    /// Takes the probes' bell when there is a new one. Before the probes' signs are read.
    pub(super) fn take_bell(&mut self, observed: &dyn Observed) {
        match observed.bell() {
            None => {}
            Some(Ok(bell)) => {
                (self.bell, self.deaf) = (Some(bell), None);
                info!("the probes ring when interrupts or vCPUs change");
                // What it would have rung for before.
                self.found = Some("the probes were made anew");
            }
            Some(Err(why)) => {
                self.bell = None;
                if self.deaf.as_ref() != Some(&why) {
                    warn!("the probes do not ring, so interrupts are looked at instead: {why}");
                    self.deaf = Some(why);
                }
            }
        }
    }

    /// Whether all is heard that would else have to be looked at often.
    pub(super) fn hear_all(&self) -> bool {
        self.bell.is_some() && self.uevents.is_some() && self.folders.is_some()
    }

    /// From now on the ends of these processes are waited for.
    pub(super) fn follow(&mut self, processes: &BTreeSet<Process>) {
        if self.ends.follow(&self.root, processes) {
            self.found = Some(ENDED);
        }
    }

    /// Waits until something has happened, `inbox` is readable, or the time is over. What comes right after something else waits
    /// for a moment, so that a host where much happens is not looked at all the time.
    pub(super) fn wait(&mut self, inbox: BorrowedFd<'_>, at_most: Duration) -> Option<&'static str> {
        let until = Instant::now() + at_most;
        if let Some(heard) = self.heard.take() {
            let pause = TICK.saturating_sub(heard.elapsed()).min(at_most);
            if !pause.is_zero()
                && !wait_for(&mut [PollFd::from_borrowed_fd(inbox, PollFlags::IN)], pause).is_empty()
            {
                return None;
            }
        }
        if let Some(found) = self.found.take() {
            self.heard = Some(Instant::now());
            return Some(found);
        }
        let sources = [
            Some(inbox),
            self.bell.as_ref().map(Bell::as_fd),
            self.uevents.as_ref().map(UeventSocket::as_fd),
            self.folders.as_ref().map(Folders::as_fd),
        ];
        let fixed: Vec<usize> = (0..sources.len()).filter(|at| sources[*at].is_some()).collect();
        let fds = sources.into_iter().flatten().chain(self.ends.fds());
        let mut fds: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let ready = wait_for(&mut fds, until.saturating_duration_since(Instant::now()));
        drop(fds);
        let is_ready = |source: usize| {
            fixed.iter().position(|fixed| *fixed == source).is_some_and(|at| ready.contains(&at))
        };
        let mut told = None;
        if is_ready(1)
            && let Some(bell) = &mut self.bell
        {
            // The signs tell what it was.
            bell.silence();
            self.heard = Some(Instant::now());
        }
        if is_ready(2)
            && let Some(socket) = &self.uevents
        {
            match socket.receive() {
                Ok(received) => told = told.or(of_interest(&received)),
                Err(error) => {
                    warn!("events of devices can be heard no more, so these are looked at instead: {error}");
                    (self.uevents, told) = (None, Some(OVERRUN));
                }
            }
            self.heard = Some(Instant::now());
        }
        if is_ready(3)
            && let Some(folders) = &mut self.folders
        {
            told = told.or(folders.read());
            self.heard = Some(Instant::now());
        }
        let ended: Vec<usize> = ready.iter().filter_map(|at| at.checked_sub(fixed.len())).collect();
        if !ended.is_empty() {
            self.ends.ended(&ended);
            (told, self.heard) = (Some(ENDED), Some(Instant::now()));
        }
        told
    }
}

const ENDED: &str = "a guest has ended";

/// The places of those that are readable, once some are or the time is over.
fn wait_for(fds: &mut [PollFd<'_>], at_most: Duration) -> Vec<usize> {
    let timeout = Timespec {
        tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: at_most.subsec_nanos().into(),
    };
    match poll(fds, Some(&timeout)) {
        Ok(_) => (0..fds.len()).filter(|at| !fds[*at].revents().is_empty()).collect(),
        Err(rustix::io::Errno::INTR) => Vec::new(),
        // Out of memory: as if the time were over, but never without a pause.
        Err(_) => {
            std::thread::sleep(TICK.min(at_most));
            Vec::new()
        }
    }
}

/// What of it a policy depends on.
fn of_interest(received: &Received) -> Option<&'static str> {
    let overrun = received.overrun.then_some(OVERRUN);
    overrun.or_else(|| received.events.iter().find_map(reason))
}

fn reason(event: &Uevent) -> Option<&'static str> {
    if event.is_made_up() {
        return None;
    }
    let key = |key: &str| event.keys.get(key).map(String::as_str);
    match (event.subsystem.as_str(), event.action.as_str()) {
        ("cpu", "online" | "offline" | "add" | "remove") => Some("a CPU went online or offline"),
        ("pci", "add" | "remove" | "bind" | "unbind") => {
            Some("a PCI device came, went or changed its driver")
        }
        // Taps and the ends of containers' links come and go, and no setting is theirs.
        ("net", "add" | "remove" | "move") if !event.path.starts_with("/devices/virtual/") => {
            Some("a network interface came, went or changed its name")
        }
        // virt/kvm/kvm_main.c, `kvm_uevent_notify_change()`.
        ("misc", "change")
            if matches!(key("EVENT"), Some("create" | "destroy")) && event.path.ends_with("/kvm") =>
        {
            Some("a virtual machine was made or is gone")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::parse_uevent;

    fn event(action: &str, path: &str, keys: &str) -> Uevent {
        let text = format!("{action}@{path}\0ACTION={action}\0DEVPATH={path}\0{}\0", keys.replace(' ', "\0"));
        parse_uevent(text.as_bytes()).unwrap()
    }

    #[test]
    fn events_a_policy_depends_on() {
        const KVM: &str = "/devices/virtual/misc/kvm";
        const NIC: &str = "/devices/pci0000:00/0000:00:03.0/net/eth0";
        for (action, path, keys, expected) in [
            ("offline", "/devices/system/cpu/cpu3", "SUBSYSTEM=cpu", Some("CPU")),
            ("online", "/devices/system/cpu/cpu3", "SUBSYSTEM=cpu", Some("CPU")),
            ("online", "/devices/system/cpu/cpu3", "SUBSYSTEM=cpu SYNTH_UUID=0", None),
            ("change", "/devices/system/cpu/cpu3", "SUBSYSTEM=cpu", None),
            ("online", "/devices/system/memory/memory3", "SUBSYSTEM=memory", None),
            ("bind", "/devices/pci0000:00/0000:00:03.1", "SUBSYSTEM=pci DRIVER=vfio-pci", Some("PCI")),
            ("add", "/devices/pci0000:00/0000:00:03.1", "SUBSYSTEM=pci", Some("PCI")),
            ("change", "/devices/pci0000:00/0000:00:03.1", "SUBSYSTEM=pci", None),
            ("move", NIC, "SUBSYSTEM=net INTERFACE=eth0", Some("network")),
            ("add", "/devices/virtual/net/tap0", "SUBSYSTEM=net INTERFACE=tap0", None),
            ("change", KVM, "SUBSYSTEM=misc EVENT=create PID=7", Some("machine")),
            ("change", KVM, "SUBSYSTEM=misc EVENT=destroy PID=7", Some("machine")),
            ("change", KVM, "SUBSYSTEM=misc", None),
            ("change", "/devices/virtual/misc/other", "SUBSYSTEM=misc EVENT=create", None),
        ] {
            let found = reason(&event(action, path, keys));
            assert_eq!(found.is_some(), expected.is_some(), "{action} {path} {keys}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()), "{found:?}");
        }
    }

    #[test]
    fn lost_events_are_a_reason() {
        let nothing = event("change", "/devices/virtual/misc/kvm", "SUBSYSTEM=misc");
        for (events, overrun, expected) in [
            (vec![], false, None),
            (vec![nothing.clone()], false, None),
            (vec![nothing], true, Some(OVERRUN)),
        ] {
            assert_eq!(of_interest(&Received { events, overrun }), expected);
        }
    }

    #[test]
    fn it_waits_no_longer_than_asked_and_tells_what_was_found_meanwhile() {
        let tree = crate::host::fixture::Tree::new();
        tree.file("sys/kernel/debug/kvm/exits", "0\n");
        let mut events = Events::listen(&tree.root());
        let (never, _end) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(events.wait(never.as_fd(), Duration::ZERO), None);
        tree.file("sys/kernel/debug/kvm/7-3/vcpu0/pid", "7\n");
        let told = events.wait(never.as_fd(), Duration::from_secs(60));
        assert!(told.is_some_and(|told| told.contains("virtual machine")), "{told:?}");
        // Of a process that is gone.
        events.follow(&BTreeSet::from([(crate::model::Pid(u32::MAX), 1)]));
        assert_eq!(events.wait(never.as_fd(), Duration::from_secs(60)), Some(ENDED));
    }
}
