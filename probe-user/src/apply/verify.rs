//! Comparing the host with what is on record.

use super::error::one_line;
use super::host::{Host, Observed, Seen};
use crate::model::owners::Owner;
use crate::model::{CpuSet, Value};
use crate::plan::journal::{Begin, Journal, Standing};
use crate::plan::{Need, Target};
use serde::Serialize;

/// The configuration on record, and how the host looks beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InForce {
    /// Names of the configurations, oldest first; the last one counts where they differ.
    pub configs: Vec<String>,
    /// Guests that they serve.
    pub guests: Vec<String>,
    /// CPUs that they guard.
    pub guarded: CpuSet,
    /// The policy file that a service keeps; `None` when any of it was applied by somebody else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_by: Option<String>,
    /// When the last one was begun, seconds since 1970.
    pub since: u64,
    /// Whether the record ends properly: neither `apply` nor `rollback` was cut short.
    pub settled: bool,
    /// Each target with what is asked and what is found.
    pub checks: Vec<Check>,
    /// What was asked for and passed over, as the configuration is in force without it.
    pub left: Vec<Left>,
}

/// A target that is there and was left as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Left {
    /// The target.
    pub target: Target,
    /// What was asked.
    pub asked: Value,
    /// What is found.
    pub found: Value,
    /// Of an interrupt: where it goes.
    pub effective: Option<CpuSet>,
    /// Who says where it goes.
    pub owner: Owner,
    /// Why it was left.
    pub why: String,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The target.
    pub target: Target,
    /// What is asked.
    pub asked: Value,
    /// What is found.
    #[serde(flatten)]
    pub reality: Reality,
    /// Whether the configuration is not in force unless this holds.
    pub need: Need,
    /// Who has written what is found; `None` where nothing is, or it cannot be read.
    pub owner: Option<Owner>,
}

/// What is found in a target's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Reality {
    /// What is asked; of an interrupt, the CPU it really goes to is one of those.
    AsAsked {
        /// Of an interrupt: where it goes.
        effective: Option<CpuSet>,
    },
    /// The mask is as asked, but the interrupt has not moved yet.
    Pending {
        /// Where it goes until it fires again.
        effective: CpuSet,
    },
    /// Somebody else's value.
    Drifted {
        /// The value.
        found: Value,
    },
    /// The target is gone.
    Gone,
    /// It could not be read.
    Unreadable {
        /// Why.
        error: String,
    },
}

impl Check {
    /// Whether the configuration has lost its hold on this target.
    #[must_use]
    pub fn is_drift(&self) -> bool {
        match &self.reality {
            Reality::AsAsked { .. } | Reality::Pending { .. } => false,
            Reality::Gone => self.need == Need::Required,
            Reality::Drifted { .. } | Reality::Unreadable { .. } => true,
        }
    }
}

impl InForce {
    /// Whether everything is as asked.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.settled && !self.checks.iter().any(Check::is_drift)
    }
}

/// Compares the host with a journal; `None` when nothing is in force: the journal is empty, undone or of another boot.
#[must_use]
pub fn verify(host: &dyn Host, journal: &Journal, boot_id: &str) -> Option<InForce> {
    let last = journal.open().next_back().filter(|last| last.begin.boot_id == boot_id)?;
    let latest = latest(journal);
    let mut guests: Vec<String> = latest.iter().flat_map(|begin| begin.guests.clone()).collect();
    guests.sort();
    guests.dedup();
    let kept_by = last.begin.kept_by.clone();
    let kept_by = kept_by.filter(|by| journal.open().all(|t| t.begin.kept_by.as_ref() == Some(by)));
    Some(InForce {
        configs: configs(journal),
        guests,
        guarded: latest.iter().fold(CpuSet::new(), |all, begin| all.union(&begin.guarded)),
        kept_by,
        since: last.begin.unix_time,
        settled: journal.is_settled(),
        checks: journal.standing().iter().map(|standing| check(host, standing)).collect(),
        left: left(host, journal),
    })
}

/// Names of the configurations in force by the journal alone, oldest first, none of another boot; `None` while one is being
/// applied or undone, or that was cut short.
#[must_use]
pub fn settled(journal: &Journal, boot_id: &str) -> Option<Vec<String>> {
    let of_this_boot = journal.open().next_back().is_some_and(|last| last.begin.boot_id == boot_id);
    match (of_this_boot, journal.is_settled()) {
        (false, _) => Some(Vec::new()),
        (true, true) => Some(configs(journal)),
        (true, false) => None,
    }
}

fn configs(journal: &Journal) -> Vec<String> {
    let mut configs: Vec<String> = journal.open().map(|t| t.begin.config.clone()).collect();
    // A policy that is kept goes on under its name.
    configs.dedup();
    configs
}

/// The last head of each configuration: a policy that is kept goes on for those guests that are there.
fn latest(journal: &Journal) -> Vec<&Begin> {
    let mut latest: Vec<&Begin> = Vec::new();
    for transaction in journal.open() {
        latest.retain(|begin| begin.config != transaction.begin.config);
        latest.push(&transaction.begin);
    }
    latest
}

fn check(host: &dyn Host, standing: &Standing) -> Check {
    let asked = standing.asked();
    let reality = match host.observe(&standing.target) {
        Err(error) => Reality::Unreadable { error: one_line(&error) },
        Ok(Seen::Gone | Seen::Replaced(_)) => Reality::Gone,
        Ok(Seen::Here(Observed { value, .. })) if !host.same(&standing.target, asked, &value) => {
            Reality::Drifted { found: value }
        }
        Ok(Seen::Here(observed)) => match observed.effective {
            Some(effective) if !asked.cpus().is_none_or(|asked| effective.is_subset(asked)) => {
                Reality::Pending { effective }
            }
            effective => Reality::AsAsked { effective },
        },
    };
    let owner = match &reality {
        Reality::AsAsked { .. } | Reality::Pending { .. } => Some(Owner::Vfprobe),
        // Who it was is told from what else runs here, which is not looked for at every look.
        Reality::Drifted { .. } => Some(Owner::Unknown),
        Reality::Gone | Reality::Unreadable { .. } => None,
    };
    Check { target: standing.target.clone(), asked: asked.clone(), reality, need: standing.need, owner }
}

/// What was passed over and still is another way than was asked.
fn left(host: &dyn Host, journal: &Journal) -> Vec<Left> {
    let found = journal.passed_over().into_iter().filter_map(|(step, why, immovable)| {
        let Ok(Seen::Here(Observed { value, effective, .. })) = host.observe(&step.target) else {
            return None;
        };
        (!host.same(&step.target, &step.new, &value)).then(|| Left {
            target: step.target.clone(),
            asked: step.new.clone(),
            found: value,
            effective,
            owner: if immovable { Owner::KernelManaged } else { Owner::Unknown },
            why: why.to_owned(),
        })
    });
    found.collect()
}
