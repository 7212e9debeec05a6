//! `vm_exit` by its definition: from each exit to the next entry of the same thread.

use super::Span;
use super::guests::Guests;
use super::trace::Event;
use std::collections::{BTreeMap, BTreeSet};

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

/// Exits after which the guest was entered again on a fast path, by (guest, vCPU index, reason): from one entry to the next the
/// vendor's function that handles exits was not called, which the function tracer shows beside the events. It comes after
/// the exit's event, or before it where the event is in the function itself (AMD, Linux 6.1).
#[must_use]
pub fn fast_paths(events: &[Event<'_>], guests: &Guests, span: Span) -> BTreeMap<(String, u32, String), u64> {
    let mut out = BTreeMap::new();
    let mut left: BTreeMap<u32, &str> = BTreeMap::new();
    let mut handled: BTreeSet<u32> = BTreeSet::new();
    let owner =
        |tid: u32| guests.iter().find_map(|(name, g)| g.vcpus.get(&tid).map(|index| (name.clone(), *index)));
    for e in events {
        match e.name {
            "kvm_exit" => {
                left.remove(&e.tid);
                if span.contains(e.ns) {
                    left.insert(e.tid, e.word("reason").unwrap_or_default());
                }
            }
            "svm_handle_exit" | "vmx_handle_exit" => {
                handled.insert(e.tid);
            }
            "kvm_entry" => {
                let slow = handled.remove(&e.tid);
                if let (Some(reason), Some((guest, vcpu))) = (left.remove(&e.tid), owner(e.tid))
                    && !slow
                {
                    *out.entry((guest, vcpu, reason.to_owned())).or_default() += 1;
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

#[cfg(test)]
mod tests {
    use super::super::{guests, trace};
    use super::*;

    #[test]
    fn a_fast_path_leaves_the_handler_out() {
        let line = |us: u32, what: &str| format!("CPU 0/KVM-7 [000] d..1. 1.0000{us}: {what}\n");
        let text: String = [
            line(10, "kvm_exit: vcpu 0 reason hlt rip 0x1"),
            line(11, "svm_handle_exit <-vcpu_enter_guest"),
            line(12, "kvm_entry: vcpu 0, rip 0x1"),
            line(20, "kvm_exit: vcpu 0 reason hlt rip 0x1"),
            line(21, "kvm_entry: vcpu 0, rip 0x1"),
            line(30, "kvm_exit: vcpu 0 reason msr rip 0x1"),
            line(31, "kvm_entry: vcpu 0, rip 0x1"),
            line(40, "svm_handle_exit <-vcpu_enter_guest"),
            line(41, "kvm_exit: vcpu 0 reason hlt rip 0x1"),
            line(42, "kvm_entry: vcpu 0, rip 0x1"),
            line(50, "kvm_exit: vcpu 0 reason hlt rip 0x1"),
        ]
        .concat();
        let guests = guests::parse("vf vm1 0000:01:10.0\nvcpu vm1 0 7\n").unwrap();
        let span = Span { from_ns: 0, until_ns: 2_000_000_000 };
        let events = trace::parse(&text).unwrap();
        let key = |reason: &str| ("vm1".to_owned(), 0, reason.to_owned());
        assert_eq!(fast_paths(&events, &guests, span), BTreeMap::from([(key("hlt"), 1), (key("msr"), 1)]));
        assert_eq!(evaluate(&events, &guests, span)[&key("hlt")], [2_000, 1_000, 1_000]);
    }
}
