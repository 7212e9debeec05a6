//! Tests on the running kernel. They need root; `cargo xtask test` runs them one at a time.

#![expect(clippy::unwrap_used, reason = "a test's support fails with the place")]

mod btf;
mod capture;
mod control;
mod delivery;
mod exits;
mod full;
mod guarded_again;
mod guests;
mod load;
mod macvtap;
mod noise;
mod paths;
mod reconcile;
mod renewal;
mod reuse;
mod signs;
mod slow_path;
mod trace;
mod uevents;
mod vectors;
mod way;
