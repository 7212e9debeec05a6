//! Why something of the host could not be read.

use super::MalformedAnswer;
use std::{io, path::PathBuf};

/// A file that cannot be read, or does not say what it should.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The system call failed. What has vanished (ENOENT, ESRCH, ENODEV) is not an error but `None`.
    #[error("{}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The text is not what the kernel writes there.
    #[error("{}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Malformed,
    },
    /// The kernel cannot be asked about an interface, or refuses to answer.
    #[error("VF counters of {netdev}")]
    Ask {
        /// The interface.
        netdev: String,
        /// The cause.
        source: io::Error,
    },
    /// Its answer is not what it should be.
    #[error("VF counters of {netdev}")]
    Answer {
        /// The interface.
        netdev: String,
        /// Where and what.
        source: MalformedAnswer,
    },
}

/// A text that a parser refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: expected {expected}, found {text:?}")]
pub struct Malformed {
    /// Line number, from 1.
    pub line: usize,
    /// What should be there.
    pub expected: &'static str,
    /// What is there, shortened to its first 80 characters.
    pub text: String,
}

impl Malformed {
    /// A refusal of one line.
    #[must_use]
    pub fn new(line: usize, expected: &'static str, text: &str) -> Self {
        Self { line, expected, text: text.chars().take(80).collect() }
    }
}
