//! What is let go without a fight: what is gone, what was made anew, and what others may have.

use super::{ReconcileError, Reconciler};
use crate::apply::{self, Host as _, Seen};
use crate::model::Value;
use crate::plan::journal::Standing;
use crate::plan::{IrqTarget, Plan, Step, Target, TargetKey, VectorName};
use crate::probes::irq_delivery::Freed;
use std::collections::BTreeSet;
use tracing::info;

impl Reconciler {
    /// Strikes off the record what is gone, and what `is_over` says of what is not as asked. Says how much.
    pub(super) fn release(
        &self,
        is_over: &dyn Fn(&Standing, &Value) -> bool,
    ) -> Result<usize, ReconcileError> {
        Ok(match &self.lock {
            Some(lock) => apply::release(&self.host, lock, is_over)?.len(),
            None => 0,
        })
    }

    /// Tells interrupts that were made anew and have their old number and name: what they are set to is the kernel's
    /// doing, and nobody's. Where it was not seen, by having the mask that new ones get.
    pub(super) fn made_anew(
        &self,
        before: &Freed,
        now: &Freed,
    ) -> Result<impl Fn(&Standing, &Value) -> bool, ReconcileError> {
        let written =
            self.state.load()?.standing().into_iter().filter(|s| s.target == Target::DefaultAffinity);
        let mut masks: Vec<Value> = written.flat_map(|s| s.ours.into_iter().chain([s.old])).collect();
        if let Seen::Here(observed) = self.host.observe(&Target::DefaultAffinity)? {
            masks.push(observed.value);
        }
        Ok(move |standing: &Standing, found: &Value| {
            let Target::Irq(IrqTarget { number, vector: Some(VectorName { vf, slot }), .. }) =
                standing.target
            else {
                return false;
            };
            let mut born =
                masks.iter().filter_map(|mask| Some(self.host.initial_affinity(number, mask.cpus()?)));
            match (before.get(&(vf, slot)), now.get(&(vf, slot))) {
                (Some(before), Some(now)) => before != now,
                _ => born.any(|born| found.cpus() == Some(&born)),
            }
        })
    }

    /// The steps of a plan that correct what somebody else has set: they lead to what is asked already. `now` is what has
    /// been freed by now, since the guests did not stand still while the host was looked at.
    pub(super) fn corrections(&self, plan: &Plan, now: &Freed) -> Result<Vec<Step>, ReconcileError> {
        let is_anew = self.made_anew(&self.freed, now)?;
        let correction = |standing: Standing| {
            let key = standing.target.key();
            let step = plan.steps.iter().find(|s| s.target.key() == key && s.new == *standing.asked())?;
            // Nobody has set what the kernel made of it while CPUs were offline.
            let is_theirs = Some(&step.now) != standing.taken.as_ref() && !is_anew(&standing, &step.now);
            (is_theirs && !self.strikes.is_released(&key)).then(|| step.clone())
        };
        Ok(self.state.load()?.standing().into_iter().filter_map(correction).collect())
    }

    /// Strikes off the record what somebody else has set and the policy has nothing against.
    pub(super) fn cede(&self, ceded: &BTreeSet<TargetKey>) -> Result<(), ReconcileError> {
        if ceded.is_empty() {
            return Ok(());
        }
        let is_theirs = |standing: &Standing, found: &Value| {
            let theirs = ceded.contains(&standing.target.key());
            if theirs {
                info!(
                    "{}: left at {found}, as somebody else has set it: the policy allows it",
                    standing.target
                );
            }
            theirs
        };
        self.release(&is_theirs).map(|_| ())
    }
}
