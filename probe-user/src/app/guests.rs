//! Which guest a user means.

use crate::model::topology::{Guest, Topology};

/// No guest, or more than one, answers to a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// None does.
    #[error("no guest {wanted:?} is running; {others}")]
    None {
        /// What was asked for.
        wanted: String,
        /// Which there are, in words.
        others: String,
    },
    /// Several do.
    #[error("{count} guests are named {wanted:?}; name one by its pid or uuid")]
    Several {
        /// What was asked for.
        wanted: String,
        /// How many.
        count: usize,
    },
}

/// The guest with this name, uuid or pid.
///
/// # Errors
/// [`GuestError`] names the guests there are.
pub fn find<'a>(topology: &'a Topology, wanted: &'a str) -> Result<&'a Guest, GuestError> {
    let found: Vec<&Guest> = topology.find_guests(wanted).collect();
    match found[..] {
        [one] => Ok(one),
        [] => Err(GuestError::None { wanted: wanted.to_owned(), others: others(topology) }),
        _ => Err(GuestError::Several { wanted: wanted.to_owned(), count: found.len() }),
    }
}

fn others(topology: &Topology) -> String {
    let names: Vec<&str> = topology.guests.iter().map(|g| g.name.as_str()).collect();
    match (names.is_empty(), topology.problems.first()) {
        (false, _) => format!("running: {}", names.join(", ")),
        (true, Some(problem)) => format!("none was found ({problem})"),
        (true, None) => "no KVM guest is running".to_owned(),
    }
}
