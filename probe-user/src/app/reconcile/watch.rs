//! When the host is compared with the policy: soon after something moved and has come to rest, and now and then anyway.

use crate::host::HostRoot;
use std::time::Duration;

/// How often the numbers of interrupts and the online CPUs are looked at: one folder listed, one line read.
pub(super) const LOOK: Duration = Duration::from_millis(500);
/// Every so many looks: whether the settings still are as asked; everything.
const SETTINGS: u32 = 4;
const AUDIT: u32 = 20;
/// A host that never comes to rest is not waited for longer than this many times the rest that is asked for.
const RESTLESS: u32 = 6;
/// The longest wait after failures.
const LONGEST: Duration = Duration::from_secs(300);

/// What is due at a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) settings: bool,
    audit: bool,
    quiet: bool,
}

/// What was seen last, and what has woken the controller since.
#[derive(Debug, Default)]
pub(super) struct Watch {
    looks: u32,
    print: Print,
    /// Looks since the last change.
    calm: u32,
    /// Looks since the first change that nothing was done about.
    restless: u32,
    woken: Option<&'static str>,
    failures: u32,
    /// No try before, as time since the start.
    not_before: Duration,
}

/// What changes when guests start, stop and reset, and when CPUs come and go.
#[derive(Debug, Default, PartialEq, Eq)]
struct Print {
    irqs: Vec<std::ffi::OsString>,
    online: String,
}

impl Print {
    /// What cannot be read is as if it were not there: the audit tells.
    fn read(root: &HostRoot) -> Self {
        let names = std::fs::read_dir(root.proc.join("irq")).into_iter().flatten();
        let mut irqs: Vec<_> = names.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
        irqs.sort();
        let online = std::fs::read_to_string(root.sys.join("devices/system/cpu/online"));
        Self { irqs, online: online.unwrap_or_default() }
    }
}

impl Watch {
    /// Looks at the host.
    pub(super) fn look(&mut self, root: &HostRoot, now: Duration, rest: Duration) -> Due {
        self.see(Print::read(root), now, rest)
    }

    fn see(&mut self, print: Print, now: Duration, rest: Duration) -> Due {
        let every = |n: u32| self.looks.is_multiple_of(n);
        let (settings, audit) = (every(SETTINGS), every(AUDIT));
        self.looks = self.looks.wrapping_add(1);
        let looks = u32::try_from(rest.as_millis().div_ceil(LOOK.as_millis())).unwrap_or(u32::MAX).max(1);
        if self.restless > 0 {
            self.restless += 1;
        }
        if print == self.print {
            self.calm = self.calm.saturating_add(1);
        } else {
            self.print = print;
            self.calm = 0;
            self.restless = self.restless.max(1);
            self.wake("interrupts or CPUs have changed");
            // What failed before may succeed now.
            self.not_before = now;
        }
        let quiet = self.calm >= looks || self.restless >= RESTLESS.saturating_mul(looks);
        Due { settings, audit, quiet }
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
        (self.woken, self.restless, self.failures) = (None, 0, 0);
    }

    /// It is not, and could not be made so. Gives the time until the next try.
    pub(super) fn failed(&mut self, now: Duration) -> Duration {
        self.wake("the last try failed");
        self.failures = (self.failures + 1).min(9);
        let wait = Duration::from_secs(1 << self.failures).min(LONGEST);
        self.not_before = now + wait;
        self.restless = 0;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(irqs: &[&str]) -> Print {
        Print { irqs: irqs.iter().map(Into::into).collect(), online: "0-3\n".to_owned() }
    }

    /// One look half a second after the last.
    fn look(watch: &mut Watch, at: u32, irqs: &[&str]) -> Option<&'static str> {
        let now = LOOK * at;
        let due = watch.see(print(irqs), now, LOOK);
        watch.go(due, now)
    }

    #[test]
    fn acts_when_the_host_has_come_to_rest() {
        let mut watch = Watch::default();
        let changed = Some("interrupts or CPUs have changed");
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
        let audit = (7..=AUDIT).filter_map(|at| look(&mut watch, at, &["1", "30", "31"])).collect::<Vec<_>>();
        assert_eq!(audit, ["audit"]);
    }

    #[test]
    fn rest_as_long_as_asked() {
        let mut watch = Watch::default();
        let mut acts = |at: u32, irq: &str| {
            let due = watch.see(print(&[irq]), LOOK * at, Duration::from_millis(1200));
            watch.go(due, LOOK * at).is_some()
        };
        let acted: Vec<bool> =
            ["1", "1", "2", "2", "2", "2"].iter().zip(0..).map(|(irq, at)| acts(at, irq)).collect();
        assert_eq!(acted, [false, false, false, false, false, true]);
    }

    #[test]
    fn a_restless_host_is_not_waited_for_for_ever() {
        let mut watch = Watch::default();
        let looks = (0..RESTLESS).map(|at| look(&mut watch, at, &[&at.to_string()]).is_some());
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
}
