//! `vcpu_sched` by its definition: from a vCPU thread's wakeup until it is switched in.

use super::Span;
use super::guests::Guests;
use super::trace::Event;
use std::collections::BTreeMap;

/// Run-queue waits (ns) by (guest, vCPU index).
pub type Waits = BTreeMap<(String, u32), Vec<u64>>;

/// Evaluates a capture with `sched_wakeup` and `sched_switch` of the vCPU threads.
#[must_use]
pub fn evaluate(events: &[Event<'_>], guests: &Guests, span: Span) -> Waits {
    let mut out = Waits::new();
    let mut asleep: BTreeMap<u32, bool> = BTreeMap::new();
    let mut woken: BTreeMap<u32, u64> = BTreeMap::new();
    let owner =
        |tid: u32| guests.iter().find_map(|(name, g)| g.vcpus.get(&tid).map(|index| (name.clone(), *index)));
    for e in events {
        match e.name {
            "sched_wakeup" => {
                let Some(tid) = number_after(e.text, "pid=") else { continue };
                if owner(tid).is_some() && asleep.remove(&tid) == Some(true) {
                    woken.insert(tid, e.ns);
                }
            }
            "sched_switch" => {
                let (Some(prev), Some(next)) =
                    (number_after(e.text, "prev_pid="), number_after(e.text, "next_pid="))
                else {
                    continue;
                };
                if owner(prev).is_some() {
                    // `R` and `R+` could have gone on.
                    asleep.insert(prev, e.value("prev_state").is_some_and(|state| !state.starts_with('R')));
                }
                if let (Some(from), Some(key)) = (woken.remove(&next), owner(next))
                    && span.contains(from)
                {
                    out.entry(key).or_default().push(e.ns - from);
                }
            }
            _ => {}
        }
    }
    out
}

/// The number after the last ` key`; a thread's name before it may hold anything.
fn number_after(text: &str, key: &str) -> Option<u32> {
    let at = text.rfind(&format!(" {key}"))? + 1 + key.len();
    text[at..].split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::{guests, trace::parse};
    use super::*;

    #[test]
    fn waits_begin_at_a_wakeup_out_of_sleep() {
        let guests = guests::parse("vcpu vm1 0 9\n").unwrap();
        let text = "\
            CPU 0/KVM-9 [001] d..2. 1.000000: sched_switch: prev_comm=CPU 0/KVM prev_pid=9 prev_prio=120 prev_state=S ==> next_comm=x next_pid=8 next_prio=1\n\
            x-8 [001] d..2. 1.000010: sched_wakeup: comm=CPU 0/KVM pid=9 prio=120 target_cpu=001\n\
            x-8 [001] d..2. 1.000015: sched_switch: prev_comm=x prev_pid=8 prev_prio=1 prev_state=R+ ==> next_comm=CPU 0/KVM next_pid=9 next_prio=120\n\
            CPU 0/KVM-9 [001] d..2. 1.000020: sched_switch: prev_comm=CPU 0/KVM prev_pid=9 prev_prio=120 prev_state=R+ ==> next_comm=x next_pid=8 next_prio=1\n\
            x-8 [001] d..2. 1.000040: sched_switch: prev_comm=x prev_pid=8 prev_prio=1 prev_state=S ==> next_comm=CPU 0/KVM next_pid=9 next_prio=120\n";
        let waits = evaluate(&parse(text).unwrap(), &guests, Span { from_ns: 0, until_ns: u64::MAX });
        assert_eq!(waits, Waits::from([(("vm1".to_owned(), 0), vec![5_000])]));
    }
}
