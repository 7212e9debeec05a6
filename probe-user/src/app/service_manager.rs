//! What a service manager is told: ready, alive, about to stop. Without one (no `NOTIFY_SOCKET`) nothing is said.

use crate::export::Status;
use sd_notify::NotifyState;

/// Says that figures flow, and what of; while they do not, only why not. Returns whether it is ready.
pub(super) fn started(status: &Status) -> bool {
    let ready = status.healthy();
    let running: Vec<&str> = status
        .probes
        .iter()
        .filter(|probe| probe.state == crate::export::ProbeState::Running)
        .map(|probe| probe.name.as_str())
        .collect();
    if ready {
        say(&[NotifyState::Ready, NotifyState::Status(&format!("probes: {}", running.join(", ")))]);
    } else {
        say(&[NotifyState::Status("no probe runs, or one has failed; the log says why")]);
    }
    ready
}

/// Says that the service is alive. The manager ignores it when it keeps no watchdog.
pub(super) fn alive() {
    say(&[NotifyState::Watchdog]);
}

/// Says that the end has begun.
pub(super) fn stopping() {
    say(&[NotifyState::Stopping]);
}

fn say(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
