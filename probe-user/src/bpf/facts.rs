//! Reads what the kernel offers: BTF of kernel and modules, tracepoint formats, a few symbols.

use super::format;
use crate::btf::Btf;
use crate::host::HostRoot;
use crate::probes::{KernelFacts, every_hook};
use probe_ebpf::layout::{
    FIELDS, INJ_TELLS_REINJECTION, IRQFD_INJECT, MEMBERS, PER_CPU_OFFSET, PI_PASSES_VCPU, SWITCH_TELLS_STATE,
    VCPU_INFO, VECTOR_IRQ,
};
use probe_ebpf::probes::irq_delivery::{VCPU_INFO_AMD, VCPU_INFO_INTEL, VCPU_INFO_UNKNOWN};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Modules whose types are looked at when they are not part of the kernel itself.
const MODULES: &[&str] = &["kvm", "kvm_intel", "kvm_amd"];

/// Reads the facts. What cannot be read is noted in them; nothing here fails as a whole.
#[must_use]
pub fn read_facts(root: &HostRoot) -> KernelFacts {
    let mut facts = KernelFacts::default();
    read_btf(root, &mut facts);
    read_formats(root, &mut facts);
    read_symbols(root, &mut facts);
    let cpuinfo = fs::read_to_string(root.proc.join("cpuinfo")).unwrap_or_default();
    facts.globals.insert(VCPU_INFO, vcpu_info_of(&cpuinfo).into());
    facts
}

fn read_btf(root: &HostRoot, facts: &mut KernelFacts) {
    let base = match load_btf(root, "vmlinux", None) {
        Ok(btf) => btf,
        Err(reason) => {
            for member in MEMBERS {
                facts.unresolved.insert(member.global, reason.clone());
            }
            facts.no_btf = Some(reason);
            return;
        }
    };
    let modules: Vec<Btf> =
        MODULES.iter().filter_map(|name| load_btf(root, name, Some(&base)).ok()).collect();
    let all = || std::iter::once(&base).chain(&modules);
    for member in MEMBERS {
        match all().find_map(|btf| btf.offset_of(member.structure, member.member).ok()) {
            Some(offset) => {
                facts.globals.insert(member.global, offset.into());
            }
            None => {
                let reason = format!("no {}.{} in BTF", member.structure, member.member);
                facts.unresolved.insert(member.global, reason);
            }
        }
    }
    for hook in every_hook() {
        let params = |btf: &Btf| match hook.is_return() {
            true => btf.function(hook.name()).ok(),
            false => btf.raw_tracepoint(hook.name()).ok(),
        };
        if let Some(params) = all().find_map(params) {
            facts.raw.insert(hook.name(), params);
        }
    }
    // A kernel before 5.17 has none.
    let reasons = base.enumerators("skb_drop_reason").unwrap_or_default();
    facts.drop_reasons = reasons
        .into_iter()
        .map(|(name, value)| (value, name.trim_start_matches("SKB_DROP_REASON_").to_owned()))
        .collect();
    if let Some(params) = facts.raw.get("kvm_inj_virq") {
        facts.globals.insert(INJ_TELLS_REINJECTION, u64::from(params.len() >= 3));
    }
    if let Some(params) = facts.raw.get("kvm_pi_irte_update") {
        facts
            .globals
            .insert(PI_PASSES_VCPU, u64::from(params.get(1).is_some_and(|p| p.type_name.contains('*'))));
    }
    if let Some(params) = facts.raw.get("sched_switch") {
        facts.globals.insert(SWITCH_TELLS_STATE, u64::from(params.len() >= 4));
    }
}

fn load_btf(root: &HostRoot, name: &str, base: Option<&Btf>) -> Result<Btf, String> {
    let path = root.sys.join("kernel/btf").join(name);
    let bytes = fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    base.map_or_else(|| Btf::parse(&bytes[..]), |base| Btf::parse_split(base, &bytes[..]))
        .map_err(|e| format!("{}: {e}", path.display()))
}

/// Where tracefs is mounted: its own place, or the older one below debugfs.
fn tracefs(root: &HostRoot) -> Result<PathBuf, String> {
    let places = [root.sys.join("kernel/tracing"), root.sys.join("kernel/debug/tracing")];
    let mut refused = None;
    for place in &places {
        match fs::read_dir(place.join("events")) {
            Ok(_) => return Ok(place.clone()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => refused = Some(format!("cannot read {}/events: {e}", place.display())),
        }
    }
    Err(refused
        .unwrap_or_else(|| "tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing".to_owned()))
}

fn read_formats(root: &HostRoot, facts: &mut KernelFacts) {
    let tracefs = match tracefs(root) {
        Ok(path) => path,
        Err(reason) => {
            for field in FIELDS {
                facts.unresolved.insert(field.global, reason.clone());
            }
            facts.no_tracefs = Some(reason);
            return;
        }
    };
    let mut formats: BTreeMap<&str, Result<Vec<format::Field>, String>> = BTreeMap::new();
    for hook in every_hook() {
        let path = tracefs.join("events").join(hook.event).join("format");
        facts.events.insert(hook.event, path.exists());
        formats.insert(
            hook.event,
            fs::read_to_string(&path)
                .map_err(|e| format!("cannot read {}: {e}", path.display()))
                .and_then(|text| format::parse(&text).map_err(|e| format!("{}: {e}", path.display()))),
        );
    }
    for wanted in FIELDS {
        let found =
            formats.get(wanted.event).map_or(Err("no such event".to_owned()), |fields| match fields {
                // Some fields were renamed: alternatives are written `new|old`.
                Ok(fields) => wanted
                    .field
                    .split('|')
                    .find_map(|name| fields.iter().find(|f| f.name == name))
                    .map(|f| f.offset)
                    .ok_or_else(|| format!("{} has no field {}", wanted.event, wanted.field)),
                Err(reason) => Err(reason.clone()),
            });
        match found {
            Ok(offset) => {
                facts.globals.insert(wanted.global, offset.into());
            }
            Err(reason) => {
                facts.unresolved.insert(wanted.global, reason);
            }
        }
    }
}

fn read_symbols(root: &HostRoot, facts: &mut KernelFacts) {
    let path = root.proc.join("kallsyms");
    let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()));
    for (symbol, global) in
        [("irqfd_inject", IRQFD_INJECT), (PER_CPU_OFFSET, PER_CPU_OFFSET), (VECTOR_IRQ, VECTOR_IRQ)]
    {
        let found = text.as_ref().map_err(Clone::clone).and_then(|text| {
            find_symbol(text, symbol).ok_or_else(|| format!("{symbol} is not in /proc/kallsyms, or hidden"))
        });
        match found {
            Ok(address) => drop(facts.globals.insert(global, address)),
            Err(reason) => drop(facts.unresolved.insert(global, reason)),
        }
    }
}

/// Whose IOMMU KVM speaks to. A kernel may have both vendors' code built in; the processor has one's virtualization.
fn vcpu_info_of(cpuinfo: &str) -> u32 {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |wanted: &str| flags.split_ascii_whitespace().any(|flag| flag == wanted);
    match (has("vmx"), has("svm")) {
        (true, false) => VCPU_INFO_INTEL,
        (false, true) => VCPU_INFO_AMD,
        _ => VCPU_INFO_UNKNOWN,
    }
}

/// A symbol's address; addresses that the kernel hides are zero and count as absent.
fn find_symbol(kallsyms: &str, name: &str) -> Option<u64> {
    // Scanning for the name first keeps this cheap: the file has some 10 MB.
    let mut rest = kallsyms;
    loop {
        let at = rest.find(name)?;
        let (before, after) = (&rest[..at], &rest[at + name.len()..]);
        let line = before.rsplit('\n').next().unwrap_or_default();
        if line.ends_with(' ') && after.starts_with(['\n', '\t']) {
            return u64::from_str_radix(line.split(' ').next()?, 16).ok().filter(|address| *address != 0);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_iommu_is_of_the_processor_s_vendor() {
        for (flags, expected) in [
            ("fpu vme vmx svm_lock", VCPU_INFO_INTEL),
            ("fpu svm nvmx", VCPU_INFO_AMD),
            ("fpu vmxnet", VCPU_INFO_UNKNOWN),
        ] {
            let cpuinfo =
                format!("processor\t: 0\nflags\t\t: {flags}\nvmx flags\t: vnmi\n\nprocessor\t: 1\n");
            assert_eq!(vcpu_info_of(&cpuinfo), expected, "{flags}");
        }
        assert_eq!(vcpu_info_of(""), VCPU_INFO_UNKNOWN);
    }

    #[test]
    fn a_symbol_is_found_by_its_whole_name() {
        let text = "ffffffff81000000 t irqfd_inject_x\n\
                    ffffffffc0a00010 t my_irqfd_inject\t[x]\n\
                    ffffffffc0a00020 t irqfd_inject\t[kvm]\n\
                    0000000000000000 t hidden\n";
        assert_eq!(find_symbol(text, "irqfd_inject"), Some(0xffff_ffff_c0a0_0020));
        assert_eq!(find_symbol(text, "hidden"), None);
        assert_eq!(find_symbol(text, "absent"), None);
    }
}
