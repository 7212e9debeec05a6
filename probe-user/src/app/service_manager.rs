//! What a service manager is told: ready, alive, about to stop; and the sockets that it hands over. Without one (no
//! `NOTIFY_SOCKET`, no `LISTEN_FDS`) nothing is said or taken.

use crate::export::Status;
use rustix::net::sockopt;
use sd_notify::NotifyState;
use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// Sockets that the service manager has opened for this process (sd_listen_fds(3)); none unless it has. Called once.
///
/// # Errors
/// When one of them is no listening TCP socket.
pub(super) fn sockets() -> io::Result<Vec<TcpListener>> {
    let adopt = |number| {
        // SAFETY: the descriptor was handed over to this process, and nothing else takes it: this is called once.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        if !sockopt::socket_acceptconn(&socket)? {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let listener = TcpListener::from(socket);
        // Fails on a socket of another family.
        listener.local_addr().map(|_| listener)
    };
    sd_notify::listen_fds()?.map(adopt).collect()
}

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
