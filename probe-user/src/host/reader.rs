//! Reading small files of the kernel, with one place that decides what a failure means.
//!
//! Processes exit, interrupts are freed and CPUs go offline while they are read. Whatever has vanished is `None`;
//! everything else that fails becomes a line in `problems`, so that no gap in the answer is silent.

use super::{HostError, HostRoot, Malformed};
use rustix::io::Errno;
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Reads below one root and collects what went wrong.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) root: &'a HostRoot,
    pub(super) problems: Vec<String>,
}

/// An error and its sources on one line.
pub(super) fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}

/// Whether an error says that the thing is not there (any more).
pub(super) fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::NOENT, Errno::SRCH, Errno::NODEV, Errno::NXIO, Errno::NOTDIR];
    error.raw_os_error().is_some_and(|code| gone.iter().any(|e| e.raw_os_error() == code))
}

/// No file read here comes near this size; `/proc/interrupts` of a large host has some megabytes.
const MAX_FILE: u64 = 64 << 20;

/// Reads a file of unknown size. Asking for the size first, as `fs::read` does, would be wasted: procfs says 0 and
/// sysfs 4096, and a topology is some thousand small files.
fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The whole text of a file; `None` when it is not there.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, HostError> {
    // Names of processes and threads may hold any bytes.
    match read_bytes(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if is_gone(&error) => Ok(None),
        Err(source) => Err(HostError::Read { path: path.to_owned(), source }),
    }
}

/// The last part of a symbolic link's target.
pub(super) fn link_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

impl<'a> Reader<'a> {
    pub(super) fn new(root: &'a HostRoot) -> Self {
        Self { root, problems: Vec::new() }
    }

    pub(super) fn proc(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.proc.join(path)
    }

    pub(super) fn sys(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.sys.join(path)
    }

    /// Unwraps a result, or notes the problem.
    pub(super) fn note<T>(&mut self, result: Result<T, HostError>) -> Option<T> {
        result.map_err(|error| self.problems.push(one_line(&error))).ok()
    }

    /// The text of a file; `None` when it is not there or cannot be read, which is noted.
    pub(super) fn text(&mut self, path: &Path) -> Option<String> {
        let text = read_text(path);
        self.note(text).flatten()
    }

    /// A file of one line, parsed.
    pub(super) fn value<T>(
        &mut self,
        path: &Path,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(path)?;
        let value = parse(text.trim()).ok_or_else(|| HostError::Parse {
            path: path.to_owned(),
            source: Malformed::new(1, expected, text.trim()),
        });
        self.note(value)
    }

    /// A file that holds a CPU list.
    pub(super) fn cpu_list(&mut self, path: &Path) -> Option<crate::model::CpuSet> {
        self.value(path, "a CPU list", |text| text.parse().ok())
    }

    /// Names in a folder, sorted; none when it is not there.
    pub(super) fn names(&mut self, dir: &Path) -> Vec<String> {
        let listed = match list(dir) {
            Err(error) if is_gone(&error) => Ok(Vec::new()),
            other => other.map_err(|source| HostError::Read { path: dir.to_owned(), source }),
        };
        self.note(listed).unwrap_or_default()
    }

    /// The names in a folder that are `prefix` followed by a number, as numbers, sorted.
    pub(super) fn numbered(&mut self, dir: &Path, prefix: &str) -> Vec<u32> {
        let mut numbers: Vec<u32> =
            self.names(dir).iter().filter_map(|name| name.strip_prefix(prefix)?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    }
}

/// Names in a folder, sorted.
pub(super) fn list(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}
