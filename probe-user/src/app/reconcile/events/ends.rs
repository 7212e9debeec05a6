//! The ends of guests: their processes, as file descriptors that become readable with the end (pidfd_open(2)).

use crate::host::{HostRoot, parse_stat};
use crate::model::Pid;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::process::{PidfdFlags, pidfd_open};
use std::collections::{BTreeMap, BTreeSet};

/// A process, by its number and when it started (clock ticks since boot).
pub(in super::super) type Process = (Pid, u64);

/// Processes that are waited for.
#[derive(Debug, Default)]
pub(super) struct Ends {
    running: BTreeMap<Process, OwnedFd>,
    /// Those that cannot be waited for, for instance in another namespace of processes: the audit finds their ends.
    unknown: BTreeSet<Process>,
}

impl Ends {
    /// Waits for these, and for no others. Says whether one of them has ended since it was found.
    pub(super) fn follow(&mut self, root: &HostRoot, processes: &BTreeSet<Process>) -> bool {
        self.running.retain(|process, _| processes.contains(process));
        self.unknown.retain(|process| processes.contains(process));
        let mut ended = false;
        for process in processes {
            if self.running.contains_key(process) || self.unknown.contains(process) {
                continue;
            }
            match open(root, *process) {
                Some(fd) => {
                    self.running.insert(*process, fd);
                }
                None => ended |= self.unknown.insert(*process),
            }
        }
        ended
    }

    /// What becomes readable with an end, in the order that [`Ends::ended`] counts in.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.running.values().map(OwnedFd::as_fd)
    }

    /// Those at these places have ended: they are waited for no more.
    pub(super) fn ended(&mut self, at: &[usize]) {
        let ended: Vec<Process> = at.iter().filter_map(|at| self.running.keys().nth(*at).copied()).collect();
        for process in ended {
            self.running.remove(&process);
            self.unknown.insert(process);
        }
    }
}

fn open(root: &HostRoot, (pid, started): Process) -> Option<OwnedFd> {
    let number = rustix::process::Pid::from_raw(i32::try_from(pid.0).ok()?)?;
    let fd = pidfd_open(number, PidfdFlags::empty()).ok()?;
    // Looked at after that: as long as the process is the one that was found, the descriptor is of no other.
    let text = std::fs::read_to_string(root.proc.join(pid.to_string()).join("stat")).ok()?;
    (parse_stat(&text).ok()?.start_time == started).then_some(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::process::{Child, Command};

    fn process(pid: u32) -> Process {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        (Pid(pid), parse_stat(&stat).unwrap().start_time)
    }

    fn sleeper() -> (Child, Process) {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = process(child.id());
        (child, process)
    }

    /// Waits until one has ended; gives their places.
    fn wait(ends: &Ends) -> Vec<usize> {
        let mut fds: Vec<_> = ends.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        poll(&mut fds, None).unwrap();
        (0..fds.len()).filter(|at| !fds[*at].revents().is_empty()).collect()
    }

    #[test]
    fn ends_are_heard_once() {
        let root = HostRoot::live();
        let mut children: Vec<_> = (0..3).map(|_| sleeper()).collect();
        children.sort_by_key(|(_, process)| *process);
        let all: BTreeSet<_> = children.iter().map(|(_, process)| *process).collect();
        let mut ends = Ends::default();
        assert!(!ends.follow(&root, &all), "all of them run");
        assert_eq!(ends.fds().count(), 3);
        let mut end = |at: usize| {
            children[at].0.kill().unwrap();
            children[at].0.wait().unwrap();
        };
        end(1);
        assert_eq!(wait(&ends), [1]);
        ends.ended(&[1]);
        assert!(!ends.follow(&root, &all), "its end was told before");
        assert_eq!(ends.fds().count(), 2);
        end(2);
        assert_eq!(wait(&ends), [1]);
        end(0);
        assert!(!ends.follow(&root, &BTreeSet::new()));
        assert_eq!(ends.fds().count(), 0);
    }

    #[test]
    fn who_ended_before_it_was_followed_is_told_once() {
        let root = HostRoot::live();
        let own = process(std::process::id());
        let (mut child, gone) = sleeper();
        child.kill().unwrap();
        child.wait().unwrap();
        // The number may have been given to another one.
        let other = (own.0, own.1 + 1);
        let mut ends = Ends::default();
        for (processes, told) in [
            (BTreeSet::from([own, gone]), true),
            (BTreeSet::from([own, gone]), false),
            (BTreeSet::from([own, gone, other]), true),
            (BTreeSet::from([own]), false),
            (BTreeSet::from([own, gone]), true),
        ] {
            assert_eq!(ends.follow(&root, &processes), told, "{processes:?}");
            assert_eq!(ends.fds().count(), 1);
        }
    }
}
