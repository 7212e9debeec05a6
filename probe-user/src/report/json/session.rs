//! A session as one document: what `show --json` prints.

use super::SCHEMA;
use crate::{
    model::topology::Guest,
    session::{HostFacts, Part, ProbeVerdict, Run, Session},
    stats::{Labels, Series, Snapshot, Summary, series::fold},
    workload::Workload,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// One series with its configuration among the labels.
#[derive(Debug, Serialize)]
pub struct SeriesJson {
    probe: String,
    labels: BTreeMap<String, serde_json::Value>,
    observable: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    n: Option<u64>,
    sum_ns: Option<u64>,
    min_ns: Option<u64>,
    mean_ns: Option<f64>,
    p50_ns: Option<u64>,
    p90_ns: Option<u64>,
    p99_ns: Option<u64>,
    p999_ns: Option<u64>,
    max_ns: Option<u64>,
}

#[derive(Serialize)]
struct CounterJson {
    probe: String,
    name: String,
    labels: BTreeMap<String, serde_json::Value>,
    value: u64,
}

#[derive(Serialize)]
struct ConfigJson<'a> {
    name: &'a str,
    about: &'a str,
    runs: usize,
    /// Time counted, all runs together.
    window_ns: u64,
    changes: &'a [String],
}

#[derive(Serialize)]
struct RunJson<'a> {
    order: u32,
    config: &'a str,
    /// Which of several loads it was made under.
    load: Option<&'a str>,
    started_unix_ms: u64,
    from_ns: u64,
    to_ns: u64,
    complete: bool,
    /// Why it is not compared.
    unfit: Option<String>,
    probes: &'a [ProbeVerdict],
    remarks: &'a [String],
}

#[derive(Serialize)]
struct WorkloadJson<'a> {
    config: &'a str,
    /// `order` of its run.
    run: u32,
    #[serde(flatten)]
    workload: &'a Workload,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    tool: &'a str,
    created_unix_ms: u64,
    host: &'a HostFacts,
    guests: &'a [Guest],
    configs: Vec<ConfigJson<'a>>,
    runs: Vec<RunJson<'a>>,
    series: Vec<SeriesJson>,
    counters: Vec<CounterJson>,
    workloads: Vec<WorkloadJson<'a>>,
    lost: BTreeMap<String, u64>,
    notes: &'a [String],
}

/// The document of a session, its runs pooled by configuration. `guest` keeps one guest's series only.
///
/// # Errors
/// None that a session can cause; serde_json's signature.
pub fn session(session: &Session, guest: Option<&str>) -> Result<String, serde_json::Error> {
    let pooled: Vec<(Part<'_>, Snapshot)> = session
        .parts()
        .into_iter()
        .map(|part| {
            let kept: Vec<_> = session
                .runs_in(part)
                .map(|run| crate::report::assess::of_guest(&run.snapshot, guest))
                .collect();
            let mut snapshot = fold(kept.iter().map(AsRef::as_ref), &["config"]);
            if let Some(load) = part.load {
                let labels = snapshot.series.iter_mut().map(|s| &mut s.labels);
                for labels in labels.chain(snapshot.counters.iter_mut().map(|c| &mut c.labels)) {
                    labels.insert("load".to_owned(), load.to_owned());
                }
            }
            (part, snapshot)
        })
        .collect();
    let mut lost = BTreeMap::new();
    for (cause, count) in pooled.iter().flat_map(|(_, snapshot)| &snapshot.lost) {
        *lost.entry(cause.clone()).or_default() += count;
    }
    let guests = session.runs.iter().find_map(|run| run.start.topology.as_ref());
    serde_json::to_string_pretty(&Document {
        schema: SCHEMA,
        tool: &session.header.tool,
        created_unix_ms: session.header.created_unix_ms,
        host: &session.host,
        guests: guests.map_or(&[], |topology| topology.guests.as_slice()),
        configs: session.config_names().into_iter().map(|name| config(session, name)).collect(),
        runs: session.runs.iter().map(run).collect(),
        series: pooled
            .iter()
            .flat_map(|(part, snapshot)| snapshot_series(snapshot, Some(part.config)))
            .collect(),
        counters: pooled.iter().flat_map(|(part, snapshot)| counters(snapshot, Some(part.config))).collect(),
        workloads: session
            .runs
            .iter()
            .filter_map(|run| {
                Some(WorkloadJson { config: run.config(), run: run.start.order, workload: run.workload()? })
            })
            .collect(),
        lost,
        notes: &session.notes,
    })
}

/// The series of a snapshot, in the shape that every document uses. `config` is added to the labels when it is given.
#[must_use]
pub fn snapshot_series(snapshot: &Snapshot, config: Option<&str>) -> Vec<SeriesJson> {
    snapshot.series.iter().map(|series| series_json(series, config)).collect()
}

#[derive(Serialize)]
struct IntervalJson {
    schema: u32,
    from_ns: u64,
    to_ns: u64,
    series: Vec<SeriesJson>,
    counters: Vec<CounterJson>,
    lost: BTreeMap<String, u64>,
}

/// A snapshot of one interval on one line: what `top --json-lines` prints.
///
/// # Errors
/// None that a snapshot can cause; serde_json's signature.
pub fn interval(snapshot: &Snapshot) -> Result<String, serde_json::Error> {
    serde_json::to_string(&IntervalJson {
        schema: SCHEMA,
        from_ns: snapshot.from_ns,
        to_ns: snapshot.to_ns,
        series: snapshot_series(snapshot, None),
        counters: counters(snapshot, None),
        lost: snapshot.lost.clone(),
    })
}

fn series_json(series: &Series, config: Option<&str>) -> SeriesJson {
    let Series { probe, labels, observable, histogram } = series;
    let Summary { n, sum_ns, min_ns, mean_ns, p50_ns, p90_ns, p99_ns, p999_ns, max_ns } =
        Summary::of(histogram);
    let seen = observable.is_yes();
    SeriesJson {
        probe: probe.clone(),
        labels: label_values(labels, config),
        observable: seen,
        reason: observable.reason().map(str::to_owned),
        n: seen.then_some(n),
        sum_ns: seen.then_some(sum_ns),
        min_ns,
        mean_ns,
        p50_ns,
        p90_ns,
        p99_ns,
        p999_ns,
        max_ns,
    }
}

/// Labels as values: numbers are numbers where the label is one by nature.
pub(super) fn label_values(labels: &Labels, config: Option<&str>) -> BTreeMap<String, serde_json::Value> {
    let number = |name: &str, value: &str| match name {
        "slot" | "vcpu" | "cpu" => value.parse::<u64>().ok().map(serde_json::Value::from),
        _ => None,
    };
    let mut values: BTreeMap<String, serde_json::Value> = labels
        .iter()
        .map(|(name, value)| (name.clone(), number(name, value).unwrap_or_else(|| value.as_str().into())))
        .collect();
    if let Some(config) = config {
        values.insert("config".to_owned(), config.into());
    }
    values
}

fn counters(snapshot: &Snapshot, config: Option<&str>) -> Vec<CounterJson> {
    let json = |counter: &crate::stats::Counter| CounterJson {
        probe: counter.probe.clone(),
        name: counter.name.clone(),
        labels: label_values(&counter.labels, config),
        value: counter.value,
    };
    snapshot.counters.iter().map(json).collect()
}

fn config<'a>(session: &'a Session, name: &'a str) -> ConfigJson<'a> {
    let about = session.configs.iter().find(|c| c.name == name).map_or("", |c| c.about.as_str());
    let runs: Vec<&Run> = session.runs_of(name).collect();
    ConfigJson {
        name,
        about,
        runs: runs.len(),
        window_ns: runs.iter().map(|run| run.duration_ns()).sum(),
        changes: runs.first().map_or(&[], |run| run.start.changes.as_slice()),
    }
}

fn run(run: &Run) -> RunJson<'_> {
    RunJson {
        order: run.start.order,
        config: run.config(),
        load: run.start.load.as_deref(),
        started_unix_ms: run.start.started_unix_ms,
        from_ns: run.snapshot.from_ns,
        to_ns: run.snapshot.to_ns,
        complete: run.end.is_some(),
        unfit: run.unfit(),
        probes: run.end.as_ref().map_or(&[], |end| end.verdicts.as_slice()),
        remarks: run.end.as_ref().map_or(&[], |end| end.remarks.as_slice()),
    }
}
