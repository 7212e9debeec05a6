//! Threads as `/proc/PID/task` shows them: name, start time, CPUs they may run on.

use super::{HostError, Malformed, reader::read_text};
use crate::model::{CpuSet, Pid, Tid, topology::Thread};
use std::path::Path;

/// What vfprobe needs of `/proc/PID/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadStat {
    /// Name, at most 15 bytes for user threads.
    pub comm: String,
    /// Clock ticks since boot when it started (field 22).
    pub start_time: u64,
}

/// Parses `/proc/PID/stat` (proc_pid_stat(5)). The name is in parentheses and may itself hold any of `() \n`, so
/// it ends at the last closing one.
///
/// # Errors
/// [`Malformed`] when a field is missing.
pub fn parse_stat(text: &str) -> Result<ThreadStat, Malformed> {
    let bad = |expected| Malformed::new(1, expected, text);
    let (start, end) = text.find('(').zip(text.rfind(')')).ok_or_else(|| bad("a name in parentheses"))?;
    let comm = text.get(start + 1..end).ok_or_else(|| bad("a name in parentheses"))?;
    // Field 3 is the first after the name, so field 22 is the 20th of the rest.
    let field = text[end + 1..].split_ascii_whitespace().nth(19);
    let start_time = field.and_then(|f| f.parse().ok()).ok_or_else(|| bad("a start time in field 22"))?;
    Ok(ThreadStat { comm: comm.to_owned(), start_time })
}

/// Finds the CPUs that a thread may run on in `/proc/PID/status`.
///
/// # Errors
/// [`Malformed`] when the line is missing or holds no CPU list.
pub fn parse_allowed_cpus(text: &str) -> Result<CpuSet, Malformed> {
    const KEY: &str = "Cpus_allowed_list:";
    let (number, line) = text
        .lines()
        .enumerate()
        .find(|(_, line)| line.starts_with(KEY))
        .ok_or_else(|| Malformed::new(text.lines().count(), "a line Cpus_allowed_list", ""))?;
    line[KEY.len()..].parse().map_err(|_| Malformed::new(number + 1, "a CPU list", line))
}

/// One thread; `None` when it has ended.
pub(super) fn read_thread(task: &Path, tid: Tid) -> Result<Option<Thread>, HostError> {
    let dir = task.join(tid.to_string());
    let (stat_path, status_path) = (dir.join("stat"), dir.join("status"));
    let (Some(stat), Some(status)) = (read_text(&stat_path)?, read_text(&status_path)?) else {
        return Ok(None);
    };
    let stat = parse_stat(&stat).map_err(|source| HostError::Parse { path: stat_path, source })?;
    let affinity =
        parse_allowed_cpus(&status).map_err(|source| HostError::Parse { path: status_path, source })?;
    Ok(Some(Thread { tid, comm: stat.comm, start_time: stat.start_time, affinity }))
}

/// Start time of a process; `None` when it has ended.
pub(super) fn read_start_time(proc: &Path, pid: Pid) -> Result<Option<u64>, HostError> {
    let path = proc.join(pid.to_string()).join("stat");
    let Some(text) = read_text(&path)? else { return Ok(None) };
    parse_stat(&text).map(|stat| Some(stat.start_time)).map_err(|source| HostError::Parse { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_in_stat_may_hold_anything() {
        let rest = "S 1 0 0 0 -1 138412480 1692 0 1 0 653 190 0 0 20 0 5 0 1624 744161280";
        for comm in ["CPU 0/KVM", "a) (b", "", ")", "(", "x\ny"] {
            let stat = parse_stat(&format!("226 ({comm}) {rest}")).unwrap();
            assert_eq!((stat.comm.as_str(), stat.start_time), (comm, 1624), "{comm:?}");
        }
        for bad in
            ["", "226", "226 (x", ")(", "226 (x) S 1 2", &format!("226 (x) {}", rest.replace("1624", "-"))]
        {
            assert!(parse_stat(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn allowed_cpus() {
        let text = "Name:\tqemu\nCpus_allowed:\tf\nCpus_allowed_list:\t0-2,7\nMems_allowed_list:\t0\n";
        assert_eq!(parse_allowed_cpus(text).unwrap().to_string(), "0-2,7");
        assert_eq!(
            parse_allowed_cpus("Name:\tx\nCpus_allowed_list:\tnone\n").unwrap_err().to_string(),
            "line 2: expected a CPU list, found \"Cpus_allowed_list:\\tnone\""
        );
        assert!(parse_allowed_cpus("").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in any::<String>()) {
            let _ = parse_stat(&text);
            let _ = parse_allowed_cpus(&format!("Cpus_allowed_list:{text}"));
        }

        #[test]
        fn a_stat_line_gives_back_what_was_put_in(comm in any::<String>(), start in any::<u64>()) {
            let text = format!("1 ({comm}) S{} {start} 0 0", " 0".repeat(18));
            prop_assert_eq!(parse_stat(&text), Ok(ThreadStat { comm, start_time: start }));
        }
    }
}
