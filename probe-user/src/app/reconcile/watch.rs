//! When the host is compared with the policy: soon after something moved and has come to rest, and now and then anyway.

use crate::host::HostRoot;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

/// How often at most the host is looked at because of events, and vectors are that are moving.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// How often the numbers of interrupts, the online CPUs and the virtual machines are looked at where events of some of
/// them cannot be heard: two folders listed, one line read. Else they are with everything.
const LOOK: Duration = Duration::from_millis(500);
/// How often the settings in force are.
const SETTINGS: Duration = Duration::from_secs(2);
/// How often everything is.
const AUDIT: Duration = Duration::from_secs(10);
/// What is due so soon is done along, so that one wake-up serves for it.
const SLACK: Duration = Duration::from_millis(50);
/// A host that never comes to rest is not waited for longer than this many times the rest that is asked for.
const RESTLESS: u32 = 6;
/// The longest wait after failures.
const LONGEST: Duration = Duration::from_secs(300);

/// What is due at a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// Whether the host was looked at, and not only the signs.
    pub(super) looked: bool,
    pub(super) settings: bool,
    audit: bool,
    quiet: bool,
}

/// What is heard of the host without looking at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// What has happened.
    pub(super) why: Option<&'static str>,
    /// Whether everything is heard that else is looked at often.
    pub(super) all: bool,
}

/// What was seen last, and what has woken the controller since. Times are since the start.
#[derive(Debug, Default)]
pub(super) struct Watch {
    print: Print,
    /// When the next look, look at the settings and audit are due.
    next: [Duration; 3],
    /// The last change.
    changed: Duration,
    /// The first change that nothing was done about.
    restless: Option<Duration>,
    woken: Option<&'static str>,
    failures: u32,
    /// No try before.
    not_before: Duration,
}

/// What changes when guests start, stop and reset, and when CPUs and vCPUs come and go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Print {
    irqs: Vec<OsString>,
    online: String,
    /// Virtual machines, by their folders in KVM's part of debugfs, and how many folders each has: one for a vCPU, also for
    /// one that the guest has not started yet (virt/kvm/kvm_main.c, `kvm_create_vcpu_debugfs()`).
    machines: Vec<(OsString, u64)>,
    /// The probes' sign of vCPUs and interrupts that were set up.
    setups: u64,
}

impl Print {
    /// What cannot be read is as if it were not there: the audit tells.
    fn read(root: &HostRoot, setups: u64) -> Self {
        let names = std::fs::read_dir(root.proc.join("irq")).into_iter().flatten();
        let mut irqs: Vec<_> = names.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
        irqs.sort();
        let online = std::fs::read_to_string(root.sys.join("devices/system/cpu/online"));
        let entries = std::fs::read_dir(root.sys.join("kernel/debug/kvm")).into_iter().flatten().flatten();
        // Beside them are files with KVM's counters.
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut machines: Vec<_> =
            folders.filter_map(|entry| Some((entry.file_name(), entry.metadata().ok()?.nlink()))).collect();
        machines.sort();
        Self { irqs, online: online.unwrap_or_default(), machines, setups }
    }
}

impl Watch {
    /// Looks at the host, when something was `told` of it, the sign of what was set up has changed, or it is time to.
    pub(super) fn look(
        &mut self,
        root: &HostRoot,
        setups: u64,
        told: Told,
        now: Duration,
        rest: Duration,
    ) -> Due {
        let rang = setups != self.print.setups;
        // While it is not at rest, each time: what an event announces may come a moment after it.
        let due = now + SLACK >= self.next[0].min(self.next[2]);
        let looks = rang || told.why.is_some() || self.restless.is_some() || due;
        let print = looks.then(|| Print::read(root, setups));
        self.see(print, told, now, rest)
    }

    fn see(&mut self, print: Option<Print>, told: Told, now: Duration, rest: Duration) -> Due {
        let looked = print.is_some();
        if looked {
            self.next[0] = now + if told.all { AUDIT } else { LOOK };
        }
        let mut due = [false; 2];
        for ((next, due), every) in self.next[1..].iter_mut().zip(&mut due).zip([SETTINGS, AUDIT]) {
            if now + SLACK >= *next {
                (*next, *due) = (now + every, true);
            }
        }
        let changed = print.filter(|print| *print != self.print).map(|print| {
            self.print = print;
            "interrupts, CPUs or vCPUs have changed"
        });
        if let Some(why) = told.why.or(changed) {
            self.changed = now;
            self.restless.get_or_insert(now);
            self.wake(why);
            // What failed before may succeed now.
            self.not_before = now;
        }
        Due { looked, settings: due[0], audit: due[1], quiet: now >= self.quiet_at(rest) }
    }

    /// When the host is at rest, or is waited for no longer.
    fn quiet_at(&self, rest: Duration) -> Duration {
        let at_rest = self.changed + rest;
        self.restless.map_or(at_rest, |since| at_rest.min(since + rest.saturating_mul(RESTLESS)))
    }

    /// When to look again, if nothing is heard before.
    pub(super) fn next(&self, rest: Duration) -> Duration {
        let audit = self.next.into_iter().min().unwrap_or_default();
        if self.woken.is_none() { audit } else { audit.min(self.quiet_at(rest).max(self.not_before)) }
    }

    /// Has the host compared as soon as it is at rest.
    pub(super) fn wake(&mut self, why: &'static str) {
        self.woken.get_or_insert(why);
    }

    /// Whether to compare now, and why.
    pub(super) fn go(&self, due: Due, now: Duration) -> Option<&'static str> {
        let why = self.woken.or(due.audit.then_some("audit"))?;
        (due.quiet && now >= self.not_before).then_some(why)
    }

    /// The host is as asked.
    pub(super) fn done(&mut self) {
        (self.woken, self.restless, self.failures) = (None, None, 0);
    }

    /// It is not, and could not be made so. Gives the time until the next try.
    pub(super) fn failed(&mut self, now: Duration) -> Duration {
        self.wake("the last try failed");
        self.failures = (self.failures + 1).min(9);
        let wait = Duration::from_secs(1 << self.failures).min(LONGEST);
        self.not_before = now + wait;
        self.restless = None;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(irqs: &[&str]) -> Print {
        Print { irqs: irqs.iter().map(Into::into).collect(), online: "0-3\n".to_owned(), ..Print::default() }
    }

    /// One look half a second after the last.
    fn look(watch: &mut Watch, at: u32, irqs: &[&str]) -> Option<&'static str> {
        let now = LOOK * at;
        let due = watch.see(Some(print(irqs)), Told::default(), now, LOOK);
        watch.go(due, now)
    }

    #[test]
    fn acts_when_the_host_has_come_to_rest() {
        let mut watch = Watch::default();
        let changed = Some("interrupts, CPUs or vCPUs have changed");
        for (at, irqs, expect) in [
            (0, &["1"][..], None),
            (1, &["1"], changed),
            (2, &["1"], None),
            (3, &["1", "30"], None),
            (4, &["1", "30", "31"], None),
            (5, &["1", "30", "31"], changed),
            (6, &["1", "30", "31"], None),
        ] {
            let found = look(&mut watch, at, irqs);
            assert_eq!(found, expect, "look {at}");
            if found.is_some() {
                watch.done();
            }
        }
        let audit = (7..=20).filter_map(|at| look(&mut watch, at, &["1", "30", "31"])).collect::<Vec<_>>();
        assert_eq!(audit, ["audit"]);
    }

    #[test]
    fn rest_as_long_as_asked() {
        let mut watch = Watch::default();
        let mut acts = |at: u32, irq: &str| {
            let due = watch.see(Some(print(&[irq])), Told::default(), LOOK * at, Duration::from_millis(1200));
            watch.go(due, LOOK * at).is_some()
        };
        let acted: Vec<bool> =
            ["1", "1", "2", "2", "2", "2"].iter().zip(0..).map(|(irq, at)| acts(at, irq)).collect();
        assert_eq!(acted, [false, false, false, false, false, true]);
    }

    #[test]
    fn a_restless_host_is_not_waited_for_for_ever() {
        let mut watch = Watch::default();
        let looks = (0..=RESTLESS).map(|at| look(&mut watch, at, &[&at.to_string()]).is_some());
        assert_eq!(looks.filter(|acted| *acted).count(), 1);
    }

    #[test]
    fn failures_are_tried_again_ever_more_rarely_until_something_changes() {
        let mut watch = Watch::default();
        let waits: Vec<u64> = (0..10).map(|_| watch.failed(Duration::ZERO).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(look(&mut watch, 0, &["1"]), None);
        assert_eq!(look(&mut watch, 1, &["1"]), Some("the last try failed"));
        watch.failed(LOOK * 1);
        assert_eq!(look(&mut watch, 2, &["1"]), None);
        assert_eq!(look(&mut watch, 1 + 600, &["1"]), Some("the last try failed"));
    }

    #[test]
    fn the_sign_is_enough_to_look_at_once() {
        let tree = crate::host::fixture::Tree::new();
        tree.file("proc/irq/30/smp_affinity", "1\n");
        let mut watch = Watch::default();
        let mut look = |at: u32, setups: u64| {
            let due = watch.look(&tree.root(), setups, Told::default(), TICK * at, LOOK);
            let acts = watch.go(due, TICK * at).is_some();
            if acts {
                watch.done();
            }
            (due.looked, acts)
        };
        for (at, setups, expected) in [
            (0, 0, (true, false)),
            // As long as the host is not at rest, each time.
            (1, 0, (true, false)),
            (5, 0, (true, true)),
            (6, 0, (false, false)),
            (9, 0, (false, false)),
            (10, 0, (true, false)),
            (11, 1, (true, false)),
            (12, 2, (true, false)),
            (16, 2, (true, false)),
            (17, 2, (true, true)),
            (18, 2, (false, false)),
        ] {
            assert_eq!(look(at, setups), expected, "tick {at}");
        }
    }

    #[test]
    fn a_vcpu_that_has_not_run_is_seen() {
        // Folders count their folders there, as they do in debugfs.
        let tree = crate::host::fixture::Tree::new();
        let mut watch = Watch::default();
        let mut acts = |at: u32| {
            let due = watch.look(&tree.root(), 0, Told::default(), LOOK * at, LOOK);
            let acts = watch.go(due, LOOK * at).is_some();
            if acts {
                watch.done();
            }
            acts
        };
        let mut found = vec![acts(0)];
        for vcpu in 0..2 {
            tree.file(&format!("sys/kernel/debug/kvm/100-9/vcpu{vcpu}/pid"), "1\n");
            found.extend([acts(10 * vcpu + 1), acts(10 * vcpu + 2), acts(10 * vcpu + 3)]);
        }
        assert_eq!(found, [false, false, true, false, false, true, false]);
    }

    const CHANGED: &str = "interrupts, CPUs or vCPUs have changed";

    /// Waits as the controller does: until it is time, or until the events at their times (ms). Gives when it looked, and
    /// when and why the host was compared.
    fn run(all: bool, events: &[(u64, &'static str)], until: u64) -> (Vec<u64>, Vec<(u64, &'static str)>) {
        let (tree, rest) = (crate::host::fixture::Tree::new(), Duration::from_millis(500));
        tree.file("proc/irq/30/smp_affinity", "1\n");
        let mut watch = Watch::default();
        let (mut wakes, mut compared) = (Vec::new(), Vec::new());
        let mut events = events.iter().copied().peekable();
        let mut at = 0;
        while at < until {
            let now = Duration::from_millis(at);
            let why = events.next_if(|(event, _)| *event == at).map(|(_, why)| why);
            let due = watch.look(&tree.root(), 0, Told { why, all }, now, rest);
            wakes.push(at);
            if let Some(why) = watch.go(due, now) {
                compared.push((at, why));
                watch.done();
            }
            let next = u64::try_from(watch.next(rest).as_millis()).unwrap();
            assert!(next > at, "it would not wait any more after {at} ms");
            at = events.peek().map_or(next, |(event, _)| next.min(*event));
        }
        (wakes, compared)
    }

    #[test]
    fn with_events_it_wakes_for_audits_alone() {
        let (wakes, compared) = run(true, &[], 60_000);
        let mut expected: Vec<u64> = (0..30).map(|n| n * 2_000).collect();
        expected.insert(1, 500);
        assert_eq!(wakes, expected);
        let audits = [10_000, 20_000, 30_000, 40_000, 50_000].map(|at| (at, "audit"));
        assert_eq!((compared[0], &compared[1..]), ((500, CHANGED), &audits[..]));
        // Without them each half second.
        assert_eq!(run(false, &[], 60_000).0, (0..120).map(|n| n * 500).collect::<Vec<_>>());
    }

    #[test]
    fn an_event_is_acted_on_when_the_host_is_at_rest() {
        let (wakes, compared) =
            run(true, &[(2_100, "a CPU"), (2_300, "another"), (6_000, "a guest")], 15_000);
        assert_eq!(compared, [(500, CHANGED), (2_800, "a CPU"), (6_500, "a guest"), (10_000, "audit")]);
        assert_eq!(
            wakes,
            [0, 500, 2_000, 2_100, 2_300, 2_800, 4_000, 6_000, 6_500, 8_000, 10_000, 12_000, 14_000]
        );
    }
}
