//! Follows what changes on the host, in a thread of its own that keeps the capabilities for it.

use super::super::{privileges, service_manager};
use super::service::Service;
use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// How often the configuration in force is looked at: what is counted in between goes to the former one.
const FOLLOW: Duration = Duration::from_secs(2);
/// Guests are looked for at every this many looks at the configuration: that reads all of `/proc`.
const LOOKS_PER_SCAN: u32 = 5;

/// Follows for as long as this lives.
pub(super) struct Follower(#[expect(dead_code, reason = "its end is the message")] mpsc::Sender<Infallible>);

/// Begins to follow. The thread gives up what it does not need before anything else.
///
/// # Errors
/// When no thread can be started.
pub(super) fn start(service: Arc<Service>) -> io::Result<Follower> {
    let (end, ended) = mpsc::channel();
    let work = move || {
        if let Err(error) = privileges::keep(privileges::WATCH) {
            // The watchdog is not fed from here on.
            return tracing::error!(%error, "capabilities cannot be given up; the host is not followed");
        }
        let mut look = 0;
        loop {
            look = (look + 1) % LOOKS_PER_SCAN;
            // Every step leaves the service whole (see `Service::now`), so one that panicked does not spoil it.
            let looked = catch_unwind(AssertUnwindSafe(|| {
                service.look_at_config();
                if look == 0 {
                    service.look_for_guests();
                }
            }));
            // Fed only by a look that has come to its end: a service whose looks hang is started anew.
            match looked {
                Ok(()) => service_manager::alive(),
                Err(_) => tracing::error!(
                    "following the host was cut short; its guests and configuration may be out of date"
                ),
            }
            if ended.recv_timeout(FOLLOW) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    };
    std::thread::Builder::new().name("follow".to_owned()).spawn(work)?;
    Ok(Follower(end))
}
