//! Guests that the policy cannot be kept for.

use super::{Observed, ReconcileError, Reconciler, for_present};
use crate::plan::{Held, Policy};
use tracing::{error, info};

impl Reconciler {
    /// Tells for whom the policy cannot be kept, each once, and for whom it can be again.
    pub(super) fn hold(&mut self, held: Vec<Held>) {
        for Held { guest, error, .. } in &held {
            if !self.held.iter().any(|before| (&before.guest, &before.error) == (guest, error)) {
                error!("the policy cannot be kept for guest {guest}, which stays as it is: {error}");
            }
        }
        for Held { guest, .. } in &self.held {
            if !held.iter().any(|now| now.guest == *guest) {
                info!("guest {guest} is no longer held");
            }
        }
        self.held = held;
    }

    /// Whether this host can meet a policy now, for every guest that is there.
    pub(super) fn check(&self, policy: &Policy, observed: &dyn Observed) -> Result<(), ReconcileError> {
        let topology = self.topology(observed);
        let policy = for_present(policy, &topology);
        match self.plan_for(&policy, topology)?.and_then(|renewed| renewed.held.into_iter().next()) {
            Some(held) => Err(held.error.into()),
            None => Ok(()),
        }
    }
}
