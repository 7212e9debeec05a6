//! The table at the end of `cargo xtask test`, and its last line. Pure.

use crate::tally::Tally;

/// What one layer came to.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) layer: String,
    pub(crate) tally: Tally,
    pub(crate) seconds: f64,
    /// Why it could not run at all, where that is so.
    pub(crate) could_not_run: Option<String>,
}

impl Report {
    /// The numbers of a row: passed, failed, skipped. A layer that could not run counts as one test: failed under
    /// CI, where every layer is expected to run, skipped elsewhere.
    fn counts(&self, ci: bool) -> (usize, usize, usize) {
        let not_run = usize::from(self.could_not_run.is_some());
        let (failed, skipped) = if ci { (not_run, 0) } else { (0, not_run) };
        (self.tally.passed, self.tally.failed.len() + failed, self.tally.skipped.len() + skipped)
    }

    fn note(&self) -> String {
        let Tally { passed, failed, skipped } = &self.tally;
        let note = match (&self.could_not_run, failed.as_slice(), skipped.as_slice()) {
            (Some(reason), _, _) => format!("could not run: {reason}"),
            (None, [], []) if *passed == 0 => "nothing to run".to_owned(),
            (None, [], []) => String::new(),
            (None, [], [first, rest @ ..]) => format!("skipped {first}{}", and_more(rest.len())),
            (None, [first, rest @ ..], _) => format!("failed {first}{}", and_more(rest.len())),
        };
        // One row is one line, however long a reason is.
        note.lines().next().unwrap_or_default().to_owned()
    }
}

fn and_more(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" (and {count} more)") }
}

/// Whether any layer failed.
pub(crate) fn failed(reports: &[Report], ci: bool) -> bool {
    reports.iter().any(|report| report.counts(ci).1 > 0)
}

/// The table, aligned, and `N passed, N failed, N skipped` as the last line.
pub(crate) fn table(reports: &[Report], ci: bool) -> String {
    let mut rows =
        vec![["layer", "ran", "passed", "failed", "skipped", "seconds", "note"].map(str::to_owned).to_vec()];
    let mut sums = (0, 0, 0);
    for report in reports {
        let (passed, failed, skipped) = report.counts(ci);
        sums = (sums.0 + passed, sums.1 + failed, sums.2 + skipped);
        let ran = report.tally.passed + report.tally.failed.len();
        let mut row = vec![report.layer.clone()];
        row.extend([ran, passed, failed, skipped].map(|number| number.to_string()));
        row.push(format!("{:.1}", report.seconds));
        row.push(report.note());
        rows.push(row);
    }
    let widths: Vec<usize> =
        (0..6).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (cell, width) in row[1..6].iter().zip(&widths[1..]) {
            line.push_str(&format!("  {cell:>width$}"));
        }
        line.push_str(&format!("  {}", row[6]));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push_str(&format!("{} passed, {} failed, {} skipped", sums.0, sums.1, sums.2));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(
        layer: &str,
        passed: usize,
        failed: &[&str],
        skipped: &[&str],
        not_run: Option<&str>,
    ) -> Report {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Report {
            layer: layer.to_owned(),
            tally: Tally { passed, failed: own(failed), skipped: own(skipped) },
            seconds: 1.25,
            could_not_run: not_run.map(str::to_owned),
        }
    }

    #[test]
    fn the_table_is_aligned_and_ends_with_the_sums() {
        let reports = [
            report("format", 1, &[], &[], None),
            report("unit", 120, &["a::b", "c"], &[], None),
            report("kernel", 3, &[], &["msi: no /dev/kvm"], None),
            report("lab 6.1", 0, &[], &[], Some("mmdebstrap is missing\nmore")),
        ];
        let expected = "\
layer    ran  passed  failed  skipped  seconds  note
format     1       1       0        0      1.2
unit     122     120       2        0      1.2  failed a::b (and 1 more)
kernel     3       3       0        1      1.2  skipped msi: no /dev/kvm
lab 6.1    0       0       0        1      1.2  could not run: mmdebstrap is missing
124 passed, 2 failed, 2 skipped";
        assert_eq!(table(&reports, false), expected);
    }

    #[test]
    fn under_ci_a_layer_that_cannot_run_has_failed() {
        let reports = [report("kernel", 0, &[], &[], Some("needs root"))];
        assert!(failed(&reports, true) && !failed(&reports, false));
        assert!(table(&reports, true).ends_with("0 passed, 1 failed, 0 skipped"));
        assert!(table(&reports, false).ends_with("0 passed, 0 failed, 1 skipped"));
    }

    #[test]
    fn a_layer_without_any_test_says_so() {
        assert!(table(&[report("unit", 0, &[], &[], None)], false).contains("nothing to run"));
    }
}
