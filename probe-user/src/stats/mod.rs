//! From kernel buckets to figures: histograms, series, summaries, comparisons.
//!
//! Core: values in, values out. Knows neither where samples come from nor who prints them.

pub mod compare;
pub mod gate;
pub mod hdr;
pub mod histogram;
pub mod isolation;
pub mod path;
pub mod rng;
pub mod series;
pub mod summary;

pub use histogram::Histogram;
pub use series::{Counter, Labels, Observability, Series, Snapshot};
pub use summary::{Quantile, Summary, to_f64};
