//! tests/lab/trace.sh: every hop that vfprobe tells of is in the tracefs capture, on the same CPU and in the same
//! thread, and no interrupt of the capture is missing.

use super::left;
use probe_user::session;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use vfprobe_tests::oracle::{Span, chrome, delivery, exits, guests, perf, trace, verdict};

/// At most this many interrupts may fall on different sides of the window's ends: one at each.
const EDGES: u64 = 2;
/// How far vfprobe's stamp may be from ftrace's (ns): both are made within one event, but the emulated host's CPUs are
/// threads of a busy machine that can stand still in between.
const FAR_NS: u64 = 20_000_000;
/// Nine of ten must be as near as this (ns).
const NEAR_NS: u64 = 1_000_000;

fn json(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(left(name)).unwrap()).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not a number: {value}"))
}

fn interrupts(document: &Value) -> &[Value] {
    document["interrupts"].as_array().unwrap()
}

/// Whether an event is about a vCPU's thread, and not about one interrupt.
fn is_shared(event: &str) -> bool {
    event.starts_with("sched") || ["kvm_exit", "kvm_entry", "kvm_vcpu_wakeup"].contains(&event)
}

/// Whether an event of the capture says the same as a hop of an interrupt.
fn same(event: &trace::Event<'_>, hop: &Value, interrupt: &Value, vcpu_tids: &BTreeSet<u32>) -> bool {
    let what = hop["what"].as_str().unwrap();
    let is_vcpu =
        |key: &str| event.value(key).and_then(|tid| tid.parse().ok()).is_some_and(|t| vcpu_tids.contains(&t));
    let vector = number(&interrupt["guest_vector"]);
    let place = || {
        hop["cpu"] == event.cpu
            && hop["tid"] == event.tid
            && hop["event"].as_str().unwrap().ends_with(&format!(":{}", event.name))
    };
    place()
        && match event.name {
            "irq_handler_entry" => {
                let name = format!("vfio-msix[{}]({})", interrupt["slot"], interrupt["vf"].as_str().unwrap());
                event.text.contains(&name) && event.value("irq") == Some(&interrupt["irq"].to_string())
            }
            "kvm_apic_accept_irq" => event.word("vec") == Some(&vector.to_string()),
            "kvm_inj_virq" => event.text.contains(&format!("{vector:#x}")),
            "kvm_eoi" => event.word("vector") == Some(&vector.to_string()),
            "kvm_exit" => {
                let reason = what.rsplit(' ').next().unwrap();
                event.word("reason").is_some_and(|ftrace| exits::same_reason(ftrace, reason))
            }
            "sched_switch" if what.contains("gets") => is_vcpu("next_pid"),
            "sched_switch" => is_vcpu("prev_pid"),
            "sched_waking" => is_vcpu("pid"),
            _ => true,
        }
}

#[test]
fn every_hop_is_in_the_capture() {
    let document = json("trace.json");
    let text = fs::read_to_string(left("oracle.trace")).unwrap();
    let events = trace::parse(&text).unwrap();
    let guests = guests::parse(&fs::read_to_string(left("guests")).unwrap()).unwrap();
    let vcpu_tids: BTreeSet<u32> = guests.values().flat_map(|guest| guest.vcpus.keys().copied()).collect();
    let (mut missing, mut distances, mut used) = (Vec::new(), Vec::new(), BTreeSet::new());
    for interrupt in interrupts(&document) {
        assert_eq!(interrupt["guest"], "vm1");
        if interrupt["guest_vector"].is_null() {
            continue;
        }
        for hop in interrupt["hops"].as_array().unwrap() {
            let ns = number(&interrupt["raised_ns"]) + number(&hop["at_ns"]);
            let near = events.iter().enumerate().filter(|(_, event)| event.ns.abs_diff(ns) <= FAR_NS);
            // What happens to a vCPU belongs to each interrupt that waits for it, everything else to one alone.
            let free = near.filter(|(at, event)| is_shared(event.name) || !used.contains(at));
            let fits = free.filter(|(_, event)| same(event, hop, interrupt, &vcpu_tids));
            match fits.min_by_key(|(_, event)| event.ns.abs_diff(ns)) {
                Some((at, event)) => {
                    distances.push(event.ns.abs_diff(ns));
                    used.insert(at);
                }
                None => missing.push(format!("not in the capture: {hop} of {}", interrupt["raised_ns"])),
            }
        }
    }
    assert!(missing.is_empty(), "{} hops:\n{}", missing.len(), missing.join("\n"));
    distances.sort_unstable();
    println!(
        "{} hops found; apart by {:?} ns at most, half by {:?}",
        distances.len(),
        distances.last(),
        verdict::nearest_rank(&distances, 0.5)
    );
    assert!(distances.len() > 300, "only {} hops", distances.len());
    assert!(verdict::nearest_rank(&distances, 0.9).unwrap() < NEAR_NS);
}

#[test]
fn no_interrupt_is_missing() {
    let document = json("trace.json");
    assert!(document["dropped"].get("ring_full").is_none(), "{}", document["dropped"]);
    let span = Span { from_ns: number(&document["from_ns"]), until_ns: number(&document["to_ns"]) };
    let text = fs::read_to_string(left("oracle.trace")).unwrap();
    let guests = guests::parse(&fs::read_to_string(left("guests")).unwrap()).unwrap();
    let events = trace::parse(&text).unwrap();
    let raised = |e: &&trace::Event<'_>| e.name == "irq_handler_entry" && e.text.contains("name=vfio-msi");
    let all = u64::try_from(events.iter().filter(raised).filter(|e| span.contains(e.ns)).count()).unwrap();
    let counted = delivery::evaluate(&events, &guests, span);
    let told = interrupts(&document);
    assert_eq!(number(&document["matched"]), u64::try_from(told.len()).unwrap(), "not all of them are told");
    assert!(
        all > 50 && all.abs_diff(number(&document["seen"])) <= EDGES,
        "capture {all}, told {}",
        document["seen"]
    );
    let count =
        |outcome: &str| u64::try_from(told.iter().filter(|i| i["outcome"] == outcome).count()).unwrap();
    let delivered: u64 = counted.values().map(|c| c.delivered).sum();
    // A vCPU that has not entered its guest since the start is not known yet: its first interrupt stays open.
    let unknown = document["dropped"].get("vcpu_unknown").map_or(0, number);
    assert!(
        delivered.abs_diff(count("delivered")) <= EDGES + unknown,
        "capture {delivered}, {}",
        count("delivered")
    );
    let gaps = told.iter().filter(|interrupt| interrupt["complete"] == false).count();
    assert_eq!(gaps, 0, "hops are missing though none was dropped");
}

#[test]
fn a_viewer_can_open_it() {
    let contents = chrome::check(&json("viewer.json")).unwrap();
    assert!(contents.slices > 40 && contents.instants > contents.slices, "{contents:?}");
    assert!(contents.processes.contains("guest vm1"), "{contents:?}");
    assert!(contents.tracks.iter().any(|track| track.ends_with("slot 1")), "{contents:?}");
    assert!(!contents.tracks.iter().any(|track| track.contains("slot 0")), "--slot 1: {contents:?}");
}

#[test]
fn filters_keep_what_they_say() {
    let slowest = json("slowest.json");
    let lengths: Vec<u64> =
        interrupts(&slowest).iter().map(|i| number(&i["stages_ns"]["delivery"])).collect();
    assert!(lengths.len() == 2 && lengths[0] >= lengths[1], "{lengths:?}");
    assert!(number(&slowest["matched"]) > 2);
    let limit = json("limit.json");
    assert!(interrupts(&limit).is_empty() && number(&limit["matched"]) == 0 && number(&limit["seen"]) > 0);
}

/// Exits of the run by reason, as vfprobe has them; both vCPUs together.
fn recorded_exits() -> Vec<(String, u64)> {
    let session = session::read(&left("perf.vfprobe")).unwrap();
    let series = session.runs[0].snapshot.series.iter().filter(|series| series.probe == "vm_exit");
    let mut exits = std::collections::BTreeMap::<String, u64>::new();
    for one in series {
        *exits.entry(one.labels["reason"].clone()).or_default() += one.histogram.n();
    }
    exits.into_iter().filter(|(_, n)| *n > 0).collect()
}

/// Differences in counts, reason by reason, in both directions.
fn count_differences(perf: &perf::Exits, recorded: &[(String, u64)]) -> Vec<String> {
    let mut found = Vec::new();
    for (reason, n) in perf {
        let ours = recorded.iter().find(|(name, _)| exits::same_reason(reason, name)).map_or(0, |(_, n)| *n);
        if !verdict::count_agrees(*n, ours, EDGES) {
            found.push(format!("{reason}: vfprobe {ours}, perf {n}"));
        }
    }
    for (name, n) in recorded {
        if !perf.keys().any(|reason| exits::same_reason(reason, name)) && *n > EDGES {
            found.push(format!("{name}: vfprobe {n}, perf has no such reason"));
        }
    }
    found
}

#[test]
fn exits_are_those_of_perf() {
    let recorded = recorded_exits();
    let all: u64 = recorded.iter().map(|(_, n)| n).sum();
    assert!(recorded.len() > 3 && all > 500, "too few exits: {recorded:?}");
    let events = perf::followed_exits(&fs::read_to_string(left("perf-script.txt")).unwrap());
    let found = count_differences(&events, &recorded);
    assert!(found.is_empty(), "of perf's events:\n{}", found.join("\n"));
    println!("{all} exits of {} reasons are those of perf's events", recorded.len());
    let table = perf::kvm_stat(&fs::read_to_string(left("perf-kvm.txt")).unwrap());
    if table.is_empty() {
        let why = fs::read_to_string(left("perf-kvm.err")).unwrap();
        println!("SKIP the table of perf kvm stat: it has none here: {}", why.trim());
        return;
    }
    let found = count_differences(&table, &recorded);
    assert!(found.is_empty(), "of the table of perf kvm stat:\n{}", found.join("\n"));
    println!("and those of perf kvm stat's table");
}
