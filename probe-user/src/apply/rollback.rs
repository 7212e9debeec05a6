//! Undoing everything on record, whatever state it is in.

use super::host::{Host, Refusal};
use super::journal_file::JournalFile;
use super::undo::{RollbackReport, undo};
use super::{RollbackError, StateError, StateLock};
use crate::plan::TargetKey;
use crate::plan::journal::{Begin, Record};
use std::collections::BTreeSet;
use std::time::Duration;

/// How rollback is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollbackOptions {
    /// How long moves of interrupts are awaited, all together.
    pub settle: Duration,
    /// Whether a damaged journal is used as far as it can be read.
    pub salvage: bool,
}

impl Default for RollbackOptions {
    fn default() -> Self {
        Self { settle: Duration::from_secs(1), salvage: false }
    }
}

/// Undoes everything on record. When all is undone, the journal is put away beside its place; otherwise it stays, and
/// rollback can be repeated. With nothing on record it does nothing. Lines that a salvaged journal has lost keep nobody from
/// putting it away: they will never be readable.
///
/// # Errors
/// [`RollbackError`] when it could not begin; what could not be undone is in the report.
pub fn rollback(
    host: &dyn Host,
    lock: &StateLock,
    options: &RollbackOptions,
) -> Result<RollbackReport, RollbackError> {
    let dir = lock.dir();
    let known = if options.salvage { dir.salvage()? } else { dir.load()? };
    let mut report = RollbackReport::default();
    if known.torn {
        report
            .notes
            .push("the journal's last record was cut short; its step had not been carried out".to_owned());
    }
    report.lost = known.damaged.clone();
    let boot_id = host.boot_id()?;
    if known.transactions.iter().any(|t| t.begin.boot_id != boot_id) {
        report.notes.push(
            "the journal is of another boot: nothing of it is in force, and it was put away".to_owned(),
        );
        report.lost.clear();
        JournalFile::archive(dir)?;
        return Ok(report);
    }
    let standing = known.standing();
    if known.lines == 0 && !known.torn {
        return Ok(report);
    }
    for item in &standing {
        match host.may_write(&item.target) {
            // Nobody may write it, so nobody has: a step that was cut short before it could be passed over.
            Err(error) if !matches!(error.refusal(), Some(Refusal::ReadOnly | Refusal::Managed)) => {
                return Err(error.into());
            }
            _ => {}
        }
    }
    let since = known.open().next().map(|first| {
        // The default mask may have been written by a later transaction.
        let irqs = known.open().map(|t| &t.begin.irqs).find(|irqs| !irqs.is_empty()).cloned();
        let mut irqs = irqs.unwrap_or_default();
        // What was made anew under its old number is not what was there: that had its name, and is gone.
        let released: BTreeSet<TargetKey> = known.released().collect();
        let gone =
            irqs.iter_mut().filter(|(n, actions)| released.contains(&TargetKey::Irq(*n, actions.clone())));
        gone.for_each(|(_, actions)| actions.clear());
        Begin { irqs, ..first.begin.clone() }
    });
    let resumed = known.undoing_all || known.open().any(|t| t.undoing);
    let journal = if standing.is_empty() { None } else { Some(begin(lock, &known)) };
    let undone = undo(host, &standing, since.as_ref(), resumed, options.settle);
    report.undone = undone.undone;
    report.notes.extend(undone.notes);
    if report.failures().is_empty() {
        if let Some(Ok(mut journal)) = journal {
            // Undoing is as complete without the record: the journal is put away next.
            let _ = journal.append(&Record::Closed);
        }
        JournalFile::archive(dir)?;
    }
    Ok(report)
}

/// Records that undoing begins. A full disk must not keep anybody from undoing, so failing is no reason to stop.
fn begin<'a>(
    lock: &'a StateLock,
    known: &crate::plan::journal::Journal,
) -> Result<JournalFile<'a>, StateError> {
    let mut journal = JournalFile::open(lock, known)?;
    journal.append(&Record::Undo { all: true })?;
    Ok(journal)
}
