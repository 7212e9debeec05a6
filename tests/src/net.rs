//! A network namespace of this thread's own with a bridge, taps and macvtaps that the test itself reads and writes.

#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test's support fails with the place")]

use rustix::thread::UnshareFlags;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::process::Command;
use vmm_sys_util::ioctl::ioctl_with_ref;

/// include/uapi/linux/if_tun.h.
const IFF_TAP: u16 = 2;
const IFF_NO_PI: u16 = 0x1000;
/// `_IOW('T', 202, int)`.
const TUNSETIFF: u64 = 0x4004_54ca;

/// `struct ifreq` as TUNSETIFF reads it.
#[repr(C)]
struct IfReq {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Moves this thread, and whatever it starts, to a new network namespace; gives its inode number.
#[must_use]
pub fn new_namespace() -> u32 {
    // SAFETY: only this thread's network namespace changes; nothing in the test holds sockets.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    // Of its own accord IPv6 would speak on every interface.
    fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    fs::metadata("/proc/thread-self/ns/net").unwrap().ino().try_into().unwrap()
}

/// Runs `ip` in this thread's namespace.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// One number of `ip -s -j link show`, by its path in the document.
#[must_use]
pub fn counter(device: &str, path: &str) -> u64 {
    let all: serde_json::Value = serde_json::from_str(&ip(&format!("-s -j link show {device}"))).unwrap();
    all[0].pointer(path).and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("no {path} in {all}"))
}

/// What stands before each frame of a macvtap: a `struct virtio_net_hdr` (drivers/net/tap.c, `tap_open`).
const VNET_HEADER: usize = 10;

/// A tap or macvtap whose other side is the test.
#[derive(Debug)]
pub struct Tap {
    file: File,
    /// Bytes before each frame.
    header: usize,
    /// Its number.
    pub ifindex: u32,
}

impl Tap {
    /// Makes one of that name; it goes when it is dropped.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let file = open("/dev/net/tun");
        let mut request = IfReq { name: [0; 16], flags: IFF_TAP | IFF_NO_PI, rest: [0; 22] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: the request is a whole `struct ifreq`, which the kernel reads.
        let result = unsafe { ioctl_with_ref(&file, TUNSETIFF, &request) };
        assert_eq!(result, 0, "TUNSETIFF {name}: {}", std::io::Error::last_os_error());
        Self { file, header: 0, ifindex: index(name) }
    }

    /// The file of a macvtap.
    #[must_use]
    pub fn of_macvtap(name: &str) -> Self {
        let ifindex = index(name);
        Self { file: open(&format!("/dev/tap{ifindex}")), header: VNET_HEADER, ifindex }
    }

    /// The guest sends a frame.
    pub fn send(&mut self, frame: &[u8]) {
        let all = [&[0; VNET_HEADER][..self.header], frame].concat();
        assert_eq!(self.file.write(&all).unwrap(), all.len());
    }

    /// The guest takes all frames that wait for it; those of the wanted protocol are counted.
    pub fn take(&mut self, protocol: u16) -> u64 {
        let (mut frame, mut n) = ([0; 2048], 0);
        loop {
            match self.file.read(&mut frame) {
                Ok(len) => {
                    let frame = &frame[self.header..len];
                    n += u64::from(frame.len() >= 14 && frame[12..14] == protocol.to_be_bytes());
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return n,
                Err(e) => panic!("reading a tap: {e}"),
            }
        }
    }
}

fn open(path: &str) -> File {
    const NONBLOCK: i32 = 0o4000;
    OpenOptions::new().read(true).write(true).custom_flags(NONBLOCK).open(path).unwrap()
}

/// The number of an interface.
#[must_use]
pub fn index(name: &str) -> u32 {
    let all: serde_json::Value = serde_json::from_str(&ip(&format!("-j link show {name}"))).unwrap();
    all[0]["ifindex"].as_u64().unwrap().try_into().unwrap()
}

/// A minimal frame.
#[must_use]
pub fn frame(to: [u8; 6], from: [u8; 6], protocol: u16) -> Vec<u8> {
    let mut frame = [&to[..], &from[..], &protocol.to_be_bytes()].concat();
    frame.resize(60, 0);
    frame
}
