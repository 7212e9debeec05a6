//! tests/lab/observe.sh: counts agree exactly but for one event at each end of the window, quantiles within the
//! histogram's error and ftrace's resolution.

use super::left;
use probe_user::session::{self, Run};
use probe_user::stats::{Counter, Quantile, Series, Summary};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use vfprobe_tests::oracle::{Span, delivery, exits, guests, noise, sched, trace, verdict, vmm};

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

    /// Series of a probe that have more in them than may fall on an end of the window, and that the oracle does not have.
    fn spurious(&self, probe: &str, known: impl Fn(&Series) -> bool) -> Vec<String> {
        let all = self.run.snapshot.series.iter();
        let spurious = all.filter(|s| s.probe == probe && s.histogram.n() > EDGES && !known(s));
        spurious
            .map(|s| format!("{probe} {:?}: n {}, the oracle has none", s.labels, s.histogram.n()))
            .collect()
    }

    /// A probe's counter, by the labels of each.
    fn counters(&self, probe: &str, name: &str) -> impl Iterator<Item = &Counter> {
        let all = self.run.snapshot.counters.iter();
        all.filter(move |c| c.probe == probe && c.name == name)
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

/// Guest vectors that VFs of more than one guest have.
fn shared_vectors(counted: &BTreeMap<delivery::Key, delivery::Counted>) -> BTreeSet<u32> {
    let mut users: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
    for (key, counted) in counted {
        for vector in &counted.vectors {
            users.entry(*vector).or_default().insert(&key.guest);
        }
    }
    users.into_iter().filter(|(_, guests)| guests.len() > 1).map(|(vector, _)| vector).collect()
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
    found.extend(capture.spurious("irq_delivery", |series| {
        expected.keys().any(|key| {
            let (slot, vcpu) = (key.slot.to_string(), key.vcpu.to_string());
            let labels = [("guest", &key.guest), ("vf", &key.vf), ("slot", &slot), ("vcpu", &vcpu)];
            labels.iter().all(|(name, value)| series.labels.get(*name) == Some(value))
        })
    }));
    let shared = shared_vectors(&expected);
    assert!(!shared.is_empty(), "no vector number is used by VFs of two guests: {expected:?}");
    let total: usize = expected.values().map(|c| c.stages.get("delivery").map_or(0, Vec::len)).sum();
    println!(
        "{load}: {} (slot, vCPU) series, {total} deliveries compared; vectors {shared:?} in two guests; the programs \
         take {} ns here",
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
    found.extend(capture.spurious("vm_exit", |series| {
        expected.keys().any(|(guest, vcpu, reason)| {
            series.labels.get("guest") == Some(guest)
                && series.labels.get("vcpu") == Some(&vcpu.to_string())
                && series.labels.get("reason").is_some_and(|r| exits::same_reason(reason, r))
        })
    }));
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

/// The span of each vCPU: from its first guest entry that vfprobe saw, which is what its three times together tell.
fn vcpu_spans(capture: &Capture, events: &[trace::Event<'_>]) -> BTreeMap<sched::Vcpu, Span> {
    let mut spans = BTreeMap::new();
    let window = capture.span();
    for (guest, found) in &capture.guests {
        for (tid, index) in &found.vcpus {
            let vcpu = index.to_string();
            let labels = [("guest", guest.as_str()), ("vcpu", vcpu.as_str())];
            let times =
                ["running_ns", "runnable_ns", "blocked_ns"].map(|name| capture.counter(name, &labels));
            let from_ns = window.until_ns.saturating_sub(times.iter().sum());
            let entry =
                events.iter().find(|e| e.tid == *tid && e.name == "kvm_entry" && window.contains(e.ns));
            let entry = entry.map_or(window.until_ns, |e| e.ns);
            let own = capture.own_ns + 1_000_000;
            assert!(
                (window.from_ns..=entry + own).contains(&from_ns),
                "{guest} vCPU {vcpu}: its times begin {} ns into the window, its first entry was {} ns into it",
                i128::from(from_ns) - i128::from(window.from_ns),
                entry.saturating_sub(window.from_ns),
            );
            spans.insert((guest.clone(), *index), Span { from_ns, ..window });
        }
    }
    assert!(!spans.is_empty(), "no vCPU");
    spans
}

/// Differences in number and in sum (ns) between what is reported and the oracle's values. One at each end of the window
/// may be on one side only, with whatever time it had; where that is so need not show in the number.
fn sums_differ(what: &str, mut each: Vec<u64>, [n, sum_ns]: [u64; 2], own_ns: u64) -> Option<String> {
    each.sort_unstable();
    let edges: u64 = each.iter().rev().take(usize::try_from(EDGES).unwrap()).sum();
    let (ours, ours_ns) = (u64::try_from(each.len()).unwrap(), each.iter().sum::<u64>());
    let near = sum_ns.abs_diff(ours_ns) <= edges || verdict::sum_agrees(ours_ns, sum_ns, ours, own_ns);
    let agrees = verdict::count_agrees(ours, n, EDGES) && (ours != n || near);
    (!agrees).then(|| format!("{what}: {n} of {sum_ns} ns, the oracle has {ours} of {ours_ns} ns"))
}

/// Run-queue waits, time in each state, migrations, and who preempted.
fn scheduling_agrees(load: &str) {
    let capture = Capture::read(load);
    let events = trace::parse(&capture.text).unwrap();
    let expected = sched::evaluate(&events, &capture.guests, &vcpu_spans(&capture, &events));
    assert!(!expected.is_empty(), "no vCPU was switched in the capture");
    let mut found = Vec::new();
    let (mut migrations, mut preempted) = (0, 0);
    for ((guest, vcpu), followed) in &expected {
        let (what, vcpu) = (format!("{guest} vCPU {vcpu}"), vcpu.to_string());
        let labels = [("guest", guest.as_str()), ("vcpu", vcpu.as_str())];
        let series = capture.run.snapshot.series.iter().find(|s| {
            s.probe == "vcpu_sched"
                && labels.iter().all(|(k, v)| s.labels.get(*k).is_some_and(|found| found == v))
        });
        let waits = followed.waits.clone();
        found.extend(differences(&format!("{what} run-queue wait"), waits, series, capture.own_ns));
        for (name, ours) in [
            ("running_ns", followed.running_ns),
            ("runnable_ns", followed.runnable_ns),
            ("blocked_ns", followed.blocked_ns),
        ] {
            let reported = capture.counter(name, &labels);
            if !verdict::sum_agrees(ours, reported, followed.changes, capture.own_ns) {
                found.push(format!("{what}: {name} {reported}, the oracle has {ours} ({followed:?})"));
            }
        }
        let reported = capture.counter("migrations", &labels);
        migrations += followed.migrations;
        if !verdict::count_agrees(followed.migrations, reported, EDGES) {
            found.push(format!("{what}: migrations {reported}, the oracle has {}", followed.migrations));
        }
        // ftrace does not say of which kind a thread is: by name alone.
        let mut by: BTreeMap<&str, (Vec<u64>, [u64; 2])> = BTreeMap::new();
        for (name, taken) in &followed.preempted {
            by.entry(name).or_default().0.clone_from(taken);
        }
        for (at, name) in ["preempted", "preempted_ns"].into_iter().enumerate() {
            for counter in capture.counters("vcpu_sched", name) {
                if labels.iter().all(|(k, v)| counter.labels.get(*k).is_some_and(|found| found == v)) {
                    by.entry(&counter.labels["by"]).or_default().1[at] += counter.value;
                }
            }
        }
        for (name, (each, reported)) in by {
            preempted += each.len();
            found.extend(sums_differ(
                &format!("{what}: preempted by {name}"),
                each,
                reported,
                capture.own_ns,
            ));
        }
    }
    found.extend(capture.spurious("vcpu_sched", |series| {
        expected.keys().any(|(guest, vcpu)| {
            series.labels.get("guest") == Some(guest) && series.labels.get("vcpu") == Some(&vcpu.to_string())
        })
    }));
    println!(
        "{load}: scheduling of {} vCPUs compared: {migrations} migrations, {preempted} preemptions",
        expected.len()
    );
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn scheduling_idle() {
    scheduling_agrees("idle");
}

#[test]
fn scheduling_loaded() {
    scheduling_agrees("loaded");
}

/// Returns to the VMM by reason, and halts by how they ended, with their time as KVM tells it.
fn returns_and_halts_agree(load: &str) {
    let capture = Capture::read(load);
    let events = trace::parse(&capture.text).unwrap();
    let spans = vcpu_spans(&capture, &events);
    let mut found = Vec::new();
    let mut both: BTreeMap<(sched::Vcpu, String), [u64; 2]> = BTreeMap::new();
    for (key, n) in vmm::returns(&events, &capture.guests, &spans) {
        both.entry(key).or_default()[0] = n;
    }
    for counter in capture.counters("vm_exit", "user_exits") {
        let vcpu = (counter.labels["guest"].clone(), counter.labels["vcpu"].parse().unwrap());
        both.entry((vcpu, counter.labels["reason"].clone())).or_default()[1] = counter.value;
    }
    for (what, [ours, reported]) in &both {
        if !verdict::count_agrees(*ours, *reported, EDGES) {
            found.push(format!("{what:?}: {reported} returns to the VMM, the oracle has {ours}"));
        }
    }
    let halts = vmm::halts(&events, &capture.guests, &spans);
    assert!(!halts.is_empty(), "no halt in the capture");
    let (mut polled, mut waited) = (0, 0);
    for (guest, vcpu) in spans.keys() {
        let ours = halts.get(&(guest.clone(), *vcpu)).cloned().unwrap_or_default();
        (polled, waited) = (polled + ours.polled.len(), waited + ours.waited.len());
        let index = vcpu.to_string();
        let labels = [("guest", guest.as_str()), ("vcpu", index.as_str())];
        for (n, ns, each) in
            [("halt_polled", "halt_polled_ns", ours.polled), ("halt_waited", "halt_waited_ns", ours.waited)]
        {
            let reported = [n, ns].map(|name| capture.counter(name, &labels));
            // Both tell the time that the event has: no observer's work is in it.
            found.extend(sums_differ(&format!("{guest} vCPU {vcpu}: {n}"), each, reported, 0));
        }
    }
    println!(
        "{load}: {} returns to the VMM of {} reasons compared, {polled} halts that polled, {waited} that slept",
        both.values().map(|[ours, _]| ours).sum::<u64>(),
        both.len()
    );
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn returns_and_halts_idle() {
    returns_and_halts_agree("idle");
}

#[test]
fn returns_and_halts_loaded() {
    returns_and_halts_agree("loaded");
}

/// Counts of every source on the watched CPU. Times are proven on a real clock, by the kernel layer: here each stamp
/// costs as much as the interrupts it measures.
fn noise_counts_agree(load: &str) {
    let text = |name: &str| fs::read_to_string(left(name)).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text(&format!("noise-{load}.json"))).unwrap();
    let guests = guests::parse(&text("guests")).unwrap();
    let vcpus: BTreeSet<u32> = guests.values().flat_map(|g| g.vcpus.keys().copied()).collect();
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    let from_ns = number(&report["from_ns"]);
    let span = Span { from_ns, until_ns: from_ns + number(&report["window_ns"]) };
    let trace = text(&format!("noise-{load}.trace"));
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
    println!("{load}: {} sources, {} intervals compared", ours.len(), ours.values().sum::<u64>());
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn noise_counts() {
    noise_counts_agree("idle");
}

#[test]
fn noise_counts_loaded() {
    noise_counts_agree("loaded");
}
