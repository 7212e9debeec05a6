//! Watching VFs' interrupts for a while, to learn of each vector what only tracing shows.

use super::observe::Observer;
use super::record::{RecordError, Stop};
use crate::host::{HostRoot, read_topology};
use crate::model::seen::Seen;
use crate::model::topology::Topology;
use crate::plan::{Policy, wants_look};
use crate::probes::irq_delivery::{self, Accepted};
use crate::probes::vectors::Look;
use std::time::Duration;

/// How long is looked before a plan, unless somebody says otherwise.
pub const LOOK: Duration = Duration::from_secs(2);

/// What is known of vectors when a plan is made.
#[derive(Clone, Debug)]
pub enum Looked {
    /// Nothing; it would change no plan.
    Needless,
    /// What was seen.
    Seen(Seen),
    /// Nothing, for this reason.
    Not(String),
}

/// The topology at the end of `length`, or at a signal, with what was seen of vectors until then. Needs a tokio
/// runtime.
///
/// # Errors
/// [`RecordError`] when the probes cannot be loaded or read.
pub async fn watch(
    root: &HostRoot,
    length: Duration,
    progress: &mut dyn FnMut(Duration),
) -> Result<Topology, RecordError> {
    let mut stop = Stop::new();
    let observer = Observer::start(root, &read_topology(root))?;
    let (topology, _) = until(root, observer, length, stop.requested(), progress).await?;
    Ok(topology)
}

/// Whether a plan for one of these policies depends on a look.
pub(super) fn is_wanted(root: &HostRoot, policies: &[&Policy]) -> bool {
    let topology = read_topology(root);
    policies.iter().any(|policy| wants_look(&topology, policy))
}

/// Looks at vectors before plans for these policies are made, when a plan depends on that, for `length` or until `over`. With
/// no `length` nobody looks. Needs a tokio runtime. Listens to no signal: nothing has been changed yet.
pub async fn look(
    root: &HostRoot,
    policies: &[&Policy],
    length: Option<Duration>,
    over: impl Future<Output = ()>,
    progress: &mut dyn FnMut(Duration),
) -> Looked {
    if !is_wanted(root, policies) {
        return Looked::Needless;
    }
    let Some(length) = length else { return Looked::Not("as asked".to_owned()) };
    let looked: Result<Looked, RecordError> = async {
        let observer = Observer::start(root, &read_topology(root))?;
        if let Some(why) = observer.hides(irq_delivery::SPEC.name) {
            return Ok(Looked::Not(why));
        }
        until(root, observer, length, over, progress).await.map(|(_, seen)| Looked::Seen(seen))
    }
    .await;
    looked.unwrap_or_else(|error| Looked::Not(in_one_line(&error)))
}

/// The topology when the time is over, filled in, and what it was filled from.
async fn until(
    root: &HostRoot,
    mut observer: Observer,
    length: Duration,
    over: impl Future<Output = ()>,
    progress: &mut dyn FnMut(Duration),
) -> Result<(Topology, Seen), RecordError> {
    observer.open(None)?;
    let first = observer.look(&mut read_topology(root), &Look::default())?;
    let opened = tokio::time::Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    let end = tokio::time::sleep(length);
    tokio::pin!(end, over);
    loop {
        tokio::select! {
            _ = tick.tick() => progress(opened.elapsed()),
            () = &mut end => break,
            () = &mut over => break,
        }
    }
    let mut topology = read_topology(root);
    observer.update(&topology)?;
    let length = opened.elapsed();
    let accepted = observer.accepted(&topology)?;
    observer.look(&mut topology, &first)?;
    let counts = accepted.iter().map(|Accepted { vf, slot, vcpu, count, .. }| (*vf, *slot, *vcpu, *count));
    let seen = Seen::of(&topology).counted(length, counts);
    Ok((topology, seen))
}

/// An error with its causes.
fn in_one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
