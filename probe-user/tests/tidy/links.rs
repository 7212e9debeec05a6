//! What documents and sources point to exists.

use crate::{files, report, root};
use std::path::{Component, Path, PathBuf};

/// Targets of Markdown links in a document; code is not looked at.
fn links(text: &str) -> Vec<&str> {
    let mut in_block = false;
    let mut found = Vec::new();
    for line in text.lines() {
        in_block ^= line.trim_start().starts_with("```");
        if in_block {
            continue;
        }
        for prose in line.split('`').step_by(2) {
            let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            found.extend(targets.map(|(target, _)| target.split('#').next().unwrap_or_default()));
        }
    }
    found
}

/// `a/../b` without the detour, as text.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

#[test]
fn links_lead_somewhere() {
    let mut complaints = Vec::new();
    for file in files("", &[".md"]) {
        let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
        let outside = |t: &str| t.is_empty() || t.contains("://") || t.starts_with("mailto:");
        for target in links(&file.text).into_iter().filter(|t| !outside(t)) {
            let path = plain(&folder.join(target));
            if !root().join(&path).exists() {
                complaints.push(format!("{}: {target} does not exist", file.path));
            }
        }
    }
    report(&complaints);
}

#[test]
fn documents_that_sources_name_exist() {
    let mut complaints = Vec::new();
    for file in files("", &[".rs", ".md", ".toml"]) {
        for (at, _) in file.text.match_indices("docs/") {
            let rest = &file.text[at..];
            let end =
                rest.find(|c: char| !c.is_ascii_alphanumeric() && !"/._-".contains(c)).unwrap_or(rest.len());
            let name = rest[..end].trim_end_matches(['.', '/']);
            if name.ends_with(".md") && !root().join(name).exists() {
                complaints.push(format!("{}: {name} does not exist", file.path));
            }
        }
    }
    report(&complaints);
}

#[test]
fn links_are_found_outside_code() {
    let text = "[a](b.md#c) and `x[1](y)`\n```\n[c](d)\n```\n[`e`](f)\n";
    assert_eq!(links(text), ["b.md", "f"]);
}
