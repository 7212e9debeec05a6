//! Before a tuning session: interrupts are looked at while its first load is made, so that configurations are planned for the
//! vCPUs that interrupts are for under that load. Nothing of it is recorded.

use super::interrupt::Interrupts;
use super::record::{GRACE, start_traffic};
use super::tuning::{Try, TuneRequest};
use super::vectors::{self, Looked};
use crate::host::HostRoot;
use crate::plan::Policy;
use crate::workload::{Continuous, Echo, WorkloadError};
use std::time::{Duration, Instant};

/// How often is looked whether a signal has come.
const TICK: Duration = Duration::from_millis(100);

/// What is seen of vectors under the session's first load, as far as a configuration's plan depends on it. A load that has no
/// name ends with the look, as it ends with the window of a run; one of a preset is left to end by itself.
///
/// # Errors
/// [`WorkloadError`] when the load cannot be made.
pub(super) async fn look(
    root: &HostRoot,
    request: &TuneRequest,
    continuous: Option<&mut Continuous>,
    echo: Echo,
    interrupts: &Interrupts,
    progress: &mut dyn FnMut(Duration),
) -> Result<Looked, WorkloadError> {
    let policies: Vec<&Policy> = request.tries.iter().filter_map(Try::policy).collect();
    let wanted = vectors::is_wanted(root, &policies);
    let (Some(length), Some(load), true) = (request.look, request.loads.first(), wanted) else {
        return Ok(vectors::look(root, &policies, None, std::future::pending(), progress).await);
    };
    let length = if load.name.is_some() { length.max(load.duration) } else { length };
    let mut traffic = start_traffic(continuous, &load.command, load.reading, echo)?;
    let began = Instant::now();
    tokio::select! {
        () = tokio::time::sleep(load.warm_up) => {}
        () = traffic.ended() => {}
        () = raised(interrupts) => {}
    }
    let over = async {
        tokio::select! {
            () = traffic.ended() => {}
            () = raised(interrupts) => {}
        }
    };
    let looked = vectors::look(root, &policies, Some(length), over, progress).await;
    traffic.finish(began, Instant::now(), GRACE).await?;
    Ok(looked)
}

/// Resolves when a signal has come.
async fn raised(interrupts: &Interrupts) {
    let mut tick = tokio::time::interval(TICK);
    while !interrupts.raised() {
        tick.tick().await;
    }
}
