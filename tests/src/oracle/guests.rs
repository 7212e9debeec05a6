//! Which guests ran: told by the script that started them, not by vfprobe.

use anyhow::{Context, Result};
use std::collections::BTreeMap;

/// A guest as its starter knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guest {
    /// Its VFs.
    pub vfs: Vec<String>,
    /// vCPU index by thread.
    pub vcpus: BTreeMap<u32, u32>,
}

/// Guests by name.
pub type Guests = BTreeMap<String, Guest>;

/// Reads lines `vf GUEST ADDRESS` and `vcpu GUEST INDEX TID`.
///
/// # Errors
/// A line of another form.
pub fn parse(text: &str) -> Result<Guests> {
    let mut guests = Guests::new();
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let bad = || format!("not a line about a guest: {line}");
        match words[..] {
            ["vf", guest, address] => {
                guests.entry(guest.to_owned()).or_default().vfs.push(address.to_owned());
            }
            ["vcpu", guest, index, tid] => {
                let (index, tid) = (index.parse().with_context(bad)?, tid.parse().with_context(bad)?);
                guests.entry(guest.to_owned()).or_default().vcpus.insert(tid, index);
            }
            _ => anyhow::bail!(bad()),
        }
    }
    Ok(guests)
}
