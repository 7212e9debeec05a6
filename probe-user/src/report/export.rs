//! A session's series for other programs, run by run: an HdrHistogram log, and a table of figures as CSV.
//!
//! Nothing is folded across runs, because runs are what a comparison elsewhere needs as its unit.

use crate::{
    session::{Run, Session},
    stats::{
        Histogram, Labels, Series, Summary,
        compare::Detail,
        gate::Selector,
        hdr::{self, HdrError, PercentileRow},
        series::fold,
        summary::to_f64,
    },
};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Lines of a percentile distribution for each halving of the distance to 100 %: the default of HdrHistogram's tools.
const TICKS: u32 = 5;
/// How HdrHistogram cuts 1 to 2^36 at three significant figures: 27 ranges, each twice the one before, of 2048 parts.
const BUCKETS: u32 = 27;
const SUB_BUCKETS: u32 = 2048;

/// Which part of a session is given out.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The session.
    pub session: &'a Session,
    /// Only this guest's series.
    pub guest: Option<&'a str>,
    /// Only runs of this configuration.
    pub config: Option<&'a str>,
    /// Only runs under this load.
    pub load: Option<&'a str>,
    /// How finely series are told apart.
    pub detail: Detail,
}

impl<'a> Part<'a> {
    /// Runs with their series, in the order in which they were made.
    fn runs(&self) -> Vec<(&'a Run, Vec<Series>)> {
        let wanted = |s: &Series| self.guest.is_none_or(|g| s.labels.get("guest").is_some_and(|v| v == g));
        let runs = self.session.runs.iter().filter(|run| {
            self.config.is_none_or(|c| run.config() == c)
                && self.load.is_none_or(|load| run.start.load.as_deref() == Some(load))
        });
        runs.map(|run| {
            let mut series = fold([&run.snapshot], self.detail.dropped()).series;
            series.retain(wanted);
            (run, series)
        })
        .collect()
    }
}

/// An HdrHistogram log (format 1.3): one line a run and series, values in ns, the series named by the line's tag. Each
/// histogram holds the whole run. Series that could not be seen are comments and never empty histograms.
///
/// # Errors
/// [`HdrError`] when a count is beyond what the encoding holds.
pub fn hlog(part: &Part<'_>) -> Result<String, HdrError> {
    let mut text = String::from(
        "#values in ns; one line for each run and series\n#[Histogram log format version 1.3]\n",
    );
    let runs = part.runs();
    if let Some((first, _)) = runs.first() {
        let _ =
            writeln!(text, "#[StartTime: {} (seconds since epoch)]", seconds(first.start.started_unix_ms));
    }
    text += "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n";
    for (run, all) in runs {
        let length = seconds(run.snapshot.to_ns.saturating_sub(run.snapshot.from_ns) / 1_000_000);
        let start = seconds(run.start.started_unix_ms);
        for series in all {
            let tag = tag(run, &series);
            if let Some(reason) = series.observable.reason() {
                let _ = writeln!(text, "#{tag}: not observable: {}", reason.replace(char::is_control, " "));
                continue;
            }
            if series.histogram.over() > 0 {
                let _ =
                    writeln!(text, "#{tag}: {} values beyond 2^36 ns count as 2^36", series.histogram.over());
            }
            let max = series.histogram.max().unwrap_or(0);
            let encoded = hdr::encode(&series.histogram)?;
            let _ = writeln!(text, "Tag={tag},{start},{length},{max}.000,{encoded}");
        }
    }
    Ok(text)
}

/// The distribution of all selected series of a configuration's runs together, as HdrHistogram's
/// `outputPercentileDistribution` writes it (`.hgrm`): values in ns, five lines for each halving of the distance to 100 %.
/// `None` where no value was counted, or where a selected series could not be seen: half of a distribution is none.
#[must_use]
pub fn hgrm(part: &Part<'_>, selected: &Selector) -> Option<String> {
    let mut all = Histogram::default();
    for (_, series) in part.runs() {
        for one in series.iter().filter(|s| selected.covers(&s.probe, &s.labels) && s.observable.is_yes()) {
            all.merge(&one.histogram);
        }
    }
    let (max, mean) = (all.max()?, Summary::of(&all).mean_ns?);
    let (rows, deviation) = hdr::percentile_rows(&all, TICKS);
    let mut text =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    for PercentileRow { value, share, count } in rows {
        let head = format!("{:>12.3} {share:>2.12} {count:>10}", to_f64(value.min(max)));
        // The last line has no distance to 100 % left.
        let _ = if share < 1.0 {
            writeln!(text, "{head} {:>14.2}", 1.0 / (1.0 - share))
        } else {
            writeln!(text, "{head}")
        };
    }
    let _ = writeln!(text, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]");
    let _ = writeln!(text, "#[Max     = {:>12.3}, Total count    = {:>12}]", to_f64(max), all.n());
    let _ = writeln!(text, "#[Buckets = {BUCKETS:>12}, SubBuckets     = {SUB_BUCKETS:>12}]");
    Some(text)
}

/// The name of a line: `baseline/0/irq_delivery/guest=vm1;stage=delivery`. A tag ends at a comma, and holds no white space.
fn tag(run: &Run, series: &Series) -> String {
    let labels: Vec<String> = series.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let tag = format!("{}/{}/{}/{}", run.config(), run.start.order, series.probe, labels.join(";"));
    tag.replace(|c: char| c == ',' || c.is_whitespace() || c.is_control(), "_")
}

/// Milliseconds as seconds with three decimals.
fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// Figures of every run and series (RFC 4180), with a heading. A figure that does not exist is an empty field, never 0:
/// percentiles that n cannot support, and everything but the reason where a series could not be seen.
#[must_use]
pub fn csv(part: &Part<'_>) -> String {
    let runs = part.runs();
    let names: BTreeSet<&str> = runs
        .iter()
        .flat_map(|(_, series)| series)
        .flat_map(|s| s.labels.keys().map(String::as_str))
        // The configuration is a column of its own.
        .filter(|name| *name != "config")
        .collect();
    let mut text = String::new();
    let before = ["config", "load", "run", "complete", "probe"].into_iter();
    let after =
        ["not_observable", "n", "sum_ns", "min_ns", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns"];
    row(&mut text, before.chain(names.iter().copied()).chain(after).map(str::to_owned));
    for (run, all) in &runs {
        let complete = if run.end.is_some() { "yes" } else { "no" };
        for series in all {
            let head = [
                run.config().to_owned(),
                run.start.load.clone().unwrap_or_default(),
                run.start.order.to_string(),
                complete.to_owned(),
                series.probe.clone(),
            ];
            let labels = names.iter().map(|name| label(&series.labels, name));
            row(&mut text, head.into_iter().chain(labels).chain(figures(series)));
        }
    }
    text
}

fn label(labels: &Labels, name: &str) -> String {
    labels.get(name).cloned().unwrap_or_default()
}

fn figures(series: &Series) -> [String; 9] {
    if let Some(reason) = series.observable.reason() {
        let mut fields = [const { String::new() }; 9];
        reason.clone_into(&mut fields[0]);
        return fields;
    }
    let s = Summary::of(&series.histogram);
    let figure = |value: Option<u64>| value.map_or_else(String::new, |v| v.to_string());
    let percentiles = [s.min_ns, s.p50_ns, s.p90_ns, s.p99_ns, s.p999_ns, s.max_ns].map(figure);
    let [min, p50, p90, p99, p999, max] = percentiles;
    [String::new(), s.n.to_string(), s.sum_ns.to_string(), min, p50, p90, p99, p999, max]
}

fn row(text: &mut String, fields: impl Iterator<Item = String>) {
    let quoted = |field: String| match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field,
    };
    *text += &fields.map(quoted).collect::<Vec<_>>().join(",");
    *text += "\r\n";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{decode, sample};
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use std::time::Duration;

    fn session() -> Session {
        decode(sample::lines(2, &[("own", 0.3)]).as_bytes()).unwrap()
    }

    fn part(session: &Session, detail: Detail) -> Part<'_> {
        Part { session, guest: None, config: None, load: None, detail }
    }

    #[test]
    fn a_log_reader_finds_every_series_of_every_run() {
        let session = session();
        let text = hlog(&part(&session, Detail::Full)).unwrap();
        let mut expected = session.runs.iter().flat_map(|run| {
            run.snapshot.series.iter().filter(|s| s.observable.is_yes()).map(move |series| (run, series))
        });
        let mut read = 0;
        for entry in IntervalLogIterator::new(text.as_bytes().split_at(after_legend(&text)).1) {
            let LogEntry::Interval(line) = entry.unwrap() else { continue };
            let (run, series) = expected.next().unwrap();
            assert_eq!(line.tag().map(|t| t.as_str().to_owned()), Some(tag(run, series)));
            let counts = hdr::decode(line.encoded_histogram()).unwrap();
            let counts: Vec<_> = counts.into_iter().enumerate().filter(|(_, n)| *n > 0).collect();
            assert_eq!(counts, series.histogram.buckets().collect::<Vec<_>>());
            assert_eq!(line.duration(), Duration::from_secs(5));
            assert_eq!(line.start_timestamp(), Duration::from_millis(run.start.started_unix_ms));
            read += 1;
        }
        assert!(expected.next().is_none() && read > 0);
        // What could not be seen is said, and is no histogram.
        assert_eq!(
            text.matches("slot=2;stage=delivery;vcpu=0;vf=0000:01:10.0: not observable: posted").count(),
            4
        );
    }

    /// The crate's reader knows comments but not the line of column names, which the Java and Python readers expect.
    fn after_legend(text: &str) -> usize {
        let legend = text.find("\"StartTimestamp\"").unwrap();
        legend + text[legend..].find('\n').unwrap() + 1
    }

    /// A log line by line, its histograms as buckets: how well they are compressed depends on the library that was built in.
    fn decoded(log: &str) -> Vec<(&str, Option<Vec<u64>>)> {
        log.lines()
            .map(|line| match line.rsplit_once(',') {
                Some((head, encoded)) if line.starts_with("Tag=") => (head, hdr::decode(encoded).ok()),
                _ => (line, None),
            })
            .collect()
    }

    /// What another implementation read out of the log: tests/fixtures/evaluate.py, with PyPI's hdrhistogram.
    #[test]
    fn pythons_reader_finds_the_same_values() {
        #[derive(serde::Deserialize)]
        struct Found {
            tag: String,
            n: u64,
            percentiles: std::collections::BTreeMap<String, u64>,
            max: u64,
        }
        #[derive(serde::Deserialize)]
        struct Evaluated {
            histograms: Vec<Found>,
        }
        let session = decode(include_bytes!("../../../tests/fixtures/session-v1.vfprobe")).unwrap();
        let log = include_str!("../../../tests/fixtures/session-v1.hlog");
        let present = hlog(&part(&session, Detail::Full)).unwrap();
        assert_eq!(decoded(&present), decoded(log), "the log that was evaluated is the present one");
        let text = include_str!("../../../tests/fixtures/session-v1.evaluated.json");
        let Evaluated { histograms } = serde_json::from_str(text).unwrap();
        let series = session.runs.iter().flat_map(|run| run.snapshot.series.iter().map(move |s| (run, s)));
        let seen: Vec<_> = series.filter(|(_, s)| s.observable.is_yes()).collect();
        assert_eq!(seen.len(), histograms.len());
        for ((run, series), found) in seen.into_iter().zip(&histograms) {
            assert_eq!((tag(run, series), series.histogram.n()), (found.tag.clone(), found.n));
            let hdr = hdr::to_hdr(&series.histogram);
            // The value of that rank, as that implementation rounds ranks.
            let at = |percentile: f64| {
                let rank = ((percentile * to_f64(found.n)) / 100.0 + 0.5).floor();
                let mut below = 0;
                let reached = hdr.iter_recorded().find(|step| {
                    below += step.count_at_value();
                    to_f64(below) >= rank
                });
                reached.map(|step| step.value_iterated_to())
            };
            for (percentile, value) in &found.percentiles {
                assert_eq!(at(percentile.parse().unwrap()), Some(*value), "{} {percentile}", found.tag);
            }
            assert_eq!(hdr.max(), found.max, "{}", found.tag);
        }
    }

    #[test]
    fn a_percentile_distribution_is_what_its_tools_read() {
        let session = session();
        let own = Part { config: Some("own"), ..part(&session, Detail::Full) };
        let text = hgrm(&own, &"irq_delivery".parse().unwrap()).unwrap();
        assert!(text.starts_with("       Value     Percentile TotalCount 1/(1-Percentile)\n\n"), "{text}");
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|field| field.parse().unwrap()).collect())
            .collect();
        let mut all = Histogram::default();
        for run in session.runs_of("own") {
            let is = |s: &&Series| s.probe == "irq_delivery" && s.labels["stage"] == "delivery";
            run.snapshot.series.iter().filter(is).for_each(|s| all.merge(&s.histogram));
        }
        for pair in rows.windows(2) {
            assert!(pair[0].iter().zip(&pair[1]).all(|(one, next)| one <= next), "{pair:?}");
        }
        for row in &rows {
            let at_or_below = hdr::to_hdr(&all).count_between(0, format!("{}", row[0]).parse().unwrap());
            assert!(
                (to_f64(at_or_below) - row[2]).abs() < 0.5 || row[0] >= to_f64(all.max().unwrap()),
                "{row:?}"
            );
            assert!(row[1] <= row[2] / to_f64(all.n()) + 1e-9, "{row:?}");
        }
        assert_eq!((rows.last().unwrap()[1], rows.last().unwrap()[2]), (1.0, to_f64(all.n())));
        assert_eq!((rows.last().unwrap().len(), rows[0].len()), (3, 4));
        assert!(text.contains(&format!("Total count    = {:>12}]", all.n())), "{text}");
        assert_eq!(hgrm(&own, &"vm_exit{reason=CPUID}".parse().unwrap()), None);
        assert_eq!(hgrm(&own, &"irq_delivery{slot=2}".parse().unwrap()), None, "it could not be seen");
    }

    #[test]
    fn tags_hold_nothing_that_ends_them() {
        let mut run = Run::default();
        run.start.config = "a, b\n".to_owned();
        let mut session = session();
        let mut series = session.runs.remove(0).snapshot.series.remove(0);
        series.labels = sample::labels("guest=x y");
        assert_eq!(tag(&run, &series), "a__b_/0/irq_delivery/guest=x_y");
    }

    #[test]
    fn csv_has_a_row_for_each_run_and_series() {
        let session = session();
        let text = csv(&part(&session, Detail::Full));
        let mut lines = text.split_terminator("\r\n");
        let head = "config,load,run,complete,probe,guest,reason,slot,stage,vcpu,vf,\
                    not_observable,n,sum_ns,min_ns,p50_ns,p90_ns,p99_ns,p999_ns,max_ns";
        assert_eq!(lines.next(), Some(head));
        let count: usize = session.runs.iter().map(|run| run.snapshot.series.len()).sum();
        let rows: Vec<&str> = lines.collect();
        assert_eq!(rows.len(), count);
        assert!(rows.iter().all(|row| row.split(',').count() == head.split(',').count()), "{text}");
        // 400 values support no p99.9; a hidden series has no figure at all.
        let hidden = "baseline,,0,yes,irq_delivery,vm1,,2,delivery,0,0000:01:10.0,posted: hardware delivers it,,,,,,,,";
        assert!(rows.contains(&hidden), "{text}");
        let first = rows.iter().find(|r| r.contains(",0,delivery,0,")).unwrap();
        assert_eq!(first.split(',').nth(12), Some("400"), "{first}");
        assert_eq!(first.split(',').nth(18), Some(""), "{first}");
    }

    #[test]
    fn only_what_was_asked_for() {
        let session = session();
        let own = Part { config: Some("own"), ..part(&session, Detail::Folded) };
        assert!(csv(&own).split_terminator("\r\n").skip(1).all(|row| row.starts_with("own,")));
        let nobody = Part { guest: Some("vm9"), ..part(&session, Detail::Folded) };
        assert_eq!(csv(&nobody).split_terminator("\r\n").count(), 1);
        assert!(!hlog(&nobody).unwrap().contains("Tag="));
    }

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        let mut text = String::new();
        row(&mut text, ["a", "b,c", "d\"e"].into_iter().map(str::to_owned));
        assert_eq!(text, "a,\"b,c\",\"d\"\"e\"\r\n");
    }
}
