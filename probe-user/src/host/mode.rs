//! Whether device interrupts can reach guests without the host, judged from what can be read without tracing.
//!
//! The rule. Hardware delivers an interrupt only if all of these hold: KVM's vendor module is loaded with virtual
//! interrupt delivery on (`kvm_intel.enable_apicv`, `kvm_amd.avic`) and device posting not switched off
//! (`enable_device_posted_irqs`, 6.18); every Intel IOMMU can post (bit 59 of its capability register); the command
//! line does not forbid it (`intremap=off`, `intremap=nopost`, `nointremap`); and the interrupt's chip remaps
//! (`IR-`). One that fails proves that the host takes the interrupt: mode `remapped`. All of them together prove
//! nothing, because posting is decided for each vector and can change (several target vCPUs, inhibited AVIC): mode
//! `unknown` until tracing has seen the interrupt. That a VMM reads the eventfd itself (mode `userspace`) shows in
//! tracing only.
//!
//! Sources: `irq_remapping_cap(IRQ_POSTING_CAP)`, drivers/iommu/intel/irq_remapping.c (`set_irq_posting_cap`);
//! `kvm_arch_has_irq_bypass()`, arch/x86/kvm.

use super::{HostRoot, facts::read_kvm_parameters, reader::Reader};
use std::collections::BTreeMap;

/// Bit of the VT-d capability register that says "posted interrupts" (`cap_pi_support`, drivers/iommu/intel).
const CAP_POSTED_INTERRUPTS: u64 = 1 << 59;

/// Whether the host can post device interrupts at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Posting {
    /// It cannot, for this reason.
    Impossible(String),
    /// Nothing that can be read rules it out.
    Possible,
}

/// What the judgement rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostingFacts {
    /// Module parameters as `module.parameter` -> value.
    pub parameters: BTreeMap<String, String>,
    /// Kernel command line.
    pub cmdline: String,
    /// Capability registers of the Intel IOMMUs, by name; empty on AMD.
    pub intel_iommus: Vec<(String, u64)>,
}

/// Applies the rule above.
#[must_use]
pub fn judge_posting(facts: &PostingFacts) -> Posting {
    let PostingFacts { parameters, cmdline, intel_iommus } = facts;
    let vendor =
        [("kvm_intel", "enable_apicv"), ("kvm_amd", "avic")].into_iter().find_map(|(module, name)| {
            Some((format!("{module}.{name}"), parameters.get(&format!("{module}.{name}"))?))
        });
    let Some((name, value)) = vendor else {
        return Posting::Impossible("neither kvm_intel nor kvm_amd is loaded".to_owned());
    };
    if is_off(value) {
        return Posting::Impossible(format!("{name} is off"));
    }
    for module in ["kvm", "kvm_intel", "kvm_amd"] {
        let name = format!("{module}.enable_device_posted_irqs");
        if parameters.get(&name).is_some_and(|value| is_off(value)) {
            return Posting::Impossible(format!("{name} is off"));
        }
    }
    for word in cmdline.split_ascii_whitespace() {
        let forbids = |option: &str| option == "off" || option == "nopost";
        if word == "nointremap"
            || word.strip_prefix("intremap=").is_some_and(|options| options.split(',').any(forbids))
        {
            return Posting::Impossible(format!("the kernel was booted with {word}"));
        }
    }
    match intel_iommus.iter().find(|(_, cap)| cap & CAP_POSTED_INTERRUPTS == 0) {
        Some((name, _)) => Posting::Impossible(format!("IOMMU {name} cannot post interrupts")),
        None => Posting::Possible,
    }
}

/// Whether KVM delivers interrupts to running vCPUs without an exit: Intel's APICv, AMD's AVIC; `None` when neither module
/// says so.
#[must_use]
pub fn read_virtual_apic(root: &HostRoot) -> Option<bool> {
    let mut reader = Reader::new(root);
    let parameters = read_kvm_parameters(&mut reader);
    let vendor = ["kvm_intel.enable_apicv", "kvm_amd.avic"];
    vendor.into_iter().find_map(|name| parameters.get(name)).map(|value| !is_off(value))
}

fn is_off(value: &str) -> bool {
    matches!(value, "N" | "n" | "0")
}

/// Reads what the judgement rests on.
pub(super) fn read_posting_facts(reader: &mut Reader<'_>) -> PostingFacts {
    let cmdline_path = reader.proc("cmdline");
    let cmdline = reader.text(&cmdline_path).unwrap_or_default();
    let class = reader.sys("class/iommu");
    let mut intel_iommus = Vec::new();
    for name in reader.names(&class) {
        let path = class.join(&name).join("intel-iommu/cap");
        let parse = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
        if let Some(cap) = reader.value(&path, "a hexadecimal capability register", parse) {
            intel_iommus.push((name, cap));
        }
    }
    PostingFacts { parameters: read_kvm_parameters(reader), cmdline, intel_iommus }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parameters: &[(&str, &str)], cmdline: &str, caps: &[u64], expected: Option<&str>) {
        let facts = PostingFacts {
            parameters: parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            cmdline: cmdline.to_owned(),
            intel_iommus: caps.iter().zip(0..).map(|(cap, n)| (format!("dmar{n}"), *cap)).collect(),
        };
        let expected = expected.map_or(Posting::Possible, |reason| Posting::Impossible(reason.to_owned()));
        assert_eq!(judge_posting(&facts), expected);
    }

    #[test]
    fn one_failing_condition_proves_that_the_host_takes_interrupts() {
        let pi = CAP_POSTED_INTERRUPTS;
        check(&[], "", &[], Some("neither kvm_intel nor kvm_amd is loaded"));
        check(&[("kvm_intel.enable_apicv", "Y")], "quiet", &[pi, pi], None);
        check(
            &[("kvm_intel.enable_apicv", "Y")],
            "",
            &[pi, pi >> 1],
            Some("IOMMU dmar1 cannot post interrupts"),
        );
        check(&[("kvm_intel.enable_apicv", "N")], "", &[pi], Some("kvm_intel.enable_apicv is off"));
        check(
            &[("kvm_intel.enable_apicv", "Y")],
            "x intremap=no_x2apic_optout,nopost",
            &[pi],
            Some("the kernel was booted with intremap=no_x2apic_optout,nopost"),
        );
        check(&[("kvm_amd.avic", "Y")], "intremap=on", &[], None);
        check(&[("kvm_amd.avic", "1")], "", &[], None);
        check(&[("kvm_amd.avic", "0")], "", &[], Some("kvm_amd.avic is off"));
        check(&[("kvm_amd.avic", "Y")], "nointremap", &[], Some("the kernel was booted with nointremap"));
        check(
            &[("kvm_amd.avic", "Y"), ("kvm.enable_device_posted_irqs", "N")],
            "",
            &[],
            Some("kvm.enable_device_posted_irqs is off"),
        );
    }
}
