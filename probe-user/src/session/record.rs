//! The records of a session file, one per line, as docs/session-format.md lists them.
//!
//! Plain data for serde. A field added later carries `#[serde(default)]`; a field is never given another meaning.

use super::model::{HostFacts, RunEnd, Tuning};
use crate::{
    model::topology::Topology,
    stats::{Labels, Observability},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the first line's `format` says.
pub(super) const MAGIC: &str = "vfprobe-session";
/// Version of the format written here.
pub(super) const VERSION: u32 = 1;

/// A record with the name of its kind.
pub(super) trait Record: Serialize + for<'de> Deserialize<'de> {
    const KIND: &'static str;

    fn to_json(&self) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        struct Tagged<'a, T> {
            kind: &'static str,
            #[serde(flatten)]
            body: &'a T,
        }
        serde_json::to_string(&Tagged { kind: Self::KIND, body: self })
    }
}

/// The kind of any record.
#[derive(Deserialize)]
pub(super) struct Kind {
    pub(super) kind: String,
}

macro_rules! records {
    ($($(#[$doc:meta])* $kind:literal $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Serialize, Deserialize)]
            pub(super) struct $name { $($(#[$field_doc])* pub(super) $field: $type,)* }
            impl Record for $name {
                const KIND: &'static str = $kind;
            }
        )*
    };
}

records! {
    /// The first line.
    "file" File {
        format: String,
        version: u32,
        tool: String,
        created_unix_ms: u64,
    }
    /// Facts about the host.
    "host" Host {
        facts: HostFacts,
    }
    /// A configuration.
    "config" ConfigRecord {
        name: String,
        about: String,
    }
    /// What a tuning session is to be.
    "tune" TuneRecord {
        tuning: Tuning,
    }
    /// A topology that runs refer to.
    "topology" TopologyRecord {
        id: u32,
        topology: Topology,
    }
    /// A run begins; the intervals up to its `end` belong to it.
    "run" RunRecord {
        config: String,
        order: u32,
        /// Absent in sessions with one load or none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        load: Option<String>,
        seed: Option<u64>,
        started_unix_ms: u64,
        from_ns: u64,
        topology: Option<u32>,
        changes: Vec<String>,
    }
    /// Names a series. Ids are unique in the file.
    "series" SeriesRecord {
        id: u32,
        probe: String,
        labels: Labels,
        observable: bool,
        /// Why not.
        reason: Option<String>,
    }
    /// Names a counter.
    "counter" CounterRecord {
        id: u32,
        probe: String,
        name: String,
        labels: Labels,
    }
    /// What was added since the interval before.
    "interval" Interval {
        to_ns: u64,
        series: Vec<Sample>,
        /// Counter ids with their value since the beginning of the run; only those that changed.
        counters: Vec<(u32, u64)>,
        /// Losses since the beginning of the run.
        lost: BTreeMap<String, u64>,
    }
    /// The run is over.
    "end" End {
        end: RunEnd,
    }
}

/// One series in an interval.
#[derive(Serialize, Deserialize)]
pub(super) struct Sample {
    /// Id of the series.
    pub(super) id: u32,
    /// Counts added, HdrHistogram V2; absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hdr: Option<String>,
    /// Exact sum added (ns).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) sum: u64,
    /// Exact minimum since the beginning of the run (ns).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) min: Option<u64>,
    /// Exact maximum since the beginning of the run (ns).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max: Option<u64>,
    /// Values added beyond the last bucket.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) over: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl SeriesRecord {
    pub(super) fn observability(self) -> (String, Labels, Observability) {
        let observable = match self.observable {
            true => Observability::Yes,
            false => Observability::No(self.reason.unwrap_or_default()),
        };
        (self.probe, self.labels, observable)
    }
}
