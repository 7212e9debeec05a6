//! What the lab boots from, built once into the user's cache: one root file system (Debian, with QEMU in it), and
//! per kernel its image, modules and the unchanging part of two initramfs archives. Nothing here is run-specific.
//!
//! Only mmdebstrap and tar are needed of this machine: QEMU, modprobe and the rest come out of the root file system
//! and run by its own dynamic loader. mmdebstrap finds its mirror by itself, so none is named.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::initramfs;
use super::kernel::Kernel;
use crate::packages::{self, Program};
use crate::process::{self, shown};

/// QEMU 7.2 (bookworm) has no igb; 10.0.2 (its backports) loses all MMIO to SR-IOV VFs; 10.0.13 (trixie) works.
const ROOT_SUITE: &str = "trixie";

/// What tests, demo and benchmarks use inside the emulated host.
const ROOT_PACKAGES: [&str; 30] = [
    "bpftrace",
    "busybox-static",
    "ca-certificates",
    "crun",
    "curl",
    "ethtool",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "ipxe-qemu",
    "irqbalance",
    "kmod",
    "libvirt-clients",
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "linux-perf",
    "pciutils",
    "procps",
    "prometheus",
    "python3-minimal",
    "qemu-system-x86",
    "rpm",
    "seabios",
    "socat",
    "sockperf",
    "strace",
    "stress-ng",
    "systemd",
    "trace-cmd",
    "util-linux",
];

const HOST_PROGRAMS: [Program; 3] = [
    Program { name: "mmdebstrap", package: "mmdebstrap" },
    Program { name: "tar", package: "tar" },
    Program { name: "setpriv", package: "util-linux" },
];

/// mmdebstrap's user-namespace mode maps a range of user ids by these.
const ROOTLESS_PROGRAMS: [Program; 2] =
    [Program { name: "newuidmap", package: "uidmap" }, Program { name: "newgidmap", package: "uidmap" }];

/// The lab's folder in the user's cache.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    pub(crate) dir: PathBuf,
}

impl Images {
    /// The root file system, which is also where QEMU comes from.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// Folder of one kernel: `vmlinuz`, `release`, `lib/modules/RELEASE`, `host.cpio`, `guest.cpio`.
    pub(crate) fn kernel(&self, kernel: &Kernel) -> PathBuf {
        self.dir.join(format!("kernel-{kernel}"))
    }

    /// A program of the root file system, started by that system's own loader.
    pub(crate) fn program(&self, path: &str) -> Command {
        let mut command = Command::new(self.loader());
        command.args(self.loader_args(path));
        command
    }

    /// The root file system's dynamic loader.
    pub(crate) fn loader(&self) -> PathBuf {
        self.rootfs().join("lib64/ld-linux-x86-64.so.2")
    }

    /// What the loader needs before the arguments of the program at `path`.
    pub(crate) fn loader_args(&self, path: &str) -> Vec<std::ffi::OsString> {
        let root = self.rootfs();
        vec!["--library-path".into(), root.join("usr/lib/x86_64-linux-gnu").into(), root.join(path).into()]
    }

    /// Builds what is missing for `kernels`; `refresh` fetches everything again. Returns a lock that keeps other
    /// xtasks from replacing the images while it is held.
    pub(crate) fn ready(&self, kernels: &[Kernel], refresh: bool) -> Result<File> {
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot make {}", self.dir.display()))?;
        let path = self.dir.join("lock");
        let lock = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        lock.lock_shared().with_context(|| format!("cannot lock {}", path.display()))?;
        if !refresh && self.complete(kernels)? {
            return Ok(lock);
        }
        lock.unlock()?;
        if lock.try_lock().is_err() {
            eprintln!("lab: waiting until no other lab runs, to build its images in {}", self.dir.display());
            lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        }
        self.build(kernels, refresh)?;
        lock.unlock()?;
        lock.lock_shared()?;
        Ok(lock)
    }

    fn complete(&self, kernels: &[Kernel]) -> Result<bool> {
        if !self.missing_packages()?.is_empty() {
            return Ok(false);
        }
        for kernel in kernels {
            if !initramfs::current(&self.kernel(kernel))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn build(&self, kernels: &[Kernel], refresh: bool) -> Result<()> {
        packages::ensure(&HOST_PROGRAMS)?;
        if !packages::is_root()? {
            packages::ensure(&ROOTLESS_PROGRAMS)?;
        }
        let missing = self.missing_packages()?;
        if refresh || !missing.is_empty() {
            self.build_rootfs(&missing)?;
        }
        for kernel in kernels {
            let dir = self.kernel(kernel);
            if refresh || !dir.join("release").is_file() {
                self.build_kernel(kernel)?;
            }
            if !initramfs::current(&dir)? {
                initramfs::build(self, &dir)?;
            }
        }
        Ok(())
    }

    /// Packages that are wanted but not installed in the cached root file system.
    fn missing_packages(&self) -> Result<Vec<&'static str>> {
        let status = self.rootfs().join("var/lib/dpkg/status");
        let text = match fs::read_to_string(&status) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", status.display())),
        };
        let installed = parse_dpkg_status(&text);
        Ok(ROOT_PACKAGES.into_iter().filter(|package| !installed.contains(*package)).collect())
    }

    fn build_rootfs(&self, missing: &[&str]) -> Result<()> {
        eprintln!(
            "lab: building the root file system ({ROOT_SUITE}, {} packages asked for, {} missing)",
            ROOT_PACKAGES.len(),
            missing.len()
        );
        let part = self.dir.join("rootfs.part");
        let excludes = ["./dev/*"];
        let mut command = mmdebstrap("minbase", &ROOT_PACKAGES.join(","));
        command.args(
            ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"]
                .map(|path| format!("--dpkgopt=path-exclude={path}")),
        );
        unpack(command.args([ROOT_SUITE, "-"]), &part, &excludes)?;
        for mount_point in ["lab", "images", "task", "share", "out"] {
            fs::create_dir_all(part.join(mount_point))?;
        }
        replace(&part, &self.rootfs())
    }

    fn build_kernel(&self, kernel: &Kernel) -> Result<()> {
        eprintln!("lab: fetching the kernel of {}", kernel.suite);
        let part = self.dir.join(format!("kernel-{kernel}.part"));
        let excludes = ["./dev", "./etc", "./run", "./usr/bin", "./usr/sbin", "./usr/share", "./var"];
        let mut command = mmdebstrap("extract", "linux-image-amd64");
        unpack(command.args([&kernel.suite, "-"]), &part, &excludes)?;
        let modules = [part.join("usr/lib/modules"), part.join("lib/modules")]
            .into_iter()
            .find(|dir| dir.is_dir())
            .with_context(|| format!("{}: no kernel modules in what mmdebstrap extracted", part.display()))?;
        let release = only_entry(&modules)?;
        let vmlinuz = [part.join(format!("boot/vmlinuz-{release}")), modules.join(&release).join("vmlinuz")]
            .into_iter()
            .find(|file| file.is_file())
            .with_context(|| format!("{}: no kernel image for {release}", part.display()))?;
        // Only what is used stays, in one layout for all suites (some have /lib as a link, some do not).
        let slim = self.dir.join(format!("kernel-{kernel}.slim"));
        remove(&slim)?;
        fs::create_dir_all(slim.join("lib"))?;
        fs::copy(vmlinuz, slim.join("vmlinuz"))?;
        fs::rename(modules, slim.join("lib/modules"))?;
        // --variant=extract runs no package script, so nobody has made modules.dep.
        let mut depmod = self.program("usr/sbin/depmod");
        process::run(depmod.arg("-b").arg(&slim).arg(&release))?;
        fs::write(slim.join("release"), &release)?;
        remove(&part)?;
        replace(&slim, &self.kernel(kernel))
    }
}

fn mmdebstrap(variant: &str, include: &str) -> Command {
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--format=tar"]);
    command.args([format!("--variant={variant}"), format!("--include={include}")]);
    command
}

/// Runs `mmdebstrap` and unpacks its archive into `dir`, with every file owned by this user: so the images can be
/// read and removed without root rights, whatever mode mmdebstrap chose.
fn unpack(mmdebstrap: &mut Command, dir: &Path, excludes: &[&str]) -> Result<()> {
    remove(dir)?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let words = shown(mmdebstrap);
    let mut producer = mmdebstrap
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{words}`"))?;
    let archive = producer.stdout.take().context("mmdebstrap's output is piped")?;
    let unpacked = process::run(
        Command::new("tar")
            .args(["--extract", "--no-same-owner"])
            .args(excludes.iter().map(|path| format!("--exclude={path}")))
            .arg("--directory")
            .arg(dir)
            .stdin(archive),
    );
    let status = producer.wait()?;
    ensure!(
        status.success(),
        "`{words}` failed: {status}; its messages are above (without root it needs user namespaces: \
         see the section MODES of mmdebstrap(1))"
    );
    unpacked
}

fn replace(new: &Path, old: &Path) -> Result<()> {
    remove(old)?;
    fs::rename(new, old).with_context(|| format!("cannot rename {} to {}", new.display(), old.display()))
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn only_entry(dir: &Path) -> Result<String> {
    let names: Vec<String> = fs::read_dir(dir)
        .with_context(|| format!("cannot read {}", dir.display()))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    match names.as_slice() {
        [name] => Ok(name.clone()),
        _ => bail!("{}: one kernel release expected, found {names:?}", dir.display()),
    }
}

/// Names of the installed packages in dpkg's status file (deb822 paragraphs, dpkg(1)).
fn parse_dpkg_status(text: &str) -> BTreeSet<&str> {
    let mut installed = BTreeSet::new();
    for paragraph in text.split("\n\n") {
        let field = |key: &str| paragraph.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        if field("Status:") == Some("install ok installed")
            && let Some(name) = field("Package:")
        {
            installed.insert(name);
        }
    }
    installed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_read_from_dpkg_status() {
        let text = "Package: bash\nStatus: install ok installed\nVersion: 5\n\n\
                    Package: gone\nStatus: deinstall ok config-files\n\n\
                    Package: kmod\nEssential: no\nStatus: install ok installed\n";
        assert_eq!(parse_dpkg_status(text).into_iter().collect::<Vec<_>>(), ["bash", "kmod"]);
        assert!(parse_dpkg_status("").is_empty());
    }

    #[test]
    fn the_package_list_is_sorted_and_without_repeats() {
        assert!(ROOT_PACKAGES.is_sorted_by(|left, right| left < right));
    }

    #[test]
    fn an_empty_cache_lacks_every_package() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images { dir: dir.path().to_owned() };
        assert_eq!(images.missing_packages().unwrap(), ROOT_PACKAGES);
    }
}
