//! What is let go without a fight: what is gone, what was made anew, and what others may have.

use super::{ReconcileError, Reconciler};
use crate::apply::{self, Host as _, Seen};
use crate::model::Value;
use crate::plan::journal::Standing;
use crate::plan::{IrqTarget, Target, TargetKey, VectorName};
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
            match (before.get(&(vf, slot)), self.freed.get(&(vf, slot))) {
                (Some(before), Some(now)) => before != now,
                _ => born.any(|born| found.cpus() == Some(&born)),
            }
        })
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
