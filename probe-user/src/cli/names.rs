//! Names that a user gave, looked for in session files.

use super::Failure;
use crate::session::Session;
use std::path::{Path, PathBuf};

/// A name that is not in the file.
#[derive(Debug, thiserror::Error)]
#[error("{} has no {what} {wanted:?}; it has {}", .file.display(), listed(.known))]
struct Unknown {
    file: PathBuf,
    what: &'static str,
    wanted: String,
    known: Vec<String>,
}

fn listed(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}

/// The guests of which the file has series.
pub(super) fn guests(session: &Session) -> Vec<&str> {
    let series = session.runs.iter().flat_map(|run| &run.snapshot.series);
    let mut names: Vec<&str> = series.filter_map(|s| s.labels.get("guest").map(String::as_str)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// That what is wanted is among the names of the file.
///
/// # Errors
/// Wrong input; it says which names there are.
pub(super) fn known(file: &Path, what: &'static str, wanted: &str, known: &[&str]) -> Result<(), Failure> {
    if known.contains(&wanted) {
        return Ok(());
    }
    let known = known.iter().map(|&name| name.to_owned()).collect();
    Err(Failure::usage(Unknown { file: file.to_owned(), what, wanted: wanted.to_owned(), known }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{decode, sample};

    #[test]
    fn a_guest_that_is_not_in_the_file_is_wrong_input() {
        let session = decode(sample::lines(1, &[("own", 0.3)]).as_bytes()).unwrap();
        for (guests, wanted, expected) in [
            (guests(&session), "vm1", None),
            (guests(&session), "vm2", Some("f has no guest \"vm2\"; it has vm1")),
            (Vec::new(), "vm1", Some("f has no guest \"vm1\"; it has none")),
        ] {
            let refused = known(Path::new("f"), "guest", wanted, &guests).err();
            assert_eq!(refused.map(|failure| failure.to_string()).as_deref(), expected);
        }
    }
}
