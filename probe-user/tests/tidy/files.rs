//! Every source file on its own: how it begins, how long it is, and what must not be in it.

use crate::{files, report};

/// Most lines of a source file, tests included.
const MOST_LINES: usize = 500;

/// Files that may be longer, how much, and why.
const LONGER: &[(&str, usize, &str)] = &[(
    "probe-ebpf/src/probes/irq_delivery/bpf.rs",
    550,
    "one interrupt's way through seven hooks, each in two variants",
)];

#[test]
fn files_open_with_their_purpose_and_stay_short() {
    let mut complaints = Vec::new();
    for file in files("", &[".rs"]) {
        if !file.text.starts_with("//!") {
            complaints.push(format!("{}: does not open with //!", file.path));
        }
        let lines = file.text.lines().count();
        let longer = LONGER.iter().find(|(path, ..)| *path == file.path);
        let most = longer.map_or(MOST_LINES, |(_, most, _)| *most);
        if lines > most {
            complaints.push(format!("{}: {lines} lines, more than {most}", file.path));
        }
    }
    report(&complaints);
}

#[test]
fn nothing_is_left_undone_or_silenced() {
    // Written in halves, so that this file does not find itself.
    let words = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["XX", "X:"],
        ["todo", "!("],
        ["unimple", "mented!("],
        ["#[ig", "nore"],
        ["#[al", "low("],
        ["#![al", "low("],
        ["db", "g!("],
    ]
    .map(|halves| halves.concat());
    let mut complaints = Vec::new();
    for file in files("", &[".rs", ".md", ".toml", ".yml", ".yaml"]) {
        for (i, line) in file.text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(word.as_str())) {
                complaints.push(format!("{}:{}: {word}", file.path, i + 1));
            }
        }
    }
    report(&complaints);
}
