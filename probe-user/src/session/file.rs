//! Session files on disk: reading one, writing one as things happen.

use super::{
    Config, DecodeError, Header, HostFacts, RunEnd, RunStart, Session, Tuning,
    codec::{Encoder, decode_with_ids, encode::EncodeError},
    decode,
};
use crate::stats::Snapshot;
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// Largest file that is read: a hundred times the budget of a ten-minute recording.
const MAX_BYTES: u64 = 256 << 20;
/// How fast checkpoints may let a file grow: ten minutes in 2 MiB, with a quarter left for everything else.
const CHECKPOINT_BYTES_PER_SECOND: u64 = 2620;

/// A session file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// A call on the file failed.
    #[error("cannot {call} {}", path.display())]
    Io {
        /// Which call.
        call: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Recordings are never overwritten.
    #[error("{} exists already; name another file with --output, or remove it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file is larger than any session.
    #[error("{} has {bytes} bytes, more than any session file (limit {MAX_BYTES}); is it a *.vfprobe file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The content is refused.
    #[error("cannot read {}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DecodeError,
    },
    /// A value has no text form.
    #[error("{} cannot be continued", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// Why.
        source: EncodeError,
    },
}

/// Reads a session file.
///
/// # Errors
/// [`SessionError`] names the file and, for damage, the line.
pub fn read(path: &Path) -> Result<Session, SessionError> {
    let bytes = read_bytes(path)?;
    decode(&bytes).map_err(|source| SessionError::Decode { path: path.to_owned(), source })
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, SessionError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let mut bytes = Vec::new();
    (&file).take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    match u64::try_from(bytes.len()) {
        Ok(read) if read <= MAX_BYTES => Ok(bytes),
        _ => {
            let bytes = file.metadata().map_or(MAX_BYTES + 1, |m| m.len());
            Err(SessionError::TooLarge { path: path.to_owned(), bytes })
        }
    }
}

/// Writes a session as it happens. Every record is one `write` of whole lines, so a killed recorder leaves a file that
/// reads up to its last line; what must outlive a power cut (headers, ends of runs) is synced to disk.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    encoder: Encoder,
    run_from_ns: u64,
    run_bytes: u64,
}

impl Writer {
    /// Begins a new file. An existing one is not overwritten.
    ///
    /// # Errors
    /// [`SessionError::Exists`] when there is one, [`SessionError::Io`] when it cannot be written.
    pub fn create(path: &Path, header: &Header, host: &HostFacts) -> Result<Self, SessionError> {
        let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| match error
            .kind()
        {
            io::ErrorKind::AlreadyExists => SessionError::Exists { path: path.to_owned() },
            _ => io_error("create", path)(error),
        })?;
        let mut writer = Self::over(path, file, Encoder::new(0));
        let lines = writer.encoder.header(header, host);
        writer.append(lines)?;
        writer.sync()?;
        Ok(writer)
    }

    /// Continues an existing file: reads it, cuts off a torn last line, and appends.
    ///
    /// # Errors
    /// [`SessionError`]; a damaged file is refused and left as it is.
    pub fn open(path: &Path) -> Result<(Self, Session), SessionError> {
        let bytes = read_bytes(path)?;
        let (session, next_id) = decode_with_ids(&bytes)
            .map_err(|source| SessionError::Decode { path: path.to_owned(), source })?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        let file = OpenOptions::new().append(true).open(path).map_err(io_error("open for writing", path))?;
        if whole < bytes.len() {
            let length = u64::try_from(whole).unwrap_or(u64::MAX);
            file.set_len(length).map_err(io_error("truncate", path))?;
        }
        Ok((Self::over(path, file, Encoder::new(next_id)), session))
    }

    fn over(path: &Path, file: File, encoder: Encoder) -> Self {
        Self { path: path.to_owned(), file, encoder, run_from_ns: 0, run_bytes: 0 }
    }

    /// Where it writes.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Announces a configuration. A file that is continued has its configurations already.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn config(&mut self, config: &Config) -> Result<(), SessionError> {
        let lines = self.encoder.config(config);
        self.append(lines)?;
        self.sync()
    }

    /// Says what a tuning session is to be. A file that is continued says so already.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn tuning(&mut self, tuning: &Tuning) -> Result<(), SessionError> {
        let lines = self.encoder.tuning(tuning);
        self.append(lines)?;
        self.sync()
    }

    /// Begins a run.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn start_run(&mut self, start: &RunStart) -> Result<(), SessionError> {
        let lines = self.encoder.start_run(start);
        self.append(lines)?;
        self.run_from_ns = start.from_ns;
        self.run_bytes = 0;
        self.sync()
    }

    /// Saves what the run has counted so far; call it about once a second. `snapshot` counts from the run's beginning.
    /// Returns `false` when it was skipped, because the file would otherwise outgrow its budget (2 MiB in ten
    /// minutes): with very many busy series, checkpoints become rarer.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn checkpoint(&mut self, snapshot: &Snapshot) -> Result<bool, SessionError> {
        let elapsed_ms = snapshot.to_ns.saturating_sub(self.run_from_ns) / 1_000_000;
        if self.run_bytes > elapsed_ms.saturating_mul(CHECKPOINT_BYTES_PER_SECOND) / 1000 {
            return Ok(false);
        }
        let lines = self.encoder.checkpoint(snapshot);
        self.run_bytes += self.append(lines)?;
        Ok(true)
    }

    /// Ends the run with its last state, and syncs the file.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn end_run(&mut self, snapshot: &Snapshot, end: &RunEnd) -> Result<(), SessionError> {
        let lines = self.encoder.checkpoint(snapshot);
        self.append(lines)?;
        let lines = self.encoder.end_run(end);
        self.append(lines)?;
        self.sync()
    }

    fn append(&mut self, lines: Result<String, EncodeError>) -> Result<u64, SessionError> {
        let lines = lines.map_err(|source| SessionError::Encode { path: self.path.clone(), source })?;
        self.file.write_all(lines.as_bytes()).map_err(io_error("write", &self.path))?;
        Ok(u64::try_from(lines.len()).unwrap_or(u64::MAX))
    }

    fn sync(&self) -> Result<(), SessionError> {
        self.file.sync_data().map_err(io_error("fdatasync", &self.path))
    }
}

fn io_error(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SessionError {
    let path = path.to_owned();
    move |source| SessionError::Io { call, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{session::sample, stats::rng::SplitMix64};

    fn run(writer: &mut Writer, order: u32) {
        let snapshot = sample::snapshot(&mut SplitMix64::new(1), 0, 1.0);
        writer.start_run(&RunStart { config: "baseline".into(), order, ..RunStart::default() }).unwrap();
        writer.end_run(&snapshot, &RunEnd::default()).unwrap();
    }

    #[test]
    fn a_file_is_written_read_and_continued_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.vfprobe");
        let mut writer = Writer::create(&path, &Header::default(), &sample::host()).unwrap();
        writer.config(&Config { name: "baseline".into(), about: String::new() }).unwrap();
        run(&mut writer, 0);
        drop(writer);
        // The recorder dies in the middle of a line.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"0123abcd {\"kind\":\"ru").unwrap();
        let (mut writer, session) = Writer::open(&path).unwrap();
        assert_eq!((session.runs.len(), session.notes.len()), (1, 1));
        run(&mut writer, 1);
        drop(writer);
        let session = read(&path).unwrap();
        assert_eq!((session.runs.len(), session.notes.len()), (2, 0));
        assert_eq!(session.runs[0].snapshot, session.runs[1].snapshot);
    }

    #[test]
    fn nothing_is_overwritten() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Writer::create(file.path(), &Header::default(), &HostFacts::default()).unwrap_err();
        assert!(matches!(error, SessionError::Exists { .. }), "{error}");
    }

    #[test]
    fn ten_minutes_fit_their_budget() {
        // 4000 interrupts with all their stages and 3160 exits a second.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.vfprobe");
        let mut writer = Writer::create(&path, &Header::default(), &sample::host()).unwrap();
        let topology = Some(sample::topology(0));
        writer.start_run(&RunStart { topology, ..RunStart::default() }).unwrap();
        let mut rng = SplitMix64::new(9);
        let mut state = sample::snapshot(&mut rng, 0, 1.0);
        let more = sample::snapshot(&mut rng, 0, 1.0);
        let mut kept = 0;
        for second in 1..=600 {
            state.to_ns = second * 1_000_000_000;
            for (sum, added) in state.series.iter_mut().zip(&more.series) {
                sum.histogram.merge(&added.histogram);
            }
            kept += u32::from(writer.checkpoint(&state).unwrap());
        }
        writer.end_run(&state, &sample::end(8.0)).unwrap();
        let bytes = std::fs::metadata(&path).unwrap().len();
        println!("{bytes} bytes, {kept} checkpoints");
        assert!(bytes < 2 << 20, "{bytes} bytes");
        assert!(kept >= 300, "only {kept} checkpoints");
        let read = read(&path).unwrap();
        let n = |s: &Snapshot| s.series.iter().map(|s| s.histogram.n()).sum::<u64>();
        assert_eq!(n(&read.runs[0].snapshot), n(&state));
    }

    #[test]
    fn errors_name_the_file() {
        let missing = read(Path::new("/nonexistent/x.vfprobe")).unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/x.vfprobe"), "{missing}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let empty = anyhow::Error::from(read(file.path()).unwrap_err());
        assert!(format!("{empty:#}").contains("not a vfprobe session"), "{empty:#}");
    }
}
