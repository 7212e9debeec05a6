//! The records of a journal and their form as lines.

use crate::model::{CpuSet, IrqNumber, Value};
use crate::plan::Step;
use serde::{Deserialize, Serialize};

/// Version of the journal's form.
pub const JOURNAL_FORMAT: u32 = 1;

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// A transaction begins.
    Begin(Begin),
    /// A step is about to be carried out.
    Step {
        /// Number of the step, counted over the whole journal.
        n: u32,
        /// The step.
        step: Step,
    },
    /// The step was carried out and read back.
    Done {
        /// Its number.
        n: u32,
        /// What was found afterwards, where the kernel took only part of it: CPUs that are offline.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        taken: Option<Value>,
    },
    /// The step could not be carried out and changed nothing.
    Skipped {
        /// Its number.
        n: u32,
        /// Why.
        why: String,
        /// Whether the kernel refuses to move this target at all, so that it need not be tried again.
        immovable: bool,
    },
    /// The step's target is gone, and with it what was written.
    Released {
        /// Its number.
        n: u32,
    },
    /// All steps of the transaction were carried out: its configuration is in force.
    Applied,
    /// The transaction that was begun last failed and is being undone, or all transactions are.
    Undo {
        /// Whether all transactions are undone, not only the last.
        all: bool,
    },
    /// What `Undo` announced is finished.
    Closed,
}

/// The head of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// [`JOURNAL_FORMAT`].
    pub format: u32,
    /// The boot during which it was written; in another one the journal means nothing.
    pub boot_id: String,
    /// Seconds since 1970.
    pub unix_time: u64,
    /// Clock ticks since boot: threads that started later were not there.
    pub ticks: u64,
    /// Version of vfprobe.
    pub vfprobe: String,
    /// Process that wrote it.
    pub pid: u32,
    /// Name of the configuration.
    pub config: String,
    /// Guests it serves.
    pub guests: Vec<String>,
    /// CPUs promised to vCPUs.
    pub guarded: CpuSet,
    /// The policy file that a service keeps; `None` when somebody has applied it, and in journals of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_by: Option<String>,
    /// Interrupts with their handlers, when the default mask is going to be written: those that are not among them
    /// later have come under that mask.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub irqs: Vec<(IrqNumber, String)>,
}

/// The bytes of one line, line feed included.
#[must_use]
pub fn encode(line: u64, record: &Record) -> String {
    let json = serde_json::to_string(record).expect("records hold nothing that JSON cannot express");
    format!("{line} {:08x} {json}\n", checksum(line, &json))
}

pub(super) fn checksum(line: u64, json: &str) -> u32 {
    crc32fast::hash(format!("{line} {json}").as_bytes())
}

pub(super) fn decode(number: u64, line: &[u8]) -> Option<Record> {
    let line = std::str::from_utf8(line).ok()?;
    let (found, rest) = line.split_once(' ')?;
    let (crc, json) = rest.split_once(' ')?;
    let whole = found == number.to_string() && crc == format!("{:08x}", checksum(number, json));
    whole.then(|| serde_json::from_str(json).ok()).flatten()
}
