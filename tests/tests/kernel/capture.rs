//! A tracefs instance of its own, which goes with it.

use std::fs;
use std::path::{Path, PathBuf};

/// A capture that runs.
pub(crate) struct Capture(PathBuf);

impl Capture {
    /// Captures these events on all CPUs, with the probes' clock. `None` when tracefs is not mounted.
    pub(crate) fn on(name: &str, events: &[&str]) -> Option<Self> {
        let capture = Self::prepare(name)?;
        for event in events {
            capture.write(&format!("events/{event}/enable"), "1");
        }
        capture.write("tracing_on", "1");
        Some(capture)
    }

    /// An instance that captures nothing yet.
    pub(crate) fn prepare(name: &str) -> Option<Self> {
        let tracefs = Path::new("/sys/kernel/tracing");
        if !tracefs.join("instances").is_dir() {
            return None;
        }
        let dir = tracefs.join("instances").join(name);
        let _ = fs::remove_dir(&dir);
        fs::create_dir(&dir).unwrap();
        let capture = Self(dir);
        capture.write("tracing_on", "0");
        capture.write("trace_clock", "mono");
        capture.write("buffer_size_kb", "20000");
        Some(capture)
    }

    /// Writes one of its files.
    pub(crate) fn write(&self, file: &str, value: &str) {
        fs::write(self.0.join(file), value).unwrap();
    }

    /// Ends it, and gives its text.
    pub(crate) fn end(&self) -> String {
        self.write("tracing_on", "0");
        fs::read_to_string(self.0.join("trace")).unwrap()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("events/enable"), "0");
        let _ = fs::remove_dir(&self.0);
    }
}
