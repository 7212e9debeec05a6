//! The command line of the emulated host: an x86 machine by QEMU's translator (no /dev/kvm needed), with AMD SVM for
//! nested guests, a remapping IOMMU, an Intel 82576 (igb) whose VFs can be given away, and an NVMe disk. Pure: paths
//! in, words out.

use std::ffi::OsString;
use std::path::PathBuf;

/// What one boot of the emulated host consists of.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// Root file system, shared read-only.
    pub(crate) rootfs: PathBuf,
    /// Kernel image.
    pub(crate) vmlinuz: PathBuf,
    /// Initramfs of the host.
    pub(crate) initrd: PathBuf,
    /// Folders that are seen inside: mount tag (also the mount point), folder, writable.
    pub(crate) shares: Vec<Share>,
    /// Host CPUs.
    pub(crate) cpus: u32,
    /// Memory, as QEMU reads it (`4G`).
    pub(crate) memory: String,
    /// File for the kernel's console.
    pub(crate) console: PathBuf,
    /// Whether the task's terminal is this terminal, or only its output is read.
    pub(crate) interactive: bool,
    /// Words appended to the kernel's command line.
    pub(crate) append: String,
}

/// A folder of this machine seen inside the lab at `/TAG`.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    pub(crate) tag: &'static str,
    pub(crate) dir: PathBuf,
    pub(crate) writable: bool,
}

impl Machine {
    /// QEMU's arguments.
    pub(crate) fn args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        for data in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
            args.push("-L".into());
            args.push(self.rootfs.join(data).into());
        }
        // Without `-cpu max` there is no SVM, hence no nested guest.
        push(&mut args, &["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]);
        push(&mut args, &["-smp", &self.cpus.to_string(), "-m", &self.memory]);
        args.extend(["-kernel".into(), self.vmlinuz.clone().into()]);
        args.extend(["-initrd".into(), self.initrd.clone().into()]);
        args.extend(["-append".into(), self.command_line().into()]);
        push(&mut args, &["-device", "intel-iommu,intremap=on,device-iotlb=on"]);
        let root = Share { tag: "root", dir: self.rootfs.clone(), writable: false };
        for share in std::iter::once(&root).chain(&self.shares) {
            args.extend(["-fsdev".into(), share.fsdev()]);
            push(&mut args, &["-device", &format!("virtio-9p-pci,fsdev={0},mount_tag={0}", share.tag)]);
        }
        // The PF sits on a wire of its own: nothing of this machine's network is reachable.
        push(&mut args, &["-netdev", "hubport,id=wire,hubid=0", "-device", "pcie-root-port,id=rp0,slot=1"]);
        push(&mut args, &["-device", "igb,bus=rp0,netdev=wire,mac=52:54:00:12:34:56"]);
        // A disk whose queues' interrupts the kernel places itself. Without its driver, `modprobe nvme`, it does nothing.
        push(&mut args, &["-drive", "if=none,id=disk,driver=null-co,size=64M"]);
        push(&mut args, &["-device", "nvme,serial=lab,drive=disk"]);
        push(&mut args, &["-nodefaults", "-display", "none", "-no-reboot"]);
        let mut console = OsString::from("file,id=console,path=");
        console.push(escaped(&self.console));
        args.extend(["-chardev".into(), console]);
        push(&mut args, &["-serial", "chardev:console"]);
        let signal = if self.interactive { "off" } else { "on" };
        push(&mut args, &["-chardev", &format!("stdio,id=task,signal={signal}")]);
        push(&mut args, &["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=task"]);
        args
    }

    fn command_line(&self) -> String {
        // no_timer_check: the check counts ticks in a few milliseconds, which a busy machine does not give it.
        let base = "console=ttyS0 quiet panic=-1 no_timer_check intel_iommu=on iommu=pt";
        let tags: Vec<&str> = self.shares.iter().map(|share| share.tag).collect();
        format!("{base} lab.shares={} {}", tags.join(","), self.append).trim_end().to_owned()
    }
}

impl Share {
    fn fsdev(&self) -> OsString {
        let mut word = OsString::from(format!("local,id={},path=", self.tag));
        word.push(escaped(&self.dir));
        // `none` is passthrough that lets a QEMU without root rights go on when it cannot change an owner.
        word.push(",security_model=none,multidevs=remap");
        word.push(if self.writable { "" } else { ",readonly=on" });
        word
    }
}

fn push(args: &mut Vec<OsString>, words: &[&str]) {
    args.extend(words.iter().map(OsString::from));
}

/// A path inside a QEMU option, where a comma ends the value and a doubled one stands for itself.
fn escaped(path: &std::path::Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            rootfs: "/c/rootfs".into(),
            vmlinuz: "/c/vmlinuz".into(),
            initrd: "/r/host.cpio".into(),
            shares: vec![
                Share { tag: "lab", dir: "/repo/tests/lab".into(), writable: false },
                Share { tag: "out", dir: "/tmp/a,b".into(), writable: true },
            ],
            cpus: 4,
            memory: "4G".into(),
            console: "/r/console.log".into(),
            interactive: false,
            append: "lab.task=x.sh".into(),
        }
    }

    fn value_after(args: &[OsString], option: &str) -> Vec<String> {
        args.windows(2)
            .filter(|pair| pair[0] == option)
            .map(|pair| pair[1].to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn shares_are_read_only_unless_asked() {
        let shares = value_after(&machine().args(), "-fsdev");
        assert_eq!(shares.len(), 3);
        assert_eq!(shares[0], "local,id=root,path=/c/rootfs,security_model=none,multidevs=remap,readonly=on");
        assert_eq!(shares[2], "local,id=out,path=/tmp/a,,b,security_model=none,multidevs=remap");
    }

    #[test]
    fn the_kernel_is_told_the_shares_and_the_task() {
        let append = value_after(&machine().args(), "-append").remove(0);
        assert!(append.ends_with("lab.shares=lab,out lab.task=x.sh"), "{append}");
    }

    #[test]
    fn only_an_interactive_task_keeps_the_keyboard_s_signals() {
        let stdio = |machine: &Machine| {
            value_after(&machine.args(), "-chardev")
                .into_iter()
                .find(|word| word.starts_with("stdio"))
                .unwrap()
        };
        let mut machine = machine();
        assert_eq!(stdio(&machine), "stdio,id=task,signal=on");
        machine.interactive = true;
        assert_eq!(stdio(&machine), "stdio,id=task,signal=off");
    }
}
