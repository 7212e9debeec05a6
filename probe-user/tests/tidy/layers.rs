//! Who may use whom inside `probe-user`. ARCHITECTURE.md draws the picture; this is its table.

use crate::{File, files, report, root};
use std::{collections::BTreeSet, fs};

/// A folder of `probe-user/src`.
struct Layer {
    folder: &'static str,
    /// Folders of `probe-user/src` that it may name, besides itself.
    may_use: &'static [&'static str],
    /// Core: values in, values out.
    core: bool,
}

const fn core(folder: &'static str, may_use: &'static [&'static str]) -> Layer {
    Layer { folder, may_use, core: true }
}

const fn edge(folder: &'static str, may_use: &'static [&'static str]) -> Layer {
    Layer { folder, may_use, core: false }
}

const LAYERS: &[Layer] = &[
    core("model", &[]),
    core("btf", &[]),
    core("stats", &["model"]),
    core("plan", &["model"]),
    edge("host", &["model", "btf"]),
    edge("probes", &["model", "stats", "btf"]),
    edge("bpf", &["model", "stats", "btf", "host", "probes"]),
    // Its one neighbour: the paths of the host it writes to, and reading back.
    edge("apply", &["model", "plan", "host"]),
    edge("export", &["model", "stats"]),
    edge("workload", &["model", "stats"]),
    edge("session", &["model", "stats", "workload"]),
    edge("report", &["model", "stats", "workload", "session"]),
    edge("tui", &["model", "stats", "report"]),
    edge(
        "app",
        &[
            "model", "stats", "plan", "btf", "host", "probes", "bpf", "apply", "export", "workload",
            "session", "report",
        ],
    ),
    edge(
        "cli",
        &[
            "model", "stats", "plan", "btf", "host", "probes", "bpf", "apply", "export", "workload",
            "session", "report", "tui", "app",
        ],
    ),
];

/// Things of the outer world that core must not touch.
const NOT_IN_CORE: &[&str] = &[
    "std::fs",
    "std::process",
    "std::net",
    "std::thread",
    "std::env",
    "Instant",
    "SystemTime",
    "aya::",
    "tokio::",
    "rustix::",
    "println!",
    "eprintln!",
];

/// Crates that only some folders may name.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("aya::", &["bpf"]),
    ("aya_obj::", &["bpf"]),
    ("tokio::", &["export", "workload", "app", "cli"]),
    ("hyper::", &["export"]),
    ("prometheus::", &["export"]),
    ("rustls::", &["export"]),
    ("tokio_rustls::", &["export"]),
    ("bcrypt::", &["export"]),
    ("ring::", &["export"]),
    ("serde_saphyr::", &["export"]),
    ("clap::", &["cli"]),
    ("ratatui::", &["tui", "cli"]),
    ("netlink_packet_core::", &["host"]),
    ("netlink_packet_route::", &["host"]),
    ("netlink_sys::", &["host"]),
];

/// Whether a file holds tests only: its parent declares it behind `#[cfg(test)]`.
fn only_tests(file: &File) -> bool {
    let path = root().join(&file.path);
    let name = path.file_stem().unwrap().to_string_lossy();
    let parent = path.with_file_name("mod.rs");
    let Ok(parent) = fs::read_to_string(parent) else { return false };
    let mut lines = parent.lines().peekable();
    while let Some(line) = lines.next() {
        let next = lines.peek().map_or("", |next| next.trim_start_matches("pub(crate) "));
        if line == "#[cfg(test)]" && next == format!("mod {name};") {
            return true;
        }
    }
    false
}

/// The source files of a folder, without those that hold tests only.
fn sources(folder: &str) -> impl Iterator<Item = File> {
    files(folder, &[".rs"]).into_iter().filter(|file| !only_tests(file))
}

/// A file's code: comments, and the tests at its end, left out.
fn code(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let lines = file.text.lines().enumerate().take_while(|(_, line)| !line.starts_with("#[cfg(test)]"));
    lines.map(|(i, line)| (i + 1, line.split("//").next().unwrap_or_default()))
}

/// The modules that some code names after `crate::`, one by one or in braces, and where.
fn uses(code: &str) -> Vec<(usize, &str)> {
    let word =
        |at: usize| code[at..].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
    let mut found = Vec::new();
    for (at, matched) in code.match_indices("crate::") {
        let after = at + matched.len();
        if !code[after..].starts_with('{') {
            found.push((at, word(after)));
            continue;
        }
        let mut depth = 0;
        let mut expect = false;
        for (i, c) in code[after..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if expect && (c.is_alphabetic() || c == '_') {
                found.push((after + i, word(after + i)));
                expect = false;
            }
            expect |= depth == 1 && (c == '{' || c == ',');
        }
    }
    found
}

/// The folder or file under `probe-user/src` that a path belongs to.
fn layer_of(path: &str) -> &str {
    let inside = path.strip_prefix("probe-user/src/").unwrap_or(path);
    inside.split(['/', '.']).next().unwrap_or_default()
}

/// Whether `word` stands in a line as a path of its own, not as the end of a longer name.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

#[test]
fn every_folder_has_its_place() {
    let listed: BTreeSet<&str> = LAYERS.iter().map(|layer| layer.folder).collect();
    for entry in fs::read_dir(root().join("probe-user/src")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let known = listed.contains(name.as_str()) || ["lib.rs", "main.rs"].contains(&name.as_str());
        assert!(known, "probe-user/src/{name} has no row in LAYERS (and none in ARCHITECTURE.md)");
    }
}

#[test]
fn arrows_point_one_way() {
    let mut complaints = Vec::new();
    for file in sources("probe-user/src") {
        let Some(layer) = LAYERS.iter().find(|layer| layer.folder == layer_of(&file.path)) else { continue };
        let code: String = code(&file).map(|(_, line)| format!("{line}\n")).collect();
        for (at, used) in uses(&code) {
            if used != layer.folder && !layer.may_use.contains(&used) {
                let number = code[..at].matches('\n').count() + 1;
                complaints.push(format!("{}:{number}: {} must not use {used}", file.path, layer.folder));
            }
        }
    }
    report(&complaints);
}

#[test]
fn core_stays_pure() {
    let mut complaints = Vec::new();
    for layer in LAYERS.iter().filter(|layer| layer.core) {
        let folder = format!("probe-user/src/{}", layer.folder);
        if !root().join(&folder).exists() {
            continue;
        }
        for file in sources(&folder) {
            for (number, line) in code(&file) {
                if let Some(thing) = NOT_IN_CORE.iter().find(|thing| names(line, thing)) {
                    complaints.push(format!("{}:{number}: {thing} in core", file.path));
                }
            }
        }
    }
    report(&complaints);
}

#[test]
fn libraries_stay_where_they_belong() {
    let mut complaints = Vec::new();
    for file in sources("probe-user/src") {
        let layer = layer_of(&file.path);
        for (number, line) in code(&file) {
            for (library, folders) in ONLY_IN {
                if names(line, library) && !folders.contains(&layer) && layer != "main" {
                    complaints.push(format!("{}:{number}: {library} outside {folders:?}", file.path));
                }
            }
        }
    }
    report(&complaints);
}

#[test]
fn the_checks_see_what_they_should() {
    assert!(names("use std::fs;", "std::fs"));
    assert!(names("let t = Instant::now();", "Instant"));
    assert!(!names("use other_std::fs;", "std::fs"));
    assert!(!names("crate::export::prometheus::text()", "prometheus::"));
    assert_eq!(layer_of("probe-user/src/export/http.rs"), "export");
    assert_eq!(layer_of("probe-user/src/main.rs"), "main");
    let text = "use crate::{\n  a::{self, b},\n  c,\n};\nfn f() -> crate::d::E {}";
    assert_eq!(uses(text).into_iter().map(|(_, used)| used).collect::<Vec<_>>(), ["a", "c", "d"]);
    let file = File { path: String::new(), text: "a // crate::x\n#[cfg(test)]\nb\n".to_owned() };
    assert_eq!(code(&file).collect::<Vec<_>>(), [(1, "a ")]);
}
