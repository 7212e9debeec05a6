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
    /// None can be seen at all, because something could not be read.
    #[error("guest {wanted:?} cannot be seen: {problem}")]
    Hidden {
        /// What was asked for.
        wanted: String,
        /// What could not be read, and why.
        problem: String,
    },
    /// No guest was named, and none can be seen, because something could not be read.
    #[error("guests cannot be seen: {problem}")]
    AllHidden {
        /// What could not be read, and why.
        problem: String,
    },
    /// No guest was named, and there is none.
    #[error("no KVM guest is running")]
    NoneRuns,
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
        [] => Err(not_found(topology, wanted.to_owned())),
        _ => Err(GuestError::Several { wanted: wanted.to_owned(), count: found.len() }),
    }
}

/// That there is a guest at all.
///
/// # Errors
/// [`GuestError::AllHidden`] where guests may only be hidden, else [`GuestError::NoneRuns`].
pub fn any(topology: &Topology) -> Result<(), GuestError> {
    match (&topology.guests[..], topology.problems.first()) {
        ([], Some(problem)) => Err(GuestError::AllHidden { problem: problem.clone() }),
        ([], None) => Err(GuestError::NoneRuns),
        _ => Ok(()),
    }
}

fn not_found(topology: &Topology, wanted: String) -> GuestError {
    let names: Vec<&str> = topology.guests.iter().map(|g| g.name.as_str()).collect();
    match (&names[..], topology.problems.first()) {
        ([], Some(problem)) => GuestError::Hidden { wanted, problem: problem.clone() },
        ([], None) => GuestError::None { wanted, others: GuestError::NoneRuns.to_string() },
        (names, _) => GuestError::None { wanted, others: format!("running: {}", names.join(", ")) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_guest_is_not_called_absent() {
        let check = |problems: &[&str], named: &str, unnamed: &str| {
            let problems = problems.iter().map(|&problem| problem.to_owned()).collect();
            let topology = Topology { problems, ..Topology::default() };
            assert_eq!(find(&topology, "vm1").unwrap_err().to_string(), named);
            assert_eq!(any(&topology).unwrap_err().to_string(), unnamed);
        };
        check(&[], "no guest \"vm1\" is running; no KVM guest is running", "no KVM guest is running");
        check(
            &["/proc/1/fd: run as root"],
            "guest \"vm1\" cannot be seen: /proc/1/fd: run as root",
            "guests cannot be seen: /proc/1/fd: run as root",
        );
    }
}
