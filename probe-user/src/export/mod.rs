//! Figures out to Prometheus: the table of metrics, a snapshot turned into metric families, text, HTTP.
//!
//! Edge. Takes what a [`Source`] says and serves it; must not know that the figures come from BPF, nor change
//! anything on the host. The way of a scrape: `http` -> `scrape` -> [`Source`] -> `families` -> `prometheus`, `openmetrics` or
//! `protobuf`.

mod body;
pub mod bounds;
pub mod families;
pub mod http;
pub mod labels;
pub mod ledger;
mod lines;
pub mod native;
pub mod negotiate;
pub mod openmetrics;
pub mod pages;
mod places;
pub mod prometheus;
pub mod protobuf;
pub mod reference;
pub mod registry;
pub mod scrape;
pub mod source;
pub mod web;

pub use scrape::Exporter;
pub use source::{
    Began, CountedVf, Figures, Hold, OwnCost, ProbeState, ProbeStatus, Source, SourceError, Status,
};

/// The address that `vfprobe serve` listens on unless told otherwise: loopback, and a port outside 9100-9999, all
/// of which Prometheus exporters have claimed.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:19817";

/// What can stop the exporter.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address} ({cause}); choose another address and port with --listen")]
    Listen {
        /// The address.
        address: String,
        /// What the kernel said.
        cause: std::io::Error,
    },
    /// What the service manager has handed over cannot be listened on.
    #[error("cannot listen on the sockets that were handed over ({0}); they must be listening TCP sockets")]
    Inherited(std::io::Error),
    /// Nobody could be kept out.
    #[error(transparent)]
    Web(#[from] web::WebError),
    /// The answer cannot be put together.
    #[error("cannot write the metrics as text")]
    Encode(#[from] ::prometheus::Error),
    /// A line of either text form.
    #[error("cannot write a line of the metrics")]
    Line(#[from] std::fmt::Error),
    /// The answer cannot be compressed.
    #[error("cannot compress the metrics")]
    Compress(#[source] std::io::Error),
    /// Clients do not read what they have asked for.
    #[error("answers that clients do not read take all the room there is; ask again later")]
    Busy,
    /// A page cannot be put together.
    #[error("cannot write the page")]
    Page(#[from] askama::Error),
    /// The thread that reads the probes died.
    #[error("reading the probes was cut short; restart vfprobe and report its log")]
    Interrupted(#[from] tokio::task::JoinError),
}
