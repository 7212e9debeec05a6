//! `irq_delivery` by its definition, event by event.

use super::Span;
use super::guests::Guests;
use super::trace::Event;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// One (guest, VF, slot, vCPU).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Guest name.
    pub guest: String,
    /// VF address.
    pub vf: String,
    /// MSI-X table index.
    pub slot: u32,
    /// vCPU index.
    pub vcpu: u32,
}

/// What was counted for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Host interrupts of the slot that led here.
    pub raised: u64,
    /// Accepts.
    pub accepted: u64,
    /// Accepts while one was waiting.
    pub coalesced: u64,
    /// Guest entries that carried one.
    pub delivered: u64,
    /// Guest vectors that it had.
    pub vectors: BTreeSet<u32>,
    /// Durations by stage (ns).
    pub stages: BTreeMap<&'static str, Vec<u64>>,
}

#[derive(Clone, Copy)]
struct Waiting {
    raised: u64,
    accepted: u64,
    asleep: bool,
    woken: Option<u64>,
}

#[derive(Default)]
struct Thread {
    on_cpu: bool,
    injected: Option<(Key, Waiting)>,
    slot_of_vector: BTreeMap<u32, Key>,
}

/// Evaluates a capture.
#[must_use]
pub fn evaluate(events: &[Event<'_>], guests: &Guests, span: Span) -> BTreeMap<Key, Counted> {
    let mut out: BTreeMap<Key, Counted> = BTreeMap::new();
    let mut in_irq: BTreeMap<u32, (String, u32, u64)> = BTreeMap::new();
    let mut waiting: BTreeMap<Key, Waiting> = BTreeMap::new();
    // Accepts that found one waiting. KVM takes the vector out of the IRR a little before its injection event; an
    // accept in between is a new interrupt after all, as an injection without a waiting one shows.
    let mut late: BTreeMap<Key, Waiting> = BTreeMap::new();
    let mut serviced: BTreeMap<Key, u64> = BTreeMap::new();
    let mut threads: BTreeMap<u32, Thread> = BTreeMap::new();
    let vcpu_threads: BTreeSet<u32> = guests.values().flat_map(|g| g.vcpus.keys().copied()).collect();
    for e in events {
        // Whatever a thread does shows that it runs; the capture may begin in its middle.
        if vcpu_threads.contains(&e.tid) && e.name.starts_with("kvm_") {
            threads.entry(e.tid).or_default().on_cpu = true;
        }
        match e.name {
            "irq_handler_entry" => {
                if let Some((slot, vf)) = e.text.find("vfio-msi").and_then(|at| vfio_name(&e.text[at..]))
                    && span.contains(e.ns)
                {
                    in_irq.insert(e.cpu, (vf, slot, e.ns));
                }
            }
            "irq_handler_exit" => {
                in_irq.remove(&e.cpu);
            }
            "kvm_apic_accept_irq" => {
                let Some((vf, slot, raised)) = in_irq.get(&e.cpu) else { continue };
                let (Some(id), Some(vector)) = (number(e.word("apicid")), number(e.word("vec"))) else {
                    continue;
                };
                let Some((name, guest)) = guests.iter().find(|(_, g)| g.vfs.contains(vf)) else { continue };
                let Some((tid, index)) = guest.vcpus.iter().find(|(_, index)| **index == id) else {
                    continue;
                };
                let key = Key { guest: name.clone(), vf: vf.clone(), slot: *slot, vcpu: *index };
                let thread = threads.entry(*tid).or_default();
                thread.slot_of_vector.insert(vector, key.clone());
                let asleep = !thread.on_cpu;
                let counted = out.entry(key.clone()).or_default();
                counted.raised += 1;
                counted.accepted += 1;
                counted.vectors.insert(vector);
                counted.stages.entry("dispatch").or_default().push(e.ns - raised);
                let this = Waiting { raised: *raised, accepted: e.ns, asleep, woken: None };
                match waiting.entry(key.clone()) {
                    Entry::Occupied(_) => {
                        counted.coalesced += 1;
                        late.entry(key).or_insert(this);
                    }
                    Entry::Vacant(free) => {
                        free.insert(this);
                        late.remove(&key);
                    }
                }
            }
            "sched_switch" => {
                if let Some(thread) = number(e.value("prev_pid")).and_then(|tid| threads.get_mut(&tid)) {
                    thread.on_cpu = false;
                }
                let Some(next) = number(e.value("next_pid")).filter(|tid| vcpu_threads.contains(tid)) else {
                    continue;
                };
                threads.entry(next).or_default().on_cpu = true;
                for (key, w) in waiting.iter_mut().chain(&mut late) {
                    if guests[&key.guest].vcpus.get(&next) == Some(&key.vcpu) && w.woken.is_none() {
                        w.woken = Some(e.ns);
                    }
                }
            }
            "kvm_inj_virq" => {
                let Some(thread) = threads.get_mut(&e.tid) else { continue };
                let vector =
                    e.word("IRQ").and_then(|v| u32::from_str_radix(v.trim_start_matches("0x"), 16).ok());
                let Some(key) = vector.and_then(|v| thread.slot_of_vector.get(&v)).cloned() else { continue };
                // Of the same injection: before its entry, or marked as such.
                let repeated = e.text.contains("[reinjected]")
                    || thread.injected.as_ref().is_some_and(|(before, _)| *before == key);
                if repeated {
                    continue;
                }
                if let Some(w) = waiting.remove(&key) {
                    thread.injected = Some((key, w));
                } else if let Some(w) = late.remove(&key) {
                    out.entry(key.clone()).or_default().coalesced -= 1;
                    thread.injected = Some((key, w));
                }
            }
            "kvm_entry" => {
                let Some((key, w)) = threads.get_mut(&e.tid).and_then(|t| t.injected.take()) else {
                    continue;
                };
                serviced.insert(key.clone(), e.ns);
                let counted = out.entry(key).or_default();
                counted.delivered += 1;
                let mut from = w.accepted;
                if w.asleep
                    && let Some(woken) = w.woken
                {
                    counted.stages.entry("wake").or_default().push(woken - w.accepted);
                    from = woken;
                }
                counted.stages.entry("inject").or_default().push(e.ns - from);
                counted.stages.entry("delivery").or_default().push(e.ns - w.raised);
            }
            "kvm_eoi" => {
                let Some(thread) = threads.get(&e.tid) else { continue };
                let Some(key) = number(e.word("vector")).and_then(|v| thread.slot_of_vector.get(&v)) else {
                    continue;
                };
                if let Some(entered) = serviced.remove(key) {
                    let counted = out.entry(key.clone()).or_default();
                    counted.stages.entry("service").or_default().push(e.ns - entered);
                }
            }
            _ => {}
        }
    }
    out
}

fn number(text: Option<&str>) -> Option<u32> {
    text?.parse().ok()
}

/// `vfio-msix[1](0000:01:10.0)` -> (1, address)
fn vfio_name(text: &str) -> Option<(u32, String)> {
    let (_, rest) = text.split_once('[')?;
    let (slot, rest) = rest.split_once("](")?;
    let (address, _) = rest.split_once(')')?;
    Some((slot.parse().ok()?, address.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::{guests, trace};
    use super::*;
    use probe_ebpf::vcpu::{SWITCHES_KEPT, Then, at_that_time};

    const CAPTURE: &str = "\
<idle>-0 [000] d.h1. 1.000010: irq_handler_entry: irq=38 name=vfio-msix[1](0000:01:10.0)
<idle>-0 [000] d.h2. 1.000020: kvm_apic_accept_irq: apicid 0 vec 38 (Fixed|edge)
<idle>-0 [000] dNh1. 1.000025: irq_handler_exit: irq=38 ret=handled
<idle>-0 [000] d..2. 1.000030: sched_switch: prev_comm=swapper/0 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=CPU 0/KVM next_pid=7 next_prio=120
CPU 0/KVM-7 [000] ..... 1.000040: kvm_inj_virq: IRQ 0x26
CPU 0/KVM-7 [000] d.h1. 1.000041: irq_handler_entry: irq=38 name=vfio-msix[1](0000:01:10.0)
CPU 0/KVM-7 [000] d.h2. 1.000042: kvm_apic_accept_irq: apicid 0 vec 38 (Fixed|edge)
CPU 0/KVM-7 [000] d.h1. 1.000043: irq_handler_exit: irq=38 ret=handled
CPU 0/KVM-7 [000] ..... 1.000044: kvm_apic_accept_irq: apicid 0 vec 236 (Fixed|edge)
CPU 0/KVM-7 [000] ..... 1.000045: kvm_inj_virq: IRQ 0x26 [reinjected]
CPU 0/KVM-7 [000] d..1. 1.000050: kvm_entry: vcpu 0, rip 0xff
CPU 0/KVM-7 [000] ..... 1.000060: kvm_eoi: apicid 0 vector 38
CPU 0/KVM-7 [000] ..... 1.000070: kvm_inj_virq: IRQ 0x26
CPU 0/KVM-7 [000] d..1. 1.000080: kvm_entry: vcpu 0, rip 0xff
";

    #[test]
    fn two_interrupts_one_of_them_between_injection_and_entry() {
        let guests = guests::parse("vf vm1 0000:01:10.0\nvcpu vm1 0 7\n").unwrap();
        let span = Span { from_ns: 0, until_ns: 2_000_000_000 };
        let out = evaluate(&trace::parse(CAPTURE).unwrap(), &guests, span);
        let (key, counted) = out.first_key_value().unwrap();
        assert_eq!((key.slot, key.vcpu, out.len()), (1, 0, 1));
        assert_eq!((counted.accepted, counted.delivered, counted.coalesced), (2, 2, 0));
        assert_eq!(counted.stages["dispatch"], [10_000, 1_000]);
        assert_eq!(counted.stages["wake"], [10_000]);
        assert_eq!(counted.stages["inject"], [20_000, 38_000]);
        assert_eq!(counted.stages["delivery"], [40_000, 39_000]);
        assert_eq!(counted.stages["service"], [10_000]);
    }

    /// Thread 7's vCPU gets an interrupt on another CPU at 50 us and is entered at 80. What its thread did then is the same to
    /// the oracle, which follows the capture, and to the program, which keeps the times of the last switches.
    #[test]
    fn a_wait_is_the_same_to_the_oracle_and_to_the_program() {
        /// Switch-outs (us), each with the switch-in that follows, and how long the vCPU waited for a CPU (us).
        type Case = (&'static [(u64, u64)], Option<u64>);
        let cases: [Case; 8] = [
            (&[], None),
            (&[(40, 60)], Some(10)),
            (&[(40, 60), (62, 64)], Some(10)),
            // Another interrupt had woken it, and it was switched in just before this one's accept.
            (&[(40, 49)], None),
            (&[(40, 51)], Some(1)),
            // It fell asleep, or was preempted, just before its interrupt came, and just after: a program that looks at its
            // state some microseconds later finds it asleep both times.
            (&[(30, 35), (49, 60)], Some(10)),
            (&[(30, 35), (51, 60)], None),
            (&[(30, 35), (51, 53), (55, 57)], None),
        ];
        for (switches, waited) in cases {
            let mut events = vec![
                (20, "CPU 0/KVM-7 [001]", "kvm_entry: vcpu 0, rip 0xff"),
                (45, "<idle>-0 [000]", "irq_handler_entry: irq=38 name=vfio-msix[1](0000:01:10.0)"),
                (50, "<idle>-0 [000]", "kvm_apic_accept_irq: apicid 0 vec 38 (Fixed|edge)"),
                (70, "CPU 0/KVM-7 [001]", "kvm_inj_virq: IRQ 0x26"),
                (80, "CPU 0/KVM-7 [001]", "kvm_entry: vcpu 0, rip 0xff"),
            ];
            let (mut left_ns, mut switched_ns) = ([0; SWITCHES_KEPT], [0; SWITCHES_KEPT]);
            for (number, (left, switched)) in (1..).zip(switches) {
                events.push((*left, "CPU 0/KVM-7 [001]", "sched_switch: prev_pid=7 ==> next_pid=0"));
                events.push((*switched, "<idle>-0 [001]", "sched_switch: prev_pid=0 ==> next_pid=7"));
                left_ns[number % SWITCHES_KEPT] = left * 1_000;
                switched_ns[number % SWITCHES_KEPT] = switched * 1_000;
            }
            events.sort_unstable();
            let line = |(us, who, what): &(u64, &str, &str)| format!("{who} d..1. 1.{us:06}: {what}\n");
            let text: String = events.iter().map(line).collect();
            let guests = guests::parse("vf vm1 0000:01:10.0\nvcpu vm1 0 7\n").unwrap();
            let span = Span { from_ns: 0, until_ns: 2_000_000_000 };
            let out = evaluate(&trace::parse(&text).unwrap(), &guests, span);
            let (_, counted) = out.first_key_value().unwrap();
            let wakes = counted.stages.get("wake").cloned().unwrap_or_default();
            assert_eq!(wakes, Vec::from_iter(waited.map(|us| us * 1_000)), "the oracle, {switches:?}");

            let expected = waited.map_or(Then::Running, |us| Then::WokenAt((50 + us) * 1_000));
            let count = u64::try_from(switches.len()).unwrap();
            let then = at_that_time(50_000, count, &left_ns, &switched_ns);
            assert_eq!(then, expected, "the program, {switches:?}");
        }
    }
}
