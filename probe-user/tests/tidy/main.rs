//! House rules that the compiler does not check: who may use whom, how files begin and how long they are, and that
//! what documents point to exists.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod coverage;
mod docs;
mod files;
mod layers;
mod links;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A text file of the workspace, with its path from the root.
struct File {
    path: String,
    text: String,
}

/// All files with one of these endings, build results left out.
fn files(folder: &str, endings: &[&str]) -> Vec<File> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" && name != "out" {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push(File { path, text });
            }
        }
    }
    assert!(!found.is_empty(), "{folder}: no files");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Fails with all complaints, one per line.
fn report(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}
