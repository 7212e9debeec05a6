//! What the examination rests on, read from the host.

use super::super::{
    HostRoot,
    facts::read_facts,
    irqs::read_irqs,
    mode::{Posting, judge_posting, read_posting_facts},
    owners::find_processes,
    reader::{Reader, is_gone, list},
    topology::read_topology,
};
use super::tuning::{Tuning, chosen, read_tuning};
use crate::model::{HostFacts, PciAddress, topology::Topology};
use std::{collections::BTreeSet, fs, io, path::Path};

/// Whether something can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Yes.
    Readable,
    /// It is not there.
    Absent,
    /// It is there, and this is why it cannot be read.
    Refused(String),
}

/// A physical function that can have VFs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SriovDevice {
    /// Its address.
    pub address: PciAddress,
    /// How many VFs it has now.
    pub enabled: u32,
    /// How many it can have.
    pub total: u32,
}

/// Everything that findings are judged from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthFacts {
    /// Effective capabilities of this process as a bit set (`CapEff`); `None` when the kernel does not tell.
    pub capabilities: Option<u64>,
    /// Active mode of kernel lockdown; `None` when there is none.
    pub lockdown: Option<String>,
    /// `/sys/kernel/btf/vmlinux`.
    pub kernel_btf: Access,
    /// Type information of the module kvm; `None` when it is built in or not loaded.
    pub kvm_btf: Option<Access>,
    /// `irq:irq_handler_entry` in tracefs.
    pub tracefs: Access,
    /// `/proc/sys/net/core/bpf_jit_enable`; 0 is off.
    pub bpf_jit: Option<u32>,
    /// `/proc/sys/kernel/bpf_stats_enabled`; 0 is off.
    pub bpf_stats: Option<u32>,
    /// `/dev/kvm`.
    pub dev_kvm: bool,
    /// KVM modules that are loaded or built in, sorted.
    pub kvm_modules: Vec<String>,
    /// Names of the IOMMUs.
    pub iommus: Vec<String>,
    /// Whether any interrupt goes through remapping (a chip whose name starts with `IR-`).
    pub interrupts_remapped: bool,
    /// Whether device interrupts can be posted.
    pub posting: Posting,
    /// Whether a vfio module takes devices without interrupt remapping (`allow_unsafe_interrupts`).
    pub unsafe_interrupts: bool,
    /// Devices that can have VFs.
    pub sriov: Vec<SriovDevice>,
    /// Whether interrupt handlers run in threads: PREEMPT_RT or `threadirqs`.
    pub threaded_irqs: bool,
    /// Process of irqbalance.
    pub irqbalance: Option<u32>,
    /// Process of tuned.
    pub tuned: Option<u32>,
    /// Events of tracefs as `system/event`; `None` when they cannot be listed.
    pub events: Option<BTreeSet<String>>,
    /// Features of the first CPU, those for virtual machines included (`flags` and `vmx flags`).
    pub cpu_flags: BTreeSet<String>,
    /// Frequency, idle states, memory, watchdogs.
    pub tuning: Tuning,
    /// Host facts.
    pub host: HostFacts,
    /// The topology with its problems.
    pub topology: Topology,
}

/// Reads the facts. It never fails: what cannot be read is a fact too.
#[must_use]
pub fn read_health(root: &HostRoot) -> HealthFacts {
    let mut reader = Reader::new(root);
    let r = &mut reader;
    let (host, _) = read_facts(root);
    let status = r.proc("self/status");
    let capabilities = r.text(&status).and_then(|text| parse_capabilities(&text));
    let lockdown_path = r.sys("kernel/security/lockdown");
    let lockdown = fs::read_to_string(lockdown_path).ok().and_then(|text| parse_lockdown(&text));
    // A module that is built in has no `initstate`; its types are in the kernel's own file.
    let kvm_is_module = r.sys("module/kvm/initstate").exists();
    let tracing = [r.sys("kernel/tracing"), r.sys("kernel/debug/tracing")];
    let tracefs = tracing
        .iter()
        .map(|dir| access(&dir.join("events/irq/irq_handler_entry/format")))
        .max_by_key(|access| match access {
            Access::Readable => 2,
            Access::Refused(_) => 1,
            Access::Absent => 0,
        })
        .unwrap_or(Access::Absent);
    let (jit, stats) = (r.proc("sys/net/core/bpf_jit_enable"), r.proc("sys/kernel/bpf_stats_enabled"));
    let modules = r.sys("module");
    let kvm_modules =
        r.names(&modules).into_iter().filter(|name| name == "kvm" || name.starts_with("kvm_")).collect();
    let iommu_class = r.sys("class/iommu");
    let irqs = read_irqs(r);
    let posting_facts = read_posting_facts(r);
    let unsafe_interrupts = ["vfio_iommu_type1", "iommufd"].into_iter().any(|module| {
        let path = r.sys(format!("module/{module}/parameters/allow_unsafe_interrupts"));
        fs::read_to_string(path).is_ok_and(|value| value.trim() == "Y")
    });
    let realtime = fs::read_to_string(r.sys("kernel/realtime")).is_ok_and(|value| value.trim() == "1");
    let topology = read_topology(root);
    let tuning = read_tuning(r, &topology.online());
    let cpuinfo = r.proc("cpuinfo");
    let cpu_flags = parse_flags(&r.text(&cpuinfo).unwrap_or_default());
    let events = tracing.iter().find_map(|dir| read_events(&dir.join("events")));
    let [irqbalance, tuned] = find_processes(r, ["irqbalance", "tuned"]).map(|pid| pid.map(|pid| pid.0));
    HealthFacts {
        capabilities,
        lockdown,
        kernel_btf: access(&r.sys("kernel/btf/vmlinux")),
        kvm_btf: kvm_is_module.then(|| access(&r.sys("kernel/btf/kvm"))),
        tracefs,
        bpf_jit: r.value(&jit, "a number", |text| text.parse().ok()),
        bpf_stats: r.value(&stats, "a number", |text| text.parse().ok()),
        dev_kvm: root.dev.join("kvm").exists(),
        kvm_modules,
        iommus: r.names(&iommu_class),
        interrupts_remapped: irqs.iter().any(|irq| irq.chip.starts_with("IR-")),
        posting: judge_posting(&posting_facts),
        unsafe_interrupts,
        sriov: read_sriov(r),
        threaded_irqs: realtime || host.cmdline.split_ascii_whitespace().any(|word| word == "threadirqs"),
        irqbalance,
        tuned,
        events,
        cpu_flags,
        tuning,
        host,
        topology,
    }
}

fn access(path: &Path) -> Access {
    match fs::File::open(path) {
        Ok(_) => Access::Readable,
        Err(error) if is_gone(&error) => Access::Absent,
        Err(error) => Access::Refused(refusal(path, &error)),
    }
}

fn refusal(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// `CapEff:` of `/proc/PID/status`, a hexadecimal bit set (proc_pid_status(5)).
fn parse_capabilities(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

/// The mode in brackets: `none [integrity] confidentiality`.
fn parse_lockdown(text: &str) -> Option<String> {
    chosen(text).filter(|mode| mode != "none")
}

/// `flags` and `vmx flags` of the first CPU.
fn parse_flags(cpuinfo: &str) -> BTreeSet<String> {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let lines = first.lines().filter_map(|line| line.split_once(':'));
    let flags = lines.filter(|(key, _)| matches!(key.trim(), "flags" | "vmx flags"));
    flags.flat_map(|(_, words)| words.split_ascii_whitespace()).map(str::to_owned).collect()
}

/// Names of all events; `None` when they cannot be listed.
fn read_events(dir: &Path) -> Option<BTreeSet<String>> {
    let mut events = BTreeSet::new();
    for system in list(dir).ok()? {
        // Files stand beside the folders.
        for event in list(&dir.join(&system)).unwrap_or_default() {
            events.insert(format!("{system}/{event}"));
        }
    }
    Some(events)
}

fn read_sriov(reader: &mut Reader<'_>) -> Vec<SriovDevice> {
    let devices = reader.sys("bus/pci/devices");
    let mut found = Vec::new();
    for name in reader.names(&devices) {
        let Ok(address) = name.parse() else { continue };
        let mut number = |file: &str| {
            let path = devices.join(&name).join(file);
            reader.value(&path, "a number", |text| text.parse().ok())
        };
        if let Some(total) = number("sriov_totalvfs").filter(|total| *total > 0) {
            found.push(SriovDevice { address, enabled: number("sriov_numvfs").unwrap_or(0), total });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lockdown_modes() {
        for (text, expected) in [
            ("[none] integrity confidentiality\n", None),
            ("none [integrity] confidentiality\n", Some("integrity")),
            ("none integrity [confidentiality]\n", Some("confidentiality")),
            ("", None),
            ("]x[", None),
        ] {
            assert_eq!(parse_lockdown(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn capabilities() {
        for (text, expected) in [
            ("CapPrm:\t1\nCapEff:\t000001ffffffffff\n", Some(0x1ff_ffff_ffff)),
            ("CapEff:\t0000000000000000\n", Some(0)),
            ("CapEff:\tx\n", None),
            ("", None),
        ] {
            assert_eq!(parse_capabilities(text), expected, "{text:?}");
        }
    }

    #[test]
    fn flags() {
        let text =
            "processor\t: 0\nflags\t\t: fpu vmx\nvmx flags\t: vnmi vid\n\nprocessor\t: 1\nflags\t: x\n";
        assert_eq!(parse_flags(text), ["fpu", "vid", "vmx", "vnmi"].map(str::to_owned).into());
        assert_eq!(parse_flags(""), BTreeSet::new());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in any::<String>()) {
            let _ = parse_flags(&text);
            let _ = parse_lockdown(&text);
            let _ = parse_capabilities(&format!("CapEff:{text}"));
        }
    }
}
