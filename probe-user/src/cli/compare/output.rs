//! How comparisons are printed, and the conditions that they may break: options that `compare` and `tune` share.

use super::{aims, condition, table};
use crate::{
    cli::{Failure, paint::Paint},
    report::{
        aims::aims as aims_of,
        assess::{Assessment, Group},
        html, json, markdown,
    },
    stats::{
        Snapshot,
        gate::{About, Gate, Outcome},
    },
};
use anyhow::Context;
use std::{fs, path::PathBuf};

fn snapshots<'a>(group: &Group<'a>) -> Vec<&'a Snapshot> {
    group.runs.iter().map(|run| &run.snapshot).collect()
}

/// Options of a comparison's output.
#[derive(Debug, Default, clap::Args)]
pub(in crate::cli) struct Output {
    /// JSON instead of tables (docs/json.md)
    #[arg(long)]
    json: bool,
    /// Markdown instead of tables, for a pull request
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Also write a report with drawings: one HTML file that needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Exit with 1 when this holds, such as 'irq_delivery.p99 > +5%', 'vcpu_sched.migrations > 10/s' or
    /// 'workload.throughput < -5%'; decides alone, may be repeated
    #[arg(long, value_name = "CONDITION", value_parser = condition::parse)]
    fail_if: Vec<Gate>,
}

impl Output {
    /// Whether standard output is for people at a terminal, so that more may be said there.
    pub(in crate::cli) fn is_table(&self) -> bool {
        !self.json && !self.markdown
    }

    /// What standard output gets. `full` also lists rows without enough data.
    pub(in crate::cli) fn text(
        &self,
        assessments: &[Assessment<'_>],
        notes: &[String],
        full: bool,
        paint: Paint,
    ) -> Result<String, Failure> {
        if self.json {
            return json::compare(assessments).map(|text| text + "\n").map_err(Failure::cannot_run);
        }
        if self.markdown {
            return Ok(markdown::compare(assessments, notes, full));
        }
        let mut text = aims::render(&aims_of(assessments), paint) + &table::render(assessments, full, paint);
        for note in notes {
            text += &format!("note: {note}\n");
        }
        Ok(text)
    }

    /// Writes the HTML report when one was asked for, and tells where it is.
    pub(in crate::cli) fn write_report(
        &self,
        assessments: &[Assessment<'_>],
        notes: &[String],
    ) -> Result<Option<String>, Failure> {
        let Some(path) = &self.html else { return Ok(None) };
        let page = html::render(assessments, notes).map_err(Failure::cannot_run)?;
        fs::write(path, page)
            .with_context(|| format!("cannot write the report {}", path.display()))
            .map_err(Failure::usage)?;
        Ok(Some(path.display().to_string()))
    }

    /// The conditions.
    pub(in crate::cli) fn conditions(&self) -> &[Gate] {
        &self.fail_if
    }

    /// Whether there are conditions; they then decide alone.
    pub(in crate::cli) fn has_conditions(&self) -> bool {
        !self.fail_if.is_empty()
    }

    /// The conditions that the comparisons of two configurations, one for each load, break or cannot answer, one line each.
    pub(in crate::cli) fn broken(&self, assessments: &[Assessment<'_>]) -> Vec<String> {
        let figures: Vec<_> = assessments.iter().flat_map(Assessment::figures).collect();
        let judge = |gate: &Gate| -> Vec<Outcome> {
            match gate.about() {
                // A figure belongs to one of the loads; series and counters are held to a condition under each.
                About::Workload { .. } => vec![gate.judge_workload(&figures)],
                About::Series { .. } => {
                    assessments.iter().map(|one| gate.judge(&one.comparison.rows)).collect()
                }
                About::Counter { .. } => assessments
                    .iter()
                    .map(|one| gate.judge_counter(&snapshots(&one.before), &snapshots(&one.after)))
                    .collect(),
            }
        };
        let broken = self.fail_if.iter().flat_map(judge).filter_map(|outcome| match outcome {
            Outcome::NotMet => None,
            Outcome::Met(text) | Outcome::Unknown(text) => Some(text),
        });
        let Some(Assessment { before, after, .. }) = assessments.first() else { return Vec::new() };
        broken.map(|text| format!("fail-if {} against {}: {text}", after.name, before.name)).collect()
    }
}

#[cfg(test)]
impl Output {
    /// Options with these conditions alone.
    pub(in crate::cli) fn with_conditions(conditions: &[&str]) -> Self {
        Self { fail_if: conditions.iter().map(|text| text.parse().unwrap()).collect(), ..Self::default() }
    }
}
