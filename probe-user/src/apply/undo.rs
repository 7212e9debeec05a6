//! Undoing: what is found is compared with what was written, and only that is put back.

use super::error::one_line;
use super::faults::{self, Point};
use super::heirs::restore_heirs;
use super::host::{Host, Observed, Refusal, Seen, TargetError};
use crate::model::{CpuSet, Value};
use crate::plan::journal::{Begin, Standing};
use crate::plan::{Step, Target};
use std::time::{Duration, Instant};
use tracing::info;

/// How often a pending move is looked at while it is awaited.
const POLL: Duration = Duration::from_millis(5);

/// What became of everything that was written.
#[derive(Debug, Default)]
pub struct RollbackReport {
    /// One entry for each target, in the order in which they were undone.
    pub undone: Vec<Undone>,
    /// Lines of a damaged journal that could not be read, counted from 1. What they told of may still be in force.
    pub lost: Vec<u64>,
    /// What else there is to know, one line each.
    pub notes: Vec<String>,
}

/// What became of one target.
#[derive(Debug)]
pub struct Undone {
    /// The target.
    pub target: Target,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a target.
#[derive(Debug)]
pub enum Outcome {
    /// It has its old value again.
    Restored(Value),
    /// An interrupt has its old mask again, but goes on firing on another CPU of that mask than before.
    Elsewhere {
        /// The old mask.
        mask: Value,
        /// Where it fires.
        fires_on: CpuSet,
    },
    /// It had its old value already.
    Untouched,
    /// It is gone, and its settings with it.
    Gone,
    /// Somebody else has changed it since; it was left.
    Foreign(Value),
    /// It could not be read or written.
    Failed(TargetError),
}

impl RollbackReport {
    /// Whether nothing is left of what was written, as far as anybody can know.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.lost.is_empty() && !self.undone.iter().any(|u| matches!(u.outcome, Outcome::Failed(_)))
    }

    /// Targets that somebody else has changed since, with what they are set to now.
    pub fn foreign(&self) -> impl Iterator<Item = (&Target, &Value)> {
        self.undone.iter().filter_map(|u| match &u.outcome {
            Outcome::Foreign(value) => Some((&u.target, value)),
            _ => None,
        })
    }

    /// One line for each target that could not be undone.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let line = |u: &Undone| match &u.outcome {
            Outcome::Failed(error) => Some(format!("{}: {}", u.target, one_line(error))),
            _ => None,
        };
        self.undone.iter().filter_map(line).collect()
    }
}

/// What undoing one target begins with.
enum First {
    Over(Outcome),
    /// An interrupt that was sent to where it fired before; its mask is restored once it has arrived.
    Homing(CpuSet),
}

/// Undoes everything in `standing`, the last first. `since` is the head of the first transaction behind it; `resumed`
/// says that an earlier undoing may have been cut short.
pub(super) fn undo(
    host: &dyn Host,
    standing: &[Standing],
    since: Option<&Begin>,
    resumed: bool,
    settle: Duration,
) -> RollbackReport {
    let mut report = RollbackReport::default();
    let mut homing: Vec<(&Standing, CpuSet)> = Vec::new();
    restore_heirs(host, standing, since, false, &mut report);
    for item in standing.iter().rev() {
        match begin(host, item, resumed) {
            Ok(First::Over(outcome)) => report.undone.push(Undone { target: item.target.clone(), outcome }),
            Ok(First::Homing(home)) => homing.push((item, home)),
            Err(error) => {
                report.undone.push(Undone { target: item.target.clone(), outcome: Outcome::Failed(error) });
            }
        }
    }
    let arrived = |(item, home): &(&Standing, CpuSet)| match host.observe(&item.target) {
        Ok(Seen::Here(Observed { effective: Some(effective), .. })) => effective == *home,
        _ => true,
    };
    wait_until(settle, || homing.iter().all(arrived));
    for (item, home) in homing {
        let outcome = write_old(host, item).unwrap_or_else(Outcome::Failed);
        let outcome = match (outcome, host.observe(&item.target)) {
            (Outcome::Restored(mask), Ok(Seen::Here(Observed { effective: Some(fires_on), .. })))
                if fires_on != home =>
            {
                Outcome::Elsewhere { mask, fires_on }
            }
            (outcome, _) => outcome,
        };
        report.undone.push(Undone { target: item.target.clone(), outcome });
    }
    // More may have come from what was not restored yet.
    restore_heirs(host, standing, since, true, &mut report);
    report
}

/// Waits for a condition, at most `limit`. Says whether it came about.
pub(super) fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
}

fn begin(host: &dyn Host, item: &Standing, resumed: bool) -> Result<First, TargetError> {
    let observed = match host.observe(&item.target)? {
        Seen::Here(observed) => observed,
        Seen::Gone | Seen::Replaced(_) => return Ok(First::Over(Outcome::Gone)),
    };
    let Observed { name: _, value: found, effective } = observed;
    let is = |value: &Value| host.same(&item.target, value, &found);
    // Cut short between sending an interrupt home and restoring its mask, the mask is that home.
    let half_undone = resumed && item.old_effective.as_ref().is_some_and(|home| found == *home);
    if is(&item.old) {
        return Ok(First::Over(Outcome::Untouched));
    }
    if !item.ours.iter().any(is) && !half_undone {
        return Ok(First::Over(Outcome::Foreign(found)));
    }
    // A wide mask that holds the present CPU moves nothing: the kernel leaves the interrupt where it is. So it is
    // first sent to where it was.
    if let Some(home) = home(&item.old, item.old_effective.as_ref(), effective.as_ref())
        && host.write(&item.target, &home.clone().into()).is_ok()
    {
        faults::hit(Point::AfterWrite);
        info!(target: "vfprobe::audit", "{}: {found} -> {home} (undone: sent to where it was)", item.target);
        return Ok(First::Homing(home.clone()));
    }
    write_old(host, item).map(First::Over)
}

/// Where an interrupt has to be sent before it gets its old mask back, so that it fires where it did: one CPU of that
/// mask, unless it fires there anyway.
fn home<'a>(old: &Value, fired_on: Option<&'a CpuSet>, fires_on: Option<&CpuSet>) -> Option<&'a CpuSet> {
    let old = old.cpus()?;
    fired_on.filter(|home| {
        home.only().is_some() && home.is_subset(old) && Some(*home) != fires_on && *home != old
    })
}

/// Takes back a write that turned out otherwise, before anything else is recorded.
pub(super) fn take_back(host: &dyn Host, step: &Step) {
    info!(target: "vfprobe::audit", "{}: back to {} (not taken as {})", step.target, step.now, step.new);
    if let Some(home) = home(&step.now, step.effective.as_ref(), None) {
        let _ = host.write(&step.target, &home.clone().into());
    }
    let _ = host.write(&step.target, &step.now);
}

pub(super) fn write_old(host: &dyn Host, item: &Standing) -> Result<Outcome, TargetError> {
    faults::hit(Point::BeforeWrite);
    let written = host.write(&item.target, &item.old);
    faults::hit(Point::AfterWrite);
    match written {
        Ok(()) => {}
        Err(TargetError::Refused { refusal: Refusal::Gone, .. }) => return Ok(Outcome::Gone),
        Err(error) => return Err(error),
    }
    match host.observe(&item.target)? {
        Seen::Here(Observed { value, .. }) if host.same(&item.target, &item.old, &value) => {
            info!(target: "vfprobe::audit", "{}: {} -> {} (undone)", item.target, item.asked(), item.old);
            Ok(Outcome::Restored(value))
        }
        Seen::Here(Observed { value, .. }) => Err(TargetError::NotTaken {
            call: format!("setting {} to {}", item.target, item.old),
            found: value.to_string(),
        }),
        Seen::Gone | Seen::Replaced(_) => Ok(Outcome::Gone),
    }
}
