//! What a service knows: probes at work, the guests they watch, the configuration in force. It is what the exporter
//! reads.

use super::super::reconcile::Observed;
use super::super::{control, observe::Observer, own_cost};
use super::ServeError;
use super::journal::{Stamp, stamp};
use crate::apply::StateDir;
use crate::bpf::Bell;
use crate::export::ledger::Ledger;
use crate::export::{Began, CountedVf, Figures, Hold, ProbeState, ProbeStatus, Source, SourceError, Status};
use crate::host::{HostRoot, read_topology, read_vf_counters};
use crate::model::seen::Seen;
use crate::model::topology::{Guest, Topology};
use crate::probes::irq_delivery::{Accepted, Freed, Signs};
use crate::probes::vectors::Look;
use crate::probes::{ProbeReport, ReadError, Verdict};
use crate::stats::Snapshot;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// The configuration's name while none is in force.
const BASELINE: &str = "baseline";

/// Probes at work, and what is known of the host.
pub(super) struct Service {
    root: HostRoot,
    state: StateDir,
    /// The journal at the last look at it; held during a look, so that one that began earlier does not come in later.
    /// Taken before `now`.
    journal: Mutex<Stamp>,
    now: Mutex<Now>,
}

struct Now {
    observer: Observer,
    topology: Arc<Topology>,
    ledger: Ledger,
    /// What was seen of vectors at the last look.
    look: Look,
    /// How often the probes' maps were made anew.
    renewals: u64,
    hold: Option<Hold>,
    began: Began,
    /// When guests were last looked for.
    looked: SystemTime,
    /// Why the last reading failed.
    broken: Option<String>,
    /// What could not be read of VFs' counters the last time.
    vf_problems: Vec<String>,
}

impl Service {
    /// Loads and opens the probes. Of configurations that end, the figures of the last `keep` stay.
    pub(super) fn start(root: HostRoot, state: StateDir, keep: usize) -> Result<Self, ServeError> {
        let looked = SystemTime::now();
        let mut topology = read_topology(&root);
        let mut observer = Observer::start(&root, &topology)?;
        observer.guard(&topology.promised())?;
        for report in observer.reports() {
            let (state, how) = describe(report);
            tracing::info!("probe {} {}: {how}", report.probe, state.as_str());
        }
        observer.open(None)?;
        let look = observer.look(&mut topology, &Look::default())?;
        let now = Now {
            observer,
            topology: Arc::new(topology),
            ledger: Ledger::new(BASELINE, keep),
            look,
            renewals: 0,
            hold: None,
            began: Began { probes: Some(looked), ..Began::default() },
            looked,
            broken: None,
            vf_problems: Vec::new(),
        };
        let service = Self { root, state, journal: Mutex::new(None), now: Mutex::new(now) };
        service.look_at_config();
        Ok(service)
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        // Every step leaves the state whole, so one that panicked does not spoil it.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which configuration is in force and whether the host still is as it asks. One that is being applied or
    /// undone does not count yet.
    pub(super) fn look_at_config(&self) {
        let mut seen = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        // What is written meanwhile is looked at again.
        *seen = stamp(&self.state);
        self.note_config();
    }

    /// The same if the journal was written since the last look and says that another configuration is in force.
    pub(super) fn look_at_journal(&self) {
        let mut seen = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let found = stamp(&self.state);
        if *seen == found {
            return;
        }
        match control::settled(&self.root, &self.state) {
            Ok(settled) => {
                *seen = found;
                if settled.is_some_and(|configs| name(&configs) != self.now().ledger.config()) {
                    self.note_config();
                }
            }
            Err(error) => tracing::debug!(%error, "the journal cannot be read"),
        }
    }

    fn note_config(&self) {
        let in_force = match control::in_force(&self.root, &self.state) {
            Ok(in_force) => in_force,
            Err(error) => {
                tracing::warn!(%error, "the configuration in force is not known");
                return;
            }
        };
        let mut now = self.now();
        let Some(in_force) = in_force else {
            now.hold = None;
            return now.switch(BASELINE);
        };
        let drifted = in_force.checks.iter().filter(|check| check.is_drift()).count();
        now.hold = Some(Hold { settings: in_force.checks.len(), drifted, settled: in_force.settled });
        if in_force.settled {
            now.switch(&name(&in_force.configs));
        }
    }

    /// Whether the probes can be read by this thread, as it is.
    pub(super) fn can_be_read(&self) -> bool {
        self.now().read().is_ok()
    }

    /// Reads the topology anew.
    pub(super) fn look_for_guests(&self) {
        let looked = SystemTime::now();
        let mut topology = read_topology(&self.root);
        let mut now = self.now();
        let before = std::mem::take(&mut now.look);
        match now.observer.look(&mut topology, &before) {
            Ok(look) => now.look = look,
            Err(error) => tracing::warn!(%error, "where vectors go is not known"),
        }
        let topology = Arc::new(topology);
        let began = began(&now.began, &now.topology, &topology, now.looked);
        now.began = began;
        now.looked = looked;
        let told = now.observer.forget_gone(&topology);
        let told = told.and_then(|()| now.observer.update(&topology));
        let told = told.and_then(|()| now.observer.guard(&topology.promised()));
        if let Err(error) = told {
            tracing::warn!(%error, "the probes were not told of changed guests");
        }
        let same = same_guests(&now.topology, &topology);
        now.ledger.keep_guests(|guest| same.contains(guest));
        drop(same);
        now.topology = topology;
        now.make_room(&self.root);
    }
}

impl Observed for Service {
    fn accepted(&self) -> Vec<Accepted> {
        let now = self.now();
        now.observer.accepted(&now.topology).unwrap_or_else(|error| {
            tracing::warn!(%error, "where vectors go is not known");
            Vec::new()
        })
    }

    fn freed(&self) -> Freed {
        let now = self.now();
        now.observer.freed(&now.topology).unwrap_or_else(|error| {
            tracing::warn!(%error, "whether interrupts were made anew is not known");
            Freed::new()
        })
    }

    fn bell(&self) -> Option<Result<Bell, String>> {
        self.now().observer.bell()
    }

    fn signs(&self) -> Signs {
        // What cannot be read changes nothing; the audit sees to it.
        self.now().observer.signs().unwrap_or_default()
    }

    fn seen(&self) -> Seen {
        Seen::of(&self.now().topology)
    }
}

impl Now {
    /// The probes' figures of the guests that are there.
    fn read(&self) -> Result<Snapshot, ReadError> {
        let mut snapshot = self.observer.snapshot(&self.topology)?;
        let guests = guests(&self.topology);
        snapshot.series.retain(|s| s.labels.get("guest").is_none_or(|guest| guests.contains(guest.as_str())));
        snapshot
            .counters
            .retain(|c| c.labels.get("guest").is_none_or(|guest| guests.contains(guest.as_str())));
        Ok(snapshot)
    }

    /// The figures, each under the configuration it was counted under. What a probe counts as lost is told from the
    /// start, with 0: a rate sees growth only from a value that was there.
    fn labelled(&mut self) -> Result<Figures, SourceError> {
        match self.read() {
            Ok(snapshot) => {
                self.broken = None;
                let mut figures = self.ledger.label(snapshot);
                for (probe, cause) in self.observer.losses() {
                    figures.present.lost.entry(format!("{probe}.{cause}")).or_default();
                }
                Ok(figures)
            }
            Err(error) => {
                self.broken = Some(error.to_string());
                Err(SourceError(error.to_string()))
            }
        }
    }

    fn status(&self) -> Status {
        let reports = self.observer.reports().iter();
        let probes =
            reports.map(|report| status_of(report, self.observer.cost(report), self.broken.as_deref()));
        Status {
            config: self.ledger.config().to_owned(),
            hold: self.hold,
            probes: probes.collect(),
            topology: Some(Arc::clone(&self.topology)),
            began: self.began.clone(),
            dropped_configs: self.ledger.dropped(),
            renewals: self.renewals,
            own: own_cost::read(),
        }
    }

    /// Makes the probes' maps anew when they are full of guests that are gone. The counts go on.
    fn make_room(&mut self, root: &HostRoot) {
        match self.observer.is_crowded(&self.topology) {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => return tracing::warn!(%error, "how full the probes' maps are is not known"),
        }
        let mut next = match self.observer.renewed(root, &self.topology) {
            Ok(next) => next,
            Err(error) => return tracing::warn!(%error, "the probes' maps are nearly full and stay so"),
        };
        // One after the other, so that nothing counts twice.
        let ended = self.observer.close().and_then(|()| next.open(None)).and_then(|_| self.read());
        match ended {
            Ok(snapshot) => {
                self.ledger.renew(snapshot);
                self.renewals += 1;
                tracing::info!("the probes' maps were nearly full of guests that are gone and are made anew");
            }
            Err(error) => tracing::warn!(%error, "the probes' figures so far are lost"),
        }
        self.observer = next;
    }

    fn switch(&mut self, config: &str) {
        if config == self.ledger.config() {
            return;
        }
        match self.read() {
            Ok(snapshot) => {
                tracing::info!(from = self.ledger.config(), to = config, "another configuration is in force");
                if !self.ledger.has(config) {
                    self.began.configs.insert(config.to_owned(), SystemTime::now());
                }
                self.ledger.switch(snapshot, config);
                let ledger = &self.ledger;
                self.began.configs.retain(|known, _| known == ledger.config() || ledger.has(known));
            }
            // Tried again at the next look: until then the counts go on under the former name.
            Err(error) => {
                tracing::warn!(%error, config, "a configuration began, but the probes cannot be read");
            }
        }
    }
}

/// What configurations that are in force together are called.
fn name(configs: &[String]) -> String {
    if configs.is_empty() { BASELINE.to_owned() } else { configs.join("+") }
}

fn guests(topology: &Topology) -> BTreeSet<&str> {
    topology.guests.iter().map(|guest| guest.name.as_str()).collect()
}

/// Names under which the same process runs a guest as before. A guest that was started anew has its name alone in common
/// with the former one, whose counts are not its own.
fn same_guests<'a>(before: &Topology, after: &'a Topology) -> BTreeSet<&'a str> {
    let there = |guest: &&Guest| {
        let is_it =
            |old: &Guest| (&old.name, old.pid, old.start_time) == (&guest.name, guest.pid, guest.start_time);
        before.guests.iter().any(is_it)
    };
    after.guests.iter().filter(there).map(|guest| guest.name.as_str()).collect()
}

/// Since when the guests of `after` are counted, given when `before` was looked at.
fn began(known: &Began, before: &Topology, after: &Topology, looked: SystemTime) -> Began {
    let same = same_guests(before, after);
    let since = |guest: &Guest| {
        let there = same.contains(guest.name.as_str());
        let since = if there { known.guests.get(&guest.name).copied()? } else { looked };
        Some((guest.name.clone(), since))
    };
    Began { guests: after.guests.iter().filter_map(since).collect(), ..known.clone() }
}

impl Source for Service {
    fn figures(&self) -> Result<Figures, SourceError> {
        self.now().labelled()
    }

    fn status(&self) -> Status {
        self.now().status()
    }

    fn scrape(&self) -> (Result<Figures, SourceError>, Status) {
        // What is read from here on was counted under what is in force by now.
        self.look_at_journal();
        // One lock for both: a configuration that comes into force meanwhile is in both, or in none.
        let mut now = self.now();
        let figures = now.labelled();
        (figures, now.status())
    }

    fn vf_counters(&self) -> Vec<CountedVf> {
        let topology = Arc::clone(&self.now().topology);
        // Not under the lock: a driver may keep its network interface to itself for a while.
        let readings = read_vf_counters(&topology);
        let mut now = self.now();
        if now.vf_problems != readings.problems {
            readings.problems.iter().for_each(|problem| tracing::warn!("{problem}"));
            now.vf_problems = readings.problems;
        }
        let counted = topology.vfs().filter_map(|vf| {
            let counters = *readings.counters.get(&vf.address)?;
            Some(CountedVf { pf: vf.pf_netdev.clone()?, index: vf.index?, address: vf.address, counters })
        });
        counted.collect()
    }
}

fn status_of(report: &ProbeReport, cost: Option<(Duration, u64)>, broken: Option<&str>) -> ProbeStatus {
    let (state, reason) = match (describe(report), broken) {
        ((ProbeState::Running, _), Some(cause)) => (ProbeState::Failed, cause.to_owned()),
        (described, _) => described,
    };
    let run_ns = cost.map(|(time, _)| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    let missing = match &report.verdict {
        Verdict::Ready { missing } => missing.len(),
        Verdict::Unsupported { .. } | Verdict::NotApplicable { .. } => 0,
    };
    ProbeStatus {
        name: report.probe.clone(),
        state,
        reason,
        missing,
        run_ns,
        runs: cost.map(|(_, runs)| runs),
    }
}

/// A probe's state, and in a few words how it is attached or why it is not.
fn describe(report: &ProbeReport) -> (ProbeState, String) {
    match &report.verdict {
        Verdict::Unsupported { reason } => (ProbeState::Unsupported, reason.clone()),
        Verdict::NotApplicable { reason } => (ProbeState::NotApplicable, reason.clone()),
        Verdict::Ready { missing } => {
            let kinds: BTreeSet<&str> = report.attached.iter().map(|(_, kind)| kind.as_str()).collect();
            let mut text = kinds.into_iter().collect::<Vec<_>>().join(", ");
            let lost: BTreeSet<&str> = missing.iter().map(|m| m.loses.as_str()).collect();
            if !lost.is_empty() {
                text.push_str("; without ");
                text.push_str(&lost.into_iter().collect::<Vec<_>>().join(", "));
            }
            (ProbeState::Running, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Pid, topology::Vmm};
    use crate::probes::Missing;

    fn report(verdict: Verdict) -> ProbeReport {
        let attached = [("kvm/kvm_entry", "raw tracepoint"), ("kvm/kvm_exit", "tracepoint")];
        let attached = attached.map(|(event, kind)| (event.to_owned(), kind.to_owned())).to_vec();
        ProbeReport { probe: "vm_exit".to_owned(), verdict, attached }
    }

    #[test]
    fn a_guest_counts_since_it_was_last_not_there() {
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        let topology = |guests: &[(&str, u32)]| Topology {
            guests: guests.iter().map(|(name, pid)| guest(name, *pid)).collect(),
            ..Topology::default()
        };
        let start = Began { probes: Some(at(1)), ..Began::default() };
        let first = topology(&[("a", 7)]);
        let second = topology(&[("a", 7), ("b", 8)]);
        let then = began(&start, &first, &second, at(10));
        assert_eq!(
            [then.of(Some("a"), None), then.of(Some("b"), None), then.of(None, None)],
            [1, 10, 1].map(at).map(Some)
        );
        // It keeps its time while it runs, gets another when it is started anew, and is forgotten with its end.
        let later = began(&then, &second, &topology(&[("a", 9), ("b", 8)]), at(20));
        assert_eq!([later.of(Some("a"), None), later.of(Some("b"), None)], [20, 10].map(at).map(Some));
        assert!(began(&later, &second, &topology(&[]), at(30)).guests.is_empty());
        // Under a configuration that began later, nothing was counted before that.
        let under = Began { configs: [("own".to_owned(), at(15))].into(), ..later };
        for (guest, config, since) in
            [(Some("a"), "own", 20), (Some("b"), "own", 15), (None, "own", 15), (None, "other", 1)]
        {
            assert_eq!(under.of(guest, Some(config)), Some(at(since)), "{guest:?} {config}");
        }
    }

    #[test]
    fn a_guest_is_the_same_while_its_process_is() {
        let guests = |all: &[(&str, u32, u64)]| Topology {
            guests: all
                .iter()
                .map(|(name, pid, start_time)| Guest { start_time: *start_time, ..guest(name, *pid) })
                .collect(),
            ..Topology::default()
        };
        let before = guests(&[("a", 7, 1), ("b", 8, 1), ("c", 9, 1), ("d", 10, 1)]);
        // One runs on, one was started anew, one too with the same number, one has gone, one has come.
        let after = guests(&[("a", 7, 1), ("b", 11, 2), ("c", 9, 2), ("e", 10, 1)]);
        assert_eq!(same_guests(&before, &after), BTreeSet::from(["a"]));
    }

    fn guest(name: &str, pid: u32) -> Guest {
        Guest {
            name: name.to_owned(),
            uuid: None,
            pid: Pid(pid),
            start_time: 1,
            vmm: Vmm::Qemu,
            libvirt: false,
            vcpus: vec![],
            threads: vec![],
            vfs: vec![],
            nics: vec![],
        }
    }

    #[test]
    fn probes_in_a_few_words() {
        let missing = Missing {
            event: "kvm/kvm_eoi".to_owned(),
            loses: "service".to_owned(),
            reason: "no such event".to_owned(),
        };
        for (verdict, broken, state, missing, reason) in [
            (Verdict::Ready { missing: vec![] }, None, ProbeState::Running, 0, "raw tracepoint, tracepoint"),
            (
                Verdict::Ready { missing: vec![missing] },
                None,
                ProbeState::Running,
                1,
                "raw tracepoint, tracepoint; without service",
            ),
            (Verdict::Ready { missing: vec![] }, Some("gone"), ProbeState::Failed, 0, "gone"),
            (
                Verdict::Unsupported { reason: "no BTF".to_owned() },
                Some("gone"),
                ProbeState::Unsupported,
                0,
                "no BTF",
            ),
        ] {
            let status = status_of(&report(verdict), None, broken);
            assert_eq!((status.state, status.missing, status.reason.as_str()), (state, missing, reason));
        }
    }
}
