//! Comparisons as one document: what `compare --json` prints.

use super::{SCHEMA, session::label_values};
use crate::{
    report::{
        aims::{Aim, Aims, aims},
        assess::{Assessment, MetricRow},
        sentence,
    },
    stats::{
        Labels, Quantile,
        compare::{Compared, Direction, Estimate, Side, Verdict},
    },
    workload::{Better, Unit},
};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
struct SeriesName<'a> {
    probe: &'a str,
    labels: BTreeMap<String, serde_json::Value>,
}

#[derive(Serialize)]
struct TimeSide<'a> {
    config: &'a str,
    runs: usize,
    n: u64,
    value_ns: Option<f64>,
}

#[derive(Serialize)]
struct ValueSide<'a> {
    config: &'a str,
    runs: usize,
    value: Option<f64>,
}

/// What both kinds of comparisons say.
#[derive(Serialize)]
struct Outcome<'a> {
    ratio: Option<f64>,
    ci: Option<[f64; 2]>,
    /// Level of `ci`.
    level: Option<f64>,
    p: Option<f64>,
    /// `p` after Holm's correction over the rows; the headline has none.
    p_holm: Option<f64>,
    verdict: Verdict,
    /// Smallest change, as a share, that would have been seen.
    smallest_visible: Option<f64>,
    /// What is missing when there is not enough data, or what Holm's correction changed.
    reason: Option<&'a str>,
}

#[derive(Serialize)]
struct SeriesComparison<'a> {
    series: SeriesName<'a>,
    /// Which of several loads both sides were made under.
    load: Option<&'a str>,
    quantile: Quantile,
    before: TimeSide<'a>,
    after: TimeSide<'a>,
    #[serde(flatten)]
    outcome: Outcome<'a>,
}

#[derive(Serialize)]
struct WorkloadComparison<'a> {
    load: Option<&'a str>,
    tool: &'a str,
    name: &'a str,
    unit: Unit,
    better: Better,
    before: ValueSide<'a>,
    after: ValueSide<'a>,
    #[serde(flatten)]
    outcome: Outcome<'a>,
}

#[derive(Serialize)]
struct LeftOutJson<'a> {
    series: SeriesName<'a>,
    reason: &'a str,
}

#[derive(Serialize)]
struct VerdictJson<'a> {
    #[serde(flatten)]
    headline: SeriesComparison<'a>,
    /// The verdict in one line.
    text: String,
    remarks: Vec<String>,
}

/// What the loads of two configurations were made for.
#[derive(Serialize)]
struct AimsJson<'a> {
    /// All of them in one line.
    text: String,
    verdict: Verdict,
    figures: Vec<WorkloadComparison<'a>>,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    comparisons: Vec<SeriesComparison<'a>>,
    workloads: Vec<WorkloadComparison<'a>>,
    left_out: Vec<LeftOutJson<'a>>,
    verdict: Option<VerdictJson<'a>>,
    /// One for each pair of configurations and load; `verdict` is the first.
    verdicts: Vec<VerdictJson<'a>>,
    /// One for each pair of configurations of a session with several loads.
    aims: Vec<AimsJson<'a>>,
}

/// The document of one or more comparisons.
///
/// # Errors
/// None that a comparison can cause; serde_json's signature.
pub fn compare(assessments: &[Assessment<'_>]) -> Result<String, serde_json::Error> {
    let tables = aims(assessments);
    serde_json::to_string_pretty(&Document {
        schema: SCHEMA,
        comparisons: assessments.iter().flat_map(series).collect(),
        workloads: assessments.iter().flat_map(workloads).collect(),
        left_out: assessments.iter().flat_map(left_out).collect(),
        verdict: assessments.first().map(verdict),
        verdicts: assessments.iter().map(verdict).collect(),
        aims: tables.iter().map(aims_json).collect(),
    })
}

fn series<'a>(assessment: &'a Assessment<'_>) -> impl Iterator<Item = SeriesComparison<'a>> {
    let rows = assessment.comparison.rows.iter();
    rows.map(move |row| compared(assessment, &row.probe, &row.labels, row.quantile, &row.compared))
}

fn compared<'a>(
    assessment: &'a Assessment<'_>,
    probe: &'a str,
    labels: &Labels,
    quantile: Quantile,
    compared: &'a Compared,
) -> SeriesComparison<'a> {
    let side = |config, side: &Side| TimeSide { config, runs: side.runs, n: side.n, value_ns: side.value };
    SeriesComparison {
        series: SeriesName { probe, labels: label_values(labels, None) },
        load: assessment.before.load,
        quantile,
        before: side(&assessment.before.name, &compared.before),
        after: side(&assessment.after.name, &compared.after),
        outcome: outcome(compared),
    }
}

fn outcome(compared: &Compared) -> Outcome<'_> {
    let Compared { estimate, verdict, reason, p_holm, .. } = compared;
    Outcome {
        ratio: estimate.map(|e| e.ratio),
        ci: estimate.map(|Estimate { low, high, .. }| [low, high]),
        level: estimate.map(|e| e.level),
        p: estimate.map(|e| e.p),
        p_holm: *p_holm,
        verdict: *verdict,
        smallest_visible: compared.smallest_visible(),
        reason: reason.as_deref(),
    }
}

fn workloads<'a>(assessment: &'a Assessment<'_>) -> impl Iterator<Item = WorkloadComparison<'a>> {
    let names = (assessment.before.name.as_str(), assessment.after.name.as_str());
    assessment.workloads.iter().map(move |row| workload(row, assessment.before.load, names))
}

fn workload<'a>(
    row: &'a MetricRow,
    load: Option<&'a str>,
    (before, after): (&'a str, &'a str),
) -> WorkloadComparison<'a> {
    let MetricRow { tool, name, unit, direction, compared } = row;
    let side = |config, side: &Side| ValueSide { config, runs: side.runs, value: side.value };
    let better = match direction {
        Direction::Lower => Better::Lower,
        Direction::Higher => Better::Higher,
    };
    WorkloadComparison {
        load,
        tool,
        name,
        unit: *unit,
        better,
        before: side(before, &compared.before),
        after: side(after, &compared.after),
        outcome: outcome(compared),
    }
}

fn aims_json<'a>(table: &'a Aims<'_>) -> AimsJson<'a> {
    let figure = |row: &'a Aim<'_>| workload(&row.figure, Some(row.load), (table.before, table.after));
    AimsJson {
        text: table.sentence(),
        verdict: table.verdict(),
        figures: table.rows.iter().map(figure).collect(),
    }
}

fn left_out<'a>(assessment: &'a Assessment<'_>) -> impl Iterator<Item = LeftOutJson<'a>> {
    assessment.comparison.left_out.iter().map(|left| LeftOutJson {
        series: SeriesName { probe: &left.probe, labels: label_values(&left.labels, None) },
        reason: &left.reason,
    })
}

fn verdict<'a>(assessment: &'a Assessment<'_>) -> VerdictJson<'a> {
    let headline = &assessment.headline;
    VerdictJson {
        headline: compared(
            assessment,
            headline.probe,
            &headline.labels,
            headline.quantile,
            &headline.compared,
        ),
        text: sentence::verdict(assessment),
        remarks: sentence::remarks(assessment),
    }
}
