//! Watching VFs' interrupts for a while, to learn of each vector what only tracing shows.

use super::observe::Observer;
use super::record::{RecordError, Stop};
use crate::host::{HostRoot, read_topology};
use crate::model::topology::Topology;
use crate::probes::vectors::Look;
use std::time::Duration;

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
    let mut topology = read_topology(root);
    let mut observer = Observer::start(root, &topology)?;
    let mut stop = Stop::new();
    observer.open(None)?;
    let first = observer.look(&mut topology, &Look::default())?;
    let opened = tokio::time::Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    let over = tokio::time::sleep(length);
    tokio::pin!(over);
    loop {
        tokio::select! {
            _ = tick.tick() => progress(opened.elapsed()),
            () = &mut over => break,
            () = stop.requested() => break,
        }
    }
    let mut topology = read_topology(root);
    observer.update(&topology)?;
    observer.look(&mut topology, &first)?;
    Ok(topology)
}
