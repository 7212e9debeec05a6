//! QEMU asked for its vCPU threads: `query-cpus-fast` over a monitor socket that its command line names.
//!
//! A monitor serves one client at a time: where somebody else holds it, that is said and not waited for. Nothing is sent
//! to a socket that is not the VMM's own, and nothing that changes anything to one that is.

use super::vmm::{options, qemu_parts};
use crate::model::{Pid, Tid};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long each line of an answer may take: a monitor that serves somebody else says nothing at all.
const PATIENCE: Duration = Duration::from_secs(1);
/// Lines that may come before the answer: the greeting, and events.
const MAX_LINES: usize = 64;
/// A vCPU takes some 200 bytes.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
struct Reply {
    #[serde(rename = "return")]
    answer: Option<serde_json::Value>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cpu {
    cpu_index: u32,
    thread_id: u32,
}

/// Sockets on which QEMU serves its monitor protocol, by its command line: `-qmp unix:PATH,server=on`, or
/// `-chardev socket,id=ID,path=PATH` with `-mon chardev=ID,mode=control` (qemu(1)).
pub(super) fn sockets(args: &[&str]) -> Vec<String> {
    let short = options(args, "qmp").filter_map(|text| {
        let path = qemu_parts(text).into_iter().next()?;
        path.strip_prefix("unix:").map(str::to_owned)
    });
    let mut paths: Vec<String> = short.collect();
    let value = |parts: &[String], key: &str| {
        parts.iter().find_map(|part| part.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
    };
    for monitor in options(args, "mon").map(qemu_parts) {
        if value(&monitor, "mode").as_deref() != Some("control") {
            continue;
        }
        let first = monitor.first().filter(|part| !part.contains('=')).cloned();
        let Some(id) = value(&monitor, "chardev").or(first) else { continue };
        let backends = options(args, "chardev").map(qemu_parts);
        paths.extend(backends.filter_map(|parts| {
            let socket = parts.first().is_some_and(|kind| kind == "socket");
            (socket && value(&parts, "id").as_ref() == Some(&id)).then(|| value(&parts, "path")).flatten()
        }));
    }
    paths
}

/// Thread and index of each vCPU, as the VMM `pid` says on a monitor socket.
///
/// # Errors
/// When nobody answers in time, the socket is not the VMM's, or the answer is not understood.
pub(super) fn query_cpus(path: &Path, pid: Pid) -> io::Result<BTreeMap<Tid, u32>> {
    converse(path, pid).map_err(|error| match error.kind() {
        // Also when there are so many others that this one cannot even wait.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            let what = "it gives no answer, as one that serves another client does";
            io::Error::new(io::ErrorKind::TimedOut, what)
        }
        _ => error,
    })
}

fn converse(path: &Path, pid: Pid) -> io::Result<BTreeMap<Tid, u32>> {
    // To connect would wait, without end, where others do.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let mut stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    let peer = socket_peercred(&stream)?;
    if u32::try_from(peer.pid.as_raw_nonzero().get()).ok() != Some(pid.0) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the socket is not the VMM's own"));
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.try_clone()?.take(MAX_BYTES));
    let mut greeting = String::new();
    lines.read_line(&mut greeting)?;
    // Before this a monitor answers nothing else (docs/interop/qmp-spec.rst of QEMU).
    stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
    answer(&mut lines)?;
    stream.write_all(b"{\"execute\":\"query-cpus-fast\"}\n")?;
    let cpus: Vec<Cpu> = serde_json::from_value(answer(&mut lines)?)?;
    Ok(cpus.into_iter().map(|cpu| (Tid(cpu.thread_id), cpu.cpu_index)).collect())
}

/// The next answer; events before it are passed over.
fn answer(lines: &mut impl BufRead) -> io::Result<serde_json::Value> {
    for _ in 0..MAX_LINES {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            break;
        }
        match serde_json::from_str(&line)? {
            Reply { error: Some(Refusal { desc }), .. } => return Err(io::Error::other(desc)),
            Reply { answer: Some(answer), .. } => return Ok(answer),
            Reply { .. } => {}
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has hung up"))
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use std::os::unix::net::UnixListener;

    pub(in crate::host) const GREETING: &str = r#"{"QMP": {"version": {}, "capabilities": []}}"#;
    /// Threads 257 and 258, after an event.
    pub(in crate::host) const CPUS: &str = concat!(
        r#"{"event": "RTC_CHANGE"}"#,
        "\n",
        r#"{"return": [{"thread-id": 257, "cpu-index": 0, "target": "x86_64"}, "#,
        r#"{"thread-id": 258, "cpu-index": 1, "props": {}}]}"#
    );

    /// A monitor that says these lines: the first at once, one for each line that it reads, and then no more.
    pub(in crate::host) fn monitor(path: &Path, said: &[&str]) {
        let said: Vec<String> = said.iter().map(|line| (*line).to_owned()).collect();
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = BufReader::new(stream.try_clone().unwrap()).lines();
            for lines in said {
                // Whoever was not satisfied has hung up.
                if writeln!(stream, "{lines}").is_err() || !matches!(asked.next(), Some(Ok(_))) {
                    return;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{CPUS, GREETING, monitor};
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn monitor_sockets() {
        let check = |args: &[&str], expected: &[&str]| {
            let args: Vec<&str> = ["qemu-system-x86_64"].iter().chain(args).copied().collect();
            assert_eq!(sockets(&args), expected, "{args:?}");
        };
        check(&["-qmp", "unix:/tmp/vm1.qmp,server=on,wait=off"], &["/tmp/vm1.qmp"]);
        check(&["-qmp", "tcp:localhost:4444", "-monitor", "unix:/tmp/m"], &[]);
        check(&["-qmp", "unix:vm1.qmp"], &["vm1.qmp"]);
        let chardev = "socket,id=charmonitor,path=/run/a,,b.sock,server=on";
        check(&["-chardev", chardev, "-mon", "chardev=charmonitor,id=m,mode=control"], &["/run/a,b.sock"]);
        check(&["-chardev", chardev, "-mon", "charmonitor,mode=control"], &["/run/a,b.sock"]);
        check(&["-chardev", chardev, "-mon", "chardev=charmonitor,mode=readline"], &[]);
        // libvirt hands over a descriptor.
        check(&["-chardev", "socket,id=m,fd=22,server=on", "-mon", "chardev=m,mode=control"], &[]);
    }

    #[test]
    fn vcpus_by_the_monitor() {
        let check = |said: &[&str], expected: Result<&[(u32, u32)], &str>| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("qmp");
            monitor(&path, said);
            let found = query_cpus(&path, Pid(std::process::id()));
            match (found, expected) {
                (Ok(found), Ok(expected)) => {
                    let found: Vec<(u32, u32)> =
                        found.into_iter().map(|(tid, index)| (tid.0, index)).collect();
                    assert_eq!(found, expected);
                }
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (found, _) => panic!("{found:?}"),
            }
        };
        let ready = r#"{"return": {}}"#;
        check(&[GREETING, ready, CPUS], Ok(&[(257, 0), (258, 1)]));
        check(&["hello", "hello"], Err("expected"));
        check(&[GREETING], Err("hung up"));
        check(&[GREETING, ready], Err("hung up"));
        check(&[GREETING, r#"{"error": {"class": "GenericError", "desc": "not now"}}"#], Err("not now"));
    }

    #[test]
    fn who_cannot_answer_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let _listener = UnixListener::bind(&path).unwrap();
        let error = query_cpus(&path, Pid(std::process::id())).unwrap_err();
        assert!(error.to_string().contains("serves another client"), "{error}");
    }

    #[test]
    fn a_socket_of_somebody_else_is_told_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        monitor(&path, &[GREETING]);
        let error = query_cpus(&path, Pid(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(text in any::<String>()) {
            let _ = answer(&mut text.as_bytes());
            let _ = answer(&mut format!("{{\"return\": {text}}}\n").as_bytes());
        }
    }
}
