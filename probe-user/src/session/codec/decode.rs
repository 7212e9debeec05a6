//! Lines to values: tolerant of what later versions add and of a torn end, strict about damage.

use crate::{
    model::topology::Topology,
    session::{
        Config, Header, Run, RunStart, Session,
        line::{self, LineError},
        record::{
            ConfigRecord, CounterRecord, End, File, Host, Interval, Kind, MAGIC, Record, RunRecord, Sample,
            SeriesRecord, TopologyRecord, TuneRecord, VERSION,
        },
    },
    stats::{Counter, Histogram, Labels, Observability, Series, Snapshot, hdr},
};
use std::collections::{BTreeMap, HashMap};

/// Why a file is refused. Line numbers count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The first line is not a session's.
    #[error("not a vfprobe session: line 1 is not a {MAGIC} header")]
    NotASession,
    /// A line is damaged.
    #[error("line {number} is damaged: {cause}")]
    Line {
        /// Which one.
        number: usize,
        /// How.
        cause: LineError,
    },
    /// A record is not what its kind demands.
    #[error("line {number} ({kind}) is not valid: {reason}")]
    Record {
        /// Which one.
        number: usize,
        /// Its kind.
        kind: String,
        /// What is wrong.
        reason: String,
    },
}

/// Reads a whole file's bytes.
///
/// # Errors
/// [`DecodeError`] names the line and the reason. A last line without a newline is a recorder that was killed: it is
/// left out, with a note.
pub fn decode(bytes: &[u8]) -> Result<Session, DecodeError> {
    decode_with_ids(bytes).map(|(session, _)| session)
}

/// The session, and the lowest id that is free: what a writer needs that appends.
pub(in crate::session) fn decode_with_ids(bytes: &[u8]) -> Result<(Session, u32), DecodeError> {
    let (whole, torn) = match bytes.iter().rposition(|b| *b == b'\n') {
        Some(end) => bytes.split_at(end + 1),
        None => return Err(DecodeError::NotASession),
    };
    let mut reader = Reader::default();
    for (index, text) in whole.split_inclusive(|b| *b == b'\n').enumerate() {
        let number = index + 1;
        let text = &text[..text.len() - 1];
        let json = match line::open(text) {
            Ok(json) => json,
            Err(_) if number == 1 => return Err(DecodeError::NotASession),
            Err(cause) => return Err(DecodeError::Line { number, cause }),
        };
        reader.line(number, json)?;
    }
    reader.finish_run();
    if !torn.is_empty() {
        let lines = whole.iter().filter(|b| **b == b'\n').count();
        reader.session.notes.push(format!(
            "line {} was cut off ({} bytes): the recorder was stopped while it wrote; everything before it was read",
            lines + 1,
            torn.len()
        ));
    }
    Ok((reader.session, reader.next_id))
}

#[derive(Default)]
struct Reader {
    session: Session,
    version: u32,
    next_id: u32,
    series: HashMap<u32, (String, Labels, Observability)>,
    counters: HashMap<u32, (String, String, Labels)>,
    topologies: HashMap<u32, Topology>,
    run: Option<OpenRun>,
}

/// A run whose end has not been read yet.
struct OpenRun {
    line: usize,
    run: Run,
    series: BTreeMap<(String, Labels), (Observability, Histogram)>,
    counters: BTreeMap<(String, String, Labels), u64>,
}

impl Reader {
    fn line(&mut self, number: usize, json: &str) -> Result<(), DecodeError> {
        let kind = match serde_json::from_str::<Kind>(json) {
            Ok(Kind { kind }) => kind,
            Err(_) if number == 1 => return Err(DecodeError::NotASession),
            Err(e) => return Err(invalid(number, "?", &e)),
        };
        if number == 1 {
            return self.file(json, &kind);
        }
        match self.record(number, &kind, json) {
            // A later version may have changed a record beyond what this one can read; an own one must not.
            Err(error) if self.version > VERSION => {
                self.note(format!("{error}; it was skipped, as the file's format is a later one"));
                Ok(())
            }
            result => result,
        }
    }

    fn file(&mut self, json: &str, kind: &str) -> Result<(), DecodeError> {
        let file: File = match serde_json::from_str(json) {
            Ok(file) if kind == File::KIND => file,
            _ => return Err(DecodeError::NotASession),
        };
        if file.format != MAGIC {
            return Err(DecodeError::NotASession);
        }
        self.version = file.version;
        self.session.header = Header { tool: file.tool, created_unix_ms: file.created_unix_ms };
        if file.version > VERSION {
            self.note(format!(
                "the file has format version {}, written by {}; this vfprobe knows {VERSION} and reads what it can",
                file.version, self.session.header.tool
            ));
        }
        Ok(())
    }

    fn record(&mut self, number: usize, kind: &str, json: &str) -> Result<(), DecodeError> {
        match kind {
            Host::KIND => self.session.host = parse::<Host>(number, json)?.facts,
            ConfigRecord::KIND => {
                let ConfigRecord { name, about } = parse(number, json)?;
                self.session.configs.push(Config { name, about });
            }
            TuneRecord::KIND => self.session.tuning = Some(parse::<TuneRecord>(number, json)?.tuning),
            TopologyRecord::KIND => {
                let TopologyRecord { id, topology } = parse(number, json)?;
                self.take_id(number, kind, id)?;
                self.topologies.insert(id, topology);
            }
            SeriesRecord::KIND => {
                let record: SeriesRecord = parse(number, json)?;
                self.take_id(number, kind, record.id)?;
                self.series.insert(record.id, record.observability());
            }
            CounterRecord::KIND => {
                let CounterRecord { id, probe, name, labels } = parse(number, json)?;
                self.take_id(number, kind, id)?;
                self.counters.insert(id, (probe, name, labels));
            }
            RunRecord::KIND => {
                let record: RunRecord = parse(number, json)?;
                self.start_run(number, record)?;
            }
            Interval::KIND => {
                let record: Interval = parse(number, json)?;
                self.interval(number, record)?;
            }
            End::KIND => {
                let End { end } = parse(number, json)?;
                let run = self.run.as_mut().ok_or_else(|| invalid(number, kind, &"no run is open"))?;
                run.run.end = Some(end);
                self.finish_run();
            }
            unknown => self
                .note(format!("line {number}: records of kind {unknown:?} are not known and were skipped")),
        }
        Ok(())
    }

    /// Ids ascend in every file that was written whole; one that does not was put together by hand or is damaged.
    fn take_id(&mut self, number: usize, kind: &str, id: u32) -> Result<(), DecodeError> {
        let next = id.checked_add(1).ok_or_else(|| invalid(number, kind, &"its id is out of range"))?;
        if id < self.next_id {
            return Err(invalid(number, kind, &format_args!("id {id} is given twice")));
        }
        self.next_id = next;
        Ok(())
    }

    fn start_run(&mut self, number: usize, record: RunRecord) -> Result<(), DecodeError> {
        self.finish_run();
        let RunRecord { config, order, load, seed, started_unix_ms, from_ns, topology, changes } = record;
        let topology = match topology {
            None => None,
            Some(id) => match self.topologies.get(&id) {
                Some(topology) => Some(topology.clone()),
                None if self.version > VERSION => None,
                None => {
                    return Err(invalid(
                        number,
                        RunRecord::KIND,
                        &format_args!("topology {id} is not in the file"),
                    ));
                }
            },
        };
        let start = RunStart { config, order, load, seed, started_unix_ms, from_ns, topology, changes };
        let snapshot = Snapshot { from_ns, to_ns: from_ns, ..Snapshot::default() };
        let run = Run { start, snapshot, end: None };
        self.run = Some(OpenRun { line: number, run, series: BTreeMap::new(), counters: BTreeMap::new() });
        Ok(())
    }

    fn interval(&mut self, number: usize, record: Interval) -> Result<(), DecodeError> {
        let Interval { to_ns, series, counters, lost } = record;
        let wrong = |reason: String| invalid(number, Interval::KIND, &reason);
        let open = self.run.as_mut().ok_or_else(|| wrong("no run is open".to_owned()))?;
        if to_ns < open.run.snapshot.to_ns {
            return Err(wrong(format!("it ends at {to_ns} ns, before the interval in front of it")));
        }
        open.run.snapshot.to_ns = to_ns;
        for sample in series {
            let id = sample.id;
            let (probe, labels, observable) =
                self.series.get(&id).ok_or_else(|| wrong(format!("series {id} has no name")))?;
            let added = histogram(sample).map_err(|e| wrong(format!("series {id}: {e}")))?;
            let (seen, sum) = open
                .series
                .entry((probe.clone(), labels.clone()))
                .or_insert_with(|| (observable.clone(), Histogram::default()));
            *seen = observable.clone();
            sum.merge(&added);
        }
        for (id, value) in counters {
            let name = self.counters.get(&id).ok_or_else(|| wrong(format!("counter {id} has no name")))?;
            open.counters.insert(name.clone(), value);
        }
        open.run.snapshot.lost.extend(lost);
        Ok(())
    }

    fn finish_run(&mut self) {
        let Some(OpenRun { line, mut run, series, counters }) = self.run.take() else { return };
        run.snapshot.series = series
            .into_iter()
            .map(|((probe, labels), (observable, histogram))| Series { probe, labels, observable, histogram })
            .collect();
        run.snapshot.counters = counters
            .into_iter()
            .map(|((probe, name, labels), value)| Counter { probe, name, labels, value })
            .collect();
        if run.end.is_none() {
            let (order, config) = (run.start.order, &run.start.config);
            self.session.notes.push(format!(
                "run {order} ({config}, line {line}) has no end: the recorder was stopped; it counts up to its last checkpoint"
            ));
        }
        self.session.runs.push(run);
    }

    fn note(&mut self, note: String) {
        self.session.notes.push(note);
    }
}

fn histogram(sample: Sample) -> Result<Histogram, String> {
    let Sample { id: _, hdr, sum, min, max, over } = sample;
    let Some(text) = hdr else {
        return match (sum, min, max, over) {
            (0, None, None, 0) => Ok(Histogram::default()),
            _ => Err("it has figures but no histogram".to_owned()),
        };
    };
    let buckets = hdr::decode(&text).map_err(|e| e.to_string())?;
    match (min, max) {
        (Some(min), Some(max)) if min <= max => {}
        _ => return Err("its minimum and maximum do not fit".to_owned()),
    }
    Histogram::from_parts(&buckets, sum, min, max, over).ok_or_else(|| "wrong number of buckets".to_owned())
}

fn parse<R: Record>(number: usize, json: &str) -> Result<R, DecodeError> {
    serde_json::from_str(json).map_err(|e| invalid(number, R::KIND, &e))
}

fn invalid(number: usize, kind: &str, reason: &dyn std::fmt::Display) -> DecodeError {
    DecodeError::Record { number, kind: kind.to_owned(), reason: reason.to_string() }
}
