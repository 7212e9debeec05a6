//! Lines of a workload's output with the time at which each came.

use super::Echo;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Instant,
};

/// Output beyond this is read and dropped, so that a talkative workload neither blocks nor fills memory.
const MAX_OUTPUT: usize = 8 << 20;

/// Lines with the time at which they came.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    lines: Vec<(Instant, Vec<u8>)>,
    bytes: usize,
}

impl Lines {
    /// Reads a pipe to its end on a thread of its own: the time of a line must not wait for whatever else goes on.
    pub(super) fn read(&self, pipe: OwnedFd, echo: Echo) -> io::Result<JoinHandle<()>> {
        let lines = self.clone();
        let reader = move || {
            let mut pipe = BufReader::new(File::from(pipe));
            let mut line = Vec::new();
            // An unreadable pipe ends the reading as its end does: the process is waited for either way.
            while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let now = Instant::now();
                if echo == Echo::ToStderr {
                    // The workload's result does not depend on whether somebody sees its output.
                    let _ = io::stderr().write_all(&line);
                }
                lines.push(now, std::mem::take(&mut line));
            }
        };
        std::thread::Builder::new().name("workload-output".to_owned()).spawn(reader)
    }

    fn push(&self, at: Instant, line: Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.bytes + line.len() <= MAX_OUTPUT {
            kept.bytes += line.len();
            kept.lines.push((at, line));
        }
    }

    /// The lines of a time; all are forgotten.
    pub(super) fn take(&self, from: Instant, to: Instant) -> String {
        let inside = self.take_all().into_iter().filter(|(at, _)| (from..=to).contains(at));
        inside.map(|(_, line)| line).collect()
    }

    /// All lines; they are forgotten.
    pub(super) fn take_all(&self) -> Vec<(Instant, String)> {
        let kept = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let text = |(at, line): (Instant, Vec<u8>)| (at, String::from_utf8_lossy(&line).into_owned());
        kept.lines.into_iter().map(text).collect()
    }

    /// Forgets what came so far.
    pub(super) fn clear(&self) {
        drop(self.take_all());
    }

    /// How many have come.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.lock().unwrap().lines.len()
    }
}
