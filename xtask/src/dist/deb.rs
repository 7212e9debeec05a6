//! A Debian binary package (deb(5)): an ar archive of a version, a control archive and a data archive.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::archive::tar_gz;
use super::layout::{Entry, Family, Made, entry, gzip, script, system};
use super::needs::Needs;
use super::{DESCRIPTION, Release, SUMMARY};

const ARCHITECTURE: &str = "amd64";
/// What dpkg calls the scripts of `packaging/scripts`.
const SCRIPTS: [(&str, &str); 3] =
    [("after-install", "postinst"), ("after-remove", "postrm"), ("before-remove", "prerm")];
/// Members of the archive, in the order that deb(5) asks for.
const MEMBERS: [&str; 3] = ["debian-binary", "control.tar.gz", "data.tar.gz"];

/// The package's file name.
pub(super) fn name(release: &Release) -> String {
    format!("vfprobe_{}-1_{ARCHITECTURE}.deb", release.version)
}

/// The package.
pub(super) fn package(root: &Path, made: &Made, release: &Release) -> Result<Vec<u8>> {
    let needs = Needs::of(&made.binary);
    let mut entries = system(root, made, Family::Debian)?;
    entries.push(entry("usr/share/doc/vfprobe/changelog.Debian.gz", gzip(changelog(release).as_bytes())?));
    entries.push(entry("usr/share/lintian/overrides/vfprobe", overrides().into_bytes()));
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let mut about = vec![
        entry("conffiles", settings(&entries).into_bytes()),
        entry("control", control(&entries, release, needs).into_bytes()),
        entry("md5sums", md5sums(&entries).into_bytes()),
    ];
    for (file, name) in SCRIPTS {
        about.push(Entry { path: name.to_owned(), executable: true, content: script(root, file)? });
    }
    let time = u64::from(release.time);
    let contents = [b"2.0\n".to_vec(), tar_gz(&about, ".", time)?, tar_gz(&entries, ".", time)?];
    let mut archive = ar::Builder::new(Vec::new());
    for (name, content) in MEMBERS.into_iter().zip(contents) {
        let mut header = ar::Header::new(name.as_bytes().to_vec(), u64::try_from(content.len())?);
        header.set_mode(0o100_644);
        header.set_mtime(time);
        archive.append(&header, &content[..]).with_context(|| format!("cannot archive {name}"))?;
    }
    Ok(archive.into_inner()?)
}

fn control(entries: &[Entry], release: &Release, needs: Needs) -> String {
    let Release { version, maintainer, .. } = release;
    // Installed-Size is in KiB, each file rounded up (deb-control(5)).
    let size: usize = entries.iter().map(|entry| entry.content.len().div_ceil(1024)).sum();
    let mut text = format!(
        "Package: vfprobe\nVersion: {version}-1\nArchitecture: {ARCHITECTURE}\nMaintainer: {maintainer}\n\
        Installed-Size: {size}\nSection: admin\nPriority: optional\n"
    );
    if !needs.is_static() {
        let _ = writeln!(text, "Depends: {}", needs.debian().join(", "));
    }
    let _ = writeln!(text, "Description: {SUMMARY}");
    for line in DESCRIPTION.lines() {
        let _ = writeln!(text, " {line}");
    }
    text
}

/// dpkg keeps what the operator has changed in these, and removes them only when the package is purged.
fn settings(entries: &[Entry]) -> String {
    entries.iter().filter(|entry| entry.is_settings()).fold(String::new(), |mut text, entry| {
        let _ = writeln!(text, "/{}", entry.path);
        text
    })
}

fn md5sums(entries: &[Entry]) -> String {
    entries.iter().filter(|entry| !entry.is_settings()).fold(String::new(), |mut text, entry| {
        let _ = writeln!(text, "{:x}  {}", md5::compute(&entry.content), entry.path);
        text
    })
}

fn changelog(release: &Release) -> String {
    let Release { version, maintainer, date, time: _ } = release;
    format!(
        "vfprobe ({version}-1) unstable; urgency=medium\n\n  * Version {version}.\n\n -- {maintainer}  {date}\n"
    )
}

/// What lintian is told to accept, each with the reason.
const ACCEPTED: [(&str, &str); 4] = [
    ("It is not made for Debian's archive.", "initial-upload-closes-no-bugs"),
    ("The holders are named without years.", "copyright-without-copyright-notice"),
    (
        "The scripts serve rpm too, and enable nothing: probes in the kernel are the operator's decision.",
        "maintainer-script-calls-systemctl",
    ),
    (
        "A static, position-independent program looks like a library that needs no other.",
        "shared-library-lacks-prerequisites",
    ),
];

fn overrides() -> String {
    ACCEPTED.iter().fold(String::new(), |mut text, (reason, tag)| {
        let _ = writeln!(text, "# {reason}\nvfprobe: {tag} *");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{made, release, root};
    use super::*;
    use crate::process::{find_on_path, merged_output, stdout_of};
    use std::fs;
    use std::process::Command;

    #[test]
    fn the_members_are_in_order_and_the_same_twice() {
        let bytes = package(root(), &made(), &release("1.2.3")).unwrap();
        assert_eq!(bytes, package(root(), &made(), &release("1.2.3")).unwrap());
        let mut archive = ar::Archive::new(&bytes[..]);
        for expected in MEMBERS {
            let member = archive.next_entry().unwrap().unwrap();
            assert_eq!(member.header().identifier(), expected.as_bytes());
        }
        assert!(archive.next_entry().is_none());
    }

    #[test]
    fn a_static_program_depends_on_nothing() {
        for (binary, expected) in [(&b""[..], None), (b"GLIBC_2.17\0", Some("Depends: libc6 (>= 2.17)"))] {
            let text = control(&[], &release("1"), Needs::of(binary));
            assert_eq!(text.lines().find(|line| line.starts_with("Depends")), expected);
        }
    }

    /// Debian's own judgement; any program stands for the one that is packaged.
    #[test]
    fn lintian_has_nothing_against_it() {
        if find_on_path("lintian").is_none() {
            println!("SKIP lintian_has_nothing_against_it: lintian is not installed");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let release = release("1.2.3");
        let file = dir.path().join(name(&release));
        let page = b".TH vfprobe 1\n.SH NAME\nvfprobe \\- traces interrupts\n".to_vec();
        let made = Made {
            binary: fs::read("/bin/true").unwrap(),
            manual: vec![("vfprobe.1".to_owned(), page)],
            ..made()
        };
        fs::write(&file, package(root(), &made, &release).unwrap()).unwrap();
        let mut lintian = Command::new("lintian");
        lintian.args(["--allow-root", "--fail-on", "error,warning"]).arg(&file);
        let (status, said) = merged_output(&mut lintian, &mut |_| {}).unwrap();
        assert!(status.success(), "{said}");
    }

    /// dpkg's own reading, and its upgrade, removal and purge in a folder of its own, scripts included.
    #[test]
    fn dpkg_installs_upgrades_and_removes_it() {
        if ["dpkg", "dpkg-deb"].iter().any(|name| find_on_path(name).is_none()) {
            println!("SKIP dpkg_installs_upgrades_and_removes_it: dpkg is not installed");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        for (name, version) in [("old.deb", "1.2.3"), ("new.deb", "1.2.4")] {
            fs::write(file(name), package(root(), &made(), &release(version)).unwrap()).unwrap();
        }
        let field = |name: &str| {
            stdout_of(Command::new("dpkg-deb").arg("--field").arg(file("old.deb")).arg(name)).unwrap()
        };
        assert_eq!(field("Version"), "1.2.3-1");
        assert_eq!(field("Depends"), "libc6 (>= 2.17), libgcc-s1");
        for folder in ["info", "updates", "triggers"] {
            fs::create_dir_all(file("root/var/lib/dpkg").join(folder)).unwrap();
        }
        fs::write(file("root/var/lib/dpkg/status"), "").unwrap();
        let dpkg = |words: &[&str], package: &Path| {
            let mut command = Command::new("dpkg");
            command.arg("--root").arg(file("root")).args(["--force-not-root", "--force-script-chrootless"]);
            // No libc6 in there, and a user's PATH may lack the folders of root's programs.
            command.args(["--force-depends", "--force-bad-path", "--log=/dev/null"]).args(words).arg(package);
            stdout_of(&mut command).unwrap()
        };
        let (installed, settings) = (file("root/usr/bin/vfprobe"), file("root/etc/vfprobe/vfprobe.toml"));
        dpkg(&["--install"], &file("old.deb"));
        assert!(installed.is_file());
        fs::write(&settings, "bounds = \"coarse\"\n").unwrap();
        dpkg(&["--install"], &file("new.deb"));
        let listed = dpkg(&["--status"], Path::new("vfprobe"));
        assert!(listed.contains("Version: 1.2.4-1") && listed.contains("install ok installed"), "{listed}");
        assert_eq!(fs::read_to_string(&settings).unwrap(), "bounds = \"coarse\"\n");
        // Only the settings differ from what was packaged.
        assert_eq!(dpkg(&["--verify"], Path::new("vfprobe")), "??5?????? c /etc/vfprobe/vfprobe.toml");
        dpkg(&["--remove"], Path::new("vfprobe"));
        assert!(!installed.exists() && settings.exists());
        dpkg(&["--purge"], Path::new("vfprobe"));
        assert!(!settings.exists() && !file("root/usr/share/vfprobe").exists());
    }
}
