//! The two initramfs archives: of the emulated host and of its nested guests. Each is made of a part that depends
//! on the kernel only (busybox, modules, iperf3; cached) and of the `init` script of this checkout, appended when
//! the lab boots: Linux unpacks archives that follow each other (Documentation/driver-api/early-userspace/
//! buffer-format.rst). They are not compressed: unpacking costs more than reading, in emulation.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::images::Images;
use crate::process::{shown, stdout_of};

/// Modules that reach the root file system (9p over virtio), the writable layer and the task's terminal.
const HOST_MODULES: [&str; 5] = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console"];
/// The network cards a nested guest may have.
const GUEST_MODULES: [&str; 4] = ["virtio_pci", "igbvf", "virtio_net", "e1000"];
const BUSYBOX: &str = "usr/bin/busybox";
/// Raised when what the archives hold changes in another way than by the module lists.
const FORMAT: u32 = 1;

/// Whether the cached archives of `kernel_dir` are what this xtask would build.
pub(crate) fn current(kernel_dir: &Path) -> Result<bool> {
    match fs::read_to_string(kernel_dir.join("initramfs.stamp")) {
        Ok(text) => Ok(text == stamp()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", kernel_dir.display())),
    }
}

fn stamp() -> String {
    format!("format {FORMAT}\nhost {}\nguest {}\n", HOST_MODULES.join(" "), GUEST_MODULES.join(" "))
}

/// Builds the cached archives of one kernel.
pub(crate) fn build(images: &Images, kernel_dir: &Path) -> Result<()> {
    eprintln!("lab: making the initramfs archives in {}", kernel_dir.display());
    let release = fs::read_to_string(kernel_dir.join("release"))?;
    for (name, modules, programs) in
        [("host", &HOST_MODULES[..], &[][..]), ("guest", &GUEST_MODULES[..], &["usr/bin/iperf3"][..])]
    {
        let tree = tempfile::tempdir_in(kernel_dir)?;
        for dir in ["bin", "proc", "sys", "dev", "mnt", "lib", "tmp"] {
            fs::create_dir(tree.path().join(dir))?;
        }
        fs::copy(images.rootfs().join(BUSYBOX), tree.path().join("bin/busybox"))?;
        add_modules(images, kernel_dir, &release, modules, tree.path())?;
        for program in programs {
            add_program(images, program, tree.path())?;
        }
        archive(images, tree.path(), &kernel_dir.join(format!("{name}.cpio")))?;
    }
    fs::write(kernel_dir.join("initramfs.stamp"), stamp())?;
    Ok(())
}

/// Writes to `out` the cached archive `name` of `kernel_dir`, followed by one that holds `init`.
pub(crate) fn with_init(
    images: &Images,
    kernel_dir: &Path,
    name: &str,
    init: &Path,
    out: &Path,
) -> Result<()> {
    let tree = tempfile::tempdir()?;
    let target = tree.path().join("init");
    fs::copy(init, &target).with_context(|| format!("cannot read {}", init.display()))?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
    let second = out.with_extension("init");
    archive(images, tree.path(), &second)?;
    let mut bytes = fs::read(kernel_dir.join(format!("{name}.cpio")))?;
    bytes.extend(fs::read(&second)?);
    fs::write(out, bytes).with_context(|| format!("cannot write {}", out.display()))
}

/// Copies the modules and all that they need into `tree/lib`, and lists them in load order in `tree/modules`.
fn add_modules(
    images: &Images,
    kernel_dir: &Path,
    release: &str,
    modules: &[&str],
    tree: &Path,
) -> Result<()> {
    let mut list = Vec::new();
    let mut known = BTreeSet::new();
    for module in modules {
        let mut modprobe = images.program("usr/sbin/modprobe");
        modprobe.arg("--dirname").arg(kernel_dir).args(["--set-version", release, "--show-depends", module]);
        for file in parse_show_depends(&stdout_of(&mut modprobe)?) {
            let (name, compression) = module_name(&file)?;
            if !known.insert(name.clone()) {
                continue;
            }
            let target = tree.join("lib").join(&name);
            match compression {
                Compression::None => {
                    fs::copy(&file, &target).with_context(|| format!("cannot copy {}", file.display()))?;
                }
                Compression::Xz => unxz(images, &file, &target)?,
            }
            list.push(name);
        }
    }
    fs::write(tree.join("modules"), list.join("\n") + "\n")?;
    Ok(())
}

fn unxz(images: &Images, file: &Path, target: &Path) -> Result<()> {
    let mut command = Command::new(images.rootfs().join(BUSYBOX));
    command.args(["xz", "-dc"]).arg(file).stdout(fs::File::create(target)?);
    crate::process::run(&mut command)
}

#[derive(Debug, PartialEq, Eq)]
enum Compression {
    None,
    Xz,
}

/// The module's file name without its compression suffix.
fn module_name(file: &Path) -> Result<(String, Compression)> {
    let name = file.file_name().and_then(|name| name.to_str()).context("a module has a file name")?;
    match name.strip_suffix(".xz") {
        Some(plain) => Ok((plain.to_owned(), Compression::Xz)),
        None if name.ends_with(".ko") => Ok((name.to_owned(), Compression::None)),
        None => bail!("{}: a compression the lab does not know (it knows .ko and .ko.xz)", file.display()),
    }
}

/// Files of `modprobe --show-depends`, in load order; what is built in needs no file.
fn parse_show_depends(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.strip_prefix("insmod "))
        .filter_map(|rest| rest.split_whitespace().next())
        .map(PathBuf::from)
        .collect()
}

/// A dynamic program of the root file system with its libraries and loader.
fn add_program(images: &Images, program: &str, tree: &Path) -> Result<()> {
    let root = images.rootfs();
    let mut list = Command::new(images.loader());
    let args = images.loader_args(program);
    let (options, file) = args.split_at(2);
    list.args(options).arg("--list").args(file);
    let mut libraries = parse_loader_list(&stdout_of(&mut list)?, &root);
    libraries.push("lib64/ld-linux-x86-64.so.2".into());
    for library in libraries {
        let target = tree.join(&library);
        fs::create_dir_all(target.parent().context("a library has a folder")?)?;
        fs::copy(root.join(&library), &target)
            .with_context(|| format!("cannot copy {}", library.display()))?;
    }
    let name = Path::new(program).file_name().context("a program has a name")?;
    fs::copy(root.join(program), tree.join("bin").join(name))?;
    Ok(())
}

/// Libraries in the output of `ld.so --list`, relative to `root`; what the kernel provides (vdso) has no path.
fn parse_loader_list(text: &str, root: &Path) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.split("=> ").nth(1))
        .filter_map(|rest| rest.split_whitespace().next())
        .filter_map(|path| Path::new(path).strip_prefix(root).ok())
        .map(Path::to_path_buf)
        .collect()
}

/// Packs `tree` as the kernel reads it (newc), with every file owned by root.
fn archive(images: &Images, tree: &Path, out: &Path) -> Result<()> {
    let mut names = stdout_of(Command::new("find").arg(".").current_dir(tree))?.into_bytes();
    names.push(b'\n');
    let mut command = Command::new(images.rootfs().join(BUSYBOX));
    command.args(["cpio", "-o", "-H", "newc", "-R", "0:0"]).current_dir(tree);
    command.stdin(Stdio::piped()).stdout(fs::File::create(out)?).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", shown(&command)))?;
    std::io::Write::write_all(&mut child.stdin.take().context("cpio's input is piped")?, &names)?;
    let status = child.wait()?;
    ensure!(status.success(), "`{}` failed: {status}", shown(&command));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_files_are_listed_in_load_order() {
        let text = "builtin overlay\ninsmod /k/netfs.ko.xz \ninsmod /k/9pnet.ko a=1\n";
        assert_eq!(parse_show_depends(text), [PathBuf::from("/k/netfs.ko.xz"), PathBuf::from("/k/9pnet.ko")]);
    }

    #[test]
    fn module_names_lose_their_compression() {
        assert_eq!(module_name(Path::new("/k/9p.ko")).unwrap(), ("9p.ko".to_owned(), Compression::None));
        assert_eq!(module_name(Path::new("/k/9p.ko.xz")).unwrap(), ("9p.ko".to_owned(), Compression::Xz));
        let error = module_name(Path::new("/k/9p.ko.zst")).unwrap_err().to_string();
        assert!(error.starts_with("/k/9p.ko.zst: a compression"), "{error}");
    }

    #[test]
    fn libraries_are_those_of_the_root_file_system() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /r/usr/lib/libc.so.6 (0x1)\n\
                    \t/lib64/ld-linux-x86-64.so.2 => /r/lib64/ld-linux-x86-64.so.2 (0x2)\n\
                    \tlibz.so.1 => /usr/lib/libz.so.1 (0x3)\n";
        let found = parse_loader_list(text, Path::new("/r"));
        assert_eq!(found, [PathBuf::from("usr/lib/libc.so.6"), PathBuf::from("lib64/ld-linux-x86-64.so.2")]);
    }

    #[test]
    fn archives_of_other_lists_are_rebuilt() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!current(dir.path()).unwrap());
        fs::write(dir.path().join("initramfs.stamp"), stamp()).unwrap();
        assert!(current(dir.path()).unwrap());
        fs::write(dir.path().join("initramfs.stamp"), "format 0\n").unwrap();
        assert!(!current(dir.path()).unwrap());
    }
}
