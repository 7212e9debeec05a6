//! `vcpu_sched` by its definition: a vCPU's thread is running, runnable or asleep, from one scheduler event to the next.

use super::Span;
use super::guests::Guests;
use super::trace::Event;
use std::collections::BTreeMap;

/// Guest and vCPU index.
pub type Vcpu = (String, u32);

/// What a thread's time went to, and what was counted of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// From its wakeup until it was switched in (ns), each.
    pub waits: Vec<u64>,
    /// On a CPU (ns).
    pub running_ns: u64,
    /// Woken up or preempted, without a CPU (ns).
    pub runnable_ns: u64,
    /// Asleep (ns).
    pub blocked_ns: u64,
    /// Switch-ins on another CPU than before.
    pub migrations: u64,
    /// Time until it ran again (ns), each, by the name of the thread that was given its CPU while it could have gone on.
    pub preempted: BTreeMap<String, Vec<u64>>,
    /// Changes of its state.
    pub changes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Unknown,
    Running,
    Woken,
    Preempted(String),
    Asleep,
}

#[derive(Default)]
struct Thread {
    state: State,
    since: u64,
    cpu: Option<u32>,
    followed: Followed,
}

impl Thread {
    /// Ends the state, and says what it was and since when.
    fn change(&mut self, state: State, ns: u64, span: Span) -> (State, u64) {
        let (former, since) = (std::mem::replace(&mut self.state, state), self.since);
        self.since = ns;
        let spent = ns.min(span.until_ns).saturating_sub(since.max(span.from_ns));
        match former {
            State::Unknown => {}
            State::Running => self.followed.running_ns += spent,
            State::Woken | State::Preempted(_) => self.followed.runnable_ns += spent,
            State::Asleep => self.followed.blocked_ns += spent,
        }
        self.followed.changes += u64::from(span.contains(ns));
        (former, since)
    }

    /// It is given a CPU.
    fn switched_in(&mut self, cpu: u32, ns: u64, span: Span) {
        let (former, since) = self.change(State::Running, ns, span);
        let before = self.cpu.replace(cpu);
        if !span.contains(since) || former == State::Unknown {
            return;
        }
        self.followed.migrations += u64::from(before.is_some_and(|before| before != cpu));
        match former {
            State::Woken => self.followed.waits.push(ns - since),
            State::Preempted(by) => {
                self.followed.preempted.entry(by).or_default().push(ns - since);
            }
            State::Unknown | State::Running | State::Asleep => {}
        }
    }
}

/// Evaluates a capture with `sched_wakeup` and `sched_switch` of the vCPU threads, each in a span of its own.
#[must_use]
pub fn evaluate(
    events: &[Event<'_>],
    guests: &Guests,
    spans: &BTreeMap<Vcpu, Span>,
) -> BTreeMap<Vcpu, Followed> {
    let mut threads: BTreeMap<Vcpu, Thread> = BTreeMap::new();
    let followed = |tid: u32| {
        let vcpu = guests.iter().find_map(|(name, g)| Some((name.clone(), *g.vcpus.get(&tid)?)))?;
        let span = *spans.get(&vcpu)?;
        Some((vcpu, span))
    };
    for e in events {
        match e.name {
            "sched_wakeup" => {
                let Some((vcpu, span)) = number_after(e.text, "pid=").and_then(followed) else { continue };
                let thread = threads.entry(vcpu).or_default();
                if thread.state == State::Asleep {
                    thread.change(State::Woken, e.ns, span);
                }
            }
            "sched_switch" => {
                let (Some(prev), Some(next)) =
                    (number_after(e.text, "prev_pid="), number_after(e.text, "next_pid="))
                else {
                    continue;
                };
                if let Some((vcpu, span)) = followed(prev) {
                    // `R` and `R+` could have gone on.
                    let runnable = e.value("prev_state").is_some_and(|state| state.starts_with('R'));
                    let by = between(e.text, "next_comm=", " next_pid=").unwrap_or_default();
                    let state = if runnable { State::Preempted(by.to_owned()) } else { State::Asleep };
                    let thread = threads.entry(vcpu).or_default();
                    thread.cpu = Some(e.cpu);
                    thread.change(state, e.ns, span);
                }
                if let Some((vcpu, span)) = followed(next) {
                    threads.entry(vcpu).or_default().switched_in(e.cpu, e.ns, span);
                }
            }
            // Whatever it does shows that it runs; the capture may begin in its middle.
            _ => {
                if let Some((vcpu, _)) = followed(e.tid)
                    && let thread = threads.entry(vcpu).or_default()
                    && thread.state == State::Unknown
                {
                    (thread.state, thread.since, thread.cpu) = (State::Running, e.ns, Some(e.cpu));
                }
            }
        }
    }
    let end = |(vcpu, mut thread): (Vcpu, Thread)| {
        let span = *spans.get(&vcpu)?;
        let former = thread.state.clone();
        if span.until_ns != u64::MAX {
            thread.change(former, span.until_ns, span);
        }
        Some((vcpu, thread.followed))
    };
    threads.into_iter().filter_map(end).collect()
}

/// The number after the last ` key`; a thread's name before it may hold anything.
fn number_after(text: &str, key: &str) -> Option<u32> {
    let at = text.rfind(&format!(" {key}"))? + 1 + key.len();
    text[at..].split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// What stands between two words.
fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(from)?;
    Some(rest.rsplit_once(to)?.0)
}

#[cfg(test)]
mod tests {
    use super::super::{guests, trace::parse};
    use super::*;

    const CAPTURE: &str = "\
        CPU 0/KVM-9 [001] d..2. 1.000000: sched_switch: prev_comm=CPU 0/KVM prev_pid=9 prev_prio=120 prev_state=S ==> next_comm=x next_pid=8 next_prio=1\n\
        x-8 [001] d..2. 1.000010: sched_wakeup: comm=CPU 0/KVM pid=9 prio=120 target_cpu=001\n\
        x-8 [001] d..2. 1.000015: sched_switch: prev_comm=x prev_pid=8 prev_prio=1 prev_state=R+ ==> next_comm=CPU 0/KVM next_pid=9 next_prio=120\n\
        CPU 0/KVM-9 [001] d..2. 1.000020: sched_switch: prev_comm=CPU 0/KVM prev_pid=9 prev_prio=120 prev_state=R+ ==> next_comm=a b next_pid=8 next_prio=1\n\
        a b-8 [000] d..2. 1.000040: sched_switch: prev_comm=a b prev_pid=8 prev_prio=1 prev_state=S ==> next_comm=CPU 0/KVM next_pid=9 next_prio=120\n";

    #[test]
    fn a_thread_is_followed_from_state_to_state() {
        let guests = guests::parse("vcpu vm1 0 9\n").unwrap();
        let vcpu = ("vm1".to_owned(), 0);
        let ns = |us: u64| 1_000_000_000 + us * 1000;
        // Span, waits, time in each state, migrations, and what was preempted.
        let whole = (vec![5_000], [15_000, 25_000, 10_000], 1, vec![("a b", 20_000)]);
        let cut = (vec![], [13_000, 22_000, 0], 1, vec![("a b", 20_000)]);
        for (span, (waits, [running_ns, runnable_ns, blocked_ns], migrations, preempted)) in [
            (Span { from_ns: 0, until_ns: ns(50) }, whole),
            (Span { from_ns: ns(13), until_ns: ns(48) }, cut),
        ] {
            let spans = BTreeMap::from([(vcpu.clone(), span)]);
            let followed = evaluate(&parse(CAPTURE).unwrap(), &guests, &spans).remove(&vcpu).unwrap();
            let preempted = preempted.into_iter().map(|(by, taken)| (by.to_owned(), vec![taken])).collect();
            let changes = followed.changes;
            let expected =
                Followed { waits, running_ns, runnable_ns, blocked_ns, migrations, preempted, changes };
            assert_eq!(followed, expected, "{span:?}");
        }
    }
}
