//! What is known of the running kernel before anything is loaded: offsets, raw tracepoint arguments, events.
//!
//! Plain values; `bpf::facts` reads them.

use super::hook::{Hook, Kind, Variant};
use super::{ProbeSpec, Role};
use crate::btf::Param;
use serde::{Deserialize, Serialize};
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

/// What a probe cannot see on this kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hidden {
    /// The probe.
    pub probe: String,
    /// The figure that is not observable; `None` = the whole probe.
    pub figure: Option<String>,
    /// The event that it would take (`system/event`).
    pub event: String,
    /// Why no program can be attached to it.
    pub reason: String,
}

impl KernelFacts {
    /// What no program fits for, in the order of the probes and of their hooks. Of a probe that cannot work at all only that.
    /// What fits may still be refused when it is attached.
    #[must_use]
    pub fn hidden(&self, probes: &[&ProbeSpec]) -> Vec<Hidden> {
        // A kernel that tells of APIC vectors, but not of one, was built without it: there is nothing to observe.
        let is_vector = |event: &str| event.starts_with("irq_vectors/");
        let vectors = self.events.iter().any(|(event, there)| *there && is_vector(event));
        let mut all = Vec::new();
        for probe in probes {
            let mut hidden = Vec::new();
            for hook in probe.hooks {
                let absent =
                    self.events.get(hook.event) != Some(&true) && !self.raw.contains_key(hook.name());
                if vectors && is_vector(hook.event) && absent {
                    continue;
                }
                let Err(reason) = hook.candidates(self) else { continue };
                let figure = match hook.role {
                    Role::Required => None,
                    Role::Figure(figure) => Some(figure.to_owned()),
                };
                hidden.push(Hidden {
                    probe: probe.name.to_owned(),
                    figure,
                    event: hook.event.to_owned(),
                    reason,
                });
            }
            if hidden.iter().any(|hidden| hidden.figure.is_none()) {
                hidden.retain(|hidden| hidden.figure.is_none());
            }
            all.extend(hidden);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::{Needs, hook};

    fn first_is_a_number(params: &[Param]) -> bool {
        params.first().is_some_and(|p| p.type_name == "unsigned int")
    }

    const HOOK: Hook = Hook {
        event: "kvm/kvm_exit",
        role: Role::Required,
        raw: Some(Variant { program: "exit_raw", needs: &[], fits: first_is_a_number }),
        classic: hook::classic("exit_tp", &["REC_EXIT_REASON"]),
    };

    #[test]
    fn what_is_hidden_has_its_reason() {
        const HOOKS: &[Hook] = &[
            Hook {
                event: "kvm/kvm_eoi",
                role: Role::Figure("service"),
                raw: hook::raw("eoi", &[]),
                classic: None,
            },
            HOOK,
            Hook {
                event: "irq_vectors/a_entry",
                role: Role::Figure("a"),
                raw: hook::raw("a", &[]),
                classic: None,
            },
        ];
        let spec = ProbeSpec {
            name: "vm_exit",
            about: "",
            needs: Needs::Nothing,
            hooks: HOOKS,
            collect: |_, _, _, _| Ok(()),
        };
        let hidden = |facts: &KernelFacts| -> Vec<(Option<String>, String)> {
            let hidden = facts.hidden(&[&spec]).into_iter();
            hidden.map(|h| (h.figure, format!("{} {}: {}", h.probe, h.event, h.reason))).collect()
        };
        let mut facts = KernelFacts::default();
        let nothing = "vm_exit kvm/kvm_exit: raw tracepoint: no such event in BTF; tracepoint: no such event in tracefs";
        assert_eq!(hidden(&facts), [(None, nothing.to_owned())], "of a probe that cannot work only that");
        facts.raw.insert("kvm_exit", vec![param("unsigned int")]);
        let without = |figure: &str, event: &str| {
            (Some(figure.to_owned()), format!("vm_exit {event}: raw tracepoint: no such event in BTF"))
        };
        let [eoi, vector] = [without("service", "kvm/kvm_eoi"), without("a", "irq_vectors/a_entry")];
        assert_eq!(hidden(&facts), [eoi.clone(), vector]);
        facts.events.insert("irq_vectors/b_entry", true);
        assert_eq!(hidden(&facts), [eoi], "a vector that this kernel does not have");
        facts.raw.insert("kvm_eoi", vec![]);
        assert_eq!(hidden(&facts), []);
        facts.raw.insert("kvm_exit", vec![param("struct kvm_vcpu *")]);
        assert_eq!(hidden(&facts).len(), 1, "its arguments have changed");
    }

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
