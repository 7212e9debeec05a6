//! How comparisons are printed, and the conditions that they may break: options that `compare` and `tune` share.

use super::{aims, table};
use crate::{
    cli::{Failure, paint::Paint},
    report::{aims::aims as aims_of, assess::Assessment, html, json, markdown},
    stats::gate::{Gate, Outcome},
};
use anyhow::Context;
use std::{fs, path::PathBuf};

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
    /// Exit with 1 when this holds, such as 'irq_delivery.p99 > +5%' or 'workload.throughput < -5%'; decides alone, may be
    /// repeated
    #[arg(long, value_name = "CONDITION")]
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

    /// Whether there are conditions; they then decide alone.
    pub(in crate::cli) fn has_conditions(&self) -> bool {
        !self.fail_if.is_empty()
    }

    /// The conditions that the comparisons of two configurations, one for each load, break or cannot answer, one line each.
    pub(in crate::cli) fn broken(&self, assessments: &[Assessment<'_>]) -> Vec<String> {
        let figures: Vec<_> = assessments.iter().flat_map(Assessment::figures).collect();
        let judge = |gate: &Gate| match gate.is_of_workload() {
            // A figure belongs to one of the loads; series are held to a condition under each.
            true => vec![gate.judge_workload(&figures)],
            false => assessments.iter().map(|one| gate.judge(&one.comparison.rows)).collect(),
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
