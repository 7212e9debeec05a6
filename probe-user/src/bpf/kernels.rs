//! The layout reader and the choice of programs, on excerpts of real kernels' type information (tests/kernels):
//! Debian's 5.10, 6.1, 6.12 and 7.3, and a 6.18 with KVM built in.

use super::facts::read_facts;
use crate::host::HostRoot;
use crate::probes::{KernelFacts, PROBES, hook::Candidate};
use probe_ebpf::layout::{INJ_TELLS_REINJECTION, MEMBERS, PI_PASSES_VCPU, SWITCH_TELLS_STATE};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

const KERNELS: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "7.3"];

/// A host with that kernel, as far as the reader looks.
fn host(kernel: &str) -> (tempfile::TempDir, BTreeSet<String>) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/kernels");
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, bytes: &[u8]| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    write("sys/kernel/btf/vmlinux", &fs::read(fixtures.join(format!("{kernel}.btf"))).unwrap());
    write("proc/kallsyms", b"ffffffffc0a00020 t irqfd_inject\t[kvm]\n");
    let mut events = BTreeSet::new();
    for event in
        fs::read_to_string(fixtures.join(format!("{kernel}.formats"))).unwrap().split("event ").skip(1)
    {
        let (name, fields) = event.split_once('\n').unwrap();
        events.insert(name.to_owned());
        write(&format!("sys/kernel/tracing/events/{name}/format"), fields.as_bytes());
    }
    (dir, events)
}

fn facts(kernel: &str) -> KernelFacts {
    let (dir, _) = host(kernel);
    read_facts(&HostRoot::under(dir.path()))
}

/// Events and globals that some excerpt holds: of others, which are younger than the excerpts, nothing is asked.
fn excerpted() -> &'static (BTreeSet<String>, BTreeSet<&'static str>) {
    static ALL: OnceLock<(BTreeSet<String>, BTreeSet<&str>)> = OnceLock::new();
    ALL.get_or_init(|| {
        let events = KERNELS.iter().flat_map(|kernel| host(kernel).1).collect();
        let globals = KERNELS.iter().flat_map(|kernel| facts(kernel).globals.into_keys()).collect();
        (events, globals)
    })
}

/// The program that would be tried first for each event; `-` when none fits.
fn chosen(facts: &KernelFacts) -> BTreeMap<&'static str, &'static str> {
    let (events, globals) = excerpted();
    let hooks = PROBES.iter().flat_map(|probe| probe.hooks).filter(|hook| {
        let needs = [hook.raw, hook.classic].into_iter().flatten().flat_map(|variant| variant.needs);
        events.contains(hook.event) && needs.into_iter().all(|global| globals.contains(global))
    });
    let first = |found: Vec<Candidate>| found.first().map(|c| c.program);
    hooks.map(|hook| (hook.event, hook.candidates(facts).ok().and_then(first).unwrap_or("-"))).collect()
}

#[test]
fn each_kernel_gets_the_programs_that_fit_it() {
    // What differs between them; everything else is the same raw tracepoint everywhere.
    let special = |kernel: &str| -> BTreeMap<&str, &str> {
        match kernel {
            // Its modules carry no type information, so the excerpt has neither arguments nor records of theirs.
            // It gives no reason for a drop.
            "5.10" => BTreeMap::from([("skb/kfree_skb", "path_drop_tp")]),
            "6.1" | "6.12" | "7.3" => BTreeMap::from([("kvm/kvm_exit", "exit_tp")]),
            // Built without machine-check vectors.
            _ => BTreeMap::from([
                ("kvm/kvm_exit", "exit_tp"),
                ("irq_vectors/threshold_apic_entry", "-"),
                ("irq_vectors/threshold_apic_exit", "-"),
                ("irq_vectors/deferred_error_apic_entry", "-"),
                ("irq_vectors/deferred_error_apic_exit", "-"),
            ]),
        }
    };
    for kernel in KERNELS {
        let facts = facts(kernel);
        assert_eq!(facts.no_btf, None, "{kernel}");
        let special = special(kernel);
        for (event, program) in chosen(&facts) {
            if kernel == "5.10" && event.starts_with("kvm/") {
                assert_eq!(program, "-", "{kernel} {event}: nothing is guessed");
                continue;
            }
            match special.get(event) {
                Some(expected) => assert_eq!(program, *expected, "{kernel} {event}"),
                None => {
                    let classic = program == "-" || program.ends_with("_tp");
                    assert!(!classic, "{kernel} {event}: {program}, {:?}", facts.unresolved);
                }
            }
        }
    }
}

#[test]
fn layouts_are_those_of_each_kernel() {
    for (kernel, tells_reinjection, tells_state, passes_vcpu, exit_isa, pi_set) in [
        ("6.1", 1, 1, 0, 24, 32),
        ("6.12", 1, 1, 0, 24, 32),
        ("6.18", 1, 1, 1, 24, 24),
        ("7.3", 1, 1, 1, 24, 24),
    ] {
        let facts = facts(kernel);
        for (global, expected) in [
            (INJ_TELLS_REINJECTION, tells_reinjection),
            (SWITCH_TELLS_STATE, tells_state),
            (PI_PASSES_VCPU, passes_vcpu),
            ("REC_EXIT_REASON", 8),
            ("REC_EXIT_ISA", exit_isa),
            ("REC_EXIT_INTR_INFO", 48),
            ("REC_PI_SET", pi_set),
            ("REC_INJ_VECTOR", 8),
            // `struct irqaction` begins with handler and dev_id, in every kernel.
            ("OFF_IRQACTION_DEV_ID", 8),
        ] {
            assert_eq!(facts.globals.get(global), Some(&expected), "{kernel} {global}");
        }
        let (_, excerpted) = excerpted();
        let unresolved =
            MEMBERS.iter().map(|m| m.global).filter(|global| facts.unresolved.contains_key(global));
        let unresolved: Vec<_> = unresolved.filter(|global| excerpted.contains(global)).collect();
        assert_eq!(unresolved, [""; 0], "{kernel}");
    }
}

#[test]
fn arguments_that_moved_are_not_read_from_their_old_place() {
    // Linux 5.15 to 5.16 and 6.6, from the prototypes in arch/x86/kvm/trace.h at those tags: kernels without an excerpt.
    let param = |type_name: &str| crate::btf::Param { name: None, type_name: type_name.to_owned() };
    let cases: [(&str, &[&str], &str); 6] = [
        ("kvm_exit", &["unsigned int", "struct kvm_vcpu *", "u32"], "exit_raw"),
        ("kvm_exit", &["struct kvm_vcpu *", "u32"], "exit_tp"),
        (
            "kvm_pi_irte_update",
            &["unsigned int", "unsigned int", "unsigned int", "unsigned int", "u64", "bool"],
            "irq_posted_raw",
        ),
        (
            "kvm_pi_irte_update",
            &["unsigned int", "struct kvm_vcpu *", "unsigned int", "unsigned int", "bool"],
            "irq_posted_raw",
        ),
        // A layout that nobody knows yet is read by the names of its record.
        ("kvm_pi_irte_update", &["unsigned int", "struct kvm_vcpu *", "bool"], "irq_posted_tp"),
        ("kvm_exit", &["struct kvm_vcpu *"], "exit_tp"),
    ];
    for (event, params, expected) in cases {
        let mut facts = facts("6.12");
        facts.raw.insert(event, params.iter().map(|p| param(p)).collect());
        let chosen = chosen(&facts);
        let found = chosen.iter().find(|(name, _)| name.ends_with(event)).map(|(_, program)| *program);
        assert_eq!(found, Some(expected), "{event} {params:?}");
    }
}

#[test]
fn a_hook_that_is_gone_costs_its_figure_with_a_reason() {
    for (event, field) in [("kvm/kvm_eoi", None), ("kvm/kvm_exit", Some("exit_reason"))] {
        let (dir, _) = host("6.12");
        let format = dir.path().join("sys/kernel/tracing/events").join(event).join("format");
        match field {
            None => fs::remove_file(&format).unwrap(),
            Some(field) => {
                let text = fs::read_to_string(&format).unwrap().replace(field, "another_name");
                fs::write(&format, text).unwrap();
            }
        }
        let mut facts = read_facts(&HostRoot::under(dir.path()));
        let hook = PROBES.iter().flat_map(|p| p.hooks).find(|hook| hook.event == event).unwrap();
        if field.is_none() {
            assert!(hook.candidates(&facts).is_ok(), "its raw tracepoint is still there");
            facts.raw.remove(hook.name());
        }
        let reason = hook.candidates(&facts).unwrap_err();
        let expected = match field {
            None => "raw tracepoint: no such event in BTF; tracepoint: no such event in tracefs".to_owned(),
            Some(field) => format!(
                "raw tracepoint: its arguments do not carry what is needed on this kernel; tracepoint: {event} has no field {field}"
            ),
        };
        assert_eq!(reason, expected);
    }
}
