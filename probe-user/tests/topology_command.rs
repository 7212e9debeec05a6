//! Commands as programs: `topology` and `doctor` with exit codes, one line on failure, and JSON; wrong input of others.

use serde_json::Value;
use std::process::{Command, Output};

fn vfprobe(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vfprobe")).args(args).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is text")
}

#[test]
fn a_guest_that_is_not_there_is_a_usage_error_in_one_line() {
    let output = vfprobe(&["topology", "--guest", "no guest of this name"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stdout), "");
    let message = text(&output.stderr);
    assert!(
        message.starts_with("vfprobe: no guest \"no guest of this name\" is running; there are"),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn the_topology_names_the_cpus_of_this_machine() {
    let output = vfprobe(&["topology", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let topology: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(topology["schema"], 1);
    assert!(topology["cpus"].as_array().unwrap().iter().any(|cpu| cpu["online"] == true));

    let output = vfprobe(&["topology", "--color", "never"]);
    assert!(text(&output.stdout).contains("\nCPUs  "), "{}", text(&output.stdout));
    assert!(!text(&output.stdout).contains('\x1b'));
}

#[test]
fn doctor_exits_with_1_exactly_when_something_blocks() {
    let output = vfprobe(&["doctor", "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let blocking = document["blocking"].as_u64().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(blocking > 0)));
    let levels = document["findings"].as_array().unwrap().iter().map(|f| f["level"].as_str().unwrap());
    assert_eq!(levels.filter(|level| *level == "fail").count(), usize::try_from(blocking).unwrap());
    let table = vfprobe(&["doctor"]);
    assert_eq!(table.status.code(), output.status.code());
    assert!(text(&table.stdout).ends_with(&format!(" {blocking} blocking\n")), "{}", text(&table.stdout));
}

/// Input that a user named is refused in one line that says what it is.
#[test]
fn wrong_input_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path().to_str().expect("text");
    let nothing = format!("{dir}/nothing");
    let session = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/session-v1.vfprobe");
    for (args, says) in [
        (&["apply", &nothing][..], format!("cannot read the plan {nothing}: No such file or directory")),
        (&["apply", session], format!("{session} is not a plan, as plan --json writes it: ")),
        (&["plan", "--policy", "/dev/zero"], "cannot read /dev/zero: it is larger than 16 MiB".to_owned()),
        (
            &["isolation", "--cpus", "0", "--budget", dir],
            format!("cannot read the budget {dir}: Is a directory"),
        ),
        (&["show", session, "--guest", "vm2"], format!("{session} has no guest \"vm2\"; it has vm1")),
        (&["compare", session, "--guest", "vm2"], format!("{session} has no guest \"vm2\"; it has vm1")),
    ] {
        let output = vfprobe(args);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
        assert!(message.starts_with(&format!("vfprobe: {says}")), "{args:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{args:?}: {message}");
    }
}
