//! Returns to the VMM and ends of halts by their definitions: each event of a vCPU's thread is one.

use super::Span;
use super::guests::Guests;
use super::sched::Vcpu;
use super::trace::Event;
use std::collections::BTreeMap;

/// What a vCPU's thread had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Halts {
    /// Halts that ended while the host polled (ns each).
    pub polled: Vec<u64>,
    /// Halts in which the thread slept (ns each).
    pub waited: Vec<u64>,
}

/// Returns by (vCPU, reason as vfprobe names it).
#[must_use]
pub fn returns(
    events: &[Event<'_>],
    guests: &Guests,
    spans: &BTreeMap<Vcpu, Span>,
) -> BTreeMap<(Vcpu, String), u64> {
    let mut out = BTreeMap::new();
    for (vcpu, e) in of(events, guests, spans, "kvm_userspace_exit") {
        // `reason KVM_EXIT_IO (2)`, `reason restart (4)`, `reason error (14)`
        let Some(reason) = e.word("reason") else { continue };
        let reason = match reason.strip_prefix("KVM_EXIT_") {
            Some(reason) => reason,
            None => INTERRUPTED,
        };
        *out.entry((vcpu, reason.to_owned())).or_default() += 1;
    }
    out
}

/// vfprobe's word for a KVM_RUN that was interrupted.
const INTERRUPTED: &str = "interrupted";

/// Ends of halts.
#[must_use]
pub fn halts(events: &[Event<'_>], guests: &Guests, spans: &BTreeMap<Vcpu, Span>) -> BTreeMap<Vcpu, Halts> {
    let mut out: BTreeMap<Vcpu, Halts> = BTreeMap::new();
    for (vcpu, e) in of(events, guests, spans, "kvm_vcpu_wakeup") {
        // `wait time 123 ns, polling valid`, `poll time 123 ns, polling valid`
        let Some(ns) = e.word("time").and_then(|ns| ns.parse().ok()) else { continue };
        let halts = out.entry(vcpu).or_default();
        if e.text.starts_with("wait") { halts.waited.push(ns) } else { halts.polled.push(ns) }
    }
    out
}

/// An event's occurrences in vCPUs' threads, each in its span.
fn of<'a>(
    events: &'a [Event<'a>],
    guests: &'a Guests,
    spans: &'a BTreeMap<Vcpu, Span>,
    name: &'a str,
) -> impl Iterator<Item = (Vcpu, &'a Event<'a>)> {
    events.iter().filter(move |e| e.name == name).filter_map(|e| {
        let vcpu = guests.iter().find_map(|(name, g)| Some((name.clone(), *g.vcpus.get(&e.tid)?)))?;
        spans.get(&vcpu)?.contains(e.ns).then_some((vcpu, e))
    })
}

#[cfg(test)]
mod tests {
    use super::super::{guests, trace::parse};
    use super::*;

    #[test]
    fn events_of_vcpus_in_their_spans() {
        let guests = guests::parse("vcpu vm1 0 9\n").unwrap();
        let vcpu = ("vm1".to_owned(), 0);
        let spans =
            BTreeMap::from([(vcpu.clone(), Span { from_ns: 1_000_000_000, until_ns: 2_000_000_000 })]);
        let text = "\
            CPU 0/KVM-9 [001] ..... 0.900000: kvm_userspace_exit: reason KVM_EXIT_IO (2)\n\
            CPU 0/KVM-9 [001] ..... 1.100000: kvm_userspace_exit: reason KVM_EXIT_IO (2)\n\
            CPU 0/KVM-9 [001] ..... 1.200000: kvm_userspace_exit: reason restart (4)\n\
            other-8 [001] ..... 1.200000: kvm_userspace_exit: reason KVM_EXIT_IO (2)\n\
            CPU 0/KVM-9 [001] ..... 1.300000: kvm_vcpu_wakeup: wait time 17 ns, polling valid\n\
            CPU 0/KVM-9 [001] ..... 1.400000: kvm_vcpu_wakeup: poll time 5 ns, polling valid\n";
        let events = parse(text).unwrap();
        let expected = [((vcpu.clone(), "IO".to_owned()), 1), ((vcpu.clone(), INTERRUPTED.to_owned()), 1)];
        assert_eq!(returns(&events, &guests, &spans), BTreeMap::from(expected));
        let expected = Halts { polled: vec![5], waited: vec![17] };
        assert_eq!(halts(&events, &guests, &spans), BTreeMap::from([(vcpu, expected)]));
    }
}
