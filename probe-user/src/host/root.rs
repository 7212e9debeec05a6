//! Where the kernel's files are: `/proc`, `/sys`, `/dev`, `/run`, `/etc` and `/var`, or a tree that a test laid out.

use std::path::{Path, PathBuf};

/// The six folders everything is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoot {
    /// procfs.
    pub proc: PathBuf,
    /// sysfs, with debugfs and tracefs where they are mounted in it.
    pub sys: PathBuf,
    /// Device files.
    pub dev: PathBuf,
    /// Run-time state of daemons.
    pub run: PathBuf,
    /// Settings of daemons.
    pub etc: PathBuf,
    /// What daemons keep.
    pub var: PathBuf,
}

impl HostRoot {
    /// The running host.
    #[must_use]
    pub fn live() -> Self {
        Self::under("/")
    }

    /// A tree under one folder: `DIR/proc`, `DIR/sys`, `DIR/dev`, `DIR/run`, `DIR/etc`, `DIR/var`.
    #[must_use]
    pub fn under(dir: impl AsRef<Path>) -> Self {
        let dir = dir.as_ref();
        let [proc, sys, dev, run, etc, var] =
            ["proc", "sys", "dev", "run", "etc", "var"].map(|name| dir.join(name));
        Self { proc, sys, dev, run, etc, var }
    }
}
