//! `vfprobe topology`.

mod tree;

use super::{Exit, Failure, Globals, duration, failures, paint::Paint, print, progress};
use crate::{
    app::vectors,
    host::{HostRoot, read_topology, read_vf_counters},
    model::topology::Topology,
};
use serde::Serialize;
use std::time::Duration;

/// Version of the JSON shape (docs/json.md).
const SCHEMA: u32 = 1;

/// Arguments of `topology`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this guest (name, uuid or pid)
    #[arg(long)]
    guest: Option<String>,
    /// Watch interrupts so long, to tell guest vectors, vCPUs and how vectors are delivered
    #[arg(short, long, value_name = "TIME", value_parser = duration::parse)]
    duration: Option<Duration>,
    /// JSON instead of a tree (docs/json.md)
    #[arg(long)]
    json: bool,
}

/// No guest answers to that name, uuid or pid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no guest {wanted:?} is running; {}", there_are(.names, .problems))]
struct NoSuchGuest {
    wanted: String,
    names: Vec<String>,
    problems: Vec<String>,
}

fn there_are(names: &[String], problems: &[String]) -> String {
    let mut text = match names {
        [] => "there are none".to_owned(),
        names => format!("there are: {}", names.join(", ")),
    };
    if let Some(first) = problems.first() {
        text.push_str("; not all could be read: ");
        text.push_str(first);
    }
    text
}

/// The JSON document.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    #[serde(flatten)]
    topology: &'a Topology,
}

/// Reads and prints the topology.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let Args { guest, duration, json } = args;
    let root = HostRoot::live();
    let mut topology = match duration {
        None => read_topology(&root),
        Some(length) => {
            let bar = progress::Bar::new(globals, "topology", Some(*length));
            let watched = super::runtime()?
                .block_on(vectors::watch(&root, *length, &mut |elapsed| bar.at(elapsed)))
                .map_err(failures::record)?;
            bar.clear();
            watched
        }
    };
    if let Some(wanted) = guest {
        topology = only_guest(topology, wanted).map_err(Failure::usage)?;
    }
    let counted = read_vf_counters(&topology);
    topology.vfs_mut().for_each(|vf| vf.counters = counted.counters.get(&vf.address).copied());
    topology.problems.extend(counted.problems);
    let mut text = if *json {
        to_json(&topology).map_err(Failure::cannot_run)?
    } else {
        tree::render(&topology, guest.is_none(), Paint::stdout(globals.color()))
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    print(text.as_bytes())
}

/// Drops all guests but those that `wanted` names; the host's own facts stay.
fn only_guest(mut topology: Topology, wanted: &str) -> Result<Topology, NoSuchGuest> {
    let found: Vec<_> = topology.find_guests(wanted).cloned().collect();
    if found.is_empty() {
        let names = topology.guests.into_iter().map(|guest| guest.name).collect();
        return Err(NoSuchGuest { wanted: wanted.to_owned(), names, problems: topology.problems });
    }
    topology.guests = found;
    Ok(topology)
}

fn to_json(topology: &Topology) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&Document { schema: SCHEMA, topology })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::{LAB, Tree};

    #[test]
    fn a_guest_is_found_by_name_uuid_or_pid() {
        let topology = read_topology(&Tree::captured(LAB).root());
        for wanted in ["vm2", "11111111-2222-3333-4444-555555555555", "277"] {
            let only = only_guest(topology.clone(), wanted).unwrap();
            let names: Vec<&str> = only.guests.iter().map(|g| g.name.as_str()).collect();
            assert_eq!((names, only.cpus.len()), (vec!["vm2"], 4), "{wanted}");
        }
        for (problems, end) in [(vec![], ""), (vec!["x: y".to_owned()], "; not all could be read: x: y")] {
            let topology = Topology { problems, ..topology.clone() };
            let error = only_guest(topology, "vm3").unwrap_err().to_string();
            assert_eq!(error, format!("no guest \"vm3\" is running; there are: vm1, vm2{end}"));
        }
        let error = only_guest(Topology::default(), "vm3").unwrap_err().to_string();
        assert_eq!(error, "no guest \"vm3\" is running; there are none");
    }

    /// docs/json.md shows a whole document; it must be what a topology is turned into, and back.
    #[test]
    fn the_documented_example_is_what_is_printed() {
        let documented = include_str!("../../../../docs/json.md");
        let section = documented.split("\n## ").find(|s| s.starts_with("`vfprobe topology --json`")).unwrap();
        let example = section.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
        let example: serde_json::Value = serde_json::from_str(example).unwrap();
        let topology: Topology = serde_json::from_value(example.clone()).unwrap();
        let printed: serde_json::Value = serde_json::from_str(&to_json(&topology).unwrap()).unwrap();
        assert_eq!(printed, example);
        // Every field that exists is shown, also those of lists that happen to be empty in other examples.
        for name in [
            "/cpus/0",
            "/guests/0/vcpus/0",
            "/guests/0/threads/0",
            "/guests/0/vfs/0/slots/0",
            "/guests/0/vfs/0/counters",
            "/guests/0/nics/0",
            "/irqs/0",
        ] {
            assert!(example.pointer(name).is_some(), "{name}");
        }
        assert!(example.pointer("/free_vfs/0").is_some());
        let fields = |value: &serde_json::Value| {
            value.as_object().unwrap().keys().map(|key| format!("`{key}`")).collect::<Vec<_>>()
        };
        for pointer in [
            "",
            "/cpus/0",
            "/guests/0",
            "/guests/0/vcpus/0",
            "/guests/0/vfs/0",
            "/guests/0/vfs/0/slots/0",
            "/guests/0/vfs/0/counters",
            "/guests/0/nics/0",
            "/irqs/0",
        ] {
            for field in fields(example.pointer(pointer).unwrap()) {
                assert!(section.contains(&field), "{field} of {pointer:?} is not explained in docs/json.md");
            }
        }
    }
}
