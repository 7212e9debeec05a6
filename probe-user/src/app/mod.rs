//! Use cases: what a command does, without how it is asked for or printed.

pub mod control;
mod cpu_time;
pub mod guests;
pub mod hold;
pub mod interrupt;
pub mod isolation;
#[cfg(test)]
mod larger_hosts;
pub mod loads;
pub mod observe;
mod own_cost;
pub mod path;
pub mod privileges;
pub mod reconcile;
pub mod record;
mod rehearsal;
mod renewal;
pub mod schedule;
pub mod serve;
mod service_manager;
pub mod text_file;
pub mod trace;
pub mod tune;
pub mod tuning;
pub mod vectors;

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
