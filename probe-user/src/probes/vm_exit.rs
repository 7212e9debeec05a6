//! `vm_exit`: why vCPUs leave their guest, how often, and how long the host keeps the CPU (docs/probes.md).

use super::hook::{self, Kind, Variant};
use super::{
    Hook, KernelFacts, MapReader, Missing, Names, Needs, ProbeReport, ProbeSpec, ReadError, Role, exit_names,
    user_exit_names,
};
use crate::btf::Param;
use crate::stats::{Counter, Histogram, Labels, Observability, Series, Snapshot};
use probe_ebpf::control::Table;
use probe_ebpf::layout::LAST_GUEST_TSC;
use probe_ebpf::probes::vm_exit::VcpuExit;
use probe_ebpf::vcpu::Vcpu;
use std::collections::BTreeMap;

/// The specification.
pub static SPEC: ProbeSpec = ProbeSpec {
    name: "vm_exit",
    about: "why vCPUs leave their guest, and how long the host keeps the CPU",
    needs: Needs::Vcpu,
    hooks: &[
        Hook {
            event: "kvm/kvm_vcpu_wakeup",
            role: Role::Figure("halt_poll"),
            raw: hook::raw("halt_raw", &[]),
            classic: hook::classic("halt_tp", &["REC_WAKEUP_NS", "REC_WAKEUP_WAITED"]),
        },
        Hook {
            event: "kvm/kvm_userspace_exit",
            role: Role::Figure("user_exit"),
            raw: hook::raw("user_exit_raw", &[]),
            classic: hook::classic("user_exit_tp", &["REC_USERSPACE_REASON", "REC_USERSPACE_ERRNO"]),
        },
        Hook {
            event: "kvm/kvm_exit",
            role: Role::Required,
            raw: Some(Variant { program: "exit_raw", needs: &[], fits: reason_comes_first }),
            classic: hook::classic("exit_tp", &["REC_EXIT_REASON", "REC_EXIT_ISA"]),
        },
    ],
    collect,
};

/// Up to 5.16 the raw arguments are (exit_reason, vcpu, isa), later (vcpu, isa) without the reason.
pub(super) fn reason_comes_first(params: &[Param]) -> bool {
    params.len() == 3 && !params[0].type_name.contains('*')
}

/// Entries on fast paths are counted by `vcpu`'s program for `kvm_entry`, where it gets the vCPU's address and knows what
/// to read there; else this says why they are not.
pub fn without_fast_paths(facts: &KernelFacts, vcpu: &ProbeReport) -> Option<Missing> {
    const EVENT: &str = "kvm/kvm_entry";
    let raw = |(event, kind): &(String, String)| event == EVENT && kind == Kind::Raw.as_str();
    let reason = if !vcpu.attached.iter().any(raw) {
        "its record does not tell the vCPU's address"
    } else if facts.globals.contains_key(LAST_GUEST_TSC) {
        return None;
    } else {
        facts.unresolved.get(LAST_GUEST_TSC).map_or("not resolved", String::as_str)
    };
    Some(Missing { event: EVENT.to_owned(), loses: FAST_PATH.to_owned(), reason: reason.to_owned() })
}

/// The figure.
const FAST_PATH: &str = "fastpath";

fn collect(
    maps: &dyn MapReader,
    names: &Names<'_>,
    report: &ProbeReport,
    out: &mut Snapshot,
) -> Result<(), ReadError> {
    let mut outside: BTreeMap<(u32, u32), Outside> = BTreeMap::new();
    let mut interrupts: BTreeMap<(Labels, &str), u64> = BTreeMap::new();
    for index in 0..maps.used(Table::Exits)? {
        let series = maps.exit(index)?;
        if series.tgid == 0 {
            continue;
        }
        let histogram = Histogram::from(&maps.hist("EXIT_HIST", index)?);
        outside.entry((series.tgid, series.tid)).or_default().add(series.isa, series.code, histogram.sum());
        let mut labels = vcpu_labels(names, series.tgid, series.tid, series.vcpu_id);
        if let Some(kind) = exit_names::interrupt_kind(series.isa, series.code) {
            *interrupts.entry((labels.clone(), kind)).or_default() += histogram.n();
        }
        labels.insert("reason".into(), exit_names::exit_name(series.isa, series.code));
        if series.fast > 0 && report.loses(FAST_PATH).is_none() {
            out.counters.push(counter(FAST_PATH, labels.clone(), series.fast));
        }
        out.series.push(Series {
            probe: SPEC.name.into(),
            labels,
            observable: Observability::Yes,
            histogram,
        });
    }
    for ((mut labels, kind), value) in interrupts {
        labels.insert("kind".into(), kind.into());
        out.counters.push(counter("interrupt_exits", labels, value));
    }
    let by_vector = maps.exit_vectors()?;
    for (tid, vcpu) in maps.vcpus()? {
        let labels = vcpu_labels(names, vcpu.tgid, tid, vcpu.vcpu_id);
        for (key, value) in by_vector.iter().filter(|(key, _)| key.vcpu == vcpu.index) {
            let mut labels = labels.clone();
            labels.insert("vector".into(), key.vector.to_string());
            out.counters.push(counter("host_vector_exits", labels, *value));
        }
        add_vcpu(report, &vcpu.exit, outside.remove(&(vcpu.tgid, tid)).unwrap_or_default(), &labels, out);
    }
    Ok(())
}

/// What belongs to `guest_ns` of a window that has ended, beside what [`SPEC`] collects: time of vCPUs that have not left their
/// guest since. One that is left alone stays there for seconds.
///
/// # Errors
/// When a map cannot be read.
pub fn stays(
    maps: &dyn MapReader,
    names: &Names<'_>,
    from_ns: u64,
    until_ns: u64,
) -> Result<Vec<Counter>, ReadError> {
    let stay = |(tid, vcpu): (u32, Vcpu)| {
        let entered = Some(vcpu.exit.entry_ns).filter(|ns| *ns != 0)?;
        let within = Some(until_ns.saturating_sub(entered.max(from_ns))).filter(|ns| *ns != 0)?;
        Some(counter("guest_ns", vcpu_labels(names, vcpu.tgid, tid, vcpu.vcpu_id), within))
    };
    Ok(maps.vcpus()?.into_iter().filter_map(stay).collect())
}

/// A vCPU's time (ns) outside its guest. It follows from the exits' sums, which are exact: nothing is measured twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Outside {
    /// In exits by which the guest gave the CPU up.
    halted: u64,
    /// In all others.
    host: u64,
}

impl Outside {
    fn add(&mut self, isa: u32, code: u32, ns: u64) {
        let part = if exit_names::is_halt(isa, code) { &mut self.halted } else { &mut self.host };
        *part = part.saturating_add(ns);
    }
}

fn counter(name: &str, labels: Labels, value: u64) -> Counter {
    Counter { probe: SPEC.name.into(), name: name.into(), labels, value }
}

fn vcpu_labels(names: &Names<'_>, tgid: u32, tid: u32, vcpu_id: u32) -> Labels {
    Labels::from([("guest".into(), names.guest(tgid)), ("vcpu".into(), names.vcpu(tid, vcpu_id))])
}

fn add_vcpu(report: &ProbeReport, exit: &VcpuExit, outside: Outside, labels: &Labels, out: &mut Snapshot) {
    let mut push =
        |name: &str, labels: &Labels, value| out.counters.push(counter(name, labels.clone(), value));
    let Outside { halted, host } = outside;
    push("guest_ns", labels, exit.guest_ns);
    push("host_ns", labels, host);
    push("halted_ns", labels, halted);
    if report.loses("halt_poll").is_none() {
        push("halt_polled", labels, exit.polled);
        push("halt_polled_ns", labels, exit.polled_ns);
        push("halt_waited", labels, exit.waited);
        push("halt_waited_ns", labels, exit.waited_ns);
    }
    if report.loses("user_exit").is_none() {
        for (reason, count) in exit.user.iter().enumerate().filter(|(_, n)| **n > 0) {
            let mut labels = labels.clone();
            labels.insert("reason".into(), user_exit_names::user_exit_name(reason));
            push("user_exits", &labels, *count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_paths_are_hidden_where_they_cannot_be_known() {
        for (kind, known, expected) in [
            (Kind::Raw, true, None),
            (Kind::Raw, false, Some("no kvm_vcpu.arch.last_guest_tsc in BTF")),
            (Kind::Classic, true, Some("its record does not tell the vCPU's address")),
        ] {
            let mut facts = KernelFacts::default();
            if known {
                facts.globals.insert(LAST_GUEST_TSC, 4000);
            } else {
                facts.unresolved.insert(LAST_GUEST_TSC, "no kvm_vcpu.arch.last_guest_tsc in BTF".to_owned());
            }
            let vcpu = ProbeReport {
                probe: "vcpu".to_owned(),
                verdict: super::super::Verdict::Ready { missing: vec![] },
                attached: vec![("kvm/kvm_entry".to_owned(), kind.as_str().to_owned())],
            };
            let missing = without_fast_paths(&facts, &vcpu);
            assert_eq!(missing.as_ref().map(|m| m.reason.as_str()), expected, "{kind:?} {known}");
            assert!(
                missing.is_none_or(|m| (m.loses.as_str(), m.event.as_str()) == ("fastpath", "kvm/kvm_entry"))
            );
        }
    }

    #[test]
    fn time_outside_the_guest_is_halted_or_the_hosts() {
        // VMX: HLT 12, EXTERNAL_INTERRUPT 1. SVM: HLT 0x78, IDLE_HLT 0xa6, and 12 is no halt there.
        let cases = [
            (1, 12, 5, (5, 0)),
            (1, 1, 7, (0, 7)),
            (2, 0x78, 3, (3, 0)),
            (2, 0xa6, 2, (2, 0)),
            (2, 12, 4, (0, 4)),
        ];
        for (isa, code, ns, (halted, host)) in cases {
            let mut outside = Outside::default();
            outside.add(isa, code, ns);
            assert_eq!(outside, Outside { halted, host }, "isa {isa} code {code:#x}");
        }
    }
}
