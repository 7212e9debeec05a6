//! What this host can do and observe: facts read once, and findings judged from them.
//!
//! `facts` reads, `judge` is pure. A finding says what was found, what it costs, and what mends it.

mod facts;
mod judge;
#[cfg(test)]
mod judge_tests;
#[cfg(test)]
mod tests;
mod tuning;

pub use facts::{Access, HealthFacts, read_health};
pub use judge::examine;
pub use tuning::{FrequencyPolicy, IdleState, Tuning};

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Something is lost or disturbed; the rest works.
    Warn,
    /// vfprobe cannot do its work here.
    Fail,
}

impl Level {
    /// The word used in tables and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One line of the examination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at. A stable word; several findings may share it.
    pub check: String,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What it costs; `None` when nothing.
    pub cost: Option<String>,
    /// What mends it: a command, or a boot option with the place it goes to.
    pub fix: Option<String>,
}

impl Finding {
    /// Nothing to complain about.
    pub fn ok(check: &str, found: impl Into<String>) -> Self {
        Self { check: check.to_owned(), level: Level::Ok, found: found.into(), cost: None, fix: None }
    }

    /// Something is lost or disturbed.
    pub fn warn(
        check: &str,
        found: impl Into<String>,
        cost: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            check: check.to_owned(),
            level: Level::Warn,
            found: found.into(),
            cost: Some(cost.into()),
            fix: Some(fix.into()),
        }
    }

    /// vfprobe cannot do its work.
    pub fn fail(
        check: &str,
        found: impl Into<String>,
        cost: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { level: Level::Fail, ..Self::warn(check, found, cost, fix) }
    }
}
