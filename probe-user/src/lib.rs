//! vfprobe as a library: a pure core (`model`, `stats`, `plan`, `btf`), edges around it, and the commands on top.
//!
//! See ARCHITECTURE.md for which module may use which.

pub mod app;
pub mod apply;
pub mod bpf;
pub mod btf;
pub mod cli;
pub mod export;
pub mod host;
pub mod model;
pub mod plan;
pub mod probes;
pub mod report;
pub mod session;
pub mod stats;
pub mod tui;
pub mod workload;
