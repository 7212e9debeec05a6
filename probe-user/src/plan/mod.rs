//! Decisions: what would have to change on a host to give guests what a policy promises them, and how that is undone.
//!
//! Core: facts and a policy in, steps out. Nothing here knows how a step is carried out, where the facts came from, or
//! what time it is. The text of the journal belongs here too, because it is only a form of the same values.

mod auto_pin;
mod error;
mod helpers;
pub mod journal;
mod keep_off;
mod knobs;
pub mod named;
mod owners;
mod pins;
mod planner;
#[cfg(test)]
mod planner_tests;
pub mod policy;
mod policy_file;
mod renew;
mod step;
pub mod sweep;
#[cfg(test)]
pub(crate) mod testing;
mod vectors;
mod writer;

pub use error::PlanError;
pub use knobs::FoundKnobs;
pub use planner::{Facts, plan};
pub use policy::{
    GuestPolicy, Irqbalance, Isolate, Knobs, Limits, Others, Pins, Placement, Policy, ThreadRules, Threads,
    VfPolicy,
};
pub use policy_file::{PolicyError, guest_policy_text, line_of, parse_policy};
pub use renew::{Held, Renewed, plan_again};
pub use step::{IrqTarget, Need, PLAN_SCHEMA, Plan, Role, Step, Target, TargetKey, ThreadTarget, VectorName};
pub use vectors::wants_look;
pub use writer::writer_of;
