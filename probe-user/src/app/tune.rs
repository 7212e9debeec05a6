//! A tuning session: configurations applied and undone in interleaved order, one run recorded in each.
//!
//! The host is never left changed by accident: whatever ends the session, the configuration in force is undone, and
//! after kill -9 the journal is there for `vfprobe rollback`.

use super::chain;
use super::control::make_plan;
use super::hold::{Counts, Held, Hold};
use super::interrupt::Interrupts;
use super::loads::Load;
use super::record::{self, Finished, Progress, RecordError, RunRequest, Watch};
use super::rehearsal;
use super::schedule::schedule;
use super::tuning::{Try, TuneRequest, finished};
use super::vectors::Looked;
use crate::apply::{self, ApplyError, LiveHost, Options, RollbackError, RollbackOptions, RollbackReport};
use crate::apply::{Host as _, StateDir, StateError, StateLock};
use crate::host::{HostRoot, read_interrupt_counts};
use crate::model::CpuSet;
use crate::plan::{PlanError, Policy};
use crate::session::{Config, SessionError, Writer};
use crate::stats::Snapshot;
use crate::stats::gate::{About, Figure, Gate};
use crate::workload::{Continuous, Echo, Workload};
use std::collections::BTreeSet;
use std::time::Duration;
use tracing::warn;

/// The host as it is found.
pub const BASELINE: &str = "baseline";

/// What is going on; handed to whoever shows it.
#[derive(Debug)]
pub enum Event<'a> {
    /// Before the first run: interrupts are looked at, since so long.
    Looking(Duration),
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
    /// How many runs the session has.
    pub of: usize,
    /// How many this call has made so far.
    pub made: usize,
    /// How many are still missing, this one among them.
    pub left: usize,
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
    /// There is nothing whose noise could be counted.
    #[error(
        "no configuration promises CPUs to the guest, so there is nothing for --noise to count: give --cpus a list or auto"
    )]
    NothingGuarded,
    /// A configuration cannot be planned.
    #[error("{config}")]
    Plan {
        /// The configuration.
        config: String,
        /// Why.
        source: PlanError,
    },
    /// A configuration could not be applied.
    #[error("{config}")]
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
    /// A run was beyond a limit.
    #[error(
        "run {order} ({config}) is beyond its limit: {what}; the host is as it was, and finished runs are in the file"
    )]
    Aborted {
        /// The run's position.
        order: usize,
        /// Its configuration.
        config: String,
        /// The condition and the figure.
        what: String,
    },
    /// A signal came.
    #[error("interrupted; the host is as it was, and finished runs are in the file")]
    Interrupted,
}

/// Makes all runs of a session, and puts the host back. With an `earlier` part of it, only those that are missing there.
/// Returns what was seen of vectors before the first run, which all configurations are planned with.
///
/// # Errors
/// [`TuneError`]; finished runs are in the file in every case.
pub async fn tune(
    root: &HostRoot,
    state: &StateDir,
    writer: &mut Writer,
    request: &TuneRequest,
    earlier: Option<&crate::session::Session>,
    echo: Echo,
    show: &mut dyn FnMut(Event<'_>),
) -> Result<Looked, TuneError> {
    let lock = state.lock()?;
    if !state.load()?.standing().is_empty() {
        return Err(TuneError::InForce);
    }
    // A wish that cannot be met is told before anything is waited for.
    let mut guarded = CpuSet::new();
    for (one, policy) in request.tries.iter().filter_map(|one| Some((one, one.policy()?))) {
        guarded = guarded.union(&plan(root, state, one, policy, &Looked::Needless)?.guarded);
    }
    match request.noise {
        true if guarded.is_empty() => return Err(TuneError::NothingGuarded),
        true => {}
        false => guarded = CpuSet::new(),
    }
    let interrupts = Interrupts::listen().map_err(|source| RecordError::Signals { source })?;
    let continuous = request.loads.iter().find(|load| load.continuous);
    let mut continuous = continuous.map(|load| Continuous::new(&load.command, echo));
    let mut progress = |elapsed| show(Event::Looking(elapsed));
    let looked = rehearsal::look(root, request, continuous.as_mut(), echo, &interrupts, &mut progress).await;
    let looked = looked.map_err(RecordError::from)?;
    if interrupts.raised() {
        return Err(TuneError::Interrupted);
    }
    for one in &request.tries {
        let about = match one.policy() {
            None => "the host as it is found".to_owned(),
            // Before any run: a wish that cannot be met must not end a session half-way.
            Some(policy) => {
                let plan = plan(root, state, one, policy, &looked)?;
                format!("{} changes for guest {}", plan.steps.len(), request.guest)
            }
        };
        if earlier.is_none() {
            writer.config(&Config { name: one.name.clone(), about })?;
        }
    }
    if earlier.is_none() {
        writer.tuning(&request.record())?;
    }
    let host = LiveHost::new(root.clone());
    let untouched = Vec::new();
    let mut session = Session {
        root,
        state,
        lock,
        host,
        echo,
        looked,
        in_force: None,
        untouched,
        continuous,
        guarded,
        abort_if: &request.abort_if,
        load: None,
        hold: Hold::default(),
        remarks: Vec::new(),
        trouble: Vec::new(),
    };
    let finished = earlier.map(finished).unwrap_or_default();
    for run in earlier.iter().flat_map(|earlier| &earlier.runs).filter(|run| run.unfit().is_none()) {
        let one = request.tries.iter().find(|one| one.name == run.config());
        let figures = run.workload().map(Workload::figures).unwrap_or_default();
        session.remember(request, one, run.start.load.as_deref(), &run.snapshot, figures);
    }
    let result = session.runs(request, &finished, writer, &interrupts, show).await;
    // Whatever happened: the host is put back before anything is told.
    session.undo()?;
    for line in session.hold.left_behind(&session.host) {
        warn!("{line} until its mask is set again: it did not fire while its old one was put back");
    }
    if let Some(continuous) = session.continuous.take() {
        continuous.stop(record::GRACE).await.map_err(RecordError::from)?;
    }
    result.map(|()| session.looked)
}

/// Applies one configuration for good, after a session chose it.
///
/// # Errors
/// [`TuneError`].
pub fn keep(root: &HostRoot, state: &StateDir, chosen: &Try, looked: &Looked) -> Result<(), TuneError> {
    let Some(policy) = chosen.policy() else { return Ok(()) };
    let lock = state.lock()?;
    let plan = plan(root, state, chosen, policy, looked)?;
    apply::apply(&LiveHost::new(root.clone()), &plan, &lock, &Options::new())
        .map(drop)
        .map_err(|source| TuneError::Apply { config: chosen.name.clone(), source })
}

fn plan(
    root: &HostRoot,
    state: &StateDir,
    one: &Try,
    policy: &Policy,
    looked: &Looked,
) -> Result<crate::plan::Plan, TuneError> {
    make_plan(root, state, policy, looked)
        .map_err(|source| TuneError::Plan { config: one.name.clone(), source })
}

/// A run of the host as it is found.
struct Untouched {
    load: Option<String>,
    snapshot: Snapshot,
    figures: Vec<Figure<f64>>,
}

struct Session<'a> {
    root: &'a HostRoot,
    state: &'a StateDir,
    lock: StateLock,
    host: LiveHost,
    /// Index of the configuration in force, with its changes.
    in_force: Option<(usize, Vec<String>)>,
    echo: Echo,
    /// What was seen of vectors before the first run.
    looked: Looked,
    /// Runs of the host as it is found, with their load: what limits on a single run are changes against.
    untouched: Vec<Untouched>,
    /// The workload that runs through all runs, when there is one.
    continuous: Option<Continuous>,
    /// CPUs whose noise is counted, the same in all runs; none unless it was asked for.
    guarded: CpuSet,
    /// What the session must not go on after.
    abort_if: &'a [Gate],
    /// The load of the run under way, in a session with several.
    load: Option<String>,
    /// Where interrupts are to go.
    hold: Hold,
    /// What is to be known of the host as it was put back, under which the next runs are made.
    remarks: Vec<String>,
    /// What failed of putting interrupts back during a run.
    trouble: Vec<String>,
}

impl Session<'_> {
    async fn runs(
        &mut self,
        request: &TuneRequest,
        finished: &BTreeSet<u32>,
        writer: &mut Writer,
        interrupts: &Interrupts,
        show: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), TuneError> {
        let repeats = usize::try_from(request.repeats).unwrap_or(usize::MAX);
        let order = schedule(request.tries.len(), repeats, request.seed);
        let each = order.iter().flat_map(|index| request.loads.iter().map(move |load| (*index, load)));
        let (of, missing) = (request.runs(), request.runs().saturating_sub(finished.len()));
        let missing_runs = (0u32..).zip(each).filter(|(order, _)| !finished.contains(order));
        for (made, (order, (index, load))) in missing_runs.enumerate() {
            let one = &request.tries[index];
            let number = usize::try_from(order).unwrap_or(usize::MAX);
            let place = Place { number, of, made, left: missing - made, config: &one.name, load };
            show(Event::Begin(&place));
            self.switch(index, one, interrupts)?;
            self.load.clone_from(&load.name);
            let changes = self.in_force.as_ref().map(|(_, changes)| changes.clone()).unwrap_or_default();
            let run = RunRequest {
                config: &one.name,
                order,
                load: load.name.as_deref(),
                seed: Some(request.seed),
                changes,
                guest: Some(&request.guest),
                guarded: self.guarded.clone(),
                duration: Some(load.duration),
                warm_up: load.warm_up,
                command: &load.command,
                reading: load.reading,
                echo: self.echo,
            };
            let mut progress = |p: &Progress<'_>| show(Event::Progress(p));
            let mut continuous = self.continuous.take();
            let ended =
                record::record_run(self.root, writer, &run, continuous.as_mut(), self, &mut progress).await;
            self.continuous = continuous;
            let ended = ended?;
            show(Event::End(&place, &ended));
            let (fit, held) = (ended.fit(), ended.end.not_held.is_empty());
            if ended.interrupted || interrupts.raised() {
                return Err(TuneError::Interrupted);
            }
            let figures = ended.end.workload.as_ref().map(Workload::figures).unwrap_or_default();
            let beyond = self.beyond_limit(load.name.as_deref(), &ended.snapshot, &figures);
            if let Some(what) = ended.end.broken_off.or(beyond) {
                return Err(TuneError::Aborted { order: number, config: one.name.clone(), what });
            }
            if !held {
                // The next run of this configuration begins with all of it in force again.
                self.undo()?;
            }
            if fit {
                self.remember(request, Some(one), load.name.as_deref(), &ended.snapshot, figures);
            }
        }
        Ok(())
    }

    /// Keeps a run of the host as it is found, when there are limits to hold others to.
    fn remember(
        &mut self,
        request: &TuneRequest,
        one: Option<&Try>,
        load: Option<&str>,
        run: &Snapshot,
        figures: Vec<Figure<f64>>,
    ) {
        if !request.abort_if.is_empty() && one.is_some_and(|one| one.policy().is_none()) {
            self.untouched.push(Untouched { load: load.map(str::to_owned), snapshot: run.clone(), figures });
        }
    }

    /// What a run of a changed host did that the session must not go on after.
    fn beyond_limit(&self, load: Option<&str>, run: &Snapshot, figures: &[Figure<f64>]) -> Option<String> {
        self.in_force.as_ref()?;
        let same = || self.untouched.iter().filter(|run| run.load.as_deref() == load);
        let before: Vec<&Snapshot> = same().map(|run| &run.snapshot).collect();
        let figures_before: Vec<&[Figure<f64>]> = same().map(|run| run.figures.as_slice()).collect();
        self.abort_if.iter().find_map(|limit| match limit.about() {
            About::Workload { .. } => limit.breach_of_workload(&figures_before, figures),
            About::Series { .. } | About::Counter { .. } => limit.breach(&before, run),
        })
    }

    /// Brings a configuration into force: what was in force is undone first, so that each starts from the baseline.
    fn switch(&mut self, index: usize, one: &Try, interrupts: &Interrupts) -> Result<(), TuneError> {
        if self.in_force.as_ref().map(|(i, _)| *i) == one.policy().map(|_| index) {
            return Ok(());
        }
        self.undo()?;
        let Some(policy) = one.policy() else { return Ok(()) };
        let plan = plan(self.root, self.state, one, policy, &self.looked)?;
        let options = Options { interrupted: &|| interrupts.raised(), ..Options::new() };
        apply::apply(&self.host, &plan, &self.lock, &options)
            .map_err(|source| TuneError::Apply { config: one.name.clone(), source })?;
        let changes = plan
            .steps
            .iter()
            .map(|s| format!("{}: {} -> {} ({})", s.target, s.now, s.new, s.reason))
            .collect();
        self.hold.entered(&plan.steps, self.counts());
        self.in_force = Some((index, changes));
        Ok(())
    }

    fn undo(&mut self) -> Result<(), TuneError> {
        let report: RollbackReport = apply::rollback(&self.host, &self.lock, &RollbackOptions::default())?;
        if self.in_force.take().is_some() {
            self.hold.left(self.counts());
            let foreign = report.foreign();
            let left =
                foreign.map(|(target, value)| format!("{target}: left at {value}, as somebody set it"));
            self.remarks = left.collect();
            for line in &self.remarks {
                warn!("{line}");
            }
        }
        if report.is_complete() { Ok(()) } else { Err(TuneError::LeftOver(report.failures())) }
    }

    fn counts(&self) -> Counts {
        read_interrupt_counts(self.root)
    }

    /// Sends interrupts home that a configuration has left elsewhere, now that they fire.
    fn come_home(&mut self) -> Result<(), TuneError> {
        let Some(plan) = self.hold.way_home(&self.host, &|| self.counts(), BASELINE) else { return Ok(()) };
        apply::apply(&self.host, &plan, &self.lock, &Options::new())
            .map_err(|source| TuneError::Apply { config: BASELINE.to_owned(), source })?;
        self.undo()
    }
}

impl Watch for Session<'_> {
    fn objects(&mut self, so_far: &Snapshot) -> Option<String> {
        self.in_force.as_ref()?;
        let same = self.untouched.iter().filter(|run| run.load == self.load);
        let before: Vec<&Snapshot> = same.map(|run| &run.snapshot).collect();
        self.abort_if.iter().find_map(|limit| limit.breach_so_far(&before, so_far))
    }

    fn settled(&mut self, beyond: Option<Duration>) -> bool {
        if self.in_force.is_none()
            && self.trouble.is_empty()
            && let Err(error) = self.come_home()
        {
            self.trouble.push(chain(&error));
        }
        self.hold.settled(&self.host, &|| self.counts(), beyond.unwrap_or_default())
    }

    fn opens(&mut self) -> Vec<String> {
        let mut lines = std::mem::take(&mut self.trouble);
        lines.extend(self.hold.opens(&self.host, &|| self.counts()));
        lines
    }

    fn closes(&mut self) -> Held {
        let found = self.in_force.as_ref().and_then(|_| {
            let boot_id = self.host.boot_id().ok()?;
            let journal = self.state.load().ok()?;
            apply::verify(&self.host, &journal, &boot_id)
        });
        let root = self.root;
        let mut held = self.hold.closes(&self.host, &|| read_interrupt_counts(root), found.as_ref());
        match &self.in_force {
            Some((_, changes)) if found.is_none() && !changes.is_empty() => {
                held.not.push("it is no longer on record".to_owned());
            }
            Some(_) => {}
            None => held.remarks.extend(self.remarks.iter().cloned()),
        }
        held
    }
}
