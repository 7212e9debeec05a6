//! Values to lines. Each call returns the lines to append; nothing is written here.

use crate::{
    model::topology::Topology,
    session::{
        Config, Header, HostFacts, RunEnd, RunStart, Tuning, line,
        record::{
            ConfigRecord, CounterRecord, End, File, Host, Interval, MAGIC, Record, RunRecord, Sample,
            SeriesRecord, TopologyRecord, TuneRecord, VERSION,
        },
    },
    stats::{Histogram, Labels, Observability, Series, Snapshot, hdr},
};
use std::collections::{BTreeMap, HashMap};

/// A value that has no text form.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// serde_json refused it.
    #[error("a record cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// A count is too large.
    #[error("series {probe}{labels:?} cannot be written")]
    Histogram {
        /// The probe.
        probe: String,
        /// The series' labels.
        labels: Labels,
        /// The cause.
        source: hdr::HdrError,
    },
}

/// Turns a session into lines, one record each, in the order in which things happen.
#[derive(Debug, Default)]
pub struct Encoder {
    /// Ids given so far. The observability is part of a series' name here: a change of it names the series anew.
    series: HashMap<(String, Labels), (u32, Observability)>,
    counters: HashMap<(String, String, Labels), u32>,
    topologies: Vec<(u32, Topology)>,
    next_id: u32,
    /// What the running run has written so far.
    written: Option<Written>,
}

#[derive(Debug, Default)]
struct Written {
    histograms: HashMap<(String, Labels), Histogram>,
    counters: HashMap<u32, u64>,
    lost: BTreeMap<String, u64>,
}

impl Encoder {
    /// An encoder for a file that already holds ids below `next_id` (0 for a new one). Names are given anew, under new
    /// ids; readers go by the names.
    #[must_use]
    pub fn new(next_id: u32) -> Self {
        Self { next_id, ..Self::default() }
    }

    /// The first two lines.
    ///
    /// # Errors
    /// [`EncodeError::Json`].
    pub fn header(&self, header: &Header, host: &HostFacts) -> Result<String, EncodeError> {
        let Header { tool, created_unix_ms } = header.clone();
        let file = File { format: MAGIC.to_owned(), version: VERSION, tool, created_unix_ms };
        Ok(sealed(&file)? + &sealed(&Host { facts: host.clone() })?)
    }

    /// A configuration.
    ///
    /// # Errors
    /// [`EncodeError::Json`].
    pub fn config(&self, config: &Config) -> Result<String, EncodeError> {
        let Config { name, about } = config.clone();
        sealed(&ConfigRecord { name, about })
    }

    /// What a tuning session is to be.
    ///
    /// # Errors
    /// [`EncodeError::Json`].
    pub fn tuning(&self, tuning: &Tuning) -> Result<String, EncodeError> {
        sealed(&TuneRecord { tuning: tuning.clone() })
    }

    /// The beginning of a run; a run under way is thereby left without an end. A topology that is the same as an
    /// earlier one but for its interrupt counts is not written again.
    ///
    /// # Errors
    /// [`EncodeError::Json`].
    pub fn start_run(&mut self, start: &RunStart) -> Result<String, EncodeError> {
        let RunStart { config, order, load, seed, started_unix_ms, from_ns, topology, changes } =
            start.clone();
        let mut lines = String::new();
        let topology = match topology {
            None => None,
            Some(topology) => Some(self.topology(topology, &mut lines)?),
        };
        self.written = Some(Written::default());
        lines +=
            &sealed(&RunRecord { config, order, load, seed, started_unix_ms, from_ns, topology, changes })?;
        Ok(lines)
    }

    fn topology(&mut self, topology: Topology, lines: &mut String) -> Result<u32, EncodeError> {
        let mut without_counts = topology.clone();
        without_counts.irqs.iter_mut().for_each(|irq| irq.count = 0);
        if let Some((id, _)) = self.topologies.iter().find(|(_, known)| *known == without_counts) {
            return Ok(*id);
        }
        let id = self.take_id();
        *lines += &sealed(&TopologyRecord { id, topology })?;
        self.topologies.push((id, without_counts));
        Ok(id)
    }

    /// What the running run has counted up to now. `snapshot` counts from the run's beginning; only what was added
    /// since the last call is written.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn checkpoint(&mut self, snapshot: &Snapshot) -> Result<String, EncodeError> {
        let mut written = self.written.take().unwrap_or_default();
        let mut lines = String::new();
        let mut interval = Interval {
            to_ns: snapshot.to_ns,
            series: Vec::new(),
            counters: Vec::new(),
            lost: BTreeMap::new(),
        };
        for one in &snapshot.series {
            let (id, named_now) = self.series_id(one, &mut lines)?;
            let key = (one.probe.clone(), one.labels.clone());
            let before = written.histograms.get(&key);
            let first = before.is_none();
            let added = before.map_or_else(|| one.histogram.clone(), |before| one.histogram.since(before));
            // A series without values is still listed once in each run: that it was looked at is a finding.
            if first || named_now || !added.is_empty() {
                interval.series.push(sample(id, one, &added)?);
                written.histograms.insert(key, one.histogram.clone());
            }
        }
        for counter in &snapshot.counters {
            let key = (counter.probe.clone(), counter.name.clone(), counter.labels.clone());
            let id = match self.counters.get(&key) {
                Some(id) => *id,
                None => {
                    let id = self.take_id();
                    let (probe, name, labels) = key.clone();
                    lines += &sealed(&CounterRecord { id, probe, name, labels })?;
                    self.counters.insert(key, id);
                    id
                }
            };
            if written.counters.insert(id, counter.value) != Some(counter.value) {
                interval.counters.push((id, counter.value));
            }
        }
        for (cause, count) in &snapshot.lost {
            if written.lost.insert(cause.clone(), *count) != Some(*count) {
                interval.lost.insert(cause.clone(), *count);
            }
        }
        self.written = Some(written);
        Ok(lines + &sealed(&interval)?)
    }

    /// The end of the running run.
    ///
    /// # Errors
    /// [`EncodeError::Json`].
    pub fn end_run(&mut self, end: &RunEnd) -> Result<String, EncodeError> {
        self.written = None;
        sealed(&End { end: end.clone() })
    }

    /// The id of a series, and whether it was named just now.
    fn series_id(&mut self, one: &Series, lines: &mut String) -> Result<(u32, bool), EncodeError> {
        let key = (one.probe.clone(), one.labels.clone());
        if let Some((id, observable)) = self.series.get(&key)
            && *observable == one.observable
        {
            return Ok((*id, false));
        }
        let id = self.take_id();
        *lines += &sealed(&SeriesRecord {
            id,
            probe: one.probe.clone(),
            labels: one.labels.clone(),
            observable: one.observable.is_yes(),
            reason: one.observable.reason().map(str::to_owned),
        })?;
        self.series.insert(key, (id, one.observable.clone()));
        Ok((id, true))
    }

    fn take_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }
}

fn sample(id: u32, series: &Series, added: &Histogram) -> Result<Sample, EncodeError> {
    let hdr = match added.is_empty() {
        true => None,
        false => Some(hdr::encode(added).map_err(|source| EncodeError::Histogram {
            probe: series.probe.clone(),
            labels: series.labels.clone(),
            source,
        })?),
    };
    Ok(Sample { id, hdr, sum: added.sum(), min: added.min(), max: added.max(), over: added.over() })
}

fn sealed(record: &impl Record) -> Result<String, EncodeError> {
    Ok(line::seal(&record.to_json()?))
}
