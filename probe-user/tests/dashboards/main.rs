//! Dashboards and rules ask only for metrics and labels that vfprobe has, and are complete enough to be read.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod grafana;
mod promql;
mod rules;

use std::path::PathBuf;

/// A file or folder under `dashboards/`.
fn dashboards(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../dashboards")).join(path)
}
