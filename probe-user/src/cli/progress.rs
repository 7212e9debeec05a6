//! The progress line of long work: on a terminal only, on standard error.

use super::Globals;
use crate::app::record::Progress;
use crate::report::format::time_or_dash;
use crate::stats::{Quantile, Snapshot, Summary};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

/// A line that shows how a run goes on.
pub(super) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// A bar for a run of the given length, a spinner when it is open.
    pub(super) fn new(globals: &Globals, what: &str, length: Option<Duration>) -> Self {
        let target = if globals.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let millis = length.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let bar = ProgressBar::with_draw_target(millis, target);
        let template = if length.is_some() {
            "{prefix} {bar:30} {elapsed:>4}  {msg}"
        } else {
            "{prefix:>14} {spinner} {elapsed:>4}  {msg}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        }
        bar.set_prefix(what.to_owned());
        Self { bar }
    }

    /// Brings it up to date.
    pub(super) fn show(&self, progress: &Progress<'_>) {
        self.bar.set_position(u64::try_from(progress.elapsed.as_millis()).unwrap_or(u64::MAX));
        self.bar.set_message(headline(progress.snapshot));
    }

    /// Moves it on.
    pub(super) fn at(&self, elapsed: Duration) {
        self.bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
    }

    /// Takes it off the screen.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// One line of present figures: delivery of all VF interrupts together.
pub(super) fn headline(snapshot: &Snapshot) -> String {
    let mut all = crate::stats::Histogram::default();
    let stages = snapshot.series.iter().filter(|s| s.probe == "irq_delivery");
    for series in stages.filter(|s| s.labels.get("stage").is_some_and(|stage| stage == "delivery")) {
        all.merge(&series.histogram);
    }
    let summary = Summary::of(&all);
    let exits: u64 = snapshot.series.iter().filter(|s| s.probe == "vm_exit").map(|s| s.histogram.n()).sum();
    let quantile = |q: Quantile| time_or_dash(summary.quantile(q).map(crate::stats::to_f64));
    format!(
        "delivery n {} p50 {} p99 {} · exits {exits}",
        all.n(),
        quantile(Quantile::P50),
        quantile(Quantile::P99)
    )
}
