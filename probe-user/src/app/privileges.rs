//! Capabilities (capabilities(7)): what each thread of a service keeps, and how it gives up the rest, for good.
//!
//! They belong to threads, and a thread begins with those of the one that starts it. So those that need some are started
//! first; then the thread that speaks with the network, and all that it starts, go on without.

use rustix::io;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// For looking at the host: `CAP_BPF` and `CAP_PERFMON` attach a probe that is needed only now; `CAP_SYS_PTRACE` and
/// `CAP_DAC_READ_SEARCH` read `/proc/PID/fd` of VMMs that run as another user.
pub(super) const WATCH: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::PERFMON).union(SEE_GUESTS);

/// For keeping a policy: `CAP_SYS_NICE` moves threads of other users, `CAP_NET_ADMIN` writes the CPUs of network queues
/// (net/core/net-sysfs.c, `store_rps_map`). All other settings are files of root.
pub const CONTROL: CapabilitySet = CapabilitySet::SYS_NICE.union(CapabilitySet::NET_ADMIN).union(SEE_GUESTS);

const SEE_GUESTS: CapabilitySet = CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH);

/// Gives up all capabilities of this thread but those that are `wanted`. What it does not have it does not get.
///
/// # Errors
/// When a filter of system calls forbids it.
pub(super) fn keep(wanted: CapabilitySet) -> io::Result<()> {
    let kept = capabilities(None)?.permitted & wanted;
    set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )
}

/// What reading the probes takes on this kernel: nothing, or `CAP_BPF` where that is asked for even of who holds the maps
/// (before 5.19, with `kernel.unprivileged_bpf_disabled`). Found out by reading without.
///
/// # Errors
/// When a filter of system calls forbids it.
pub(super) fn for_reading(reads: impl FnOnce() -> bool) -> io::Result<CapabilitySet> {
    let all = capabilities(None)?;
    set_capabilities(None, CapabilitySets { effective: CapabilitySet::empty(), ..all })?;
    let without = reads();
    set_capabilities(None, all)?;
    Ok(if without { CapabilitySet::empty() } else { CapabilitySet::BPF })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread of its own, which ends with what it gave up.
    fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(work).join().unwrap())
    }

    #[test]
    fn what_is_not_kept_is_gone() {
        let before = capabilities(None).unwrap();
        for wanted in [WATCH, CONTROL, CapabilitySet::empty()] {
            let (after, again) = apart(|| {
                keep(wanted).unwrap();
                let after = capabilities(None).unwrap();
                // Not even to be asked for again.
                keep(CapabilitySet::all()).unwrap();
                (after, capabilities(None).unwrap())
            });
            let kept = before.permitted & wanted;
            assert_eq!((after.effective, after.permitted), (kept, kept));
            assert_eq!(after.inheritable, CapabilitySet::empty());
            assert_eq!((again.effective, again.permitted), (kept, kept));
        }
        assert_eq!(
            capabilities(None).unwrap().permitted,
            before.permitted,
            "of other threads nothing is taken"
        );
    }

    #[test]
    fn reading_is_tried_without_any() {
        for (reads, takes) in [(true, CapabilitySet::empty()), (false, CapabilitySet::BPF)] {
            let (found, tried, before, after) = apart(|| {
                let before = capabilities(None).unwrap().effective;
                let mut tried = None;
                let found = for_reading(|| {
                    tried = Some(capabilities(None).unwrap().effective);
                    reads
                });
                (found.unwrap(), tried, before, capabilities(None).unwrap().effective)
            });
            assert_eq!((found, tried, before), (takes, Some(CapabilitySet::empty()), after));
        }
    }
}
