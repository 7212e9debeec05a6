//! `cpu_noise` by its definition, for one CPU: time is cut at every event, and each piece belongs to what is innermost
//! at that moment.

use super::Span;
use super::trace::Event;
use std::collections::{BTreeMap, BTreeSet};

/// What took the CPU, as ftrace tells it: `irq 32`, `softirq NET_RX`, `local_timer`, `thread NAME`.
pub type Source = String;

/// Intervals of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noise {
    /// How many lie wholly inside the span.
    pub n: u64,
    /// Their time net of what was nested in them (ns).
    pub net_ns: u64,
}

/// Something that has begun on the CPU.
struct Open {
    source: Source,
    from_ns: u64,
    net_ns: u64,
}

/// Evaluates the events of `cpu`; `vcpus` are threads that are no noise there.
#[must_use]
pub fn evaluate(
    events: &[Event<'_>],
    cpu: u32,
    vcpus: &BTreeSet<u32>,
    span: Span,
) -> BTreeMap<Source, Noise> {
    let mut out: BTreeMap<Source, Noise> = BTreeMap::new();
    let mut thread: Option<Open> = None;
    let mut nested: Vec<Open> = Vec::new();
    let mut last_ns = 0;
    let mut close = |open: Open, ns: u64| {
        if span.contains(open.from_ns) && span.contains(ns) {
            let noise = out.entry(open.source).or_default();
            noise.n += 1;
            noise.net_ns += open.net_ns;
        }
    };
    for event in events.iter().filter(|event| event.cpu == cpu) {
        let piece = event.ns.saturating_sub(last_ns);
        last_ns = event.ns;
        if let Some(innermost) = nested.last_mut().or(thread.as_mut()) {
            innermost.net_ns += piece;
        }
        let open = |source: Source| Open { source, from_ns: event.ns, net_ns: 0 };
        match (event.name, interrupt(event)) {
            ("sched_switch", _) => {
                if let Some(former) = thread.take() {
                    close(former, event.ns);
                }
                let next = event.text.split(" ==> ").nth(1).unwrap_or_default();
                let pid = next.split(" next_pid=").nth(1).and_then(|rest| rest.split(' ').next());
                let pid: u32 = pid.and_then(|pid| pid.parse().ok()).unwrap_or(0);
                let name = next.split("next_comm=").nth(1).and_then(|rest| rest.split(" next_pid=").next());
                if pid != 0 && !vcpus.contains(&pid) {
                    thread = Some(open(format!("thread {}", name.unwrap_or_default())));
                }
            }
            (_, Some((source, true))) => nested.push(open(source)),
            (_, Some((source, false))) => {
                if nested.last().is_some_and(|innermost| innermost.source == source)
                    && let Some(innermost) = nested.pop()
                {
                    close(innermost, event.ns);
                }
            }
            _ => {}
        }
    }
    out
}

/// What an event begins (`true`) or ends.
fn interrupt(event: &Event<'_>) -> Option<(Source, bool)> {
    let (name, begins) = match (event.name.strip_suffix("_entry"), event.name.strip_suffix("_exit")) {
        (Some(name), _) => (name, true),
        (_, Some(name)) => (name, false),
        _ => return None,
    };
    let source = match name {
        "irq_handler" => format!("irq {}", event.value("irq")?),
        // `vec=3 [action=NET_RX]`
        "softirq" => format!("softirq {}", event.text.split("action=").nth(1)?.trim_end_matches(']')),
        _ if event.value("vector").is_some() => name.to_owned(),
        _ => return None,
    };
    Some((source, begins))
}

#[cfg(test)]
mod tests {
    use super::super::trace::parse;
    use super::*;

    #[test]
    fn time_belongs_to_what_is_innermost() {
        let text = "\
            <idle>-0 [001] d..2. 1.000000: sched_switch: prev_comm=swapper prev_pid=0 ==> next_comm=a b next_pid=7 next_prio=120\n\
            a b-7 [001] d.h1. 1.000010: irq_handler_entry: irq=32 name=x\n\
            a b-7 [000] d.h1. 1.000011: irq_handler_entry: irq=33 name=y\n\
            a b-7 [001] d.h1. 1.000014: local_timer_entry: vector=236\n\
            a b-7 [001] d.h1. 1.000015: local_timer_exit: vector=236\n\
            a b-7 [001] d.h1. 1.000020: irq_handler_exit: irq=32 ret=handled\n\
            a b-7 [001] ..s1. 1.000022: softirq_entry: vec=3 [action=NET_RX]\n\
            a b-7 [001] ..s1. 1.000025: softirq_exit: vec=3 [action=NET_RX]\n\
            a b-7 [001] d..2. 1.000040: sched_switch: prev_comm=a b prev_pid=7 ==> next_comm=CPU 0/KVM next_pid=9 next_prio=120\n\
            CPU 0/KVM-9 [001] d..2. 1.000050: sched_switch: prev_comm=CPU 0/KVM prev_pid=9 ==> next_comm=late next_pid=8 next_prio=1\n";
        let events = parse(text).unwrap();
        let span = Span { from_ns: 1_000_000_000, until_ns: 2_000_000_000 };
        let noise = evaluate(&events, 1, &BTreeSet::from([9]), span);
        let shown: Vec<_> = noise.iter().map(|(source, n)| (source.as_str(), n.n, n.net_ns)).collect();
        assert_eq!(
            shown,
            [
                ("irq 32", 1, 9_000),
                ("local_timer", 1, 1_000),
                ("softirq NET_RX", 1, 3_000),
                ("thread a b", 1, 27_000)
            ]
        );
    }
}
