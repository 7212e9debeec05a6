//! `vfprobe serve` as a program: what it refuses before any probe is loaded.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::net::UnixDatagram,
    process::{Command, Output, Stdio},
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

/// Where probes run, the service manager hears of it; where they do not (no root, no BTF), that is what it hears.
#[test]
fn the_service_manager_is_told_only_what_is_so() {
    let dir = tempfile::tempdir().unwrap();
    let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfprobe"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--state-dir"]);
    command.arg(dir.path()).env("NOTIFY_SOCKET", dir.path().join("notify"));
    let child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut service = Ended(child);
    let mut log = BufReader::new(service.0.stderr.take().unwrap()).lines();
    // Each line is JSON, until there is none because the probes cannot be loaded here, or the service serves.
    let serves = log.by_ref().map_while(Result::ok).find(|line| {
        let json: Result<serde_json::Value, _> = serde_json::from_str(line);
        json.is_ok_and(|line| line["fields"]["message"] == "serving metrics" && line["level"] == "INFO")
    });
    if serves.is_none() {
        assert_eq!(service.0.wait().unwrap().code(), Some(3));
        println!("SKIP the_service_manager_is_told_only_what_is_so: no probe can be loaded here");
        return;
    }
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
