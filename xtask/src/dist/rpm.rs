//! An RPM package, by the library `rpm`, in the format that rpm has read since version 4.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use rpm::{BuildConfig, CompressionWithLevel, Dependency, FileOptions, PackageBuilder, Scriptlet};

use super::layout::{Family, Made, script, system};
use super::needs::Needs;
use super::{DESCRIPTION, Release, SUMMARY};

const ARCHITECTURE: &str = "x86_64";
/// Runs the scripts.
const SHELL: &str = "/bin/sh";
/// The program's, and that of the BPF programs in it.
const LICENCE: &str = "(MIT OR Apache-2.0) AND (MIT OR GPL-2.0-only)";
/// Folders with this name belong to the package, and go with it.
const OWN: &str = "vfprobe";
/// As gzip counts: smallest.
const COMPRESSION: u32 = 9;

/// The package's file name.
pub(super) fn name(release: &Release) -> String {
    format!("vfprobe-{}-1.{ARCHITECTURE}.rpm", release.version)
}

/// The package.
pub(super) fn package(root: &Path, made: &Made, release: &Release) -> Result<Vec<u8>> {
    let Release { version, maintainer, time, date: _ } = release;
    let config = BuildConfig::v4().source_date(*time).compression(CompressionWithLevel::Gzip(COMPRESSION));
    let mut builder = PackageBuilder::new("vfprobe", version, LICENCE, ARCHITECTURE, SUMMARY);
    builder
        .using_config(config)
        .release("1")
        .description(DESCRIPTION.trim_end())
        .packager(maintainer.as_str());
    let entries = system(root, made, Family::Rpm)?;
    for folder in own_folders(entries.iter().map(|entry| entry.path.as_str())) {
        builder.with_dir_entry(FileOptions::dir(format!("/{folder}")).permissions(0o755))?;
    }
    for entry in entries {
        let mut options = FileOptions::new(format!("/{}", entry.path));
        options = options.permissions(if entry.executable { 0o755 } else { 0o644 });
        if entry.is_settings() {
            options = options.config().noreplace();
        } else if ["usr/share/doc/", "usr/share/man/"].iter().any(|start| entry.path.starts_with(start)) {
            options = options.doc();
        }
        builder
            .with_file_contents(entry.content, options)
            .with_context(|| format!("cannot package {}", entry.path))?;
    }
    let scriptlet = |name: &str| -> Result<Scriptlet> {
        Ok(Scriptlet::new(String::from_utf8(script(root, name)?)?).prog(vec![SHELL]))
    };
    builder.post_install_script(scriptlet("after-install")?);
    builder.pre_uninstall_script(scriptlet("before-remove")?);
    builder.post_uninstall_script(scriptlet("after-remove")?);
    builder.requires(Dependency::any(SHELL));
    for library in Needs::of(&made.binary).rpm() {
        builder.requires(Dependency::any(library));
    }
    let mut bytes = Vec::new();
    builder.build().context("cannot make the RPM package")?.write(&mut bytes)?;
    Ok(bytes)
}

/// Folders of these files that are the package's own, each before what is in it.
fn own_folders<'a>(paths: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let folders = |path: &'a str| path.match_indices('/').map(move |(end, _)| &path[..end]);
    paths.flat_map(folders).filter(|folder| folder.split('/').any(|part| part == OWN)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{made, release, root};
    use super::*;
    use crate::process::{find_on_path, stdout_of};
    use std::fs;
    use std::process::Command;

    #[test]
    fn only_folders_with_the_package_s_name_are_its_own() {
        let paths = ["usr/bin/vfprobe", "usr/share/doc/vfprobe/docs/a", "usr/share/vfprobe/b", "etc/x"];
        let expected = ["usr/share/doc/vfprobe", "usr/share/doc/vfprobe/docs", "usr/share/vfprobe"];
        assert_eq!(own_folders(paths.into_iter()), expected.into());
    }

    #[test]
    fn it_is_the_same_twice_and_reads_back() {
        let bytes = package(root(), &made(), &release("1.2.3")).unwrap();
        assert_eq!(bytes, package(root(), &made(), &release("1.2.3")).unwrap());
        let package = rpm::Package::parse(&mut &bytes[..]).unwrap();
        let metadata = &package.metadata;
        assert_eq!(metadata.get_nevra().unwrap().to_string(), "vfprobe-1.2.3-1.x86_64");
        let requires: Vec<String> =
            metadata.get_requires().unwrap().iter().map(ToString::to_string).collect();
        for expected in ["/bin/sh", "libc.so.6(GLIBC_2.17)(64bit)", "libgcc_s.so.1()(64bit)"] {
            assert!(requires.iter().any(|word| word == expected), "{expected}: {requires:?}");
        }
    }

    /// rpm's own reading of the file, and its upgrade and removal in a database of its own; it unpacks nothing, and runs no
    /// script: that takes root, and a system below it.
    #[test]
    fn rpm_installs_upgrades_and_removes_it() {
        if find_on_path("rpm").is_none() {
            println!(
                "SKIP rpm_installs_upgrades_and_removes_it: rpm is not installed (Debian: apt-get install rpm)"
            );
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        for (name, version) in [("old.rpm", "1.2.3"), ("new.rpm", "1.2.4")] {
            fs::write(file(name), package(root(), &made(), &release(version)).unwrap()).unwrap();
        }
        let rpm = |words: &[&str], package: &Path| {
            let mut command = Command::new("rpm");
            command.arg("--dbpath").arg(file("db")).args(words).arg(package);
            stdout_of(&mut command).unwrap()
        };
        let install = ["--nodeps", "--noscripts", "--justdb", "--ignoreos"];
        let with = |action: &'static str| [&[action][..], &install].concat();
        rpm(&["--checksig", "--nosignature"], &file("old.rpm"));
        assert_eq!(
            rpm(&["--query", "--package", "--configfiles"], &file("old.rpm")),
            "/etc/vfprobe/vfprobe.toml"
        );
        let scripts = rpm(&["--query", "--package", "--scripts"], &file("old.rpm"));
        for kind in ["postinstall", "preuninstall", "postuninstall"] {
            assert!(scripts.contains(&format!("{kind} scriptlet (using /bin/sh):")), "{scripts}");
        }
        rpm(&with("--install"), &file("old.rpm"));
        rpm(&with("--upgrade"), &file("new.rpm"));
        assert_eq!(rpm(&["--query"], Path::new("vfprobe")), "vfprobe-1.2.4-1.x86_64");
        rpm(&["--erase", "--nodeps", "--noscripts", "--justdb"], Path::new("vfprobe"));
    }
}
