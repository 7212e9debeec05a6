//! Judges what lab tests left behind. `cargo xtask lab test` runs the module of each group with VFPROBE_LAB_OUT set to
//! the folder of its files.
#![expect(clippy::unwrap_used, reason = "a test's support fails with the place")]

mod observe;
mod odd;
mod path;
mod trace;
mod tune;

use std::path::PathBuf;

/// A file that the lab's script left.
fn left(name: &str) -> PathBuf {
    let out = std::env::var_os("VFPROBE_LAB_OUT")
        .expect("VFPROBE_LAB_OUT names the folder; run cargo xtask lab test");
    PathBuf::from(out).join(name)
}
