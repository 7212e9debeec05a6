//! tests/lab/observe.sh: counts agree exactly but for one event at each end of the window, quantiles within the
//! histogram's error and ftrace's resolution.

use super::left;
use probe_user::session::{self, Run};
use probe_user::stats::{Quantile, Series, Summary};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use vfprobe_tests::oracle::{Span, delivery, exits, guests, noise, sched, trace, verdict};

/// At most this many events may fall on different sides of the window's ends: one at each.
const EDGES: u64 = 2;

struct Capture {
    run: Run,
    text: String,
    guests: guests::Guests,
    /// What the programs take in emulated time (ns): how much longer a dispatch takes with them than without.
    own_ns: u64,
}

/// Median time from a VF's interrupt to its accept in a capture.
fn median_dispatch(text: &str, guests: &guests::Guests, span: Span) -> u64 {
    let counted = delivery::evaluate(&trace::parse(text).unwrap(), guests, span);
    let mut all: Vec<u64> = counted.values().flat_map(|c| c.stages["dispatch"].iter().copied()).collect();
    all.sort_unstable();
    verdict::nearest_rank(&all, 0.5).expect("interrupts in the capture")
}

impl Capture {
    fn read(load: &str) -> Self {
        let mut session = session::read(&left(&format!("{load}.vfprobe"))).unwrap();
        let run = session.runs.remove(0);
        let text = |name: &str| fs::read_to_string(left(name)).unwrap();
        let guests = guests::parse(&text("guests")).unwrap();
        let bare = median_dispatch(&text("bare.trace"), &guests, Span { from_ns: 0, until_ns: u64::MAX });
        let with = median_dispatch(&text("idle.trace"), &guests, Span { from_ns: 0, until_ns: u64::MAX });
        Self { run, text: text(&format!("{load}.trace")), guests, own_ns: with.saturating_sub(bare) }
    }

    fn span(&self) -> Span {
        Span { from_ns: self.run.snapshot.from_ns, until_ns: self.run.snapshot.to_ns }
    }

    fn series(&self, labels: &[(&str, &str)]) -> Option<&Series> {
        self.run
            .snapshot
            .series
            .iter()
            .find(|s| labels.iter().all(|(k, v)| s.labels.get(*k).is_some_and(|found| found == v)))
    }

    fn counter(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.run
            .snapshot
            .counters
            .iter()
            .filter(|c| c.name == name)
            .find(|c| labels.iter().all(|(k, v)| c.labels.get(*k).is_some_and(|found| found == v)))
            .map_or(0, |c| c.value)
    }
}

/// Differences in n and quantiles between a series and the oracle's values.
fn differences(what: &str, mut values: Vec<u64>, series: Option<&Series>, own_ns: u64) -> Vec<String> {
    values.sort_unstable();
    let ours = u64::try_from(values.len()).unwrap();
    let reported = series.map_or(0, |s| s.histogram.n());
    let mut found = Vec::new();
    if !verdict::count_agrees(ours, reported, EDGES) {
        found.push(format!("{what}: n {reported}, the oracle has {ours}"));
    }
    let Some(series) = series else { return found };
    let summary = Summary::of(&series.histogram);
    for quantile in [Quantile::P50, Quantile::P90, Quantile::P99] {
        if let Some(ns) = summary.quantile(quantile)
            && verdict::comparable(values.len(), quantile.share())
            && !verdict::quantile_agrees(&values, quantile.share(), ns, own_ns)
        {
            let oracle = verdict::nearest_rank(&values, quantile.share());
            found.push(format!(
                "{what}: {} is {ns} ns of n {reported} the oracle has {oracle:?}",
                quantile.name()
            ));
        }
    }
    found
}

fn delivery_agrees(load: &str) {
    let capture = Capture::read(load);
    let events = trace::parse(&capture.text).unwrap();
    let expected = delivery::evaluate(&events, &capture.guests, capture.span());
    assert!(!expected.is_empty(), "no VF interrupt in the capture");
    let mut found = Vec::new();
    for (key, counted) in &expected {
        let (slot, vcpu) = (key.slot.to_string(), key.vcpu.to_string());
        let labels = [("guest", &*key.guest), ("vf", &*key.vf), ("slot", &*slot), ("vcpu", &*vcpu)];
        for (name, ours) in [
            ("accepted", counted.accepted),
            ("delivered", counted.delivered),
            ("coalesced", counted.coalesced),
        ] {
            let reported = capture.counter(name, &labels);
            if !verdict::count_agrees(ours, reported, EDGES) {
                found.push(format!("{key:?}: {name} {reported}, the oracle has {ours}"));
            }
        }
        for stage in ["dispatch", "wake", "inject", "delivery", "service"] {
            let mut labels = labels.to_vec();
            labels.push(("stage", stage));
            let values = counted.stages.get(stage).cloned().unwrap_or_default();
            found.extend(differences(
                &format!("{key:?} {stage}"),
                values,
                capture.series(&labels),
                capture.own_ns,
            ));
        }
    }
    let total: usize = expected.values().map(|c| c.stages.get("delivery").map_or(0, Vec::len)).sum();
    println!(
        "{load}: {} (slot, vCPU) series, {total} deliveries compared; the programs take {} ns here",
        expected.len(),
        capture.own_ns
    );
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn exits_agree(load: &str) {
    let capture = Capture::read(load);
    let events = trace::parse(&capture.text).unwrap();
    let expected = exits::evaluate(&events, &capture.guests, capture.span());
    assert!(!expected.is_empty(), "no exit in the capture");
    let mut found = Vec::new();
    for ((guest, vcpu, reason), values) in &expected {
        let series = capture.run.snapshot.series.iter().find(|s| {
            s.probe == "vm_exit"
                && s.labels.get("guest") == Some(guest)
                && s.labels.get("vcpu") == Some(&vcpu.to_string())
                && s.labels.get("reason").is_some_and(|r| exits::same_reason(reason, r))
        });
        found.extend(differences(
            &format!("{guest} vCPU {vcpu} {reason}"),
            values.clone(),
            series,
            capture.own_ns,
        ));
    }
    println!("{load}: {} exit series compared", expected.len());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Entries on fast paths, beside the function tracer's word on which exits were handled. The emulated AMD host mostly has none:
/// then what is proven is that no other entry is taken for one.
fn fast_paths_agree(load: &str) {
    let capture = Capture::read(load);
    let events = trace::parse(&capture.text).unwrap();
    assert!(events.iter().any(|e| e.name.ends_with("_handle_exit")), "the capture has no handled exit");
    let verdicts = capture.run.end.iter().flat_map(|end| &end.verdicts);
    let hidden = verdicts.filter(|v| v.reason.contains("fastpath")).count();
    assert_eq!(hidden, 0, "fast paths are observable here");
    let ours = exits::fast_paths(&events, &capture.guests, capture.span());
    let counters = &capture.run.snapshot.counters;
    let theirs: Vec<_> =
        counters.iter().filter(|c| (&*c.probe, &*c.name) == ("vm_exit", "fastpath")).collect();
    let same = |(guest, vcpu, reason): &(String, u32, String), labels: &BTreeMap<String, String>| {
        labels.get("guest") == Some(guest)
            && labels.get("vcpu") == Some(&vcpu.to_string())
            && labels.get("reason").is_some_and(|name| exits::same_reason(reason, name))
    };
    let mut differ = Vec::new();
    for (key, count) in &ours {
        let reported = theirs.iter().find(|c| same(key, &c.labels)).map_or(0, |c| c.value);
        if !verdict::count_agrees(*count, reported, EDGES) {
            differ.push(format!("{key:?}: {reported}, the oracle has {count}"));
        }
    }
    let unknown = theirs.iter().filter(|c| c.value > EDGES && !ours.keys().any(|key| same(key, &c.labels)));
    differ.extend(unknown.map(|c| format!("{:?}: {}, the oracle has none", c.labels, c.value)));
    println!("{load}: {} entries on fast paths", ours.values().sum::<u64>());
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn fast_paths_idle() {
    fast_paths_agree("idle");
}

#[test]
fn fast_paths_loaded() {
    fast_paths_agree("loaded");
}

#[test]
fn delivery_idle() {
    delivery_agrees("idle");
}

#[test]
fn delivery_loaded() {
    delivery_agrees("loaded");
}

#[test]
fn exits_idle() {
    exits_agree("idle");
}

#[test]
fn exits_loaded() {
    exits_agree("loaded");
}

fn waits_agree(load: &str) {
    let capture = Capture::read(load);
    let events = trace::parse(&capture.text).unwrap();
    let expected = sched::evaluate(&events, &capture.guests, capture.span());
    assert!(!expected.is_empty(), "no vCPU was woken up in the capture");
    let mut found = Vec::new();
    for ((guest, vcpu), values) in &expected {
        let series = capture.run.snapshot.series.iter().find(|s| {
            s.probe == "vcpu_sched"
                && s.labels.get("guest") == Some(guest)
                && s.labels.get("vcpu") == Some(&vcpu.to_string())
        });
        found.extend(differences(
            &format!("{guest} vCPU {vcpu} run-queue wait"),
            values.clone(),
            series,
            capture.own_ns,
        ));
    }
    println!("{load}: run-queue waits of {} vCPUs compared", expected.len());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn waits_idle() {
    waits_agree("idle");
}

#[test]
fn waits_loaded() {
    waits_agree("loaded");
}

/// Counts of every source on the watched CPU. Times are proven on a real clock, by the kernel layer: here each stamp
/// costs as much as the interrupts it measures.
#[test]
fn noise_counts() {
    let text = |name: &str| fs::read_to_string(left(name)).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text("noise.json")).unwrap();
    let guests = guests::parse(&text("guests")).unwrap();
    let vcpus: BTreeSet<u32> = guests.values().flat_map(|g| g.vcpus.keys().copied()).collect();
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    let from_ns = number(&report["from_ns"]);
    let span = Span { from_ns, until_ns: from_ns + number(&report["window_ns"]) };
    let trace = text("noise.trace");
    let expected = noise::evaluate(&trace::parse(&trace).unwrap(), 1, &vcpus, span);
    let mut reported: BTreeMap<String, u64> = BTreeMap::new();
    for source in report["sources"].as_array().unwrap() {
        let name = source["source"].as_str().unwrap();
        let key = match source["kind"].as_str().unwrap() {
            "irq" => "irq".to_owned(),
            "softirq" => format!("softirq {name}"),
            "kernel-thread" | "user-thread" => format!("thread {name}"),
            _ => name.to_owned(),
        };
        *reported.entry(key).or_default() += number(&source["n"]);
    }
    let mut ours: BTreeMap<String, u64> = BTreeMap::new();
    for (source, noise) in &expected {
        // vfprobe names interrupts by their handlers, ftrace by their numbers: all of them together.
        let key = if source.starts_with("irq ") { "irq" } else { source.as_str() };
        *ours.entry(key.to_owned()).or_default() += noise.n;
    }
    assert!(ours.len() > 2, "too few sources: {ours:?}");
    let all: BTreeSet<&String> = ours.keys().chain(reported.keys()).collect();
    let count = |of: &BTreeMap<String, u64>, source: &str| of.get(source).copied().unwrap_or(0);
    let differ: Vec<String> = all
        .into_iter()
        .filter(|source| !verdict::count_agrees(count(&ours, source), count(&reported, source), EDGES))
        .map(|s| format!("{s}: n {}, the oracle has {}", count(&reported, s), count(&ours, s)))
        .collect();
    println!("{} sources, {} intervals compared", ours.len(), ours.values().sum::<u64>());
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
