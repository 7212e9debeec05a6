//! All threads of the host, for keeping them off CPUs that were promised to guests.

use super::process::read_thread;
use super::reader::{Reader, read_text};
use super::{HostError, HostRoot, Malformed};
use crate::model::{HostThread, Pid, Tid};

/// The thread belongs to the kernel (include/linux/sched.h).
const PF_KTHREAD: u32 = 0x0020_0000;
/// Its CPUs cannot be changed from user space (include/linux/sched.h).
const PF_NO_SETAFFINITY: u32 = 0x0400_0000;

/// Reads all threads but this process's own, by process, then thread; and what could not be read, one line each.
#[must_use]
pub fn read_host_threads(root: &HostRoot) -> (Vec<HostThread>, Vec<String>) {
    let mut reader = Reader::new(root);
    let own = std::process::id();
    let mut threads = Vec::new();
    for pid in reader.numbered(&root.proc, "").into_iter().filter(|pid| *pid != own) {
        let task = root.proc.join(pid.to_string()).join("task");
        for tid in reader.numbered(&task, "").into_iter().map(Tid) {
            let found = read_thread(&task, tid);
            let Some(thread) = reader.note(found).flatten() else { continue };
            let path = task.join(tid.to_string()).join("stat");
            let kind = read_text(&path).and_then(|text| match text {
                Some(text) => parse_kind(&text).map(Some).map_err(|source| HostError::Parse { path, source }),
                None => Ok(None),
            });
            let Some((parent, flags)) = reader.note(kind).flatten() else { continue };
            threads.push(HostThread {
                pid: Pid(pid),
                parent,
                thread,
                kernel: flags & PF_KTHREAD != 0,
                bound: flags & PF_NO_SETAFFINITY != 0,
            });
        }
    }
    (threads, reader.problems)
}

/// Parent and flags: fields 4 and 9 of `/proc/PID/stat` (proc_pid_stat(5)), the second and seventh after the name in
/// parentheses.
fn parse_kind(text: &str) -> Result<(Pid, u32), Malformed> {
    let rest = text.rfind(')').map_or("", |end| &text[end + 1..]);
    let field = |n: usize| rest.split_ascii_whitespace().nth(n)?.parse().ok();
    let (parent, flags) = (field(1), field(6));
    parent
        .map(Pid)
        .zip(flags)
        .ok_or_else(|| Malformed::new(1, "a parent in field 4 and flags in field 9", text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn fields_follow_a_name_that_may_hold_anything() {
        assert_eq!(parse_kind("2 (a) b) S 1 0 0 0 -1 69238880 0"), Ok((Pid(1), 69_238_880)));
        for bad in ["", "2 (x) S 0", "2 (x) S 0 0 0 0 -1 x 0", "2 (x) S -1 0 0 0 -1 1 0"] {
            assert!(parse_kind(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn threads_of_all_processes() {
        let dir = tempfile::tempdir().unwrap();
        let put = |pid: u32, tid: u32, comm: &str, flags: u32| {
            let task = dir.path().join(format!("proc/{pid}/task/{tid}"));
            fs::create_dir_all(&task).unwrap();
            let stat = format!("{tid} ({comm}) S 0 0 0 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 77 0 0");
            fs::write(task.join("stat"), stat).unwrap();
            fs::write(task.join("status"), "Cpus_allowed_list:\t0-1\n").unwrap();
        };
        put(2, 2, "kthreadd", PF_KTHREAD);
        put(15, 15, "ksoftirqd/0", PF_KTHREAD | PF_NO_SETAFFINITY);
        put(70, 70, "qemu", 0);
        put(70, 71, "worker", 0);
        let (threads, problems) = read_host_threads(&HostRoot::under(dir.path()));
        let lines: Vec<String> = threads
            .iter()
            .map(|t| format!("{}/{} {} {} {}", t.pid, t.thread.tid, t.thread.comm, t.kernel, t.bound))
            .collect();
        assert_eq!(
            lines,
            [
                "2/2 kthreadd true false",
                "15/15 ksoftirqd/0 true true",
                "70/70 qemu false false",
                "70/71 worker false false"
            ]
        );
        assert_eq!(problems, Vec::<String>::new());
    }
}
