//! `vfprobe verify`: only what is not as asked, for scripts and for a quick look.

use super::status::{self, Args, Lists};
use super::{Exit, Failure, Globals};

/// Prints the targets that are not as asked.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    status::show(globals, args, Lists::Drift)
}
