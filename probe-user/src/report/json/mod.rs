//! JSON documents (docs/json.md): the same shape wherever series appear.

mod compare;
mod session;

pub use compare::compare;
pub use session::{SeriesJson, interval, session, snapshot_series};

/// Version of the shapes. Fields may be added within a version; none is renamed or changes its meaning.
pub const SCHEMA: u32 = 1;

#[cfg(test)]
mod tests;
