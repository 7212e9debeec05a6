//! Follows what changes on the host, in a thread of its own that keeps the capabilities for it.

use super::super::{privileges, service_manager};
use super::journal::{JournalWatch, Woken};
use super::service::Service;
use crate::apply::StateDir;
use std::io::{self, PipeReader, PipeWriter, pipe};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the settings of the configuration in force are looked at. Another configuration is noticed when the journal says so.
const FOLLOW: Duration = Duration::from_secs(2);
/// How often guests are looked for: that reads all of `/proc`.
const SCAN: Duration = Duration::from_secs(10);

/// Follows for as long as this lives.
pub(super) struct Follower(#[expect(dead_code, reason = "its end is the message")] PipeWriter);

/// Begins to follow. The thread gives up what it does not need before anything else.
///
/// # Errors
/// When no thread can be started, or the state folder not be watched.
pub(super) fn start(service: Arc<Service>, state: &StateDir) -> io::Result<Follower> {
    let (ended, end) = pipe()?;
    let watch = JournalWatch::new(state)?;
    let work = move || {
        if let Err(error) = privileges::keep(privileges::WATCH) {
            // The watchdog is not fed from here on.
            return tracing::error!(%error, "capabilities cannot be given up; the host is not followed");
        }
        follow(&service, watch, &ended);
    };
    std::thread::Builder::new().name("follow".to_owned()).spawn(work)?;
    Ok(Follower(end))
}

fn follow(service: &Service, mut watch: JournalWatch, ended: &PipeReader) {
    let (mut scanned, mut looked) = (Instant::now(), None::<Instant>);
    loop {
        watch.arm();
        let is_due = looked.is_none_or(|looked| looked.elapsed() >= FOLLOW);
        let scan = is_due && scanned.elapsed() >= SCAN;
        // Every step leaves the service whole (see `Service::now`), so one that panicked does not spoil it.
        let done = catch_unwind(AssertUnwindSafe(|| {
            if is_due {
                service.look_at_config();
            } else {
                service.look_at_journal();
            }
            if scan {
                service.look_for_guests();
            }
        }));
        if is_due {
            looked = Some(Instant::now());
        }
        if scan {
            scanned = Instant::now();
        }
        // Fed only by a look that has come to its end: a service whose looks hang is started anew.
        match done {
            Ok(()) => service_manager::alive(),
            Err(_) => tracing::error!(
                "following the host was cut short; its guests and configuration may be out of date"
            ),
        }
        let until_due = looked.map_or(FOLLOW, |looked| FOLLOW.saturating_sub(looked.elapsed()));
        if watch.wait(ended, until_due) == Woken::Ended {
            return;
        }
    }
}
