//! What the kernel tells of devices: real events of network devices in a namespace of the test's own, and messages of a program
//! that passes for the kernel.

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_KOBJECT_UEVENT};
use probe_user::host::{Uevent, UeventSocket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeSet;
use vfprobe_tests::net::{ip, new_namespace};

/// In a thread of its own, which it moves to another network namespace.
fn apart(test: fn()) {
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(test).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Receives until there is one like that; gives all that came, and whether some were lost.
#[track_caller]
fn until(socket: &UeventSocket, last: impl Fn(&Uevent) -> bool) -> (Vec<Uevent>, bool) {
    let (mut all, mut overrun) = (Vec::new(), false);
    loop {
        let received = socket.receive().unwrap();
        all.extend(received.events);
        overrun |= received.overrun;
        if all.iter().any(&last) {
            return (all, overrun);
        }
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        let ready = poll(&mut fds, Some(&Timespec { tv_sec: 60, tv_nsec: 0 })).unwrap();
        assert_eq!(ready, 1, "nothing more comes after {all:?}");
    }
}

fn is(event: &Uevent, action: &str, interface: &str) -> bool {
    event.subsystem == "net"
        && event.action == action
        && event.keys.get("INTERFACE").is_some_and(|i| i == interface)
}

#[test]
fn network_devices_that_come_and_go_are_told() {
    apart(|| {
        let _ = new_namespace();
        let socket = UeventSocket::open().unwrap();
        assert!(!socket.receive().unwrap().overrun);
        ip("link add v0 type veth peer name v1");
        ip("link del v0");
        let (events, _) = until(&socket, |event| is(event, "remove", "v0"));
        let told: BTreeSet<(&str, &str)> = events
            .iter()
            .filter(|event| event.subsystem == "net")
            .map(|event| (event.action.as_str(), event.path.as_str()))
            .collect();
        for expected in [
            ("add", "/devices/virtual/net/v0"),
            ("add", "/devices/virtual/net/v1"),
            ("remove", "/devices/virtual/net/v0"),
        ] {
            assert!(told.contains(&expected), "{expected:?} is not among {told:?}");
        }
        assert!(events.iter().filter(|event| event.subsystem == "net").all(|event| !event.is_made_up()));
    });
}

#[test]
fn others_than_the_kernel_are_not_believed() {
    apart(|| {
        let _ = new_namespace();
        let socket = UeventSocket::open().unwrap();
        let mut liar = Socket::new(NETLINK_KOBJECT_UEVENT).unwrap();
        liar.bind_auto().unwrap();
        let message = b"offline@/devices/system/cpu/cpu1\0ACTION=offline\0DEVPATH=/devices/system/cpu/cpu1\0SUBSYSTEM=cpu\0LIE=1\0";
        // To the kernel's group.
        liar.send_to(message, &SocketAddr::new(0, 1), 0).unwrap();
        ip("link add v0 type veth peer name v1");
        let (events, _) = until(&socket, |event| is(event, "add", "v0"));
        assert!(events.iter().all(|event| !event.keys.contains_key("LIE")), "{events:?}");
    });
}

#[test]
fn what_was_lost_is_told() {
    apart(|| {
        let _ = new_namespace();
        let socket = UeventSocket::open().unwrap();
        ip("link add first0 type veth peer name first1");
        // Nobody reads, until no more are taken: half a kilobyte each and more, and a few hundred kilobytes of room.
        let lines: String = (0..400).map(|n| format!("link add v{n} type veth peer name w{n}\n")).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines).unwrap();
        ip(&format!("-batch {}", file.path().display()));
        let (_, overrun) = until(&socket, |event| is(event, "add", "first0"));
        assert!(overrun);
        // It goes on to hear.
        ip("link del first0");
        until(&socket, |event| is(event, "remove", "first0"));
    });
}
