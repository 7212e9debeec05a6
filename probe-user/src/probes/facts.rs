//! What is known of the running kernel before anything is loaded: offsets, raw tracepoint arguments, events.
//!
//! Plain values; `bpf::facts` reads them.

use super::hook::{Hook, Kind, Variant};
use crate::btf::Param;
use std::collections::BTreeMap;

/// Facts about a kernel that decide which programs fit.
#[derive(Clone, Debug, Default)]
pub struct KernelFacts {
    /// Value of each global that could be resolved: offsets, and symbol addresses.
    pub globals: BTreeMap<&'static str, u64>,
    /// Why a global could not be resolved.
    pub unresolved: BTreeMap<&'static str, String>,
    /// Arguments of raw tracepoints by event name, and of hooked functions, where BTF tells them.
    pub raw: BTreeMap<&'static str, Vec<Param>>,
    /// Names of the reasons for dropping a packet (`enum skb_drop_reason`), where BTF tells them.
    pub drop_reasons: BTreeMap<u32, String>,
    /// Why BTF cannot be used, when it cannot.
    pub no_btf: Option<String>,
    /// Events that tracefs lists (`system/event`).
    pub events: BTreeMap<&'static str, bool>,
    /// Why tracefs cannot be used, when it cannot.
    pub no_tracefs: Option<String>,
}

impl KernelFacts {
    /// Why a program does not fit, `None` when it does.
    #[must_use]
    pub fn objection(&self, hook: &Hook, kind: Kind, variant: &Variant) -> Option<String> {
        match kind {
            Kind::Raw | Kind::Return => match self.raw.get(hook.name()) {
                Some(params) if !(variant.fits)(params) => {
                    return Some("its arguments do not carry what is needed on this kernel".to_owned());
                }
                // Without BTF the attempt itself tells.
                None if self.no_btf.is_none() => {
                    let what = if kind == Kind::Return { "function" } else { "event" };
                    return Some(format!("no such {what} in BTF"));
                }
                _ => {}
            },
            Kind::Classic => {
                if let Some(reason) = &self.no_tracefs {
                    return Some(reason.clone());
                }
                if self.events.get(hook.event) != Some(&true) {
                    return Some("no such event in tracefs".to_owned());
                }
            }
        }
        let missing = variant.needs.iter().find(|global| !self.globals.contains_key(**global))?;
        let reason = self.unresolved.get(missing).map_or("not resolved", String::as_str);
        Some(reason.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::{Role, hook};

    fn first_is_a_number(params: &[Param]) -> bool {
        params.first().is_some_and(|p| p.type_name == "unsigned int")
    }

    const HOOK: Hook = Hook {
        event: "kvm/kvm_exit",
        role: Role::Required,
        raw: Some(Variant { program: "exit_raw", needs: &[], fits: first_is_a_number }),
        classic: hook::classic("exit_tp", &["REC_EXIT_REASON"]),
    };

    fn param(type_name: &str) -> Param {
        Param { name: None, type_name: type_name.to_owned() }
    }

    #[test]
    fn the_best_program_that_fits_comes_first() {
        let programs = |facts: &KernelFacts| {
            HOOK.candidates(facts).map(|c| c.iter().map(|c| c.program).collect::<Vec<_>>())
        };
        let mut facts = KernelFacts::default();
        let reasons = programs(&facts).unwrap_err();
        assert_eq!(reasons, "raw tracepoint: no such event in BTF; tracepoint: no such event in tracefs");
        facts.raw.insert("kvm_exit", vec![param("unsigned int")]);
        assert_eq!(programs(&facts).unwrap(), ["exit_raw"]);
        facts.events.insert("kvm/kvm_exit", true);
        assert_eq!(programs(&facts).unwrap(), ["exit_raw"], "the record's layout is unknown");
        facts.globals.insert("REC_EXIT_REASON", 8);
        assert_eq!(programs(&facts).unwrap(), ["exit_raw", "exit_tp"]);
        facts.raw.insert("kvm_exit", vec![param("struct kvm_vcpu *")]);
        assert_eq!(programs(&facts).unwrap(), ["exit_tp"]);
    }

    #[test]
    fn a_function_has_one_program() {
        let hook = Hook { event: "fexit/kvm_exit", classic: None, ..HOOK };
        let mut facts = KernelFacts::default();
        assert_eq!(hook.candidates(&facts).unwrap_err(), "fexit: no such function in BTF");
        facts.raw.insert("kvm_exit", vec![param("unsigned int")]);
        let found = hook.candidates(&facts).unwrap();
        assert_eq!(found, [hook::Candidate { kind: Kind::Return, program: "exit_raw" }]);
    }
}
