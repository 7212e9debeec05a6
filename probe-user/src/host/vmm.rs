//! Who runs a guest and what it is called, told from the command line and control group of the process.
//!
//! Pure: strings in, an identity out.

use crate::model::topology::Vmm;

/// What the process says about its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) vmm: Vmm,
    /// The name it was given, if any.
    pub(super) name: Option<String>,
    pub(super) uuid: Option<String>,
    pub(super) libvirt: bool,
}

/// Splits `/proc/PID/cmdline`: arguments end in NUL; a process may have overwritten it with anything.
pub(super) fn parse_cmdline(text: &str) -> Vec<&str> {
    text.strip_suffix('\0').unwrap_or(text).split('\0').collect()
}

/// Tells the VMM by the name of its program and reads what that VMM's options say.
pub(super) fn identify(comm: &str, args: &[&str], cgroup: &str) -> Identity {
    let program = args.first().map_or("", |path| path.rsplit('/').next().unwrap_or(path));
    let is = |known: &str| program == known || comm == known.get(..15).unwrap_or(known);
    // `-name process=` renames a QEMU; its program still tells. Distributions call it `qemu-kvm` or `kvm` too.
    let vmm = if program.starts_with("qemu") || comm.starts_with("qemu") || is("kvm") {
        Vmm::Qemu
    } else if is("cloud-hypervisor") {
        Vmm::CloudHypervisor
    } else if is("firecracker") {
        Vmm::Firecracker
    } else {
        Vmm::Other
    };
    let (name, uuid) = match vmm {
        Vmm::Qemu => (
            option(args, "name").and_then(|value| qemu_key(value, "guest")),
            option(args, "uuid").map(str::to_owned),
        ),
        Vmm::CloudHypervisor => (None, option(args, "platform").and_then(|value| plain_key(value, "uuid"))),
        Vmm::Firecracker => (option(args, "id").map(str::to_owned), None),
        Vmm::Other => (None, None),
    };
    // libvirt keeps a guest's files below such folders, and its scopes are called `machine-qemu\x2d1\x2dNAME.scope`
    // (cgroup v2, systemd) or `qemu-1-NAME.libvirt-qemu` (cgroup v1).
    let libvirt = cgroup.split('/').any(|part| {
        part.starts_with("machine-qemu") || part.starts_with("machine-ch") || part.contains("libvirt")
    }) || args.iter().any(|arg| arg.contains("/lib/libvirt/") || arg.contains("/run/libvirt/"));
    Identity { vmm, name: name.filter(|n| !n.is_empty()), uuid: uuid.filter(|u| !u.is_empty()), libvirt }
}

/// The value of an option given as `-key value`, `--key value` or `--key=value`: the first one.
fn option<'a>(args: &[&'a str], key: &str) -> Option<&'a str> {
    options(args, key).next()
}

/// The values of an option that may be given several times.
pub(super) fn options<'a>(args: &[&'a str], key: &str) -> impl Iterator<Item = &'a str> {
    args.iter().enumerate().skip(1).filter_map(move |(n, arg)| {
        let arg = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?.strip_prefix(key)?;
        match arg.strip_prefix('=') {
            Some(value) => Some(value),
            None if arg.is_empty() => args.get(n + 1).copied(),
            None => None,
        }
    })
}

/// A key of QEMU's option syntax, where `,,` is a comma and the first value needs no key
/// (qemu(1), "-name"; util/qemu-option.c).
fn qemu_key(text: &str, key: &str) -> Option<String> {
    let parts = qemu_parts(text);
    let first_without_key = parts.first().filter(|part| !part.contains('='));
    let keyed = parts.iter().find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
    keyed.map(str::to_owned).or_else(|| first_without_key.cloned())
}

/// The parts of QEMU's option syntax between single commas.
pub(super) fn qemu_parts(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match parts.last_mut() {
            Some(part) if c != ',' || chars.next_if_eq(&',').is_some() => part.push(c),
            _ => parts.push(String::new()),
        }
    }
    parts
}

/// A key of `key=value,key=value`.
fn plain_key(text: &str, key: &str) -> Option<String> {
    text.split(',').find_map(|part| part.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
}

/// The index of a vCPU, when the thread's name tells: QEMU with `debug-threads=on` (`CPU 0/KVM`, as libvirt starts
/// it), Cloud Hypervisor (`vcpu0`), Firecracker (`fc_vcpu 0`).
pub(super) fn vcpu_index(comm: &str) -> Option<u32> {
    let number = comm
        .strip_prefix("CPU ")
        .and_then(|rest| rest.strip_suffix("/KVM"))
        .or_else(|| comm.strip_prefix("fc_vcpu "))
        .or_else(|| comm.strip_prefix("vcpu"))?;
    number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(cmdline: &str, comm: &str, expected: (Vmm, Option<&str>, Option<&str>)) {
        let found = identify(comm, &cmdline.split(' ').collect::<Vec<_>>(), "0::/\n");
        assert_eq!((found.vmm, found.name.as_deref(), found.uuid.as_deref()), expected, "{cmdline}");
        assert!(!found.libvirt, "{cmdline}");
    }

    #[test]
    fn names() {
        for (cmdline, name) in [
            ("/usr/bin/qemu-system-x86_64 -name guest=vm1,debug-threads=on -m 1", Some("vm1")),
            ("qemu-system-x86_64 -name vm1", Some("vm1")),
            ("qemu-system-x86_64 -name vm1,debug-threads=on", Some("vm1")),
            ("qemu-system-x86_64 --name debug-threads=on,guest=vm1", Some("vm1")),
            ("qemu-system-x86_64 -name guest=a,,b,process=c", Some("a,b")),
            ("qemu-system-x86_64 -name debug-threads=on", None),
            ("qemu-system-x86_64 -m 1", None),
            ("qemu-system-x86_64 -name", None),
            ("/usr/libexec/qemu-kvm -name guest=vm1", Some("vm1")),
            ("kvm -name vm1", Some("vm1")),
        ] {
            check(cmdline, "x", (Vmm::Qemu, name, None));
        }
        check("renamed -name vm1 -uuid 1-2", "qemu-system-x86", (Vmm::Qemu, Some("vm1"), Some("1-2")));
        check("./firecracker --id vm-9 --api-sock /x", "firecracker", (Vmm::Firecracker, Some("vm-9"), None));
        check("/firecracker --id=vm-9", "firecracker", (Vmm::Firecracker, Some("vm-9"), None));
        check(
            "cloud-hypervisor --platform num_pci_segments=1,uuid=3-4 --cpus boot=2",
            "cloud-hyperviso",
            (Vmm::CloudHypervisor, None, Some("3-4")),
        );
        check("./my-vmm --id 7", "my-vmm", (Vmm::Other, None, None));
        check("", "", (Vmm::Other, None, None));
    }

    #[test]
    fn libvirt_is_told_by_cgroup_or_paths() {
        for (cgroup, arg, expected) in [
            ("0::/machine.slice/machine-qemu\\x2d1\\x2dvm1.scope/libvirt/emulator\n", "", true),
            ("5:cpuset:/machine/qemu-1-vm1.libvirt-qemu/emulator\n", "", true),
            (
                "0::/user.slice\n",
                "socket,id=charmonitor,path=/var/lib/libvirt/qemu/domain-1-vm1/monitor.sock",
                true,
            ),
            ("0::/machine.slice/machine-container.scope\n", "", false),
            ("0::/\n", "guest=libvirt", false),
        ] {
            let found = identify("qemu-system-x86", &["qemu-system-x86_64", "-name", "v", arg], cgroup);
            assert_eq!(found.libvirt, expected, "{cgroup} {arg}");
        }
    }

    #[test]
    fn vcpu_threads() {
        for (comm, index) in [
            ("CPU 0/KVM", Some(0)),
            ("CPU 117/KVM", Some(117)),
            ("vcpu3", Some(3)),
            ("fc_vcpu 2", Some(2)),
            ("CPU 0/TCG", None),
            ("CPU /KVM", None),
            ("CPU +1/KVM", None),
            ("vcpu", None),
            ("qemu-system-x86", None),
            ("vhost-12", None),
        ] {
            assert_eq!(vcpu_index(comm), index, "{comm}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken(comm in any::<String>(), cmdline in any::<String>(), cgroup in any::<String>()) {
            let _ = vcpu_index(&comm);
            let _ = identify(&comm, &parse_cmdline(&cmdline), &cgroup);
            let qemu = format!("qemu-system-x86_64\0-name\0{cmdline}");
            let _ = identify(&comm, &parse_cmdline(&qemu), &cgroup);
        }

        #[test]
        fn a_name_survives_qemus_quoting(name in "[^=\0]{1,20}") {
            let arg = format!("guest={},debug-threads=on", name.replace(',', ",,"));
            let found = identify("", &["qemu-system-x86_64", "-name", &arg], "");
            prop_assert_eq!(found.name, Some(name));
        }
    }
}
