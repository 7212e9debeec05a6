//! Reconciling: the host is kept as a policy asks while guests come, go and reboot, vectors are made anew or move to
//! another vCPU, CPUs go offline and other programs write the same settings.
//!
//! It waits for events of the kernel (`events`): those say that something is worth a look. Where some cannot be heard, what they
//! would tell of is looked at often, which is cheap. Settings have no events, since inotify sees no change below /proc, so
//! those in force are looked at now and then; and everything is rarely, whatever was heard. Every change is a transaction
//! like that of `apply`, so whatever ends the process, `rollback` restores the host.

mod destinations;
mod error;
mod events;
mod held;
mod inbox;
mod release;
mod strikes;
#[cfg(test)]
mod tests;
mod watch;

use super::control::{Writers, plan_on};
use super::{chain, privileges, text_file};
use crate::apply::{
    self, Applied, Host as _, InForce, LiveHost, Options, RollbackOptions, StateDir, StateLock,
};
use crate::bpf::Bell;
use crate::host::{HostRoot, read_topology};
use crate::model::owners::Owner;
use crate::model::seen::Seen;
use crate::model::topology::Topology;
use crate::plan::named::present;
use crate::plan::policy::OnStop;
use crate::plan::{Held, PlanError, Policy, Renewed, Step, parse_policy};
use crate::probes::irq_delivery::{Accepted, Freed, Signs};
use destinations::Destinations;
pub use error::ReconcileError;
use events::{Events, Process};
use inbox::{Inbox, Message, Outbox, mailbox};
use rustix::fd::AsFd as _;
use rustix::thread::CapabilitySet;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use strikes::{MEMORY, Strikes};
use tracing::{debug, error, info, warn};
use watch::{TICK, Told, Watch};

/// A journal with more steps is begun anew, so that a guest that keeps moving its vectors does not fill /run.
const JOURNAL_STEPS: usize = 2000;

/// What the probes have seen.
pub trait Observed: Send + Sync {
    /// Which vCPUs the vectors of VFs have gone to, as far as that can be read.
    fn accepted(&self) -> Vec<Accepted>;

    /// How often the interrupts of vectors were freed, as far as that can be seen.
    fn freed(&self) -> Freed {
        Freed::new()
    }

    /// Whether something has changed; always the same where nothing tells.
    fn signs(&self) -> Signs;

    /// What rings when the signs change, or why nothing does; `None` when that is as it was when last asked.
    fn bell(&self) -> Option<Result<Bell, String>>;

    /// How vectors reach their guests, and which vCPUs they were for, at the last look.
    fn seen(&self) -> Seen;
}

/// What is done about a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is kept in force.
    Keep,
    /// What would be changed is told in the log, and nothing is changed.
    Tell,
}

/// A policy being kept. It holds the lock, unless it only tells: nobody else changes the host meanwhile.
#[derive(Debug)]
pub struct Reconciler {
    root: HostRoot,
    host: LiveHost,
    state: StateDir,
    /// Without it nothing is changed.
    lock: Option<StateLock>,
    path: PathBuf,
    /// The same as it stands in the journal.
    name: String,
    policy: Policy,
    strikes: Strikes,
    destinations: Destinations,
    watch: Watch,
    /// How often interrupts had been freed when the host was compared last.
    freed: Freed,
    started: Instant,
    /// The last failure that was told.
    told: Option<String>,
    /// What the last plan left, or would change, and said so.
    noted: Vec<String>,
    /// Guests that the policy cannot be kept for.
    held: Vec<Held>,
    /// The processes of the policy's guests that the last plan found.
    guests: BTreeSet<Process>,
}

/// A reconciler at work in a thread of its own.
#[derive(Debug)]
pub struct Controller {
    outbox: Outbox,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Controller {
    /// Has the policy read again.
    pub fn reload(&self) {
        self.outbox.tell(Message::Reload);
    }

    /// Ends it, and undoes or keeps as the policy says.
    pub fn stop(&self) {
        self.outbox.tell(Message::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            error!("the controller broke down; see `vfprobe status`, and `vfprobe rollback` to undo");
        }
    }
}

impl Reconciler {
    /// Reads the policy, takes the lock, and undoes what a killed vfprobe has left. What a service has kept in force by this
    /// very policy file is gone on with; what somebody has applied by hand, under whatever name, is theirs.
    ///
    /// # Errors
    /// [`ReconcileError`]; nothing was begun.
    pub fn take(root: HostRoot, state: &StateDir, path: PathBuf, mode: Mode) -> Result<Self, ReconcileError> {
        let policy = read_policy(&path)?;
        let lock = match mode {
            Mode::Keep => Some(state.lock()?),
            Mode::Tell => None,
        };
        let host = LiveHost::new(root.clone());
        let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        let this = Self {
            root,
            host,
            state: state.clone(),
            lock,
            path,
            name: absolute.display().to_string(),
            policy,
            strikes: Strikes::default(),
            destinations: Destinations::default(),
            watch: Watch::default(),
            freed: Freed::new(),
            started: Instant::now(),
            told: None,
            noted: Vec::new(),
            held: Vec::new(),
            guests: BTreeSet::new(),
        };
        let found = this.in_force()?.filter(|_| mode == Mode::Keep);
        match found {
            Some(found) if !found.settled => this.undo("a change was cut short")?,
            Some(found)
                if found.configs != [this.policy.name.clone()]
                    || found.kept_by.as_ref() != Some(&this.name) =>
            {
                let configs = found.configs.join("+");
                return Err(ReconcileError::InForce { configs, kept_by: found.kept_by });
            }
            _ => {}
        }
        Ok(this)
    }

    /// Goes to work, in a thread that keeps no other capabilities than these.
    ///
    /// # Errors
    /// [`ReconcileError::Thread`].
    pub fn start(
        mut self,
        observed: Arc<dyn Observed>,
        kept: CapabilitySet,
    ) -> Result<Controller, ReconcileError> {
        let (outbox, inbox) = mailbox().map_err(ReconcileError::Thread)?;
        let work = move || {
            if let Err(error) = privileges::keep(kept) {
                error!("capabilities cannot be given up, so the policy is not kept: {error}");
                return self.stop();
            }
            let what = if self.lock.is_some() {
                "keeping the policy"
            } else {
                "telling what the policy would change"
            };
            info!(policy = %self.path.display(), config = self.policy.name, "{what}");
            self.work(&*observed, &inbox);
            self.stop();
        };
        let thread = std::thread::Builder::new().name("controller".to_owned()).spawn(work);
        Ok(Controller { outbox, thread: Mutex::new(Some(thread.map_err(ReconcileError::Thread)?)) })
    }

    /// Keeps the policy until told to stop.
    fn work(&mut self, observed: &dyn Observed, inbox: &Inbox) {
        // Before the first look, so that nothing happens between it and the first event.
        let mut events = Events::listen(&self.root);
        let mut why = None;
        loop {
            while let Some(message) = inbox.next() {
                match message {
                    Message::Reload => self.reload(observed),
                    Message::Stop => return,
                }
            }
            events.take_bell(observed);
            self.look(observed, Told { why, all: events.hear_all() });
            events.follow(&self.guests);
            why = events.wait(inbox.as_fd(), self.next().saturating_sub(self.started.elapsed()));
            if let Some(why) = why {
                debug!("heard: {why}");
            }
        }
    }

    /// When to look again if nothing is heard.
    fn next(&self) -> Duration {
        let now = self.started.elapsed();
        let next = self.watch.next(self.rest());
        let next = self.destinations.next(now).map_or(next, |soon| next.min(soon));
        // What is due already waits for vectors that are moving.
        if next <= now { now + TICK } else { next }
    }

    fn rest(&self) -> Duration {
        Duration::from_millis(u64::from(self.policy.limits.debounce_ms))
    }

    fn look(&mut self, observed: &dyn Observed, told: Told) {
        let now = self.started.elapsed();
        let Signs { setups, destinations } = observed.signs();
        let due = self.watch.look(&self.root, setups, told, now, self.rest());
        let moved = self.destinations.have_moved(destinations, now);
        if (due.looked || due.settings || moved) && self.destinations.note(&observed.accepted()) {
            self.watch.wake("a vector goes to another vCPU");
        }
        if due.settings && self.has_drifted() {
            self.watch.wake("settings were changed");
        }
        let Some(why) = self.watch.go(due, now).filter(|_| !self.destinations.are_moving(now)) else {
            return;
        };
        debug!("comparing the host with the policy: {why}");
        let outcome = self.reconcile(observed, now);
        debug!("compared in {} ms", self.started.elapsed().saturating_sub(now).as_millis());
        match outcome {
            Ok(()) => {
                if self.told.take().is_some() {
                    info!("the policy can be kept again");
                }
                self.watch.done();
            }
            Err(error) => {
                let wait = self.watch.failed(now);
                let text = chain(&error);
                if self.told.as_ref() != Some(&text) {
                    error!(
                        "the policy cannot be kept: {text}; next try in {} s at the latest",
                        wait.as_secs()
                    );
                    self.told = Some(text);
                }
            }
        }
    }

    fn in_force(&self) -> Result<Option<InForce>, ReconcileError> {
        let journal = self.state.load()?;
        Ok(apply::verify(&self.host, &journal, &self.host.boot_id()?))
    }

    fn has_drifted(&self) -> bool {
        // What cannot be read is told by the audit.
        let Ok(Some(found)) = self.in_force() else { return false };
        let is_left =
            |key| self.strikes.is_released(&key) || self.held.iter().any(|h| h.targets.contains(&key));
        found.checks.iter().any(|check| check.is_drift() && !is_left(check.target.key()))
    }

    /// Brings the host to what the policy asks of the guests that are there.
    fn reconcile(&mut self, observed: &dyn Observed, now: Duration) -> Result<(), ReconcileError> {
        if self.lock.is_none() {
            return self.tell(observed);
        }
        // Read before the host is: what is freed from here on shows as freed next time.
        let before = std::mem::replace(&mut self.freed, observed.freed());
        let found = self.in_force()?;
        if found.as_ref().is_some_and(|f| !f.settled) {
            self.undo("a change was cut short")?;
        }
        if found.is_some() {
            let gone = self.release(&self.made_anew(&before, &self.freed)?)?;
            if gone > 0 {
                info!(targets = gone, "gone, and with them what was done for them");
            }
            let entries: usize = self.state.load()?.open().map(|t| t.entries.len()).sum();
            if entries > JOURNAL_STEPS {
                self.undo("the journal has become long")?;
            }
        }
        let Some(Renewed { mut plan, ceded, held }) = self.plan(observed)? else {
            self.hold(Vec::new());
            return if found.is_some() { self.undo("no guest of the policy is running") } else { Ok(()) };
        };
        self.hold(held);
        self.cede(&ceded)?;
        let mut writers = None;
        for step in self.corrections(&plan, &observed.freed())? {
            let writers = writers.get_or_insert_with(|| Writers::read(&self.root));
            let who = match writers.of(&step.target, &step.new, &step.now) {
                Owner::Unknown => "somebody else".to_owned(),
                known => known.to_string(),
            };
            warn!("{}: {who} set it to {}, not {}", step.target, step.now, step.new);
            let limit = self.policy.limits.strikes;
            if self.strikes.strike(&step.target.key(), now, limit) {
                error!(
                    "{}: changed by {who} {limit} times within {} minutes: vfprobe lets it go and leaves it \
                     at {}; find out who sets it (irqbalance, tuned, a script), then send SIGHUP",
                    step.target,
                    MEMORY.as_secs() / 60,
                    step.now
                );
            }
        }
        plan.steps.retain(|step| !self.strikes.is_released(&step.target.key()));
        self.note(plan.notes.clone());
        if plan.steps.is_empty() && found.is_none() {
            return Ok(());
        }
        let Some(lock) = &self.lock else { return Ok(()) };
        let options = Options { kept_by: Some(&self.name), ..Options::new() };
        let Applied { steps, skipped, pending } = apply::apply(&self.host, &plan, lock, &options)?;
        if steps == 0 && skipped.is_empty() {
            return Ok(());
        }
        info!(config = plan.config, steps, skipped = skipped.len(), pending = pending.len(), "in force");
        // What was only gone is planned anew when it is there.
        for skipped in skipped.into_iter().filter(|skipped| skipped.refused) {
            self.strikes.leave(skipped.target.key());
        }
        Ok(())
    }

    /// Says what would be changed, as long as it is not what was said last.
    fn tell(&mut self, observed: &dyn Observed) -> Result<(), ReconcileError> {
        let (plan, held) = match self.plan(observed)? {
            Some(Renewed { plan, held, .. }) => (Some(plan), held),
            None => (None, Vec::new()),
        };
        let for_all = held.is_empty();
        self.hold(held);
        let lines = match plan {
            None => vec!["no guest of the policy is running: nothing would be set".to_owned()],
            Some(plan) if plan.steps.is_empty() && for_all => {
                vec!["the host is as the policy asks".to_owned()]
            }
            Some(plan) => {
                let line = |step: &Step| {
                    format!("would set {}: {} -> {} ({})", step.target, step.now, step.new, step.reason)
                };
                plan.steps.iter().map(line).chain(plan.notes.clone()).collect()
            }
        };
        self.note(lines);
        Ok(())
    }

    /// Logs those of these lines that were not among the last ones.
    fn note(&mut self, lines: Vec<String>) {
        for line in lines.iter().filter(|line| !self.noted.contains(line)) {
            info!("{line}");
        }
        self.noted = lines;
    }

    /// The plan for those of the policy's guests that are there; `None` when there is none.
    fn plan(&mut self, observed: &dyn Observed) -> Result<Option<Renewed>, PlanError> {
        let topology = self.topology(observed);
        let policy = for_present(&self.policy, &topology);
        self.guests = processes(&policy, &topology);
        self.plan_for(&policy, topology)
    }

    fn topology(&self, observed: &dyn Observed) -> Topology {
        let mut topology = read_topology(&self.root);
        observed.seen().fill(&mut topology);
        self.destinations.fill(&mut topology);
        topology
    }

    fn plan_for(&self, policy: &Policy, topology: Topology) -> Result<Option<Renewed>, PlanError> {
        if policy.guests.is_empty() {
            return Ok(None);
        }
        plan_on(&self.root, &self.state, policy, topology).map(Some)
    }

    fn undo(&self, why: &str) -> Result<(), ReconcileError> {
        let Some(lock) = &self.lock else { return Ok(()) };
        let report = apply::rollback(&self.host, lock, &RollbackOptions::default())?;
        for note in &report.notes {
            warn!("{note}");
        }
        for (target, cpus) in report.foreign() {
            warn!("{target}: left at {cpus}, as somebody else has set it");
        }
        if !report.is_complete() {
            return Err(ReconcileError::LeftOver(report.failures()));
        }
        info!(targets = report.undone.len(), "undone: {why}");
        Ok(())
    }

    fn reload(&mut self, observed: &dyn Observed) {
        match read_policy(&self.path) {
            Ok(policy) => {
                // Another policy may ask less than the former one did; what both ask is written again at once. One that
                // this host cannot meet must not cost the guests what they have.
                if policy != self.policy
                    && let Err(error) =
                        self.check(&policy, observed).and_then(|()| self.undo("the policy was changed"))
                {
                    return error!("the former policy is kept: {}", chain(&error));
                }
                info!(config = policy.name, "the policy was read again");
                self.policy = policy;
                self.strikes = Strikes::default();
                self.watch.wake("the policy was read again");
            }
            Err(error) => error!("the former policy is kept: {}", chain(&error)),
        }
    }

    fn stop(self) {
        match self.policy.on_stop {
            _ if self.lock.is_none() => {}
            OnStop::Keep => {
                info!("what is in force is kept, by the policy; `vfprobe rollback` undoes it");
            }
            OnStop::Undo => {
                if let Err(error) = self.undo("the service ends") {
                    error!("{}; run `vfprobe rollback`", chain(&error));
                }
            }
        }
    }
}

/// The policy without guests that are not there, or are only starting.
fn for_present(policy: &Policy, topology: &Topology) -> Policy {
    let guests =
        policy.guests.iter().filter(|g| present(topology, &g.guest).next().is_some()).cloned().collect();
    Policy { guests, ..policy.clone() }
}

/// The processes of a policy's guests.
fn processes(policy: &Policy, topology: &Topology) -> BTreeSet<Process> {
    let guests = policy.guests.iter().flat_map(|g| present(topology, &g.guest));
    guests.map(|guest| (guest.pid, guest.start_time)).collect()
}

fn read_policy(path: &Path) -> Result<Policy, ReconcileError> {
    let text =
        text_file::read(path).map_err(|source| ReconcileError::Read { path: path.to_owned(), source })?;
    parse_policy(&text).map_err(|cause| ReconcileError::Policy { path: path.to_owned(), cause })
}
