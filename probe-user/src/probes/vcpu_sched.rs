//! `vcpu_sched`: how long vCPU threads wait for a CPU, who preempts them, where their time goes (docs/probes.md).

use super::{Hook, MapReader, Names, Needs, ProbeReport, ProbeSpec, ReadError, Role, hook, text};
use crate::stats::{Counter, Histogram, Labels, Observability, Series, Snapshot};
use probe_ebpf::probes::vcpu_sched::{BLOCKED, PREEMPTED, RUNNING, VcpuSched, WOKEN};

/// The specification. Its other hook, `sched_switch`, is `vcpu`'s.
pub static SPEC: ProbeSpec = ProbeSpec {
    name: "vcpu_sched",
    about: "how long vCPU threads wait for a CPU, and who preempts them",
    needs: Needs::Vcpu,
    hooks: &[Hook {
        event: "sched/sched_wakeup",
        role: Role::Figure("runqueue"),
        raw: hook::raw("sched_wakeup_raw", &["OFF_TASK_PID"]),
        classic: None,
    }],
    collect,
};

fn collect(
    maps: &dyn MapReader,
    names: &Names<'_>,
    report: &ProbeReport,
    out: &mut Snapshot,
) -> Result<(), ReadError> {
    // Without sched_switch nothing of this is seen.
    if report.loses("wake").is_some() {
        return Ok(());
    }
    let hidden = report.loses("runqueue").map(|missing| format!("{}: {}", missing.event, missing.reason));
    let vcpus = maps.vcpus()?;
    for (tid, vcpu) in &vcpus {
        let labels = Labels::from([
            ("guest".into(), names.guest(vcpu.tgid)),
            ("vcpu".into(), names.vcpu(*tid, vcpu.vcpu_id)),
        ]);
        let state = shares(&vcpu.sched, out.from_ns, out.to_ns);
        for (name, value) in [
            ("running_ns", state.running),
            ("runnable_ns", state.runnable),
            ("blocked_ns", state.blocked),
            ("migrations", vcpu.sched.migrations),
        ] {
            out.counters.push(counter(name, &labels, value));
        }
        let observable = match (&hidden, vcpu.sched.series) {
            (Some(reason), _) => Observability::No(reason.clone()),
            (None, 0) => Observability::No("no room for another vCPU".to_owned()),
            _ => Observability::Yes,
        };
        let histogram = match vcpu.sched.series.checked_sub(1) {
            Some(index) if observable.is_yes() => Histogram::from(&maps.hist("SCHED_HIST", index)?),
            _ => Histogram::default(),
        };
        out.series.push(Series { probe: SPEC.name.into(), labels, observable, histogram });
    }
    for (by, taken) in maps.preempters()? {
        let Some((tid, vcpu)) = vcpus.iter().find(|(_, vcpu)| vcpu.index == by.vcpu) else { continue };
        let kind = if by.kernel == 0 { "user" } else { "kernel" };
        let labels = Labels::from([
            ("guest".into(), names.guest(vcpu.tgid)),
            ("vcpu".into(), names.vcpu(*tid, vcpu.vcpu_id)),
            ("by".into(), text(&by.comm)),
            ("by_kind".into(), kind.into()),
        ]);
        out.counters.push(counter("preempted", &labels, taken.n));
        out.counters.push(counter("preempted_ns", &labels, taken.total_ns));
    }
    Ok(())
}

fn counter(name: &str, labels: &Labels, value: u64) -> Counter {
    Counter { probe: SPEC.name.into(), name: name.into(), labels: labels.clone(), value }
}

/// Time in each state (ns).
#[derive(Debug, PartialEq, Eq)]
struct Shares {
    running: u64,
    runnable: u64,
    blocked: u64,
}

/// The states that have ended, and the present one up to `to_ns`: a vCPU that sleeps all the time would else show
/// nothing.
fn shares(sched: &VcpuSched, from_ns: u64, to_ns: u64) -> Shares {
    let open = to_ns.saturating_sub(sched.since_ns.max(from_ns));
    let mut shares =
        Shares { running: sched.running_ns, runnable: sched.runnable_ns, blocked: sched.blocked_ns };
    match sched.state {
        RUNNING => shares.running += open,
        WOKEN | PREEMPTED => shares.runnable += open,
        BLOCKED => shares.blocked += open,
        _ => {}
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_ebpf::probes::vcpu_sched::{Preempter, UNKNOWN};

    #[test]
    fn the_present_state_counts_from_the_window_on() {
        let by = Preempter { kernel: 0, comm: [0; 16], vcpu: 0 };
        let ended = VcpuSched {
            state: UNKNOWN,
            series: 0,
            since_ns: 50,
            running_ns: 1,
            runnable_ns: 2,
            blocked_ns: 3,
            migrations: 0,
            by,
        };
        for (state, since_ns, expected) in [
            (UNKNOWN, 150, (1, 2, 3)),
            (RUNNING, 150, (51, 2, 3)),
            (WOKEN, 150, (1, 52, 3)),
            (PREEMPTED, 190, (1, 12, 3)),
            (BLOCKED, 50, (1, 2, 103)),
            (BLOCKED, 250, (1, 2, 3)),
        ] {
            let Shares { running, runnable, blocked } =
                shares(&VcpuSched { state, since_ns, ..ended }, 100, 200);
            assert_eq!((running, runnable, blocked), expected, "state {state} since {since_ns}");
        }
    }
}
