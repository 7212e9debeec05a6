//! Being told to stop: SIGINT, SIGTERM and SIGHUP as a flag that work in progress looks at.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use tokio::signal::unix::{SignalKind, signal};

/// Whether somebody asked to stop. From its making on, these signals no longer end the process by themselves.
#[derive(Clone, Debug)]
pub struct Interrupts {
    raised: Arc<AtomicBool>,
}

impl Interrupts {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> io::Result<Self> {
        let raised = Arc::new(AtomicBool::new(false));
        let (ready, installed) = mpsc::channel();
        let flag = Arc::clone(&raised);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return ready.send(Err(error)),
            };
            runtime.block_on(async {
                let signals =
                    [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
                let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = signals else {
                    let error = signals.into_iter().find_map(Result::err);
                    return ready.send(Err(error.unwrap_or_else(|| io::ErrorKind::Other.into())));
                };
                ready.send(Ok(()))?;
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hangup.recv() => {}
                    }
                    flag.store(true, Ordering::Relaxed);
                }
            })
        })?;
        match installed.recv() {
            Ok(Ok(())) => Ok(Self { raised }),
            Ok(Err(error)) => Err(error),
            Err(mpsc::RecvError) => Err(io::Error::other("the signal thread ended")),
        }
    }

    /// Whether a signal has come.
    #[must_use]
    pub fn raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};
    use std::time::{Duration, Instant};

    #[test]
    fn a_signal_raises_the_flag_and_does_not_end_the_process() {
        let interrupts = Interrupts::listen().unwrap();
        assert!(!interrupts.raised());
        kill_process(getpid(), Signal::HUP).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !interrupts.raised() {
            assert!(Instant::now() < deadline, "the signal was not seen");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
