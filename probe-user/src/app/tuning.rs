//! What a tuning session is to be, as it is asked for, as it is kept in the session's file, and as it is continued.

use super::loads::Load;
use super::vectors::LOOK;
use crate::host::{HostRoot, read_facts};
use crate::plan::{Policy, PolicyError, parse_policy};
use crate::session::{Session, SessionError, Tuning, TuningLoad, Writer};
use crate::stats::gate::{Gate, NotAGate};
use crate::workload::Reading;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// A configuration to try.
#[derive(Clone, Debug)]
pub struct Try {
    /// Its name.
    pub name: String,
    /// What it is, and its text; `None` is the host as it is found.
    policy: Option<(Policy, String)>,
}

impl Try {
    /// The host as it is found.
    #[must_use]
    pub fn baseline(name: &str) -> Self {
        Self { name: name.to_owned(), policy: None }
    }

    /// A policy, under a name of its own: `status` and the journal speak of it by that.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn policy_text(name: &str, text: &str) -> Result<Self, PolicyError> {
        let policy = Policy { name: name.to_owned(), ..parse_policy(text)? };
        Ok(Self { name: name.to_owned(), policy: Some((policy, text.to_owned())) })
    }

    /// What it is; `None` is the host as it is found.
    #[must_use]
    pub fn policy(&self) -> Option<&Policy> {
        self.policy.as_ref().map(|(policy, _)| policy)
    }
}

/// What a session is to be.
#[derive(Clone, Debug)]
pub struct TuneRequest {
    /// The guest (its name).
    pub guest: String,
    /// Configurations, the baseline among them.
    pub tries: Vec<Try>,
    /// Runs of each under each load.
    pub repeats: u32,
    /// Seed of the order.
    pub seed: u64,
    /// What runs are made under, one after the other each time that a configuration is in force.
    pub loads: Vec<Load>,
    /// Conditions on a single run that end the session.
    pub abort_if: Vec<Gate>,
    /// How long is looked at interrupts before the first run; nobody looks when `None`. Not kept in the file: a session that
    /// is continued looks again.
    pub look: Option<Duration>,
    /// Whether what takes the CPUs that configurations promise to the guest is counted.
    pub noise: bool,
}

/// A session that cannot be continued.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// Its file cannot be read or written.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// It is not a tuning session.
    #[error("{0} is no session of `vfprobe tune`, so nothing says which runs are missing")]
    NotTuning(String),
    /// All of its runs are there.
    #[error("{0} has all of its runs; look at it with `vfprobe compare {0}`")]
    Complete(String),
    /// The host has been started anew since.
    #[error(
        "the host has been booted since {0} was recorded, so its runs cannot be compared with new ones; begin a new session"
    )]
    OtherBoot(String),
    /// What it says is not understood.
    #[error("{file} cannot be continued: {what}")]
    NotUnderstood {
        /// The file.
        file: String,
        /// What is wrong.
        what: String,
    },
}

impl TuneRequest {
    /// As it is kept in the session's file.
    #[must_use]
    pub fn record(&self) -> Tuning {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Tuning {
            guest: self.guest.clone(),
            seed: self.seed,
            repeats: self.repeats,
            tries: self
                .tries
                .iter()
                .map(|one| (one.name.clone(), one.policy.as_ref().map(|(_, text)| text.clone())))
                .collect(),
            loads: self
                .loads
                .iter()
                .map(|load| TuningLoad {
                    name: load.name.clone(),
                    command: load.command.clone(),
                    stated: load.reading == Reading::Stated,
                    continuous: load.continuous,
                    warm_up_ns: ns(load.warm_up),
                    duration_ns: ns(load.duration),
                })
                .collect(),
            abort_if: self.abort_if.iter().map(ToString::to_string).collect(),
            noise: self.noise,
        }
    }

    /// Out of a session's file.
    fn of_record(tuning: &Tuning) -> Result<Self, String> {
        let one = |(name, text): &(String, Option<String>)| match text {
            None => Ok(Try::baseline(name)),
            Some(text) => Try::policy_text(name, text).map_err(|error| format!("policy {name}: {error}")),
        };
        let load = |load: &TuningLoad| Load {
            name: load.name.clone(),
            command: load.command.clone(),
            reading: if load.stated { Reading::Stated } else { Reading::ByTool },
            continuous: load.continuous,
            warm_up: Duration::from_nanos(load.warm_up_ns),
            duration: Duration::from_nanos(load.duration_ns),
        };
        let gates: Result<Vec<Gate>, NotAGate> = tuning.abort_if.iter().map(|text| text.parse()).collect();
        Ok(Self {
            guest: tuning.guest.clone(),
            tries: tuning.tries.iter().map(one).collect::<Result<_, _>>()?,
            repeats: tuning.repeats,
            seed: tuning.seed,
            loads: tuning.loads.iter().map(load).collect(),
            abort_if: gates.map_err(|error| error.to_string())?,
            look: Some(LOOK),
            noise: tuning.noise,
        })
    }

    /// How many runs the session has.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.tries.len() * self.loads.len() * usize::try_from(self.repeats).unwrap_or(usize::MAX)
    }
}

/// Positions of the runs that a session has. One that was cut off, broken off or ended by a signal is not among them and is
/// made again.
#[must_use]
pub fn finished(session: &Session) -> BTreeSet<u32> {
    let runs = session
        .runs
        .iter()
        .filter(|run| run.end.as_ref().is_some_and(|end| !end.interrupted && end.broken_off.is_none()));
    runs.map(|run| run.start.order).collect()
}

/// Opens a session's file to make the runs that are missing.
///
/// # Errors
/// [`ResumeError`]; the file is then as it was, but for a torn last line.
pub fn resume(root: &HostRoot, path: &Path) -> Result<(Writer, Session, TuneRequest), ResumeError> {
    let (writer, session) = Writer::open(path)?;
    let request = continued(&session, &read_facts(root).0.boot_id, &path.display().to_string())?;
    Ok((writer, session, request))
}

fn continued(session: &Session, boot_id: &str, file: &str) -> Result<TuneRequest, ResumeError> {
    let Some(tuning) = &session.tuning else { return Err(ResumeError::NotTuning(file.to_owned())) };
    if session.host.boot_id.as_deref() != Some(boot_id) {
        return Err(ResumeError::OtherBoot(file.to_owned()));
    }
    let request = TuneRequest::of_record(tuning)
        .map_err(|what| ResumeError::NotUnderstood { file: file.to_owned(), what })?;
    if finished(session).len() >= request.runs() {
        return Err(ResumeError::Complete(file.to_owned()));
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Isolate, Placement, guest_policy_text};
    use crate::session::{Encoder, Header, RunEnd, RunStart, decode, sample};
    use crate::stats::rng::SplitMix64;

    fn request() -> TuneRequest {
        let own = guest_policy_text("vm1", "2", Placement::Own, Isolate::Threads);
        TuneRequest {
            guest: "vm1".to_owned(),
            tries: vec![Try::baseline("baseline"), Try::policy_text("own,x=1", &own).unwrap()],
            repeats: 2,
            seed: 7,
            loads: vec![Load {
                name: None,
                command: vec!["ping".to_owned(), "10.0.0.2".to_owned()],
                reading: Reading::Stated,
                continuous: true,
                warm_up: Duration::from_millis(1500),
                duration: Duration::from_secs(9),
            }],
            abort_if: vec!["irq_delivery.p99 > +100%".parse().unwrap()],
            look: None,
            noise: true,
        }
    }

    /// A session with its first run whole, its second ended by a signal, and its third cut off.
    fn session() -> Session {
        let mut encoder = Encoder::new(0);
        let mut text = encoder.header(&Header::default(), &sample::host()).unwrap();
        text += &encoder.tuning(&request().record()).unwrap();
        for order in 0..3 {
            let start = RunStart { config: "baseline".into(), order, seed: Some(7), ..RunStart::default() };
            text += &encoder.start_run(&start).unwrap();
            text += &encoder.checkpoint(&sample::snapshot(&mut SplitMix64::new(1), 0, 1.0)).unwrap();
            if order < 2 {
                text += &encoder.end_run(&RunEnd { interrupted: order == 1, ..sample::end(8.0) }).unwrap();
            }
        }
        decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_was_asked_for_comes_back_from_the_file() {
        let (asked, session) = (request(), session());
        let found = continued(&session, "00000000-0000-0000-0000-000000000001", "f").unwrap();
        assert_eq!(found.record(), asked.record());
        assert_eq!(found.tries[1].policy(), asked.tries[1].policy());
        assert_eq!(found.tries[1].policy().unwrap().name, "own,x=1");
        assert_eq!((found.tries[0].policy(), found.runs()), (None, 4));
        assert_eq!(found.loads, asked.loads);
    }

    #[test]
    fn only_whole_runs_are_finished() {
        let mut session = session();
        let mut broken = session.runs[0].clone();
        broken.start.order = 3;
        broken.end.as_mut().unwrap().broken_off = Some("irq_delivery.p50 > 1ms".to_owned());
        assert_eq!(broken.unfit().as_deref(), Some("was broken off: irq_delivery.p50 > 1ms"));
        session.runs.push(broken);
        assert_eq!(finished(&session), BTreeSet::from([0]));
        let unfit: Vec<bool> = session.runs.iter().map(|run| run.unfit().is_some()).collect();
        assert_eq!(unfit, [false, true, true, true]);
    }

    #[test]
    fn what_cannot_be_continued_says_why() {
        const BOOT: &str = "00000000-0000-0000-0000-000000000001";
        let mut complete = session();
        complete.runs = (0..4)
            .map(|order| {
                let mut run = complete.runs[0].clone();
                run.start.order = order;
                run
            })
            .collect();
        let mut bad = session();
        bad.tuning.as_mut().unwrap().tries[1].1 = Some("name = 1".to_owned());
        let mut gate = session();
        gate.tuning.as_mut().unwrap().abort_if.push("nonsense".to_owned());
        let record = decode(sample::lines(1, &[]).as_bytes()).unwrap();
        for (session, boot, said) in [
            (record, BOOT, "f is no session of `vfprobe tune`"),
            (session(), "other", "has been booted since"),
            (complete, BOOT, "f has all of its runs"),
            (bad, BOOT, "f cannot be continued: policy own,x=1: line 1"),
            (gate, BOOT, "is not a condition"),
        ] {
            let error = continued(&session, boot, "f").unwrap_err().to_string();
            assert!(error.contains(said), "{said}: {error}");
        }
    }
}
