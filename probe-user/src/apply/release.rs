//! Letting go of what is gone: guests end and interrupts are made anew, and what was written to them went with them.

use super::ApplyError;
use super::host::{Host, Seen};
use super::journal_file::JournalFile;
use super::state::StateLock;
use super::transaction::load_fitting;
use crate::plan::Target;
use crate::plan::journal::Record;

/// Strikes targets that are gone off the record, and names them. Nothing on the host is changed.
///
/// # Errors
/// [`ApplyError`] when the journal or the host cannot be read, or the journal not written.
pub fn release_gone(host: &dyn Host, lock: &StateLock) -> Result<Vec<Target>, ApplyError> {
    let known = load_fitting(host, lock)?;
    if !known.is_settled() {
        return Err(ApplyError::Unfinished(lock.dir().journal_path()));
    }
    let mut gone = Vec::new();
    for standing in known.standing() {
        if matches!(host.observe(&standing.target)?, Seen::Gone | Seen::Replaced(_)) {
            gone.push(standing);
        }
    }
    if gone.is_empty() {
        return Ok(Vec::new());
    }
    let mut journal = JournalFile::open(lock, &known)?;
    for n in gone.iter().flat_map(|standing| &standing.steps) {
        journal.append(&Record::Released { n: *n })?;
    }
    Ok(gone.into_iter().map(|standing| standing.target).collect())
}
