//! CPU time of one thread.

use super::HostRoot;
use super::reader::read_text;
use crate::model::Tid;

/// Time that a thread has spent on CPUs (ns): the first field of its `schedstat` (Documentation/scheduler/
/// sched-stats.rst). `None` when the thread is gone or the kernel does not count it.
#[must_use]
pub fn read_cpu_time(root: &HostRoot, tid: Tid) -> Option<u64> {
    let text = read_text(&root.proc.join(tid.to_string()).join("schedstat")).ok()??;
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Tree;

    #[test]
    fn the_first_field_is_time_on_a_cpu() {
        let tree = Tree::new();
        tree.file("proc/7/schedstat", "1234567 89 3\n");
        tree.file("proc/8/schedstat", "\n");
        let root = tree.root();
        for (tid, expected) in [(7, Some(1_234_567)), (8, None), (9, None)] {
            assert_eq!(read_cpu_time(&root, Tid(tid)), expected);
        }
    }
}
