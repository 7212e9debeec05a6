//! Letting go of what is no longer ours: guests end and interrupts are made anew, and what was written to them went with them.

use super::ApplyError;
use super::host::{Host, Observed, Seen};
use super::journal_file::JournalFile;
use super::state::StateLock;
use super::transaction::load_fitting;
use crate::model::Value;
use crate::plan::Target;
use crate::plan::journal::{Record, Standing};

/// Strikes targets that are gone off the record, and names them; also those that have another value than is asked and of
/// which `is_over` says so, which gets that value. Nothing on the host is changed.
///
/// # Errors
/// [`ApplyError`] when the journal or the host cannot be read, or the journal not written.
pub fn release(
    host: &dyn Host,
    lock: &StateLock,
    is_over: &dyn Fn(&Standing, &Value) -> bool,
) -> Result<Vec<Target>, ApplyError> {
    let known = load_fitting(host, lock)?;
    if !known.is_settled() {
        return Err(ApplyError::Unfinished(lock.dir().journal_path()));
    }
    let mut gone = Vec::new();
    for standing in known.standing() {
        let over = match host.observe(&standing.target)? {
            Seen::Gone | Seen::Replaced(_) => true,
            Seen::Here(Observed { value, .. }) => {
                !host.same(&standing.target, standing.asked(), &value) && is_over(&standing, &value)
            }
        };
        if over {
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
