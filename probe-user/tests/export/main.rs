//! The exporter over HTTP, from a source made up here: what a scrape holds, and what bad clients cannot do.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod agreement;
mod exposition;
mod fuzz;
mod http;
mod made_up;
mod moment;
mod native;
mod open;
mod text;
mod web;
