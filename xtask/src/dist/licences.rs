//! The licences of the libraries that are linked into the program: most ask that their text goes with copies.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{cargo, stdout_of};
use crate::workspace::Workspace;

/// A library in the program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Library {
    name: String,
    version: String,
    /// SPDX expression, as its manifest has it.
    licence: String,
    folder: PathBuf,
}

/// What a file with a licence is called, in any case of letters.
const NAMES: [&str; 6] = ["licen", "copying", "notice", "unlicense", "copyright", "authors"];

/// The table of libraries, and after it each text that they carry, once.
pub(super) fn of_libraries(workspace: &Workspace) -> Result<String> {
    let mut command = cargo();
    command.current_dir(&workspace.root).args(["metadata", "--format-version", "1", "--locked"]);
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let libraries = linked(&stdout_of(&mut command)?)?;
    let mut text = String::from("Libraries that are part of the program vfprobe, and their licences.\n\n");
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for library in &libraries {
        let Library { name, version, licence, folder } = library;
        let _ = writeln!(text, "{name} {version}: {licence}");
        for file in licence_files(folder)? {
            let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let content = String::from_utf8_lossy(&content).trim_end().to_owned();
            texts.entry(content).or_default().insert(format!("{name} {version}"));
        }
    }
    for (content, of) in texts {
        let of: Vec<String> = of.into_iter().collect();
        let _ = write!(text, "\n--- {}\n\n{content}\n", of.join(", "));
    }
    Ok(text)
}

/// The packages from elsewhere that `probe-user` needs to run, directly or not, in the output of `cargo metadata`
/// (format version 1); those for tests and build scripts are not part of the program.
fn linked(metadata: &str) -> Result<BTreeSet<Library>> {
    let metadata: Value = serde_json::from_str(metadata).context("`cargo metadata` gives JSON")?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> =
        list(&metadata["packages"]).into_iter().map(|package| (text(&package["id"]), package)).collect();
    let nodes: BTreeMap<String, Value> =
        list(&metadata["resolve"]["nodes"]).into_iter().map(|node| (text(&node["id"]), node)).collect();
    let (first, _) = packages
        .iter()
        .find(|(_, package)| package["name"] == "probe-user")
        .context("the workspace has no package probe-user")?;
    let mut seen = BTreeSet::from([first.clone()]);
    let mut open = vec![first.clone()];
    let mut found = BTreeSet::new();
    while let Some(id) = open.pop() {
        let package = packages.get(&id).with_context(|| format!("`cargo metadata` lacks {id}"))?;
        if !package["source"].is_null() {
            let manifest = PathBuf::from(text(&package["manifest_path"]));
            found.insert(Library {
                name: text(&package["name"]),
                version: text(&package["version"]),
                licence: package["license"].as_str().unwrap_or("see its text below").to_owned(),
                folder: manifest.parent().unwrap_or(Path::new("")).to_owned(),
            });
        }
        for dependency in nodes.get(&id).map(|node| list(&node["deps"])).unwrap_or_default() {
            let runs = list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
            let id = text(&dependency["pkg"]);
            if runs && seen.insert(id.clone()) {
                open.push(id);
            }
        }
    }
    Ok(found)
}

/// Files in a library's folder that hold licences or notices, sorted.
fn licence_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        if entry.file_type()?.is_file() && NAMES.iter().any(|start| name.starts_with(start)) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_the_program_are_followed_and_tools_are_not() {
        let metadata = r#"{"packages": [
            {"id": "u", "name": "probe-user", "version": "1", "source": null, "manifest_path": "/w/u/Cargo.toml"},
            {"id": "e", "name": "probe-ebpf", "version": "1", "source": null, "manifest_path": "/w/e/Cargo.toml"},
            {"id": "a", "name": "a", "version": "2", "source": "r", "license": "MIT", "manifest_path": "/c/a/Cargo.toml"},
            {"id": "b", "name": "b", "version": "3", "source": "r", "license": null, "manifest_path": "/c/b/Cargo.toml"},
            {"id": "t", "name": "t", "version": "4", "source": "r", "license": "MIT", "manifest_path": "/c/t/Cargo.toml"}],
          "resolve": {"nodes": [
            {"id": "u", "deps": [{"pkg": "e", "dep_kinds": [{"kind": null}]},
                                 {"pkg": "t", "dep_kinds": [{"kind": "dev"}, {"kind": "build"}]}]},
            {"id": "e", "deps": [{"pkg": "a", "dep_kinds": [{"kind": "dev"}, {"kind": null}]}]},
            {"id": "a", "deps": [{"pkg": "b", "dep_kinds": [{"kind": null}]}]},
            {"id": "b", "deps": []}, {"id": "t", "deps": []}]}}"#;
        let found: Vec<String> = linked(metadata)
            .unwrap()
            .iter()
            .map(|l| format!("{} {} {} {}", l.name, l.version, l.licence, l.folder.display()))
            .collect();
        assert_eq!(found, ["a 2 MIT /c/a", "b 3 see its text below /c/b"]);
        assert!(linked(r#"{"packages": []}"#).is_err());
    }

    #[test]
    fn licence_files_are_told_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["LICENSE-MIT", "COPYING", "NOTICE.txt", "README.md", "Cargo.toml"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let found = licence_files(dir.path()).unwrap();
        let names: Vec<&str> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["COPYING", "LICENSE-MIT", "NOTICE.txt"]);
    }
}
