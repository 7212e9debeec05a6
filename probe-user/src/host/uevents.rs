//! What the kernel tells of devices as they come, go and change (uevents, lib/kobject_uevent.c), over a netlink socket.
//!
//! Parsing is values in, values out; below it the socket, which only listens.

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_KOBJECT_UEVENT};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The kernel's own messages; udev sends its own ones to another group.
const KERNEL: u32 = 1;

/// No message is larger: its variables have 2 KiB (UEVENT_BUFFER_SIZE), its path a page at most.
const MAX_MESSAGE: usize = 8192;

/// The link of `/proc/self/ns/user` in the first user namespace (PROC_USER_INIT_INO, include/linux/proc_ns.h). Sockets of other
/// ones get no events of hardware.
const FIRST_USER_NAMESPACE: &str = "user:[4026531837]";

/// What has happened to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `online`, `offline`, `bind`, `unbind`, `move`.
    pub action: String,
    /// Its folder, below that of sysfs.
    pub path: String,
    /// What it is: `cpu`, `pci`, `net`, ...
    pub subsystem: String,
    /// Everything that was told, by name.
    pub keys: BTreeMap<String, String>,
}

impl Uevent {
    /// Whether somebody had the event sent, by writing to a file `uevent`, and nothing has happened.
    #[must_use]
    pub fn is_made_up(&self) -> bool {
        self.keys.contains_key("SYNTH_UUID")
    }
}

/// Parses a message of the kernel: `ACTION@PATH`, then `KEY=VALUE`, each with a NUL at its end. `None` for what is none: also
/// for messages of udev, which begin with `libudev`.
#[must_use]
pub fn parse_uevent(message: &[u8]) -> Option<Uevent> {
    let message = message.strip_suffix(b"\0")?;
    let mut parts = message.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let first = parts.next()?;
    let (action, path) = first.split_once('@')?;
    let mut keys = BTreeMap::new();
    for part in parts {
        let (key, value) = part.split_once('=')?;
        keys.insert(key.to_owned(), value.to_owned());
    }
    // What the heading says is said again.
    if keys.get("ACTION").map(String::as_str) != Some(action)
        || keys.get("DEVPATH").map(String::as_str) != Some(path)
    {
        return None;
    }
    let subsystem = keys.get("SUBSYSTEM")?.clone();
    Some(Uevent { action: action.to_owned(), path: path.to_owned(), subsystem, keys })
}

/// What was received at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The events, in the order in which they came.
    pub events: Vec<Uevent>,
    /// Whether some were lost: more came than the socket had room for.
    pub overrun: bool,
}

/// Listens to the kernel. Readable when something has come.
pub struct UeventSocket(Socket);

impl std::fmt::Debug for UeventSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UeventSocket").finish_non_exhaustive()
    }
}

impl AsFd for UeventSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl UeventSocket {
    /// Begins to listen, to what is told in the network namespace of this process. Needs no privilege.
    ///
    /// # Errors
    /// When there is no such socket, or it would hear nothing of hardware.
    pub fn open() -> io::Result<Self> {
        let namespace = std::fs::read_link("/proc/self/ns/user")?;
        if namespace.as_os_str() != FIRST_USER_NAMESPACE {
            return Err(io::Error::other(
                "this process is in a user namespace of its own, which the kernel tells nothing of hardware",
            ));
        }
        let mut socket = Socket::new(NETLINK_KOBJECT_UEVENT)?;
        socket.set_non_blocking(true)?;
        socket.bind(&SocketAddr::new(0, KERNEL))?;
        Ok(Self(socket))
    }

    /// Takes all that has come. Messages of others than the kernel are left out.
    ///
    /// # Errors
    /// When the socket fails; that it had no room is no failure.
    pub fn receive(&self) -> io::Result<Received> {
        let mut received = Received::default();
        loop {
            let mut message = Vec::with_capacity(MAX_MESSAGE);
            match self.0.recv_from(&mut message, 0) {
                // A socket of a process has a number; the kernel's is 0.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok(_) => received.events.extend(parse_uevent(&message)),
                Err(error) => match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                    Some(rustix::io::Errno::NOBUFS) => received.overrun = true,
                    Some(rustix::io::Errno::INTR) => {}
                    Some(rustix::io::Errno::AGAIN) => return Ok(received),
                    _ => return Err(error),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel sends them.
    const OFFLINE: &[u8] =
        b"offline@/devices/system/cpu/cpu3\0ACTION=offline\0DEVPATH=/devices/system/cpu/cpu3\0\
        SUBSYSTEM=cpu\0DRIVER=processor\0MODALIAS=cpu:type:x86\0SEQNUM=2145\0";
    const MADE_UP: &[u8] =
        b"change@/devices/virtual/net/lo\0ACTION=change\0DEVPATH=/devices/virtual/net/lo\0\
        SUBSYSTEM=net\0SYNTH_UUID=0\0INTERFACE=lo\0IFINDEX=1\0SEQNUM=17\0";
    const EMPTY_VALUE: &[u8] =
        b"add@/devices/x\0ACTION=add\0DEVPATH=/devices/x\0SUBSYSTEM=pci\0MODALIAS=\0A=b=c\0";

    #[test]
    fn messages_of_the_kernel() {
        for (message, action, path, subsystem, keys, made_up) in [
            (OFFLINE, "offline", "/devices/system/cpu/cpu3", "cpu", 6, false),
            (MADE_UP, "change", "/devices/virtual/net/lo", "net", 7, true),
            (EMPTY_VALUE, "add", "/devices/x", "pci", 5, false),
        ] {
            let event = parse_uevent(message).unwrap();
            assert_eq!((event.action.as_str(), event.path.as_str()), (action, path));
            assert_eq!((event.subsystem.as_str(), event.keys.len()), (subsystem, keys), "{event:?}");
            assert_eq!(event.is_made_up(), made_up, "{event:?}");
        }
        let event = parse_uevent(EMPTY_VALUE).unwrap();
        assert_eq!((event.keys["MODALIAS"].as_str(), event.keys["A"].as_str()), ("", "b=c"));
    }

    #[test]
    fn what_is_none() {
        for (message, why) in [
            (&b""[..], "empty"),
            (b"\0", "no heading"),
            (b"libudev\0\xfe\xed\xca\xfe\0", "udev's"),
            (b"add@/x\0ACTION=add\0DEVPATH=/x\0SUBSYSTEM=cpu", "cut off"),
            (b"add@/x\0ACTION=add\0DEVPATH=/x\0", "no subsystem"),
            (b"add@/x\0ACTION=remove\0DEVPATH=/x\0SUBSYSTEM=cpu\0", "another action"),
            (b"add@/x\0ACTION=add\0DEVPATH=/y\0SUBSYSTEM=cpu\0", "another path"),
            (b"add@/x\0ACTION=add\0DEVPATH=/x\0SUBSYSTEM=cpu\0word\0", "no value"),
        ] {
            assert_eq!(parse_uevent(message), None, "{why}");
        }
        // Any end of a message, and any byte of it that is another.
        for end in 0..OFFLINE.len() {
            let _ = parse_uevent(&OFFLINE[..end]);
            let mut other = OFFLINE.to_vec();
            other[end] ^= 0xff;
            let _ = parse_uevent(&other);
        }
    }
}
