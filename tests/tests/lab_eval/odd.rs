//! tests/lab/odd.sh: a recording across a guest's reset, its driver's rebinding, and a VF that goes to another guest. Each
//! series stays one series of one guest, and the counters explain what did not arrive.

use super::left;
use probe_user::session::{self, Run};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use vfprobe_tests::oracle::trace::{self, Event};
use vfprobe_tests::oracle::{Span, verdict};

/// At most this many events may fall on different sides of the window's ends: one at each.
const EDGES: u64 = 2;

/// What the capture says of one guest's vector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counted {
    raised: u64,
    accepted: u64,
    injected: u64,
    freed: u64,
    /// Accepted and not injected when its interrupt was freed.
    given_up: u64,
    irqs: BTreeSet<u32>,
}

struct Facts {
    handover_ns: u64,
    /// Guest by its vCPU's thread.
    threads: BTreeMap<u32, String>,
}

fn facts() -> Facts {
    let text = fs::read_to_string(left("odd.facts")).unwrap();
    let mut facts = Facts { handover_ns: 0, threads: BTreeMap::new() };
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["handover", seconds] => {
                let (whole, hundredths) = seconds.split_once('.').unwrap();
                let hundredths: u64 = hundredths.parse().unwrap();
                facts.handover_ns = whole.parse::<u64>().unwrap() * 1_000_000_000 + hundredths * 10_000_000;
            }
            ["vcpu", guest, tid] => {
                facts.threads.insert(tid.parse().unwrap(), guest.to_owned());
            }
            _ => panic!("not a fact: {line}"),
        }
    }
    facts
}

/// Guest and slot.
type Key = (String, u32);

fn evaluate(events: &[Event<'_>], facts: &Facts, span: Span) -> BTreeMap<Key, Counted> {
    let mut out: BTreeMap<Key, Counted> = BTreeMap::new();
    let mut in_irq: BTreeMap<u32, Key> = BTreeMap::new();
    let mut slot_of: BTreeMap<u32, Key> = BTreeMap::new();
    let mut waiting: BTreeMap<Key, u32> = BTreeMap::new();
    // The last of those that seemed to join one that waited already. The tracepoint stands before the APIC is told, so the
    // one that waited may be injected in between; then the other is injected by itself.
    let mut joined: BTreeMap<Key, u32> = BTreeMap::new();
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u32>().ok());
    for e in events.iter().filter(|e| e.ns >= span.from_ns) {
        match e.name {
            "irq_handler_entry" => {
                let slot = e.text.split_once('[').and_then(|(_, rest)| number(rest.split(']').next()));
                let (Some(irq), Some(slot)) = (number(e.value("irq")), slot) else { continue };
                let guest = if e.ns < facts.handover_ns { "vm1" } else { "vm2" };
                let key = (guest.to_owned(), slot);
                slot_of.insert(irq, key.clone());
                if span.contains(e.ns) {
                    let counted = out.entry(key.clone()).or_default();
                    counted.raised += 1;
                    counted.irqs.insert(irq);
                    in_irq.insert(e.cpu, key);
                }
            }
            "irq_handler_exit" => {
                in_irq.remove(&e.cpu);
            }
            "kvm_apic_accept_irq" => {
                let Some(key) = in_irq.get(&e.cpu) else { continue };
                out.entry(key.clone()).or_default().accepted += 1;
                let vector = number(e.word("vec")).unwrap();
                joined.remove(key);
                if waiting.insert(key.clone(), vector).is_some() {
                    joined.insert(key.clone(), vector);
                }
            }
            "kvm_inj_virq" => {
                let vector =
                    e.word("IRQ").and_then(|v| u32::from_str_radix(v.trim_start_matches("0x"), 16).ok());
                let Some(guest) = facts.threads.get(&e.tid).filter(|_| !e.text.contains("[reinjected]"))
                else {
                    continue;
                };
                for accepted in [&mut waiting, &mut joined] {
                    let key = accepted.iter().find(|((of, _), v)| of == guest && Some(**v) == vector);
                    if let Some(key) = key.map(|(key, _)| key.clone()) {
                        accepted.remove(&key);
                        out.entry(key).or_default().injected += 1;
                        break;
                    }
                }
            }
            "vector_deactivate" => {
                let Some(key) = number(e.value("irq")).and_then(|irq| slot_of.remove(&irq)) else { continue };
                let given_up = waiting.remove(&key).is_some();
                let counted = out.entry(key).or_default();
                counted.freed += 1;
                counted.given_up += u64::from(given_up);
            }
            _ => {}
        }
    }
    out
}

fn counter(run: &Run, name: &str, guest: &str, slot: u32) -> u64 {
    let slot = slot.to_string();
    let mine = run.snapshot.counters.iter().filter(|c| {
        c.name == name
            && c.labels.get("guest").is_some_and(|g| g == guest)
            && c.labels.get("slot").is_some_and(|s| *s == slot)
    });
    mine.map(|c| c.value).sum()
}

fn recording() -> (Run, BTreeMap<Key, Counted>) {
    let run = session::read(&left("odd.vfprobe")).unwrap().runs.remove(0);
    let text = fs::read_to_string(left("odd.trace")).unwrap();
    let span = Span { from_ns: run.snapshot.from_ns, until_ns: run.snapshot.to_ns };
    let expected = evaluate(&trace::parse(&text).unwrap(), &facts(), span);
    (run, expected)
}

#[test]
fn counters_explain_the_gaps() {
    let (run, expected) = recording();
    let main = &expected[&("vm1".to_owned(), 1)];
    println!("{expected:#?}");
    println!("lost: {:?}", run.snapshot.lost);
    assert!(main.freed >= 3, "reset, rebinding and unplugging: {main:?}");
    let mut found = Vec::new();
    for ((guest, slot), ours) in &expected {
        // The oracle knows nothing of accepts by the work queue.
        let edges = EDGES + counter(&run, "slow_path", guest, *slot);
        for (name, ours) in [
            ("raised", ours.raised),
            ("accepted", ours.accepted),
            ("delivered", ours.injected),
            ("freed", ours.freed),
        ] {
            let reported = counter(&run, name, guest, *slot);
            if !verdict::count_agrees(ours, reported, edges) {
                found.push(format!("{guest} slot {slot}: {name} {reported}, the oracle has {ours}"));
            }
        }
        // Whatever was accepted has one end.
        let of = |name| counter(&run, name, guest, *slot);
        let ends = of("delivered") + of("coalesced") + of("apicv") + of("pending") + of("unmatched");
        if ends != of("accepted") {
            found.push(format!("{guest} slot {slot}: {} accepted, {ends} ended", of("accepted")));
        }
    }
    let given_up: u64 = expected.values().map(|c| c.given_up).sum();
    let lost = run.snapshot.lost.get("irq_delivery.irq_freed").copied().unwrap_or(0);
    if !verdict::count_agrees(given_up, lost, EDGES) {
        found.push(format!("given up {lost}, the oracle has {given_up}"));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn series_are_not_mixed() {
    let (run, expected) = recording();
    let guests: BTreeSet<&str> = run
        .snapshot
        .series
        .iter()
        .filter(|s| s.probe == "irq_delivery")
        .map(|s| s.labels["guest"].as_str())
        .collect();
    assert_eq!(guests, BTreeSet::from(["vm1", "vm2"]), "the VF was first one's, then the other's");
    let mut seen = BTreeSet::new();
    for series in run.snapshot.series.iter().filter(|s| s.probe == "irq_delivery") {
        assert!(seen.insert(&series.labels), "{:?} twice", series.labels);
        // A reset takes tens of seconds here: what began before it must not end after it.
        let max = series.histogram.max();
        assert!(max.is_none_or(|ns| ns < 10_000_000_000), "{:?} has {max:?} ns", series.labels);
    }
    let numbers = &expected[&("vm1".to_owned(), 1)].irqs;
    println!("vm1's vector 1 had the interrupts {numbers:?}");
}
