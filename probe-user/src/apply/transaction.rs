//! Carrying out a plan: all of it, or nothing.

use super::faults::{self, Point};
use super::host::{Host, Observed, Refusal, Seen, TargetError};
use super::journal_file::JournalFile;
use super::undo::{RollbackReport, take_back, undo, wait_until};
use super::{ApplyError, Cause, Failed, StateError, StateLock};
use crate::model::Value;
use crate::plan::journal::{Begin, JOURNAL_FORMAT, Journal, Record};
use crate::plan::{Need, Plan, Role, Step, Target};
use serde::Serialize;
use std::time::Duration;
use tracing::{info, warn};

/// How a transaction is run.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// How long pending moves of interrupts are awaited, all together.
    pub settle: Duration,
    /// Asked before each step; when it says yes, everything is rolled back.
    pub interrupted: &'a dyn Fn() -> bool,
    /// The policy file that a service keeps, where it is one that applies.
    pub kept_by: Option<&'a str>,
}

impl Options<'_> {
    /// One second for pending moves, never interrupted, by hand.
    #[must_use]
    pub fn new() -> Self {
        Self { settle: Duration::from_secs(1), interrupted: &|| false, kept_by: None }
    }
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// A configuration that came into force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Number of steps carried out.
    pub steps: usize,
    /// Steps that were not needed for it and could not be carried out.
    pub skipped: Vec<Skipped>,
    /// Interrupts whose move waits for their next firing.
    pub pending: Vec<Target>,
}

/// A step that was passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Its target.
    pub target: Target,
    /// Why.
    pub why: String,
    /// Whether the kernel refused it, and is going to again. Otherwise the target was gone or had been changed.
    pub refused: bool,
}

/// Brings a plan into force, or leaves the host as it was.
///
/// What an earlier `apply` brought into force stays; the new steps come on top, and `rollback` undoes both.
///
/// # Errors
/// [`ApplyError`] says whether anything was changed and whether that was undone.
pub fn apply(
    host: &dyn Host,
    plan: &Plan,
    lock: &StateLock,
    options: &Options<'_>,
) -> Result<Applied, ApplyError> {
    let known = load_fitting(host, lock)?;
    if !known.is_settled() {
        return Err(ApplyError::Unfinished(lock.dir().journal_path()));
    }
    if plan.steps.is_empty() && !is_news(&known, plan) {
        return Ok(Applied::default());
    }
    for step in &plan.steps {
        match host.may_write(&step.target) {
            Err(error) if !is_spared(step, &error) => return Err(error.into()),
            _ => {}
        }
    }
    let stale: Vec<String> = plan
        .steps
        .iter()
        .filter(|step| step.need != Need::BestEffort)
        .filter_map(|step| match check_guard(host, step) {
            Ok(()) => None,
            Err(Guard::Changed(what)) => Some(Ok(what)),
            Err(Guard::Gone(_)) if step.need == Need::WhilePresent => None,
            Err(Guard::Gone(what)) => Some(Ok(what)),
            Err(Guard::Unreadable(error)) => Some(Err(error)),
        })
        .collect::<Result<_, _>>()?;
    if !stale.is_empty() {
        return Err(ApplyError::Stale(stale));
    }

    let shields = plan.steps.iter().any(|step| step.target == Target::DefaultAffinity);
    let irqs = if shields { host.irqs()? } else { Vec::new() };
    let begin = Begin {
        format: JOURNAL_FORMAT,
        boot_id: host.boot_id()?,
        unix_time: host.unix_time(),
        ticks: host.ticks(),
        vfprobe: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        config: plan.config.clone(),
        guests: plan.guests.clone(),
        guarded: plan.guarded.clone(),
        kept_by: options.kept_by.map(str::to_owned),
        irqs: irqs.into_iter().map(|(irq, _)| (irq.number, irq.actions)).collect(),
    };
    let mut journal = JournalFile::open(lock, &known)?;
    journal.append(&Record::Begin(begin))?;
    let run = Run { host, options, journal: &mut journal, next: known.next_step() };
    match run.all(&plan.steps) {
        Ok(applied) => Ok(applied),
        Err(cause) => Err(roll_back(host, lock, journal, options.settle, cause)),
    }
}

/// Whether a plan that changes nothing is worth a record: it goes on with a configuration for other guests than before.
fn is_news(known: &Journal, plan: &Plan) -> bool {
    let last = known.open().rev().find(|transaction| transaction.begin.config == plan.config);
    last.is_some_and(|last| last.begin.guests != plan.guests || last.begin.guarded != plan.guarded)
}

/// The journal, put away first when it is of another boot.
pub(super) fn load_fitting(host: &dyn Host, lock: &StateLock) -> Result<Journal, ApplyError> {
    let known = lock.dir().load()?;
    let boot_id = host.boot_id()?;
    if known.transactions.iter().any(|t| t.begin.boot_id != boot_id) {
        warn!("the journal is of another boot and void: put away");
        JournalFile::archive(lock.dir())?;
        return Ok(Journal::default());
    }
    Ok(known)
}

fn roll_back(
    host: &dyn Host,
    lock: &StateLock,
    mut journal: JournalFile<'_>,
    settle: Duration,
    cause: Cause,
) -> ApplyError {
    // What is on disk is the truth, not what this process believes; a journal that cannot be extended can still be
    // read, and undoing does not depend on further records.
    let mut report = match lock.dir().load() {
        Ok(known) => {
            let _ = journal.append(&Record::Undo { all: false });
            let begin = known.open().next_back().map(|t| &t.begin);
            undo(host, &known.standing_last(), begin, false, settle)
        }
        Err(error) => {
            let mut report = RollbackReport::default();
            report.notes.push(super::error::one_line(&error));
            return ApplyError::Incomplete(Box::new(Failed { cause, report }));
        }
    };
    if !report.is_complete() {
        return ApplyError::Incomplete(Box::new(Failed { cause, report }));
    }
    if let Err(error) = close(lock, &mut journal) {
        report.notes.push(super::error::one_line(&error));
    }
    ApplyError::RolledBack(Box::new(Failed { cause, report }))
}

/// Records that the last transaction is undone; the journal goes when nothing else stands in it.
fn close(lock: &StateLock, journal: &mut JournalFile<'_>) -> Result<(), StateError> {
    let closed = journal.append(&Record::Closed);
    let known = lock.dir().load()?;
    let others = known.open().count() - usize::from(closed.is_err());
    if others == 0 { JournalFile::archive(lock.dir()) } else { closed }
}

/// Why a step must not be carried out.
enum Guard {
    Changed(String),
    Gone(String),
    Unreadable(TargetError),
}

/// Checks that the target is what the plan was made for, set to what the plan found.
fn check_guard(host: &dyn Host, step: &Step) -> Result<(), Guard> {
    match host.observe(&step.target).map_err(Guard::Unreadable)? {
        Seen::Here(Observed { name, .. }) if !same_name(&step.target, &name) => {
            Err(Guard::Changed(format!("{} is called {name} now", step.target)))
        }
        Seen::Here(Observed { value, .. }) if host.same(&step.target, &step.now, &value) => Ok(()),
        Seen::Here(Observed { value, .. }) => {
            Err(Guard::Changed(format!("{} is set to {value}, not to {}", step.target, step.now)))
        }
        Seen::Gone => Err(Guard::Gone(format!("{} is gone", step.target))),
        Seen::Replaced(other) => {
            Err(Guard::Gone(format!("{} is gone; its number is now {other}'s", step.target)))
        }
    }
}

/// Programs that start others change names; threads of guests do not.
fn same_name(target: &Target, name: &str) -> bool {
    match target {
        Target::Thread(thread) => thread.role == Role::Host || thread.comm == name,
        // What an interrupt is called was compared when it was looked up.
        Target::Irq(_) | Target::DefaultAffinity | Target::Knob(_) => true,
    }
}

struct Run<'a, 'j> {
    host: &'a dyn Host,
    options: &'a Options<'a>,
    journal: &'a mut JournalFile<'j>,
    next: u32,
}

/// What became of a step.
enum Outcome {
    /// With what was found afterwards, when that is not to the letter what was asked.
    Done(Option<Value>),
    Passed {
        why: String,
        because: Because,
    },
}

/// Why a step is passed over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Because {
    /// Its target is gone, or somebody else has changed it.
    Moot,
    /// The kernel does not do it.
    Refused,
    /// The kernel moves such a target never.
    Immovable,
}

impl Run<'_, '_> {
    fn all(mut self, steps: &[Step]) -> Result<Applied, Cause> {
        let mut applied = Applied::default();
        let mut moved: Vec<&Step> = Vec::new();
        for step in steps {
            if (self.options.interrupted)() {
                return Err(Cause::Interrupted);
            }
            let n = self.next;
            self.next += 1;
            self.journal.append(&Record::Step { n, step: step.clone() }).map_err(Cause::Journal)?;
            let record = match self.one(step)? {
                Outcome::Done(taken) => {
                    moved.push(step);
                    Record::Done { n, taken }
                }
                Outcome::Passed { why, because } => {
                    info!(target: "vfprobe::audit", "{}: left at {}: {why}", step.target, step.now);
                    let refused = because != Because::Moot;
                    applied.skipped.push(Skipped { target: step.target.clone(), why: why.clone(), refused });
                    Record::Skipped { n, why, immovable: because == Because::Immovable }
                }
            };
            faults::hit(Point::BeforeDone);
            self.journal.append(&record).map_err(Cause::Journal)?;
            faults::hit(Point::AfterDone);
        }
        applied.steps = moved.len();
        applied.pending = self.await_moves(&moved)?;
        if (self.options.interrupted)() {
            return Err(Cause::Interrupted);
        }
        self.journal.append(&Record::Applied).map_err(Cause::Journal)?;
        Ok(applied)
    }

    fn one(&self, step: &Step) -> Result<Outcome, Cause> {
        match check_guard(self.host, step) {
            Ok(()) => {}
            Err(Guard::Gone(why)) if step.need != Need::Required => {
                return Ok(Outcome::Passed { why, because: Because::Moot });
            }
            Err(Guard::Changed(why)) if may_change(step) => {
                return Ok(Outcome::Passed { why, because: Because::Moot });
            }
            Err(Guard::Gone(what) | Guard::Changed(what)) => return Err(Cause::Stale(what)),
            Err(Guard::Unreadable(error)) => return Err(failed(step, error)),
        }
        faults::hit(Point::BeforeWrite);
        let written = self.host.write(&step.target, &step.new);
        faults::hit(Point::AfterWrite);
        if let Err(error) = written {
            return pass_or_fail(step, error);
        }
        match self.host.observe(&step.target) {
            Ok(Seen::Here(Observed { value, .. })) if self.host.same(&step.target, &step.new, &value) => {
                info!(
                    target: "vfprobe::audit",
                    "{}: {} -> {} ({})", step.target, step.now, step.new, step.reason
                );
                Ok(Outcome::Done(Some(value).filter(|value| *value != step.new)))
            }
            Ok(Seen::Here(Observed { value, .. })) => {
                // What is found is neither the old value nor the one on record: nobody could tell later that it is
                // vfprobe's doing, so it goes at once.
                take_back(self.host, step);
                let call = format!("setting {} to {}", step.target, step.new);
                pass_or_fail(step, TargetError::NotTaken { call, found: value.to_string() })
            }
            Ok(Seen::Gone | Seen::Replaced(_)) if step.need != Need::Required => {
                Ok(Outcome::Passed { why: "it went away".to_owned(), because: Because::Moot })
            }
            Ok(Seen::Gone | Seen::Replaced(_)) => Err(Cause::Stale(format!("{} went away", step.target))),
            Err(error) => Err(failed(step, error)),
        }
    }

    /// Waits for interrupts to arrive at their new CPUs, and names those that have not.
    fn await_moves(&self, steps: &[&Step]) -> Result<Vec<Target>, Cause> {
        let mut pending: Vec<&Step> =
            steps.iter().copied().filter(|s| matches!(s.target, Target::Irq(_))).collect();
        let still = |step: &&Step| matches!(self.host.observe(&step.target), Ok(Seen::Here(observed)) if !observed.settled());
        wait_until(self.options.settle, || {
            pending.retain(still);
            pending.is_empty() || (self.options.interrupted)()
        });
        Ok(pending.into_iter().map(|s| s.target.clone()).collect())
    }
}

/// Whether a step loses its point when its target was changed meanwhile: threads of others live their own lives.
fn may_change(step: &Step) -> bool {
    step.need == Need::BestEffort && matches!(&step.target, Target::Thread(t) if t.role == Role::Host)
}

/// Whether what cannot be written is of no weight: the timer's interrupt, say, whose files only CAP_DAC_OVERRIDE opens
/// (kernel/irq/proc.c, `register_irq_proc()`). It is passed over when its turn comes.
fn is_spared(step: &Step, error: &TargetError) -> bool {
    step.need == Need::BestEffort && matches!(error.refusal(), Some(Refusal::ReadOnly | Refusal::Managed))
}

fn pass_or_fail(step: &Step, error: TargetError) -> Result<Outcome, Cause> {
    let refused = matches!(
        error.refusal(),
        Some(Refusal::NoVector | Refusal::Offline | Refusal::TooHigh | Refusal::Invalid)
    );
    let because = match &error {
        TargetError::Refused { refusal: Refusal::Gone, .. } => Some(Because::Moot),
        // What nobody may write now, nobody may at the next look.
        TargetError::Refused {
            refusal: Refusal::Managed | Refusal::OutsideCpuset | Refusal::ReadOnly,
            ..
        }
        | TargetError::NotTaken { .. } => Some(Because::Immovable),
        TargetError::Refused { .. } => refused.then_some(Because::Refused),
        TargetError::Read { .. } | TargetError::Malformed { .. } => None,
    };
    match (step.need, because) {
        (Need::BestEffort, Some(because)) | (Need::WhilePresent, Some(because @ Because::Moot)) => {
            Ok(Outcome::Passed { why: error.to_string(), because })
        }
        _ => Err(failed(step, error)),
    }
}

fn failed(step: &Step, error: TargetError) -> Cause {
    Cause::Step { target: step.target.to_string(), error }
}
