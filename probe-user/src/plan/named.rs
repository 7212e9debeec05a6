//! Which running guests a policy's tables are for: by name, uuid or pid, or by a pattern for names.

use super::{GuestPolicy, PlanError};
use crate::model::topology::{Guest, Topology};

/// Whether a text is a pattern: `*` stands for any characters, also none, `?` for one.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// The guests that a table of the policy has to care for: those that are there and have vCPUs. One may be given twice.
pub fn present<'a>(topology: &'a Topology, wanted: &'a str) -> impl Iterator<Item = &'a Guest> {
    let meant = topology.guests.iter().filter(|guest| is_meant(wanted, &guest.name));
    topology.find_guests(wanted).chain(meant).filter(|guest| !guest.vcpus.is_empty())
}

/// Pairs of table and guest, by table, those of a pattern by name. A guest that a table names itself is that table's,
/// wherever it stands; of several patterns the first has the guest.
pub(super) fn find<'a>(
    topology: &'a Topology,
    tables: &'a [GuestPolicy],
) -> Result<Vec<(&'a GuestPolicy, &'a Guest)>, PlanError> {
    let mut named: Vec<Option<&Guest>> = Vec::new();
    for table in tables {
        let guest = find_one(topology, &table.guest)?;
        if let Some(guest) = guest.filter(|guest| named.iter().flatten().any(|other| other.pid == guest.pid))
        {
            return Err(PlanError::GuestTwice(guest.name.clone()));
        }
        named.push(guest);
    }
    let mut found: Vec<(&GuestPolicy, &Guest)> = Vec::new();
    for (table, guest) in tables.iter().zip(&named) {
        if let Some(guest) = guest {
            found.push((table, guest));
            continue;
        }
        // One that is still starting gets its settings when it has vCPUs.
        let free = |guest: &&Guest| {
            let claimed = named.iter().flatten().copied().chain(found.iter().map(|(_, guest)| *guest));
            !guest.vcpus.is_empty() && !claimed.into_iter().any(|other| other.pid == guest.pid)
        };
        let more: Vec<&Guest> =
            topology.guests.iter().filter(|guest| is_meant(&table.guest, &guest.name)).filter(free).collect();
        found.extend(more.into_iter().map(|guest| (table, guest)));
    }
    match (found.is_empty(), tables.first()) {
        (true, Some(table)) => Err(no_such_guest(topology, &table.guest)),
        _ => Ok(found),
    }
}

/// The guest that a table names; `None` for a pattern, which need not match anything.
fn find_one<'a>(topology: &'a Topology, wanted: &'a str) -> Result<Option<&'a Guest>, PlanError> {
    let found: Vec<&Guest> = topology.find_guests(wanted).collect();
    match found.as_slice() {
        [] if is_pattern(wanted) => Ok(None),
        [] => Err(no_such_guest(topology, wanted)),
        [guest] if guest.vcpus.is_empty() => Err(PlanError::NoVcpus(guest.name.clone())),
        [guest] => Ok(Some(guest)),
        several => Err(PlanError::Ambiguous {
            wanted: wanted.to_owned(),
            pids: several.iter().map(|g| g.pid.to_string()).collect(),
        }),
    }
}

fn no_such_guest(topology: &Topology, wanted: &str) -> PlanError {
    PlanError::NoSuchGuest {
        wanted: wanted.to_owned(),
        known: topology.guests.iter().map(|g| g.name.clone()).collect(),
    }
}

fn is_meant(pattern: &str, name: &str) -> bool {
    is_pattern(pattern) && matches(pattern, name)
}

/// Whether a whole name fits a pattern. Takes at most the product of both lengths.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // The last star, and how far the name was when it was met: where to go on after a character did not fit.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, met)) = star else { return false };
                star = Some((at, met + 1));
                p = at + 1;
                n = met + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{HostShape, guest, host};
    use crate::plan::{Pins, Placement, Policy};
    use proptest::prelude::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*", "vm1", true),
            ("vm*", "vm1", true),
            ("vm*", "vm", true),
            ("vm*", "xvm1", false),
            ("*-db", "a-db-db", true),
            ("*-db", "a-db-x", false),
            ("vm?", "vm1", true),
            ("vm?", "vm", false),
            ("vm?", "vm12", false),
            ("?m*1*", "vm-1-2", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXcXb", false),
            ("ü?", "üß", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        assert!(!is_meant("vm1", "vm1"), "a name is no pattern");
    }

    /// Tables and running guests in, `table=guest` out. A guest with a dot at its end is still starting.
    fn check(tables: &[&str], running: &[&str], expected: Result<&[&str], &str>) {
        let mut topology = host(HostShape { nodes: 1, cores: 8, threads: 1 });
        for name in running {
            topology.guests.push(guest(name.trim_end_matches('.'), u32::from(!name.ends_with('.')), None));
        }
        let tables: Vec<GuestPolicy> = tables
            .iter()
            .flat_map(|name| Policy::for_guest(name, Pins::Auto, Placement::Own).guests)
            .collect();
        let found = find(&topology, &tables);
        let found = found
            .map(|found| found.iter().map(|(t, g)| format!("{}={}", t.guest, g.name)).collect::<Vec<_>>())
            .map_err(|error| error.to_string());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, _) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn tables_find_their_guests() {
        let three = ["db3", "vm1", "vm2"];
        check(&["vm*"], &three, Ok(&["vm*=vm1", "vm*=vm2"]));
        check(&["vm?", "*"], &three, Ok(&["vm?=vm1", "vm?=vm2", "*=db3"]));
        check(&["*", "vm?"], &three, Ok(&["*=db3", "*=vm1", "*=vm2"]));
        // A table of its own goes before every pattern, wherever it stands.
        check(&["*", "vm1"], &three, Ok(&["*=db3", "*=vm2", "vm1=vm1"]));
        check(&["vm*", "x*"], &three, Ok(&["vm*=vm1", "vm*=vm2"]));
        check(&["vm*"], &["vm1.", "vm2"], Ok(&["vm*=vm2"]));
        check(&["vm*", "vm1"], &["vm1.", "vm2"], Err("no vCPU thread of guest \"vm1\""));
        check(&["x*"], &three, Err("no running guest is called \"x*\"; running guests: db3, vm1, vm2"));
        check(&["vm3", "vm*"], &three, Err("no running guest is called \"vm3\""));
        check(&["vm1", "1000"], &["vm1"], Err("names guest \"vm1\" twice"));
    }

    #[test]
    fn presence() {
        let mut topology = host(HostShape { nodes: 1, cores: 8, threads: 1 });
        topology.guests = vec![guest("vm1", 1, None), guest("vm2", 0, None)];
        for (wanted, expected) in
            [("vm1", true), ("vm2", false), ("vm*", true), ("*2", false), ("x*", false), ("1000", true)]
        {
            assert_eq!(present(&topology, wanted).next().is_some(), expected, "{wanted}");
        }
    }

    proptest! {
        /// A name fits the pattern that is made of it by putting marks for parts of it.
        #[test]
        fn a_name_fits_what_is_made_of_it(parts in proptest::collection::vec(("[ab]{0,3}", 0..3u8), 0..6)) {
            let name: String = parts.iter().map(|(text, _)| text.as_str()).collect();
            let pattern: String = parts
                .iter()
                .map(|(text, kind)| match kind {
                    0 => text.clone(),
                    1 => "?".repeat(text.len()),
                    _ => "*".to_owned(),
                })
                .collect();
            prop_assert!(matches(&pattern, &name), "{} {}", pattern, name);
        }
    }
}
