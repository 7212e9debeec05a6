//! A tuning session: configurations applied and undone in interleaved order, one run recorded in each.
//!
//! The host is never left changed by accident: whatever ends the session, the configuration in force is undone, and
//! after kill -9 the journal is there for `vfprobe rollback`.

use super::control::make_plan;
use super::interrupt::Interrupts;
use super::loads::Load;
use super::record::{self, Finished, Progress, RecordError, RunRequest};
use super::schedule::schedule;
use crate::apply::{
    self, ApplyError, LiveHost, Options, Reality, RollbackError, RollbackOptions, RollbackReport,
};
use crate::apply::{Host as _, StateDir, StateError, StateLock};
use crate::host::HostRoot;
use crate::model::CpuSet;
use crate::plan::{PlanError, Policy};
use crate::session::{Config, SessionError, Writer};
use crate::workload::Echo;
use tracing::warn;

/// The host as it is found.
pub const BASELINE: &str = "baseline";

/// A configuration to try.
#[derive(Clone, Debug)]
pub struct Try {
    /// Its name.
    pub name: String,
    /// What it is; `None` is the host as it is found.
    pub policy: Option<Policy>,
}

/// What a session is to be.
#[derive(Debug)]
pub struct TuneRequest<'a> {
    /// The guest (its name).
    pub guest: &'a str,
    /// Configurations, the baseline among them.
    pub tries: &'a [Try],
    /// Runs of each under each load.
    pub repeats: usize,
    /// Seed of the order.
    pub seed: u64,
    /// What runs are made under, one after the other each time that a configuration is in force; a command is started anew
    /// for each run.
    pub loads: &'a [Load],
    /// Whether its output is shown.
    pub echo: Echo,
}

/// What is going on; handed to whoever shows it.
#[derive(Debug)]
pub enum Event<'a> {
    /// A run begins.
    Begin(&'a Place<'a>),
    /// It goes on.
    Progress(&'a Progress<'a>),
    /// It is over.
    End(&'a Place<'a>, &'a Finished),
}

/// A run's place in its session.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its position, from 0.
    pub number: usize,
    /// How many runs there are.
    pub of: usize,
    /// Its configuration.
    pub config: &'a str,
    /// What it is made under.
    pub load: &'a Load,
}

/// A session that could not be finished. The host is as it was, unless the error says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// The state folder cannot be used, or another vfprobe holds it.
    #[error(transparent)]
    State(#[from] StateError),
    /// A configuration is in force already.
    #[error("a configuration is in force already, so there is no baseline: undo it with `vfprobe rollback`")]
    InForce,
    /// A configuration cannot be planned.
    #[error("{config}: {source}")]
    Plan {
        /// The configuration.
        config: String,
        /// Why.
        source: PlanError,
    },
    /// A configuration could not be applied.
    #[error("{config}: {source}")]
    Apply {
        /// The configuration.
        config: String,
        /// Why; says whether it was rolled back.
        source: ApplyError,
    },
    /// A run failed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The file could not be written.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Undoing could not begin.
    #[error("the host could not be put back: {0}; run `vfprobe rollback`")]
    Rollback(#[from] RollbackError),
    /// Undoing left something.
    #[error("the host could not be put back wholly: {}; see `vfprobe status`", .0.join("; "))]
    LeftOver(Vec<String>),
    /// A signal came.
    #[error("interrupted; the host is as it was, and finished runs are in the file")]
    Interrupted,
}

/// Makes all runs of a session, and puts the host back.
///
/// # Errors
/// [`TuneError`]; finished runs are in the file in every case.
pub async fn tune(
    root: &HostRoot,
    state: &StateDir,
    writer: &mut Writer,
    request: &TuneRequest<'_>,
    show: &mut dyn FnMut(Event<'_>),
) -> Result<(), TuneError> {
    let lock = state.lock()?;
    if !state.load()?.standing().is_empty() {
        return Err(TuneError::InForce);
    }
    for one in request.tries {
        let about = match &one.policy {
            None => "the host as it is found".to_owned(),
            // Before any run: a wish that cannot be met must not end a session half-way.
            Some(policy) => {
                let plan = plan(root, state, one, policy)?;
                format!("{} changes for guest {}", plan.steps.len(), request.guest)
            }
        };
        writer.config(&Config { name: one.name.clone(), about })?;
    }
    let interrupts = Interrupts::listen().map_err(|source| RecordError::Signals { source })?;
    let mut session = Session { root, state, lock, host: LiveHost::new(root.clone()), in_force: None };
    let result = session.runs(request, writer, &interrupts, show).await;
    // Whatever happened: the host is put back before anything is told.
    session.undo()?;
    result
}

/// Applies one configuration for good, after a session chose it.
///
/// # Errors
/// [`TuneError`].
pub fn keep(root: &HostRoot, state: &StateDir, chosen: &Try) -> Result<(), TuneError> {
    let Some(policy) = &chosen.policy else { return Ok(()) };
    let lock = state.lock()?;
    let plan = plan(root, state, chosen, policy)?;
    apply::apply(&LiveHost::new(root.clone()), &plan, &lock, &Options::new())
        .map(drop)
        .map_err(|source| TuneError::Apply { config: chosen.name.clone(), source })
}

fn plan(
    root: &HostRoot,
    state: &StateDir,
    one: &Try,
    policy: &Policy,
) -> Result<crate::plan::Plan, TuneError> {
    make_plan(root, state, policy).map_err(|source| TuneError::Plan { config: one.name.clone(), source })
}

struct Session<'a> {
    root: &'a HostRoot,
    state: &'a StateDir,
    lock: StateLock,
    host: LiveHost,
    /// Index of the configuration in force, with its changes.
    in_force: Option<(usize, Vec<String>)>,
}

impl Session<'_> {
    async fn runs(
        &mut self,
        request: &TuneRequest<'_>,
        writer: &mut Writer,
        interrupts: &Interrupts,
        show: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), TuneError> {
        let order = schedule(request.tries.len(), request.repeats, request.seed);
        let each = order.iter().flat_map(|index| request.loads.iter().map(move |load| (*index, load)));
        let of = order.len() * request.loads.len();
        for (number, (index, load)) in each.enumerate() {
            let one = &request.tries[index];
            let place = Place { number, of, config: &one.name, load };
            show(Event::Begin(&place));
            self.switch(index, one, interrupts)?;
            let changes = self.in_force.as_ref().map(|(_, changes)| changes.clone()).unwrap_or_default();
            let run = RunRequest {
                config: &one.name,
                order: u32::try_from(number).unwrap_or(u32::MAX),
                load: load.name.as_deref(),
                seed: Some(request.seed),
                changes,
                guest: Some(request.guest),
                // Noise is a matter of `isolation`: a hundred more series would blur the verdict on this guest.
                guarded: CpuSet::new(),
                duration: Some(load.duration),
                warm_up: load.warm_up,
                command: &load.command,
                echo: request.echo,
            };
            let mut progress = |p: &Progress<'_>| show(Event::Progress(p));
            let remarks = || self.drift();
            let finished = record::record_run(self.root, writer, &run, &remarks, &mut progress).await?;
            show(Event::End(&place, &finished));
            if finished.interrupted || interrupts.raised() {
                return Err(TuneError::Interrupted);
            }
        }
        Ok(())
    }

    /// Brings a configuration into force: what was in force is undone first, so that each starts from the baseline.
    fn switch(&mut self, index: usize, one: &Try, interrupts: &Interrupts) -> Result<(), TuneError> {
        if self.in_force.as_ref().map(|(i, _)| *i) == one.policy.as_ref().map(|_| index) {
            return Ok(());
        }
        self.undo()?;
        let Some(policy) = &one.policy else { return Ok(()) };
        let plan = plan(self.root, self.state, one, policy)?;
        let options = Options { interrupted: &|| interrupts.raised(), ..Options::new() };
        apply::apply(&self.host, &plan, &self.lock, &options)
            .map_err(|source| TuneError::Apply { config: one.name.clone(), source })?;
        let changes = plan
            .steps
            .iter()
            .map(|s| format!("{}: {} -> {} ({})", s.target, s.now, s.new, s.reason))
            .collect();
        self.in_force = Some((index, changes));
        Ok(())
    }

    fn undo(&mut self) -> Result<(), TuneError> {
        let report: RollbackReport = apply::rollback(&self.host, &self.lock, &RollbackOptions::default())?;
        self.in_force = None;
        for (target, cpus) in report.foreign() {
            warn!("{target}: somebody else has set it to {cpus} meanwhile; left so");
        }
        if report.is_complete() { Ok(()) } else { Err(TuneError::LeftOver(report.failures())) }
    }

    /// What does not hold of the configuration in force at the end of a run.
    fn drift(&self) -> Vec<String> {
        let found = self.host.boot_id().ok().and_then(|boot_id| {
            let journal = self.state.load().ok()?;
            apply::verify(&self.host, &journal, &boot_id)
        });
        let Some(in_force) = found else { return Vec::new() };
        in_force
            .checks
            .iter()
            .filter_map(|check| {
                let found = match &check.reality {
                    Reality::AsAsked { .. } => return None,
                    Reality::Pending { effective } => format!("still goes to {effective}"),
                    Reality::Drifted { found } => format!("somebody has set it to {found}"),
                    Reality::Gone if !check.is_drift() => return None,
                    Reality::Gone => "it is gone".to_owned(),
                    Reality::Unreadable { error } => error.clone(),
                };
                Some(format!("{}: asked for {}, but {found}", check.target, check.asked))
            })
            .collect()
    }
}
