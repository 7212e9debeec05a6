//! Sessions as people and programs read them: figures in words, comparisons, JSON documents, the HTML report.
//!
//! Values in, text out; files are written by the callers. Knows neither probes nor where sessions come from.

pub mod aims;
pub mod assess;
pub mod export;
pub mod format;
pub mod html;
pub mod json;
pub mod markdown;
pub mod names;
pub mod paths;
pub mod sentence;
pub mod timeline;
