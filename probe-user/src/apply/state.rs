//! The folder that holds the lock and the journal.

use super::StateError;
use crate::plan::journal::{Journal, JournalError};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A state folder. Reading what it records needs no lock.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// The right to change this host: one process at a time has it, until the value is dropped.
#[derive(Debug)]
pub struct StateLock {
    dir: StateDir,
    file: File,
}

impl Drop for StateLock {
    /// Closing is not enough: a process that was just forked, and has not yet become another program, has the same open
    /// file, and with it the lock.
    fn drop(&mut self) {
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl StateDir {
    /// The folder; it need not exist yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The journal.
    #[must_use]
    pub fn journal_path(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// Where the journal goes when everything in it is undone.
    #[must_use]
    pub fn archive_path(&self) -> PathBuf {
        self.path.join("journal.last")
    }

    /// Takes the lock, making the folder when it is missing.
    ///
    /// # Errors
    /// [`StateError::Busy`] when another process holds it, [`StateError::Io`] when the folder cannot be used.
    pub fn lock(&self) -> Result<StateLock, StateError> {
        let path = self.path.join("lock");
        let failed = |call, path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { call, path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.path)
            .map_err(failed("create the state folder", &self.path))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(failed("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let read = file.read_to_string(&mut text);
                let pid = read.ok().and_then(|_| text.trim().parse().ok());
                return Err(StateError::Busy { path, pid });
            }
            Err(errno) => return Err(failed("lock", &path)(errno.into())),
        }
        let name_holder = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        name_holder(&mut file).map_err(failed("write", &path))?;
        Ok(StateLock { dir: self.clone(), file })
    }

    /// What is on record; an empty journal when there is none.
    ///
    /// # Errors
    /// [`StateError::Damaged`] when the journal cannot be trusted, [`StateError::Io`] when it cannot be read.
    pub fn load(&self) -> Result<Journal, StateError> {
        self.load_with(Journal::parse)
    }

    /// What can still be read of a damaged journal.
    pub(super) fn salvage(&self) -> Result<Journal, StateError> {
        self.load_with(Journal::salvage)
    }

    fn load_with(
        &self,
        parse: impl FnOnce(&[u8]) -> Result<Journal, JournalError>,
    ) -> Result<Journal, StateError> {
        let path = self.journal_path();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Journal::default()),
            Err(source) => return Err(StateError::Io { call: "read", path, source }),
        };
        parse(&bytes).map_err(|source| StateError::Damaged { path, source })
    }
}

impl StateLock {
    /// The folder that is locked.
    #[must_use]
    pub fn dir(&self) -> &StateDir {
        &self.dir
    }
}
