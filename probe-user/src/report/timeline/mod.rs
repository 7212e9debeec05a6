//! Timelines of single interrupts as documents: JSON, and a trace for viewers.

mod chrome;
mod json;

pub use chrome::chrome_trace;
pub use json::{Document, document};
