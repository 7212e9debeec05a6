//! What vfprobe itself uses of the host, from `/proc/self/stat` (proc_pid_stat(5)).

use crate::export::OwnCost;
use std::fs;

/// The process's CPU time and resident memory; `None` when `/proc` does not say.
pub(super) fn read() -> Option<OwnCost> {
    let ticks = rustix::param::clock_ticks_per_second();
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    parse(&fs::read_to_string("/proc/self/stat").ok()?, ticks, page)
}

/// Fields are counted from behind the command's name, which may hold anything: `utime` and `stime` (14 and 15 of
/// the page) come 11 after it, `rss` (24) comes 21 after it.
fn parse(stat: &str, ticks_per_second: u64, page: u64) -> Option<OwnCost> {
    let (_, rest) = stat.rsplit_once(')')?;
    let field = |n: usize| rest.split_whitespace().nth(n)?.parse::<u64>().ok();
    let ticks = field(11)?.checked_add(field(12)?)?;
    let cpu_ns = ticks.checked_mul(1_000_000_000u64.checked_div(ticks_per_second)?)?;
    Some(OwnCost { cpu_ns, resident_bytes: field(21)?.checked_mul(page)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let behind =
            "S 1 1 1 0 -1 4194560 900 0 3 0 250 50 7 8 20 0 2 0 1234 9000000 512 18446744073709551615 1";
        for (line, expected) in [
            (format!("7 (vfprobe) {behind}"), Some((3_000_000_000, 512 * 4096))),
            (format!("7 (a ) b) {behind}"), Some((3_000_000_000, 512 * 4096))),
            ("7 (vfprobe) S 1 1".to_owned(), None),
            (String::new(), None),
        ] {
            let read = parse(&line, 100, 4096).map(|own| (own.cpu_ns, own.resident_bytes));
            assert_eq!(read, expected, "{line:?}");
        }
    }

    #[test]
    fn this_process_is_resident() {
        assert!(read().is_some_and(|own| own.resident_bytes > 0));
    }
}
