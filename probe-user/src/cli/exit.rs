//! Exit codes, and the one line that explains a failure.

use std::{error::Error, fmt, process::ExitCode};

/// How a command ended. The numbers are part of the interface (README.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: all is fine.
    Fine,
    /// 1: a finding: worse, over budget, drift.
    Finding,
    /// 2: wrong arguments or input.
    Usage,
    /// 3: cannot run here: missing privilege or kernel feature.
    CannotRun,
    /// 4: something went wrong and was rolled back; nothing is left changed.
    RolledBack,
    /// 5: rollback was incomplete: something is left changed.
    RollbackIncomplete,
    /// The exit code of the command that `record` wrapped.
    Workload(u8),
}

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Finding => 1,
            Self::Usage => 2,
            Self::CannotRun => 3,
            Self::RolledBack => 4,
            Self::RollbackIncomplete => 5,
            Self::Workload(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// A command that could not do its work: the exit code, and the error whose chain is printed on one line.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What went wrong; `Display` with its sources makes the line.
    pub error: anyhow::Error,
}

impl Failure {
    /// A failure with the given exit code.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }

    /// Wrong arguments or input, exit code 2.
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Usage, error)
    }

    /// This host cannot do it, exit code 3.
    pub fn cannot_run(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::CannotRun, error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Some errors say their cause themselves, as they are logged too: nothing is said twice.
        let mut said = String::new();
        for cause in self.error.chain().map(ToString::to_string) {
            if !said.contains(&cause) {
                let colon = if said.is_empty() { "" } else { ": " };
                write!(f, "{colon}{cause}")?;
                said.push_str(&cause);
            }
        }
        Ok(())
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        for (chain, expected) in [
            (["no room", "no room", "no room"], "no room"),
            (["no room", "line 2: no room", "f.toml: line 2: no room"], "f.toml: line 2: no room"),
            (["no room", "cannot write", "f.toml"], "f.toml: cannot write: no room"),
            (
                ["no room", "cannot write (no room); try again", "f.toml"],
                "f.toml: cannot write (no room); try again",
            ),
        ] {
            let [root, middle, top] = chain;
            let error = anyhow::anyhow!(root).context(middle).context(top);
            assert_eq!(Failure::usage(error).to_string(), expected);
        }
    }
}
