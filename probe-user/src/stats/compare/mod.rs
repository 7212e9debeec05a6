//! Before and after: which series differ, by how much, and whether that can be believed.
//!
//! Runs are the unit. Knows neither files nor configurations' names; docs/statistics.md tells the method.

mod headline;
mod holm;
pub mod interval;
mod outliers;
mod power;
mod rows;
#[cfg(test)]
mod scipy;
#[cfg(test)]
mod simulation;
mod verdict;

pub use headline::{Headline, headline};
pub use holm::correct;
pub use interval::{Estimate, FEWEST_FOR_95, FEWEST_RUNS, Method};
pub use outliers::outliers;
pub use power::more_repeats;
pub use rows::{Comparison, Detail, LeftOut, Row, compare, idle_time};
pub use verdict::{Compared, Direction, MARGIN, Side, Verdict, judge};
