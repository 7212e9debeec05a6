//! Wakes who waits as soon as the journal may have changed, and tells one state of its file from another.

use crate::apply::StateDir;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// Nobody wants to be told any more.
    Ended,
    /// Something in the state folder, or on the way to it, is another than before.
    Changed,
    /// The time is over.
    Waited,
}

/// What tells one journal from another: inode, length, and when it was written (s, ns); `None` when there is none.
pub(super) type Stamp = Option<(u64, u64, i64, i64)>;

/// The stamp of the journal as it is now.
pub(super) fn stamp(state: &StateDir) -> Stamp {
    fs::metadata(state.journal_path()).ok().map(|m| (m.ino(), m.len(), m.mtime(), m.mtime_nsec()))
}

/// Watches the folder of the journal.
pub(super) struct JournalWatch {
    inotify: OwnedFd,
    folder: PathBuf,
    /// The folder that is watched now: the state folder, or what there is on the way to it.
    watched: Option<(PathBuf, i32)>,
}

impl JournalWatch {
    /// Nothing is watched before [`Self::arm`].
    ///
    /// # Errors
    /// When the kernel gives no inotify instance.
    pub(super) fn new(state: &StateDir) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify, folder: state.path().to_owned(), watched: None })
    }

    /// Watches the folder, which need not be there yet, from now on. To be called before each look at the journal, so that what
    /// happens after the look wakes.
    pub(super) fn arm(&mut self) {
        let anything = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        let comes =
            WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        let found = self.folder.ancestors().find_map(|folder| {
            let flags = if folder == self.folder { anything } else { comes };
            // The same folder again is the same watch.
            let id = inotify::add_watch(&self.inotify, folder, flags | WatchFlags::ONLYDIR).ok()?;
            Some((folder.to_owned(), id))
        });
        let former = std::mem::replace(&mut self.watched, found);
        if let Some((_, id)) = former
            && self.watched.as_ref().is_none_or(|(_, now)| *now != id)
        {
            // Gone by itself with a folder that was removed.
            let _ = inotify::remove_watch(&self.inotify, id);
        }
    }

    /// Waits until something happens, or the other end of `ended` is closed, or the time is over.
    pub(super) fn wait(&self, ended: impl AsFd, time: Duration) -> Woken {
        let mut fds = [PollFd::new(&ended, PollFlags::IN), PollFd::new(&self.inotify, PollFlags::IN)];
        let time = Timespec::try_from(time).ok();
        // A signal that cuts it short is a wait that is over.
        let polled = poll(&mut fds, time.as_ref()).unwrap_or(0);
        if polled == 0 {
            Woken::Waited
        } else if !fds[0].revents().is_empty() {
            Woken::Ended
        } else {
            self.forget_events();
            Woken::Changed
        }
    }

    /// What the events are does not matter.
    fn forget_events(&self) {
        let mut buffer = [0; 4096];
        while rustix::io::read(&self.inotify, &mut buffer).is_ok_and(|n| n > 0) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::pipe;

    #[test]
    fn whatever_happens_to_the_journal_wakes() {
        let dir = tempfile::tempdir().unwrap();
        let (above, folder) = (dir.path().join("run"), dir.path().join("run/vfprobe"));
        let state = StateDir::new(&folder);
        let (journal, last) = (state.journal_path(), folder.join("journal.last"));
        let mut watch = JournalWatch::new(&state).unwrap();
        let (ended, end) = pipe().unwrap();
        let mut before = stamp(&state);
        type Happens<'a> = &'a dyn Fn() -> io::Result<()>;
        let steps: [(&str, Happens<'_>, bool); 8] = [
            ("the folder above comes", &|| fs::create_dir(&above), false),
            ("the folder comes", &|| fs::create_dir(&folder), false),
            ("the journal comes", &|| fs::write(&journal, "1\n"), true),
            ("a record comes", &|| fs::write(&journal, "1\n2\n"), true),
            ("it is put away", &|| fs::rename(&journal, &last), true),
            ("the folder goes", &|| fs::remove_dir_all(&folder), false),
            ("the folder comes again", &|| fs::create_dir(&folder), false),
            ("the journal comes again", &|| fs::write(&journal, "1\n"), true),
        ];
        for (what, step, other) in steps {
            watch.arm();
            // Of arming itself, and of what was seen before.
            while watch.wait(&ended, Duration::ZERO) == Woken::Changed {}
            assert_eq!(watch.wait(&ended, Duration::ZERO), Woken::Waited, "before {what}");
            step().unwrap();
            assert_eq!(watch.wait(&ended, Duration::from_secs(30)), Woken::Changed, "{what}");
            let after = stamp(&state);
            assert_eq!(after != before, other, "{what}");
            before = after;
        }
        drop(end);
        assert_eq!(watch.wait(&ended, Duration::from_secs(30)), Woken::Ended);
    }
}
