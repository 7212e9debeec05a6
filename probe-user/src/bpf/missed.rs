//! Events that a program was not run for, because it was running on that CPU already: an interrupt came while it ran, and
//! brought the same event. The kernel leaves such a program out and counts that.

use super::loader::Loaded;
use crate::probes::{PROBES, ProbeSpec};
use aya::Ebpf;
use aya::programs::Program;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};

/// Times by probe.
pub(super) type Missed = BTreeMap<&'static str, u64>;

impl Loaded {
    /// Since the programs were loaded.
    pub(super) fn missed(&self) -> Missed {
        PROBES.iter().map(|probe| (probe.name, of_probe(&self.ebpf, probe))).collect()
    }
}

fn of_probe(ebpf: &Ebpf, probe: &ProbeSpec) -> u64 {
    let mut programs: Vec<&str> =
        probe.hooks.iter().flat_map(|hook| [hook.raw, hook.classic]).flatten().map(|v| v.program).collect();
    // One program can serve several events.
    programs.sort_unstable();
    programs.dedup();
    programs.into_iter().filter_map(|name| of_program(ebpf.program(name)?)).sum()
}

/// `None` when it is not loaded, or the kernel does not count (before 5.12).
fn of_program(program: &Program) -> Option<u64> {
    let fd = match program {
        Program::RawTracePoint(program) => program.fd().ok()?.as_fd().as_raw_fd(),
        Program::TracePoint(program) => program.fd().ok()?.as_fd().as_raw_fd(),
        Program::FExit(program) => program.fd().ok()?.as_fd().as_raw_fd(),
        _ => return None,
    };
    parse(&fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?)
}

/// The count in a program's fdinfo (`bpf_prog_show_fdinfo()`, kernel/bpf/syscall.c).
fn parse(fdinfo: &str) -> Option<u64> {
    let (_, rest) = fdinfo.split_once("recursion_misses:")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_a_program() {
        for (fdinfo, expected) in [
            ("prog_type:\t17\nrun_cnt:\t5\nrecursion_misses:\t12\nverified_insns:\t80\n", Some(12)),
            ("prog_type:\t17\nrecursion_misses:\t0", Some(0)),
            ("prog_type:\t17\nrun_cnt:\t5\n", None),
            ("recursion_misses:\tmany\n", None),
        ] {
            assert_eq!(parse(fdinfo), expected, "{fdinfo:?}");
        }
    }
}
