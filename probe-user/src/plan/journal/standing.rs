//! What stands written on the host after everything that a journal tells.

use super::{Entry, EntryState};
use crate::model::{CpuSet, Value};
use crate::plan::{Need, Step, Target};

/// What vfprobe has written to one target, all transactions together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The target.
    pub target: Target,
    /// Numbers of the steps behind it.
    pub steps: Vec<u32>,
    /// What it was before.
    pub old: Value,
    /// Of an interrupt: where it really went before.
    pub old_effective: Option<CpuSet>,
    /// Every value written, and what the kernel made of it; the last one is the one asked for.
    pub ours: Vec<Value>,
    /// What the kernel made of the value that is asked for, where it took only part of it.
    pub taken: Option<Value>,
    /// The reason of the last step.
    pub reason: String,
    /// The need of the last step.
    pub need: Need,
}

impl Standing {
    /// The value that is asked for.
    #[must_use]
    pub fn asked(&self) -> &Value {
        self.ours.last().unwrap_or(&self.old)
    }

    fn of(n: u32, step: &Step, taken: Option<&Value>) -> Self {
        let Step { target, now, effective, new, need, reason } = step;
        Self {
            target: target.clone(),
            steps: vec![n],
            old: now.clone(),
            old_effective: effective.clone(),
            taken: taken.cloned(),
            ours: taken.into_iter().chain([new]).cloned().collect(),
            reason: reason.clone(),
            need: *need,
        }
    }
}

/// What stands of some entries. Later steps on a target continue earlier ones only when they found what those had
/// written. Otherwise somebody else changed the target in between, and that is the value to go back to.
pub(super) fn merge<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<Standing> {
    let mut all: Vec<Standing> = Vec::new();
    let standing = |e: &&Entry| matches!(e.state, EntryState::Begun | EntryState::Done);
    for Entry { n, step, state, taken } in entries.filter(standing) {
        let key = step.target.key();
        let before = all.iter_mut().find(|s| s.target.key() == key);
        match before {
            Some(before) if before.ours.contains(&step.now) => {
                before.steps.push(*n);
                before.ours.extend(taken.iter().chain([&step.new]).cloned());
                before.taken.clone_from(taken);
                before.reason.clone_from(&step.reason);
                before.need = step.need;
            }
            Some(before) => {
                let mut steps = std::mem::take(&mut before.steps);
                steps.push(*n);
                *before = Standing { steps, ..Standing::of(*n, step, taken.as_ref()) };
            }
            None => all.push(Standing::of(*n, step, taken.as_ref())),
        }
        // A step that led back leaves nothing of ours, once it is known to have been carried out.
        if *state == EntryState::Done {
            all.retain(|s| s.target.key() != key || s.old != *s.asked());
        }
    }
    all
}
