//! `vfprobe serve` as a program: what it refuses before any probe is loaded, what it says, and how it reloads.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Lines, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    os::unix::net::UnixDatagram,
    process::{ChildStderr, Command, Output, Stdio},
    time::Duration,
};

fn serve(listen: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfprobe"));
    command.args(["serve", "--listen", listen]).output().expect("the program starts")
}

fn refused(output: &Output, code: i32, says: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.starts_with("vfprobe: ") && message.contains(says), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert_eq!(message.matches(says).count(), 1, "said twice: {message}");
}

#[test]
fn what_is_no_address_is_a_usage_error() {
    refused(&serve("127.0.0.1"), 2, "cannot listen on 127.0.0.1 (");
    refused(&serve("127.0.0.1:65536"), 2, "choose another address and port with --listen");
}

#[test]
fn a_taken_port_is_said_with_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(&serve(&address), 3, &format!("cannot listen on {address} (Address already in use"));
}

#[test]
fn bounds_that_do_not_exist_are_named() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfprobe"));
    let output = command.args(["serve", "--bounds", "all"]).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("\"all\" is no set of bounds (expected coarse, normal or fine)"), "{message}");
}

#[test]
fn labels_that_cannot_be_folded_are_named() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfprobe"));
    let output = command.args(["serve", "--fold", "guest"]).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("\"guest\" cannot be folded (expected slot or vcpu)"), "{message}");
}

#[test]
fn a_policy_that_cannot_be_used_is_said_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfprobe"));
    let serve = command.args(["serve", "--listen", "127.0.0.1:0", "--policy"]).arg(&path);
    let serve = serve.arg("--state-dir").arg(dir.path());
    refused(&serve.output().unwrap(), 2, "No such file or directory");
    for (text, says) in [
        (&b"\nfoo = 1\n"[..], "policy.toml: line 2: unknown field `foo`"),
        (b"# \xff\n", "policy.toml: line 1 is not UTF-8 text"),
    ] {
        std::fs::write(&path, text).unwrap();
        refused(&serve.output().unwrap(), 2, says);
    }
}

#[test]
fn a_configuration_that_cannot_be_used_is_said_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vfprobe.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfprobe"));
    let serve = command.args(["serve", "--config"]).arg(&path);
    refused(&serve.output().unwrap(), 2, "cannot read the configuration ");
    std::fs::write(&path, "# one\n\nbuonds = \"fine\"\n").unwrap();
    refused(&serve.output().unwrap(), 2, "vfprobe.toml: line 3: unknown field `buonds`");
    // What is refused after the file was read shows that its keys are heeded.
    std::fs::write(&path, "listen = \"nowhere\"\n").unwrap();
    refused(&serve.output().unwrap(), 2, "cannot listen on nowhere (");
}

/// The log says what a reload brings, and what it cannot bring.
#[test]
fn a_hangup_reloads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vfprobe.toml");
    let start = "listen = \"127.0.0.1:0\"\nlog-format = \"json\"\n";
    std::fs::write(&path, start).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfprobe"));
    command.args(["serve", "--config"]).arg(&path).arg("--state-dir").arg(dir.path());
    let Some((mut service, mut log)) = started("a_hangup_reloads", command) else { return };
    let pid = rustix::process::Pid::from_child(&service.0);
    let kill = |signal| rustix::process::kill_process(pid, signal).unwrap();
    let mut reload = |text: &str, last: &str| {
        std::fs::write(&path, text).unwrap();
        kill(rustix::process::Signal::HUP);
        let mut lines: Vec<serde_json::Value> = Vec::new();
        while lines.last().is_none_or(|line| line["fields"]["message"] != last) {
            lines.push(serde_json::from_str(&log.next().expect("a line").unwrap()).unwrap());
        }
        lines
    };
    let again = "the configuration was read again";
    let lines = reload(&format!("{start}bounds = \"fine\"\nfold = [\"vcpu\"]\nverbose = 1\n"), again);
    let [restart, read] = &lines[lines.len() - 2..] else { panic!("{lines:?}") };
    assert_eq!((&restart["level"], &restart["fields"]["key"]), (&"WARN".into(), &"verbose".into()));
    assert_eq!((&read["fields"]["bounds"], &read["fields"]["fold"]), (&"Fine".into(), &"vcpu".into()));
    let lines = reload("bounds = 7\n", "the former configuration is kept");
    let error = lines.last().unwrap()["fields"]["error"].as_str().unwrap();
    assert!(error.contains("vfprobe.toml: line 1: invalid type"), "{error}");
    assert_eq!(reload(start, again).last().unwrap()["fields"]["bounds"], "Normal");
    kill(rustix::process::Signal::TERM);
    assert_eq!(service.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_web_config_that_cannot_be_used_is_said_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.yml");
    std::fs::write(&path, "tls_server_config:\n  cert_file: c\n  key: k\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfprobe"));
    let serve = command.args(["serve", "--listen", "127.0.0.1:0", "--web-config"]).arg(&path);
    refused(&serve.output().unwrap(), 2, "web.yml: line 3: key: not offered here; name a file with key_file");
}

/// A web config that changes is in force without anybody saying so, and one that is damaged changes nothing.
#[test]
fn a_changed_web_config_is_heeded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.yml");
    std::fs::write(&path, "# everybody\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfprobe"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--web-config"]).arg(&path);
    command.arg("--state-dir").arg(dir.path());
    let Some((_service, mut log)) = started("a_changed_web_config_is_heeded", command) else { return };
    let mut said = |text: &str, message: &str| loop {
        std::fs::write(&path, text).unwrap();
        let line: serde_json::Value = serde_json::from_str(&log.next().expect("a line").unwrap()).unwrap();
        if line["fields"]["message"] == message {
            return line["fields"].clone();
        }
    };
    let again = "the web config was read again";
    let hash = "$2y$04$5VjZVGsbvv1CGpbwn2xcVeOqZVhLU8xt9sUdR4ybwNG/ZHHfsytvC";
    let users = format!("basic_auth_users:\n  prom: {hash}\n");
    assert_eq!(said(&users, again)["passwords"], true);
    let error = said("basic_auth_users: 7\n", "the former web config is kept")["error"].to_string();
    assert!(error.contains("web.yml: line 1"), "{error}");
    assert_eq!(said("# everybody\n", again)["passwords"], false);
}

/// A shell stands in for systemd: it hands over a socket as descriptor 3 and says so to the process that it becomes.
#[test]
fn a_socket_that_is_handed_over_is_listened_on() {
    let dir = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let exec = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0";
    let mut command = Command::new("sh");
    command.args(["-c", exec, env!("CARGO_BIN_EXE_vfprobe"), "serve", "--log-format", "json"]);
    // Not listened on: the address is taken, by the socket that is handed over.
    command.args(["--listen", &address.to_string(), "--state-dir"]).arg(dir.path());
    command.stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    let Some((service, _log)) = started("a_socket_that_is_handed_over_is_listened_on", command) else {
        return;
    };
    // Connections are accepted by the service alone: this process never does.
    drop(socket);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\nvfprobe_up 1\n"), "{answer}");
    drop(service);
    assert!(TcpStream::connect(address).is_err(), "the socket was the service's alone");
}

/// Capabilities of a service's threads, by the kernel's own account: name, effective and permitted sets, `no_new_privs`.
fn threads(pid: u32) -> BTreeSet<(String, u64, u64, u8)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok());
    let thread = |status: String| {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            line.unwrap().to_owned()
        };
        let set = |name| u64::from_str_radix(&field(name), 16).unwrap();
        (field("Name"), set("CapEff"), set("CapPrm"), field("NoNewPrivs").parse().unwrap())
    };
    statuses.map(thread).collect()
}

#[test]
fn only_who_watches_the_host_keeps_capabilities() {
    const BPF: u64 = 1 << 39;
    // CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH by their numbers (linux/capability.h).
    const WATCH: u64 = BPF | 1 << 38 | 1 << 19 | 1 << 2;
    let dir = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    drop(socket);
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfprobe"));
    command.args(["serve", "--log-format", "json", "--listen", &address, "--state-dir"]).arg(dir.path());
    let name = "only_who_watches_the_host_keeps_capabilities";
    let Some((service, _log)) = started(name, command) else { return };
    // An answer: from here on there are threads that read the probes, and they can.
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\nvfprobe_up 1\n"), "{answer}");
    let threads = threads(service.0.id());
    let names: BTreeSet<&str> = threads.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["follow", "tokio-rt-worker", "vfprobe"].into(), "{threads:x?}");
    for (name, effective, permitted, no_new_privs) in &threads {
        assert_eq!((effective, no_new_privs), (permitted, &1), "{name}");
        match name.as_str() {
            "follow" => assert_eq!(effective & !WATCH, 0, "{effective:x}"),
            // Older kernels ask for it of who reads.
            _ => assert!([0, BPF].contains(effective), "{name}: {effective:x}"),
        }
    }
}

#[test]
fn what_is_handed_over_must_be_listening() {
    let dir = tempfile::tempdir().unwrap();
    let exec = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0";
    for what in
        [OwnedFd::from(std::fs::File::open("/dev/null").unwrap()), UnixDatagram::unbound().unwrap().into()]
    {
        let mut command = Command::new("sh");
        command.args(["-c", exec, env!("CARGO_BIN_EXE_vfprobe"), "serve", "--state-dir"]).arg(dir.path());
        command.stdin(Stdio::from(what));
        refused(&command.output().unwrap(), 3, "cannot listen on the sockets that were handed over (");
    }
}

type Log = Lines<BufReader<ChildStderr>>;

/// Starts a service and waits until it serves; `None`, and said so in the name of `test`, when no probe can be loaded
/// here. Its log must be JSON: each line is looked at.
fn started(test: &str, mut command: Command) -> Option<(Ended, Log)> {
    let child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut service = Ended(child);
    let mut log = BufReader::new(service.0.stderr.take().unwrap()).lines();
    let serves = log.by_ref().map_while(Result::ok).find(|line| {
        let json: Result<serde_json::Value, _> = serde_json::from_str(line);
        json.is_ok_and(|line| line["fields"]["message"] == "serving metrics" && line["level"] == "INFO")
    });
    if serves.is_none() {
        assert_eq!(service.0.wait().unwrap().code(), Some(3));
        println!("SKIP {test}: no probe can be loaded here");
        return None;
    }
    Some((service, log))
}

/// Where probes run, the service manager hears of it; where they do not (no root, no BTF), that is what it hears.
#[test]
fn the_service_manager_is_told_only_what_is_so() {
    let dir = tempfile::tempdir().unwrap();
    let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfprobe"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--state-dir"]);
    command.arg(dir.path()).env("NOTIFY_SOCKET", dir.path().join("notify"));
    let started = started("the_service_manager_is_told_only_what_is_so", command);
    let Some((mut service, _log)) = started else { return };
    let mut buffer = [0; 4096];
    let mut heard = || {
        let len = socket.recv(&mut buffer).expect("the service says something");
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    };
    let first = heard();
    let ready = first.contains("READY=1\n") && first.contains("STATUS=probes: ");
    assert!(ready || first == "STATUS=no probe runs, or one has failed; the log says why\n", "{first}");
    assert_eq!(heard(), "WATCHDOG=1\n");
    let pid = rustix::process::Pid::from_child(&service.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    while heard() != "STOPPING=1\n" {}
    assert_eq!(service.0.wait().unwrap().code(), Some(0));
}

/// A process that does not outlive its test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
