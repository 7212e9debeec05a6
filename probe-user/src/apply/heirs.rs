//! What came into being while settings were in force, and inherited them: nobody else will ever undo that.
//!
//! Threads have the mask of the thread that created them, interrupts the default mask of their time. Both are known by
//! being new and by having exactly what was written.

use super::error::one_line;
use super::host::Host;
use super::undo::{Outcome, RollbackReport, Undone, write_old};
use crate::model::topology::Thread;
use crate::model::{CpuSet, HostThread, IrqNumber, Pid, Value};
use crate::plan::journal::{Begin, Standing};
use crate::plan::{Target, ThreadTarget};
use std::collections::BTreeMap;

/// Gives new threads and interrupts what they would have had. `undone` says whether what was written to them is undone.
pub(super) fn restore_heirs(
    host: &dyn Host,
    standing: &[Standing],
    since: Option<&Begin>,
    undone: bool,
    report: &mut RollbackReport,
) {
    let Some(since) = since else { return };
    restore_threads(host, standing, since.ticks, report);
    restore_irqs(host, standing, &since.irqs, undone, report);
}

fn restore_threads(host: &dyn Host, standing: &[Standing], since: u64, report: &mut RollbackReport) {
    let parents: Vec<(&ThreadTarget, &Standing)> = standing
        .iter()
        .filter_map(|s| match &s.target {
            Target::Thread(thread) => Some((thread, s)),
            Target::DefaultAffinity | Target::Irq(_) | Target::Knob(_) => None,
        })
        .collect();
    if parents.is_empty() {
        return;
    }
    let threads = match host.threads() {
        Ok(threads) => threads,
        Err(error) => return missed(report, "threads", &error),
    };
    let lineage: BTreeMap<Pid, Pid> = threads.iter().map(|t| (t.pid, t.parent)).collect();
    let known = |t: &Thread| parents.iter().any(|(p, _)| (p.tid, p.start_time) == (t.tid, t.start_time));
    let new = threads.iter().filter(|t| !t.kernel && t.thread.start_time >= since && !known(&t.thread));
    for heir in new {
        let Some((parent, standing)) = testator(&parents, &lineage, heir) else { continue };
        let Thread { tid, comm, start_time, affinity: _ } = heir.thread.clone();
        let role = parent.role.clone();
        let target = Target::Thread(ThreadTarget { pid: heir.pid, tid, start_time, comm, role });
        give_back(host, target, standing, standing.old.clone(), report);
    }
}

/// The thread that another one has its mask from: in its own process, the first thread before others; otherwise in the
/// nearest process that it descends from.
fn testator<'a>(
    parents: &[(&'a ThreadTarget, &'a Standing)],
    lineage: &BTreeMap<Pid, Pid>,
    heir: &HostThread,
) -> Option<(&'a ThreadTarget, &'a Standing)> {
    let mut pid = Some(heir.pid);
    // Processes may be replaced while they are read, so nothing says that a chain of parents ends.
    for _ in 0..=lineage.len() {
        let of_process =
            parents.iter().filter(|(t, s)| Some(t.pid) == pid && *s.asked() == heir.thread.affinity);
        let first = of_process.clone().find(|(t, _)| t.tid.0 == t.pid.0);
        if let Some(found) = first.or_else(|| of_process.clone().next()) {
            return Some(*found);
        }
        pid = Some(*lineage.get(&pid?)?);
    }
    None
}

/// `known` are the interrupts that were there when the default mask was written; when it was not, there are none.
fn restore_irqs(
    host: &dyn Host,
    standing: &[Standing],
    known: &[(IrqNumber, String)],
    undone: bool,
    report: &mut RollbackReport,
) {
    let default = standing.iter().find(|s| s.target == Target::DefaultAffinity);
    let Some(default) = default.filter(|_| !known.is_empty()) else { return };
    let irqs = match host.irqs() {
        Ok(irqs) => irqs,
        Err(error) => return missed(report, "interrupts", &error),
    };
    // The mask may have been written several times: an interrupt has that of its time.
    let ours: Vec<&CpuSet> = default.ours.iter().filter_map(Value::cpus).collect();
    let Some(old) = default.old.cpus() else { return };
    for (irq, cpus) in irqs {
        let at_birth = |default: &CpuSet| host.initial_affinity(irq.number, default);
        let due = at_birth(old);
        if cpus == due || !ours.iter().any(|asked| cpus == at_birth(asked)) {
            continue;
        }
        let target = Target::Irq(irq.clone());
        let key = target.key();
        let was_there = known.contains(&(irq.number, irq.actions));
        let new = match standing.iter().find(|s| s.target.key() == key) {
            // What it had before it was written to came from our default mask too.
            Some(own) if own.old == cpus => undone && !was_there,
            // Made anew under its old number, unless it has what was written to it, also on the way back.
            Some(own) => {
                !own.ours.iter().any(|ours| *ours == cpus) && own.old_effective.as_ref() != Some(&cpus)
            }
            None => !was_there,
        };
        if new {
            give_back(host, target, default, due.into(), report);
        }
    }
}

fn missed(report: &mut RollbackReport, what: &str, error: &dyn std::error::Error) {
    report.notes.push(format!("{what} created since were not looked for: {}", one_line(error)));
}

fn give_back(host: &dyn Host, target: Target, of: &Standing, due: Value, report: &mut RollbackReport) {
    let item = Standing { target: target.clone(), old: due, ..of.clone() };
    let outcome = write_old(host, &item).unwrap_or_else(Outcome::Failed);
    if !matches!(outcome, Outcome::Gone) {
        report.undone.push(Undone { target, outcome });
    }
}
