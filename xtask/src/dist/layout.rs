//! What is in a package and where. Reads the repository's files; knows no format.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};

/// One file of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Relative to the package's top, with `/`.
    pub(super) path: String,
    pub(super) executable: bool,
    pub(super) content: Vec<u8>,
}

/// What is not in the repository: the program, and what it or xtask writes.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) binary: Vec<u8>,
    /// Names (`vfprobe.1`) and texts.
    pub(super) manual: Vec<(String, Vec<u8>)>,
    pub(super) bash: Vec<u8>,
    pub(super) zsh: Vec<u8>,
    pub(super) fish: Vec<u8>,
    pub(super) third_party: String,
}

/// The service, and its socket, which is optional.
const UNITS: [&str; 2] = ["packaging/vfprobe.service", "packaging/vfprobe.socket"];
const LICENCES: [&str; 3] = ["LICENSE-APACHE", "LICENSE-GPL", "LICENSE-MIT"];
const SETTINGS: &str = "packaging/vfprobe.toml";

/// Distributions, where they differ in what goes where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Debian,
    Rpm,
}

impl Entry {
    /// Whether it belongs to the operator once it is installed: upgrades leave changes in it alone.
    pub(super) fn is_settings(&self) -> bool {
        self.path.starts_with("etc/")
    }
}

/// The tarball's files, sorted: to be unpacked anywhere. Documents keep their places, so that their links hold.
pub(super) fn tarball(root: &Path, made: &Made) -> Result<Vec<Entry>> {
    let Made { binary, manual, bash, zsh, fish, third_party } = made;
    let mut entries = vec![
        program("vfprobe", binary),
        entry("completions/vfprobe.bash", bash.clone()),
        entry("completions/_vfprobe", zsh.clone()),
        entry("completions/vfprobe.fish", fish.clone()),
        entry("THIRD-PARTY.txt", third_party.clone().into_bytes()),
    ];
    entries.extend(manual.iter().map(|(name, page)| entry(&format!("man/{name}"), page.clone())));
    let documents = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", SETTINGS];
    for file in LICENCES.into_iter().chain(UNITS).chain(documents) {
        entries.push(entry(file, read(&root.join(file))?));
    }
    for folder in
        ["docs", "dashboards", "packaging/container", "packaging/kubernetes", "packaging/opentelemetry"]
    {
        entries.extend(tree(root, folder, folder)?);
    }
    Ok(sorted(entries))
}

/// A package's files, sorted: where systems of `family` have such files.
pub(super) fn system(root: &Path, made: &Made, family: Family) -> Result<Vec<Entry>> {
    let Made { binary, manual, bash, zsh, fish, third_party } = made;
    let documents = "usr/share/doc/vfprobe";
    let zsh_functions = match family {
        Family::Debian => "vendor-completions",
        Family::Rpm => "site-functions",
    };
    let mut entries = vec![
        entry("etc/vfprobe/vfprobe.toml", read(&root.join(SETTINGS))?),
        program("usr/bin/vfprobe", binary),
        entry("usr/share/bash-completion/completions/vfprobe", bash.clone()),
        entry(&format!("usr/share/zsh/{zsh_functions}/_vfprobe"), zsh.clone()),
        entry("usr/share/fish/vendor_completions.d/vfprobe.fish", fish.clone()),
        entry(&format!("{documents}/README.md"), read(&root.join("README.md"))?),
        entry(&format!("{documents}/THIRD-PARTY.txt"), third_party.clone().into_bytes()),
    ];
    match family {
        Family::Debian => entries.push(entry(&format!("{documents}/copyright"), copyright(root)?)),
        Family::Rpm => {
            for file in LICENCES {
                entries.push(entry(&format!("usr/share/licenses/vfprobe/{file}"), read(&root.join(file))?));
            }
        }
    }
    for unit in UNITS {
        let name = unit.trim_start_matches("packaging/");
        entries.push(entry(&format!("usr/lib/systemd/system/{name}"), read(&root.join(unit))?));
    }
    for (name, page) in manual {
        entries.push(entry(&format!("usr/share/man/man1/{name}.gz"), gzip(page)?));
    }
    entries.extend(tree(root, "docs", &format!("{documents}/docs"))?);
    entries.extend(tree(root, "dashboards", "usr/share/vfprobe/dashboards")?);
    Ok(sorted(entries))
}

/// Compressed without name and time, so that the same text gives the same bytes.
pub(super) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// A script of `packaging/scripts`.
pub(super) fn script(root: &Path, name: &str) -> Result<Vec<u8>> {
    read(&root.join("packaging/scripts").join(name))
}

/// Debian's machine-readable form; the two licences that every Debian has are named by their places there.
fn copyright(root: &Path) -> Result<Vec<u8>> {
    let mit = String::from_utf8(read(&root.join("LICENSE-MIT"))?)?;
    let holder = mit.lines().find_map(|line| line.strip_prefix("Copyright (c) "));
    let holder = holder.context("LICENSE-MIT names no holder of the copyright")?;
    let (_, terms) = mit.split_once("Permission").context("LICENSE-MIT has no terms")?;
    let mut text = format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: vfprobe\n\
        Comment: Licences of the libraries in the program are in THIRD-PARTY.txt.\n\n\
        Files: *\nCopyright: {holder}\nLicense: MIT or Apache-2.0\n\n\
        Files: probe-ebpf/*\nCopyright: {holder}\nLicense: MIT or GPL-2\n\
        Comment: These are the BPF programs that the program carries and loads.\n"
    );
    for name in ["Apache-2.0", "GPL-2"] {
        let _ = writeln!(text, "\nLicense: {name}\n The text is in /usr/share/common-licenses/{name}.");
    }
    text.push_str("\nLicense: MIT\n");
    for line in format!("Permission{terms}").trim_end().lines() {
        let _ = writeln!(text, " {}", if line.is_empty() { "." } else { line });
    }
    Ok(text.into_bytes())
}

fn program(path: &str, content: &[u8]) -> Entry {
    Entry { path: path.to_owned(), executable: true, content: content.to_vec() }
}

/// A file that nobody executes.
pub(super) fn entry(path: &str, content: Vec<u8>) -> Entry {
    Entry { path: path.to_owned(), executable: false, content }
}

fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// All files below `folder`, to be below `to`. Editors' leftovers stay out.
fn tree(root: &Path, folder: &str, to: &str) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    let dir = root.join(folder);
    for item in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let item = item?;
        let name = item.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        if item.file_type()?.is_dir() {
            found.extend(tree(root, &format!("{folder}/{name}"), &format!("{to}/{name}"))?);
        } else {
            found.push(entry(&format!("{to}/{name}"), read(&item.path())?));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{made, root};
    use super::*;

    fn paths(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.path.as_str()).collect()
    }

    #[test]
    fn packages_have_everything_once_and_one_program() {
        let system = |family| system(root(), &made(), family).unwrap();
        for (entries, program, expected) in [
            (
                tarball(root(), &made()).unwrap(),
                "vfprobe",
                &[
                    "LICENSE-GPL",
                    "THIRD-PARTY.txt",
                    "completions/_vfprobe",
                    "dashboards/prometheus/vfprobe.alerts.yml",
                    "docs/operations.md",
                    "man/vfprobe.1",
                    "packaging/vfprobe.service",
                    "packaging/vfprobe.socket",
                    "packaging/vfprobe.toml",
                ][..],
            ),
            (
                system(Family::Debian),
                "usr/bin/vfprobe",
                &[
                    "etc/vfprobe/vfprobe.toml",
                    "usr/lib/systemd/system/vfprobe.service",
                    "usr/lib/systemd/system/vfprobe.socket",
                    "usr/share/bash-completion/completions/vfprobe",
                    "usr/share/doc/vfprobe/THIRD-PARTY.txt",
                    "usr/share/doc/vfprobe/copyright",
                    "usr/share/doc/vfprobe/docs/operations.md",
                    "usr/share/man/man1/vfprobe.1.gz",
                    "usr/share/vfprobe/dashboards/grafana/vfprobe-host.json",
                    "usr/share/zsh/vendor-completions/_vfprobe",
                ],
            ),
            (
                system(Family::Rpm),
                "usr/bin/vfprobe",
                &[
                    "etc/vfprobe/vfprobe.toml",
                    "usr/lib/systemd/system/vfprobe.service",
                    "usr/lib/systemd/system/vfprobe.socket",
                    "usr/share/licenses/vfprobe/LICENSE-MIT",
                    "usr/share/man/man1/vfprobe.1.gz",
                    "usr/share/zsh/site-functions/_vfprobe",
                ],
            ),
        ] {
            let found = paths(&entries);
            assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
            for path in expected {
                assert!(found.contains(path), "{path} is missing: {found:?}");
            }
            let programs: Vec<&str> =
                entries.iter().filter(|e| e.executable).map(|e| e.path.as_str()).collect();
            assert_eq!(programs, [program]);
        }
    }

    /// systemd starts the program from where the package puts it, with the settings that the package brings.
    #[test]
    fn the_unit_uses_what_is_packaged() {
        for family in [Family::Debian, Family::Rpm] {
            let entries = system(root(), &made(), family).unwrap();
            let unit = entries.iter().find(|entry| entry.path.ends_with(".service")).unwrap();
            let unit = String::from_utf8(unit.content.clone()).unwrap();
            let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/")).unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            let [program, "serve", "--config", settings] = words[..] else { panic!("{line}") };
            for path in [program, settings.trim_start_matches('/')] {
                assert!(paths(&entries).contains(&path), "{path}");
            }
        }
    }
}
