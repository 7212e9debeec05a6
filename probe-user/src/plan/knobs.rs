//! Knobs of the host that the policy names: how far each differs from what it asks.

use super::planner::Draft;
use super::policy::Knobs;
use super::{Need, Others, Step, Target};
use crate::model::{Knob, Value};

/// What the knobs of the host were found at.
pub type FoundKnobs = [(Knob, Value)];

/// Adds the steps for the knobs that the policy names. `found` are those there are.
pub(super) fn set(draft: &mut Draft<'_>, policy: &Knobs, found: &FoundKnobs) {
    let Knobs { halt_poll_ns, workqueues, watchdogs, idle_latency_us, rps, xps } = policy;
    let value_of = |wanted: &Knob| found.iter().find(|(knob, _)| knob == wanted).map(|(_, value)| value);
    if let Some(nanoseconds) = halt_poll_ns {
        match value_of(&Knob::HaltPoll) {
            Some(now) => {
                let reason = format!("the policy has vCPUs that halt poll for at most {nanoseconds} ns");
                text(draft, Knob::HaltPoll, now, &nanoseconds.to_string(), reason);
            }
            None => draft.note("halt-poll-ns: kvm is not loaded: left".to_owned()),
        }
    }
    let masks = [
        (workqueues, Knob::Workqueues, "workqueues", "work that is bound to no CPU is done by others"),
        (watchdogs, Knob::Watchdogs, "watchdogs", "a watchdog on a guarded CPU interrupts its vCPU"),
    ];
    for (asked, knob, key, reason) in masks {
        match (asked, value_of(&knob)) {
            (Others::Keep, _) => {}
            (Others::Move, Some(now)) => keep_off(draft, knob, now, reason),
            (Others::Move, None) => draft.note(format!("{key}: this kernel does not offer it: left")),
        }
    }
    if let Some(microseconds) = idle_latency_us {
        idle_latency(draft, *microseconds, found);
    }
    let steering: [(&[String], _, _); 2] = [
        (rps, "rps", "its packets are not handed to guarded CPUs"),
        (xps, "xps", "guarded CPUs do not send by this queue"),
    ];
    for (netdevs, key, reason) in steering {
        for netdev in netdevs {
            let mut queues = 0_usize;
            for (knob, now) in found {
                let here = match knob {
                    Knob::Rps(queue) => key == "rps" && queue.netdev == *netdev,
                    Knob::Xps(queue) => key == "xps" && queue.netdev == *netdev,
                    _ => false,
                };
                if here {
                    queues += 1;
                    keep_off(draft, knob.clone(), now, reason);
                }
            }
            if queues == 0 {
                draft.note(format!("{key}: there is no device {netdev} with such queues: left"));
            }
        }
    }
}

/// Guarded CPUs get the limit. The file has its own spelling: `0` there is no limit, `n/a` the strictest one.
fn idle_latency(draft: &mut Draft<'_>, microseconds: u32, found: &FoundKnobs) {
    let new = if microseconds == 0 { "n/a".to_owned() } else { microseconds.to_string() };
    let what = match microseconds {
        0 => "no idle state".to_owned(),
        limit => format!("no idle state that takes longer than {limit} us to leave"),
    };
    for cpu in draft.ground.guarded.clone().iter() {
        let knob = Knob::IdleLatency { cpu };
        match found.iter().find(|(found, _)| *found == knob) {
            Some((_, now)) => text(draft, knob, now, &new, format!("the policy allows guarded CPUs {what}")),
            None => draft.note(format!("idle-latency-us: CPU {cpu} has no such limit: left")),
        }
    }
}

fn text(draft: &mut Draft<'_>, knob: Knob, now: &Value, new: &str, reason: String) {
    draft.push(Step {
        target: Target::Knob(knob),
        now: now.clone(),
        effective: None,
        new: Value::text(new),
        need: Need::Required,
        reason,
    });
}

fn keep_off(draft: &mut Draft<'_>, knob: Knob, now: &Value, reason: &str) {
    if let Some(cpus) = now.cpus() {
        draft.keep_off(Target::Knob(knob), cpus, None, Need::Required, reason.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CpuId;
    use crate::model::knob::NetQueue;
    use crate::model::owners::Owners;
    use crate::plan::testing::{HostShape, cpus, guest, host, settled};
    use crate::plan::{Facts, Pins, Placement, Plan, Policy, plan};
    use std::collections::BTreeSet;

    fn queue(netdev: &str, queue: u32) -> NetQueue {
        NetQueue { netdev: netdev.to_owned(), ifindex: 2, queue }
    }

    fn found() -> Vec<(Knob, Value)> {
        vec![
            (Knob::HaltPoll, Value::text("200000")),
            (Knob::Workqueues, cpus("0-3").into()),
            (Knob::Watchdogs, cpus("3").into()),
            (Knob::IdleLatency { cpu: CpuId(3) }, Value::text("0")),
            (Knob::Rps(queue("eth0", 0)), cpus("").into()),
            (Knob::Rps(queue("eth0", 1)), cpus("2-3").into()),
            (Knob::Xps(queue("eth0", 0)), cpus("0-3").into()),
        ]
    }

    fn plan_for(knobs: Knobs, found: &FoundKnobs) -> Plan {
        let mut topology = host(HostShape { nodes: 1, cores: 4, threads: 1 });
        topology.guests = vec![guest("vm1", 1, None)];
        let mut policy = Policy::for_guest("vm1", Pins::Cpus(vec![CpuId(3)]), Placement::Keep);
        // The rest of the plan is in force already.
        let (owners, immovable) = (Owners::default(), BTreeSet::new());
        let facts = Facts {
            topology: &topology,
            threads: &[],
            knobs: found,
            owners: &owners,
            virtual_apic: None,
            seen: None,
            immovable: &immovable,
            fixed: &BTreeSet::new(),
        };
        let first = plan(&facts, &policy).unwrap();
        let (topology, _) = settled(&topology, &[], &first);
        policy.knobs = knobs;
        plan(&Facts { topology: &topology, ..facts }, &policy).unwrap()
    }

    fn check(knobs: Knobs, steps: &[&str], notes: &[&str]) {
        let mut found = found();
        let made = plan_for(knobs.clone(), &found);
        let lines: Vec<String> =
            made.steps.iter().map(|s| format!("{}: {} -> {}", s.target, s.now, s.new)).collect();
        assert_eq!(lines, steps, "{knobs:?}");
        let noted: Vec<&String> = made.notes.iter().filter(|note| note.ends_with(": left")).collect();
        assert_eq!(noted, notes, "{knobs:?}");
        for step in &made.steps {
            let place = found.iter_mut().find(|(knob, _)| step.target == Target::Knob(knob.clone()));
            place.unwrap().1 = step.new.clone();
        }
        assert_eq!(plan_for(knobs, &found).steps, [], "it holds now");
    }

    #[test]
    fn each_knob_goes_where_the_policy_says() {
        let none = Knobs::default;
        check(none(), &[], &[]);
        let steps = ["halt_poll_ns of kvm: 200000 -> 0"];
        check(Knobs { halt_poll_ns: Some(0), ..none() }, &steps, &[]);
        check(Knobs { halt_poll_ns: Some(200_000), ..none() }, &[], &[]);
        check(Knobs { workqueues: Others::Move, ..none() }, &["CPUs of unbound workqueues: 0-3 -> 0-2"], &[]);
        // Nothing would remain: all others take over.
        check(Knobs { watchdogs: Others::Move, ..none() }, &["CPUs that watchdogs watch: 3 -> 0-2"], &[]);
        let limit = |new: &str| format!("idle latency limit of CPU 3 in us: 0 -> {new}");
        check(Knobs { idle_latency_us: Some(0), ..none() }, &[&limit("n/a")], &[]);
        check(Knobs { idle_latency_us: Some(2), ..none() }, &[&limit("2")], &[]);
        // What is switched off stays so.
        let eth0 = || vec!["eth0".to_owned()];
        check(Knobs { rps: eth0(), ..none() }, &["eth0 receive queue 1 RPS: 2-3 -> 2"], &[]);
        check(Knobs { xps: eth0(), ..none() }, &["eth0 transmit queue 0 XPS: 0-3 -> 0-2"], &[]);
        let notes = ["rps: there is no device eth9 with such queues: left"];
        check(Knobs { rps: vec!["eth9".to_owned()], ..none() }, &[], &notes);
    }

    #[test]
    fn what_the_host_does_not_have_is_noted() {
        let all = Knobs {
            halt_poll_ns: Some(0),
            workqueues: Others::Move,
            watchdogs: Others::Move,
            idle_latency_us: Some(1),
            rps: Vec::new(),
            xps: Vec::new(),
        };
        let made = plan_for(all, &[]);
        assert_eq!(made.steps, []);
        assert_eq!(made.notes.iter().filter(|note| note.ends_with(": left")).count(), 4, "{:?}", made.notes);
    }
}
