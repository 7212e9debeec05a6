//! The journal as a file: records are appended, and those that something depends on are on disk when `append` returns.

use super::StateError;
use super::faults::{self, Point};
use super::state::{StateDir, StateLock};
use crate::plan::journal::{Journal, Record, encode};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

/// A journal opened for appending.
pub(super) struct JournalFile<'a> {
    dir: &'a StateDir,
    file: File,
    /// Length of the whole records in it, in bytes.
    len: u64,
    next_line: u64,
}

/// Whether a record must be on disk before anything else happens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Durable {
    Yes,
    /// Nothing follows from it: without it, the step counts as begun, and undoing it looks at the host anyway.
    No,
}

impl<'a> JournalFile<'a> {
    /// Opens the journal that `known` was read from, cutting off a torn record; makes the file when there is none.
    pub(super) fn open(lock: &'a StateLock, known: &Journal) -> Result<Self, StateError> {
        let dir = lock.dir();
        let path = dir.journal_path();
        let open = || -> io::Result<Self> {
            let mut options = OpenOptions::new();
            let file = options.append(true).create(true).mode(0o644).open(&path)?;
            let len = u64::try_from(known.valid_len).map_err(io::Error::other)?;
            if file.metadata()?.len() > len {
                file.set_len(len)?;
            }
            file.sync_all()?;
            File::open(dir.path())?.sync_all()?;
            Ok(Self { dir, file, len, next_line: known.lines })
        };
        open().map_err(|source| StateError::Io { call: "open", path: path.clone(), source })
    }

    /// Appends a record.
    pub(super) fn append(&mut self, record: &Record) -> Result<(), StateError> {
        let durable = match record {
            Record::Done { .. } | Record::Skipped { .. } | Record::Released { .. } => Durable::No,
            Record::Begin(_)
            | Record::Step { .. }
            | Record::Applied
            | Record::Undo { .. }
            | Record::Closed => Durable::Yes,
        };
        let line = encode(self.next_line, record);
        let written =
            self.write(&line, durable).and_then(|()| u64::try_from(line.len()).map_err(io::Error::other));
        match written {
            Ok(len) => {
                self.len += len;
                self.next_line += 1;
                Ok(())
            }
            Err(source) => {
                // Half a record followed by others would read as damage. If this fails too, nothing follows it, since
                // the next record cannot be written either.
                let _ = self.file.set_len(self.len);
                Err(StateError::Io { call: "write", path: self.dir.journal_path(), source })
            }
        }
    }

    fn write(&mut self, line: &str, durable: Durable) -> io::Result<()> {
        if faults::is_next(Point::TornRecord) {
            self.file.write_all(&line.as_bytes()[..line.len() / 2])?;
        }
        faults::hit(Point::TornRecord);
        self.file.write_all(line.as_bytes())?;
        if durable == Durable::Yes {
            faults::hit(Point::BeforeSync);
            self.file.sync_data()?;
            faults::hit(Point::AfterSync);
        }
        Ok(())
    }

    /// Puts the journal away: everything in it is undone or void.
    pub(super) fn archive(dir: &StateDir) -> Result<(), StateError> {
        let path = dir.journal_path();
        let put_away = || -> io::Result<()> {
            match std::fs::rename(&path, dir.archive_path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => other?,
            }
            File::open(dir.path())?.sync_all()
        };
        put_away().map_err(|source| StateError::Io { call: "put away", path: path.clone(), source })
    }
}
