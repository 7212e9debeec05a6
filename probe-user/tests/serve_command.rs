//! `vfprobe serve` as a program: what it refuses before any probe is loaded.

use std::{
    net::TcpListener,
    process::{Command, Output},
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
