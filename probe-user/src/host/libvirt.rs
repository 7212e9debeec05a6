//! libvirt's pins, asked by `virsh` on a connection that only reads: where libvirt keeps no cpuset of its own for the vCPUs (a
//! session of a user, `cgroup_controllers` without cpuset), nothing else tells a pin that somebody asked for from a mask that
//! happens to be.
//!
//! One program for all guests, which is given up after [`PATIENCE`]. What it prints is read strictly: a line that is not
//! understood makes its guest's pins unknown, and that is said.

use super::HostRoot;
use crate::model::owners::{Cpuset, Limiter};
use crate::model::topology::Guest;
use crate::model::{CpuSet, Tid, VcpuId};
use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long virsh may take for all guests.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often is looked whether it has ended.
const TICK: Duration = Duration::from_millis(5);
/// No answer comes near this size: a vCPU takes some 20 bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// Sockets of libvirtd, and of the daemon for QEMU alone that has taken its place, below `/run`.
const SOCKETS: [&str; 2] = ["libvirt/libvirt-sock", "libvirt/virtqemud-sock"];

/// What libvirt says of pins.
#[derive(Debug, Default)]
pub(super) struct Pins {
    /// Limits of threads that libvirt has pinned.
    pub(super) limits: BTreeMap<Tid, Cpuset>,
    /// Guests whose pins are not known, by name, and why.
    pub(super) unknown: BTreeMap<String, String>,
}

/// Asks for the pins of those of libvirt's guests whose vCPUs have no control group of its own (`known` are the groups that
/// were found).
pub(super) fn read_pins(
    root: &HostRoot,
    guests: &[Guest],
    known: &BTreeMap<Tid, Cpuset>,
    online: &CpuSet,
) -> Pins {
    if !SOCKETS.iter().any(|socket| root.run.join(socket).exists()) {
        return Pins::default();
    }
    let hidden: Vec<&Guest> =
        guests.iter().filter(|guest| guest.libvirt && !has_groups(guest, known)).collect();
    if hidden.is_empty() { Pins::default() } else { ask(Path::new("virsh"), &hidden, online, PATIENCE) }
}

/// Whether libvirt's control groups tell its pins: `vcpuN` for each vCPU.
fn has_groups(guest: &Guest, known: &BTreeMap<Tid, Cpuset>) -> bool {
    guest.vcpus.iter().all(|vcpu| {
        let limit = known.get(&vcpu.thread.tid).map(|limit| &limit.by);
        matches!(limit, Some(Limiter::Group(group)) if group.ends_with(&format!("/vcpu{}", vcpu.index)))
    })
}

fn ask(virsh: &Path, guests: &[&Guest], online: &CpuSet, patience: Duration) -> Pins {
    let mut pins = Pins::default();
    // A uuid needs no quoting; libvirt gives one to each of its guests.
    let named: Vec<(&Guest, &str)> =
        guests.iter().filter_map(|guest| Some((*guest, guest.uuid.as_deref()?))).collect();
    let commands: Vec<String> =
        named.iter().map(|(_, uuid)| format!("echo {uuid}; vcpupin {uuid}; emulatorpin {uuid}")).collect();
    let answer = run(virsh, &commands.join("; "), patience);
    for guest in guests {
        let found = match (&answer, &guest.uuid) {
            (_, None) => Err("its uuid is not known".to_owned()),
            (Err(why), _) => Err(why.clone()),
            (Ok(answer), Some(uuid)) => section(answer, uuid).and_then(parse_pins),
        };
        match found {
            Ok(found) => pins.limits.extend(limits(guest, &found, online)),
            Err(why) => drop(pins.unknown.insert(guest.name.clone(), why)),
        }
    }
    pins
}

/// Runs virsh with commands, and gives what it printed. That one of them failed is seen from what is missing. (With `--quiet` it
/// would not end the line of an echo.)
fn run(virsh: &Path, commands: &str, patience: Duration) -> Result<String, String> {
    let mut command = Command::new(virsh);
    command.args(["--readonly", "--connect", "qemu:///system", commands]);
    command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "virsh is not installed".to_owned(),
        _ => format!("virsh cannot be run: {error}"),
    })?;
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut answer = String::new();
        let read = stdout.map(|stdout| stdout.take(MAX_ANSWER).read_to_string(&mut answer));
        read.transpose().map(|_| answer)
    });
    let deadline = Instant::now() + patience;
    let ended = loop {
        match child.try_wait() {
            Ok(Some(_)) => break Ok(()),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(TICK),
            Ok(None) => break Err(format!("virsh gives no answer within {} s", patience.as_secs())),
            Err(error) => break Err(format!("virsh cannot be waited for: {error}")),
        }
    };
    if ended.is_err() {
        // It may have ended this moment.
        let _ = child.kill();
        let _ = child.wait();
    }
    ended?;
    match reader.join() {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("virsh's answer cannot be read: {error}")),
        Err(_) => Err("virsh's answer cannot be read".to_owned()),
    }
}

/// What was printed after the echo of a uuid, up to the next one.
fn section<'a>(answer: &'a str, uuid: &str) -> Result<&'a str, String> {
    let mut rest = answer;
    while let Some((line, after)) = rest.split_once('\n') {
        if line.trim() == uuid {
            let end = [0].into_iter().chain(after.match_indices('\n').map(|(at, _)| at + 1)).find(|at| {
                let next = after[*at..].lines().next().unwrap_or_default().trim();
                is_uuid(next)
            });
            return Ok(&after[..end.unwrap_or(after.len())]);
        }
        rest = after;
    }
    Err("virsh says nothing of it: libvirt's system daemon does not know it, or does not let vfprobe ask"
        .to_owned())
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// Pins of one guest.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    vcpus: BTreeMap<VcpuId, CpuSet>,
    emulator: CpuSet,
}

/// Parses the two tables, with or without their heads: ` 0      2-3` for a vCPU, ` *: 0-3` for the emulator. Older versions
/// write a colon after the vCPU too (`virsh-domain.c`, `cmdVcpuPin()`, `cmdEmulatorPin()`).
fn parse_pins(text: &str) -> Result<Found, String> {
    let mut found = Found { vcpus: BTreeMap::new(), emulator: CpuSet::new() };
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let is_head = line.ends_with("CPU Affinity") || line.bytes().all(|byte| byte == b'-');
        if is_head {
            continue;
        }
        let bad = || format!("virsh prints {line:?}, which is not understood");
        let (who, cpus) = line.split_once(char::is_whitespace).ok_or_else(bad)?;
        let cpus: CpuSet = cpus.trim().parse().map_err(|_| bad())?;
        if cpus.is_empty() {
            return Err(bad());
        }
        match who.trim_end_matches(':') {
            "*" if found.emulator.is_empty() => found.emulator = cpus,
            number => {
                let vcpu = number.parse().map(VcpuId).map_err(|_| bad())?;
                if found.vcpus.insert(vcpu, cpus).is_some() {
                    return Err(bad());
                }
            }
        }
    }
    if found.vcpus.is_empty() || found.emulator.is_empty() {
        return Err("virsh does not say all of its pins".to_owned());
    }
    Ok(found)
}

/// What the pins mean for the guest's threads. A pin to all CPUs is none. I/O threads have pins of their own, which these
/// tables do not hold.
fn limits(guest: &Guest, found: &Found, online: &CpuSet) -> BTreeMap<Tid, Cpuset> {
    let limit = |tid: Tid, cpus: &CpuSet, by: Limiter| {
        (!online.is_subset(cpus)).then(|| (tid, Cpuset { cpus: cpus.clone(), by }))
    };
    let vcpus = guest.vcpus.iter().filter_map(|vcpu| {
        limit(vcpu.thread.tid, found.vcpus.get(&vcpu.index)?, Limiter::LibvirtPin("vcpupin"))
    });
    let emulator = guest.threads.iter().filter(|thread| !thread.comm.starts_with("IO "));
    let emulator =
        emulator.filter_map(|thread| limit(thread.tid, &found.emulator, Limiter::LibvirtPin("emulatorpin")));
    vcpus.chain(emulator).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Tree;
    use crate::model::Pid;
    use crate::model::topology::{Thread, Vcpu, Vmm};
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt as _;

    const UUID: &str = "5a7ec4f6-6f0c-4f0b-9a53-0d4b1d3c9a01";
    const OTHER: &str = "5a7ec4f6-6f0c-4f0b-9a53-0d4b1d3c9a02";

    fn thread(tid: u32, comm: &str) -> Thread {
        Thread { tid: Tid(tid), comm: comm.to_owned(), start_time: 1, affinity: CpuSet::new() }
    }

    fn guest(name: &str, pid: u32, uuid: Option<&str>) -> Guest {
        Guest {
            name: name.to_owned(),
            uuid: uuid.map(str::to_owned),
            pid: Pid(pid),
            start_time: 1,
            vmm: Vmm::Qemu,
            libvirt: true,
            vcpus: (0..2)
                .map(|n| Vcpu { index: VcpuId(n), thread: thread(pid + 10 + n, "CPU 0/KVM") })
                .collect(),
            threads: vec![thread(pid, "qemu-system-x86"), thread(pid + 1, "IO iothread1")],
            nics: Vec::new(),
            vfs: Vec::new(),
        }
    }

    #[test]
    fn tables_of_pins() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let found = parse_pins(text).map(|Found { vcpus, emulator }| {
                let vcpus = vcpus.iter().map(|(vcpu, cpus)| format!("{vcpu} on {cpus}, "));
                vcpus.collect::<String>() + &emulator.to_string()
            });
            match (&found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{text}: {why}"),
                _ => panic!("{text}: {found:?}"),
            }
        };
        // As 9.0 prints it, and an older one.
        let heads = " VCPU   CPU Affinity\n----------------------\n 0      2\n 1      3\n\n \
                     emulator: CPU Affinity\n----------------------------------\n        *: 0-3\n\n";
        check(heads, Ok("0 on 2, 1 on 3, 0-3"));
        check(" 0      0-1,4\n\n *      0-7\n", Ok("0 on 0-1,4, 0-7"));
        check("VCPU: CPU Affinity\n---\n   0: 2\nemulator: CPU Affinity\n---\n   *: 1\n", Ok("0 on 2, 1"));
        for (text, part) in [
            ("", "not say all"),
            (" 0      2\n", "not say all"),
            (" *      2\n", "not say all"),
            (" 0      2\n 0      3\n *  1\n", "\"0      3\""),
            (" *      2\n *      3\n", "\"*      3\""),
            (" 0      x\n", "\"0      x\", which is not understood"),
            (" 0\n", "not understood"),
            ("error: Domain not found\n", "not understood"),
        ] {
            check(text, Err(part));
        }
    }

    #[test]
    fn answers_are_taken_apart_by_guest() {
        let answer = format!("{UUID}\n 0      2\n *      1\n{OTHER}\n 0      3\n *      0\n");
        assert_eq!(section(&answer, UUID), Ok(" 0      2\n *      1\n"));
        assert_eq!(section(&answer, OTHER), Ok(" 0      3\n *      0\n"));
        assert_eq!(section(&format!("{UUID}\n{OTHER}\n 0 1\n"), UUID), Ok(""));
        assert!(section(" 0      2\n", UUID).is_err());
    }

    /// A program in virsh's place that prints what it is told and notes what it was asked.
    fn program(dir: &Path, script: &str) -> std::path::PathBuf {
        let path = dir.join("virsh");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn pins_become_limits_of_threads() {
        let dir = tempfile::tempdir().unwrap();
        let asked = dir.path().join("asked");
        let script = format!(
            "echo \"$@\" >{}\nprintf '{UUID}\\n 0      2\\n 1      0-3\\n *      0-1\\n{OTHER}\\nerror: no\\n'",
            asked.display()
        );
        let virsh = program(dir.path(), &script);
        let (vm1, vm2, vm3) =
            (guest("vm1", 200, Some(UUID)), guest("vm2", 300, Some(OTHER)), guest("vm3", 400, None));
        let pins = ask(&virsh, &[&vm1, &vm2, &vm3], &"0-3".parse().unwrap(), PATIENCE);
        let shown: Vec<String> =
            pins.limits.iter().map(|(tid, limit)| format!("{tid} {} {}", limit.cpus, limit.by)).collect();
        // vCPU 1 may run anywhere, which is no pin, and the I/O thread is not the emulator's.
        assert_eq!(shown, ["200 0-1 libvirt's emulatorpin", "210 2 libvirt's vcpupin"]);
        assert_eq!(pins.unknown.keys().collect::<Vec<_>>(), ["vm2", "vm3"]);
        assert!(pins.unknown["vm2"].contains("\"error: no\""), "{:?}", pins.unknown);
        let asked = std::fs::read_to_string(asked).unwrap();
        let commands = |uuid: &str| format!("echo {uuid}; vcpupin {uuid}; emulatorpin {uuid}");
        assert_eq!(
            asked.trim_end(),
            format!("--readonly --connect qemu:///system {}; {}", commands(UUID), commands(OTHER))
        );
    }

    #[test]
    fn who_does_not_answer_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let vm1 = guest("vm1", 200, Some(UUID));
        let online = "0-3".parse().unwrap();
        let missing = ask(&dir.path().join("none"), &[&vm1], &online, PATIENCE);
        assert_eq!(missing.unknown["vm1"], "virsh is not installed");
        let mute = program(dir.path(), "exec sleep 1000");
        let why = ask(&mute, &[&vm1], &online, Duration::from_millis(10)).unknown["vm1"].clone();
        assert!(why.starts_with("virsh gives no answer"), "{why}");
        let failing = program(dir.path(), "exit 1");
        let why = ask(&failing, &[&vm1], &online, PATIENCE).unknown["vm1"].clone();
        assert!(why.starts_with("virsh says nothing of it"), "{why}");
    }

    #[test]
    fn nobody_is_asked_where_control_groups_tell_or_there_is_no_daemon() {
        let tree = Tree::new();
        let vm1 = guest("vm1", 200, None);
        let online = "0-3".parse().unwrap();
        let unknown = |guests: &[Guest], known: &BTreeMap<Tid, Cpuset>| {
            read_pins(&tree.root(), guests, known, &online).unknown.len()
        };
        assert_eq!(unknown(std::slice::from_ref(&vm1), &BTreeMap::new()), 0, "no socket");
        tree.file("run/libvirt/virtqemud-sock", "");
        assert_eq!(unknown(std::slice::from_ref(&vm1), &BTreeMap::new()), 1, "it has no uuid to ask by");
        let group = |end: &str| Cpuset {
            cpus: "2".parse().unwrap(),
            by: Limiter::Group(format!("/m/libvirt/{end}")),
        };
        let groups = BTreeMap::from([(Tid(210), group("vcpu0")), (Tid(211), group("vcpu1"))]);
        assert_eq!(unknown(std::slice::from_ref(&vm1), &groups), 0);
        let slice = BTreeMap::from([(Tid(210), group("")), (Tid(211), group(""))]);
        assert_eq!(unknown(std::slice::from_ref(&vm1), &slice), 1);
        assert_eq!(unknown(&[Guest { libvirt: false, ..vm1 }], &BTreeMap::new()), 0);
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(text in any::<String>()) {
            let _ = parse_pins(&text);
            let _ = section(&format!("{UUID}\n{text}"), UUID).map(parse_pins);
        }
    }
}
