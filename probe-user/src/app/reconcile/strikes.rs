//! Against whom a setting is lost: another writer is corrected a few times, and then let be.
//!
//! Values in, values out: what time it is comes from outside.

use crate::plan::TargetKey;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Changes longer ago than this are forgotten, so that a rare event is not taken for a fight.
pub(super) const MEMORY: Duration = Duration::from_secs(600);

/// Who changed what how often.
#[derive(Debug, Default)]
pub(super) struct Strikes {
    /// When each target was found changed, as time since the start.
    seen: BTreeMap<TargetKey, Vec<Duration>>,
    released: BTreeSet<TargetKey>,
}

impl Strikes {
    /// Notes that somebody else had changed a target by `now` (time since any fixed moment). Says whether the target is
    /// released by this very change, which is the `limit`-th within the memory.
    pub(super) fn strike(&mut self, target: &TargetKey, now: Duration, limit: u32) -> bool {
        let seen = self.seen.entry(target.clone()).or_default();
        seen.retain(|at| now.saturating_sub(*at) < MEMORY);
        seen.push(now);
        u32::try_from(seen.len()).is_ok_and(|seen| seen >= limit) && self.released.insert(target.clone())
    }

    /// Gives a target up without a fight: what the kernel refused is not tried again.
    pub(super) fn leave(&mut self, target: TargetKey) {
        self.released.insert(target);
    }

    /// Whether a target is no longer touched.
    pub(super) fn is_released(&self, target: &TargetKey) -> bool {
        self.released.contains(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::IrqNumber;

    #[test]
    fn three_within_the_memory_release() {
        for (times, expect) in [
            (&[0_u64, 2, 4][..], &[false, false, true][..]),
            (&[0, 599, 601, 602], &[false, false, false, true]),
            (&[0, 700, 1400, 2100], &[false; 4]),
            // Released once; whoever goes on changing it is not spoken of again.
            (&[0, 1, 2, 3], &[false, false, true, false]),
        ] {
            let mut strikes = Strikes::default();
            let target = TargetKey::Irq(IrqNumber(30), "vfio-msix[0](0000:01:10.0)".to_owned());
            let found: Vec<bool> =
                times.iter().map(|at| strikes.strike(&target, Duration::from_secs(*at), 3)).collect();
            assert_eq!(found, expect, "{times:?}");
            assert_eq!(strikes.is_released(&target), expect.contains(&true), "{times:?}");
            assert!(!strikes.is_released(&TargetKey::DefaultAffinity));
        }
    }
}
