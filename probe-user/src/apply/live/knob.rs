//! Knobs of the running host: files that hold one value each, and what irqbalance is told over its socket.

use super::super::host::{Observed, Refusal, Seen, TargetError};
use super::writes::{call, refused_open, write_text};
use super::{irqbalance, is_gone, read};
use crate::host::{HostRoot, KnobFile, ifindex_file, knob_file};
use crate::model::{Knob, Value};
use rustix::io::Errno;
use std::fs::OpenOptions;
use std::io;

pub(super) fn observe(root: &HostRoot, knob: &Knob) -> Result<Seen, TargetError> {
    if let Some(seen) = other_device(root, knob)? {
        return Ok(seen);
    }
    if let Knob::IrqbalanceBans { pid, start_time } = knob {
        return irqbalance::observe(root, *pid, *start_time);
    }
    let Some(KnobFile { read: path, write: _, form }) = knob_file(root, knob) else {
        return Ok(Seen::Gone);
    };
    let Some(text) = read(&path)? else { return Ok(Seen::Gone) };
    match form.parse(&text) {
        Some(value) => Ok(Seen::Here(Observed { name: String::new(), value, effective: None })),
        None => Err(TargetError::Malformed {
            path,
            text: text.trim().chars().take(80).collect(),
            expected: form.expected(),
        }),
    }
}

/// Of a network queue: that its device is gone, or another one has its name now.
fn other_device(root: &HostRoot, knob: &Knob) -> Result<Option<Seen>, TargetError> {
    let (Knob::Rps(queue) | Knob::Xps(queue)) = knob else { return Ok(None) };
    Ok(match read(&ifindex_file(root, queue))? {
        None => Some(Seen::Gone),
        Some(text) if text.trim() == queue.ifindex.to_string() => None,
        Some(_) => Some(Seen::Replaced(format!("another device called {}", queue.netdev))),
    })
}

pub(super) fn write(root: &HostRoot, knob: &Knob, value: &Value) -> Result<(), TargetError> {
    if let Knob::IrqbalanceBans { pid, .. } = knob {
        return irqbalance::write(root, *pid, value);
    }
    let Some(KnobFile { read: _, write: path, form }) = knob_file(root, knob) else { return Ok(()) };
    let Some(text) = form.print(value) else {
        let call = call(&path, &value.to_string());
        return Err(TargetError::Refused { call, refusal: Refusal::Invalid });
    };
    write_text(&path, &text, refusal)
}

pub(super) fn may_write(root: &HostRoot, knob: &Knob) -> Result<(), TargetError> {
    let Some(KnobFile { write: path, .. }) = knob_file(root, knob) else { return Ok(()) };
    match OpenOptions::new().write(true).open(&path) {
        Err(error) if !is_gone(&error) => Err(refused_open(&path, error)),
        _ => Ok(()),
    }
}

/// What the kernel means by refusing a knob's value.
pub(super) fn refusal(error: io::Error) -> Refusal {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        // No CPU of a mask can be used, or a number is out of range.
        Some(Errno::INVAL | Errno::RANGE) => Refusal::Invalid,
        // lib/bitmap-str.c.
        Some(Errno::OVERFLOW) => Refusal::TooHigh,
        // net/core/net-sysfs.c asks for CAP_NET_ADMIN of whoever writes, not of whoever opens.
        Some(Errno::PERM | Errno::ACCESS) => Refusal::Privilege("permission"),
        _ if is_gone(&error) => Refusal::Gone,
        _ => Refusal::Other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::LiveHost;
    use super::*;
    use crate::apply::Host as _;
    use crate::host::fixture::Tree;
    use crate::model::CpuId;
    use crate::model::knob::NetQueue;
    use crate::plan::Target;

    #[test]
    fn knobs_are_read_and_written_in_their_own_spelling() {
        let cpus = |list: &str| Value::Cpus(list.parse().unwrap());
        let queue = NetQueue { netdev: "eth0".to_owned(), ifindex: 7, queue: 0 };
        let (workqueue, latency, rps) = (
            "sys/devices/virtual/workqueue/cpumask",
            "sys/devices/system/cpu/cpu2/power/pm_qos_resume_latency_us",
            "sys/class/net/eth0/queues/rx-0/rps_cpus",
        );
        for (knob, path, before, found, new, after) in [
            (Knob::Workqueues, workqueue, "f\n", cpus("0-3"), cpus("0-1"), "3"),
            (Knob::Watchdogs, "proc/sys/kernel/watchdog_cpumask", "0-3\n", cpus("0-3"), cpus("0,3"), "0,3"),
            (
                Knob::HaltPoll,
                "sys/module/kvm/parameters/halt_poll_ns",
                "200000\n",
                Value::text("200000"),
                Value::text("0"),
                "0",
            ),
            (
                Knob::IdleLatency { cpu: CpuId(2) },
                latency,
                "0\n",
                Value::text("0"),
                Value::text("n/a"),
                "n/a",
            ),
            (Knob::Rps(queue), rps, "0\n", cpus(""), cpus("1"), "2"),
        ] {
            let tree = Tree::new();
            tree.file("sys/class/net/eth0/ifindex", "7\n");
            tree.file(path, before);
            let host = LiveHost::new(tree.root());
            let target = Target::Knob(knob);
            let Seen::Here(observed) = host.observe(&target).unwrap() else { panic!("{target} is there") };
            assert_eq!(observed.value, found, "{target}");
            host.may_write(&target).unwrap();
            host.write(&target, &new).unwrap();
            assert_eq!(std::fs::read_to_string(tree.path(path)).unwrap(), after, "{target}");
            // Back to what it was: for a queue that hands on nothing this is the empty mask.
            host.write(&target, &found).unwrap();
            let text = std::fs::read_to_string(tree.path(path)).unwrap();
            assert_eq!(text.trim(), before.trim(), "{target}");
        }
    }

    #[test]
    fn a_queue_of_another_device_is_not_ours() {
        let tree = Tree::new();
        let rps = Target::Knob(Knob::Rps(NetQueue { netdev: "eth0".to_owned(), ifindex: 7, queue: 0 }));
        let host = LiveHost::new(tree.root());
        assert_eq!(host.observe(&rps).unwrap(), Seen::Gone);
        tree.file("sys/class/net/eth0/queues/rx-0/rps_cpus", "0\n");
        tree.file("sys/class/net/eth0/ifindex", "8\n");
        assert_eq!(host.observe(&rps).unwrap(), Seen::Replaced("another device called eth0".to_owned()));
        let error = host.write(&rps, &Value::text("1")).unwrap_err();
        assert!(matches!(error.refusal(), Some(Refusal::Invalid)), "{error}");
    }

    #[test]
    fn refusals_are_told_apart() {
        for (errno, expected) in [
            (Errno::INVAL, "Invalid"),
            (Errno::RANGE, "Invalid"),
            (Errno::OVERFLOW, "TooHigh"),
            (Errno::PERM, "Privilege"),
            (Errno::NOENT, "Gone"),
            (Errno::NODEV, "Gone"),
            (Errno::IO, "Other"),
            (Errno::NOSPC, "Other"),
        ] {
            let refusal = refusal(errno.into());
            assert!(format!("{refusal:?}").starts_with(expected), "{errno:?}: {refusal:?}");
        }
    }
}
