//! `vm_exit` by its definition: from each exit to the next entry of the same thread.

use super::Span;
use super::guests::Guests;
use super::trace::Event;
use std::collections::BTreeMap;

/// Durations (ns) by (guest, vCPU index, reason as ftrace prints it).
pub type Exits = BTreeMap<(String, u32, String), Vec<u64>>;

/// Evaluates a capture.
#[must_use]
pub fn evaluate(events: &[Event<'_>], guests: &Guests, span: Span) -> Exits {
    let mut out = Exits::new();
    let mut left: BTreeMap<u32, (u64, String)> = BTreeMap::new();
    let owner =
        |tid: u32| guests.iter().find_map(|(name, g)| g.vcpus.get(&tid).map(|index| (name.clone(), *index)));
    for e in events {
        match e.name {
            "kvm_exit" => {
                left.remove(&e.tid);
                if span.contains(e.ns)
                    && let Some(reason) = e.word("reason")
                {
                    left.insert(e.tid, (e.ns, reason.to_owned()));
                }
            }
            "kvm_entry" => {
                if let (Some((from, reason)), Some((guest, vcpu))) = (left.remove(&e.tid), owner(e.tid)) {
                    out.entry((guest, vcpu, reason)).or_default().push(e.ns - from);
                }
            }
            _ => {}
        }
    }
    out
}

/// Whether a reason as another tool prints it is vfprobe's: ftrace takes the words of arch/x86/kvm/trace.h and svm.h, where
/// SVM's have no prefix and are in lower case; perf those of its own table, some with the prefix `EXIT_`.
#[must_use]
pub fn same_reason(other: &str, vfprobe: &str) -> bool {
    let short = vfprobe.to_ascii_lowercase();
    match other.strip_prefix("EXIT_").unwrap_or(other) {
        "interrupt" => short == "intr",
        "io" => short == "ioio",
        other => other.eq_ignore_ascii_case(vfprobe) || other.eq_ignore_ascii_case(&short),
    }
}
