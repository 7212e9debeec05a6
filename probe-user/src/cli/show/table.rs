//! A session's figures as text: one block for each configuration.

use super::View;
use crate::{
    cli::paint::{Cell, Paint, Style, columns},
    report::{assess::of_guest, format, names},
    session::{Part, Run, Session},
    stats::{Counter, Series, Snapshot, Summary, compare::Detail, series::fold, summary::to_f64},
};
use std::{cmp::Reverse, collections::BTreeMap};

/// What the file is.
pub(super) fn heading(session: &Session) -> String {
    let host = &session.host;
    let configs = session.config_names().len();
    let facts = [
        host.hostname.clone(),
        host.kernel.as_ref().map(|kernel| format!("Linux {kernel}")),
        host.cpus.map(|cpus| format!("{cpus} CPUs")),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    format!(
        "{configs} configuration{}, {} run{}; {}; {}, {}\n",
        plural(configs),
        session.runs.len(),
        plural(session.runs.len()),
        if facts.is_empty() { "host not known".to_owned() } else { facts.join(", ") },
        session.header.tool,
        format::utc(session.header.created_unix_ms)
    )
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Everything that was counted under one configuration and load, its runs pooled.
pub(super) fn configuration(view: &View<'_>, part: Part<'_>, paint: Paint) -> String {
    let runs: Vec<&Run> = view.session.runs_in(part).collect();
    let snapshot = pooled(view, part);
    let window_ns: u64 = runs.iter().map(|run| run.duration_ns()).sum();
    let mut text = format!(
        "{}: {} run{}, {:.1} s counted\n",
        paint.text(Style::Strong, &part.to_string()),
        runs.len(),
        plural(runs.len()),
        to_f64(window_ns) / 1e9
    );
    let (others, own) = runs.first().map(|run| run.changes()).unwrap_or_default();
    let all = view.detail == Detail::Full;
    if !others.is_empty() && !all {
        let many = others.len();
        text += &format!("  changes: {many} that keep other work off the guest's CPUs (--full lists them)\n");
    }
    for change in others.iter().filter(|_| all).chain(own) {
        text += &format!("  changes: {change}\n");
    }
    text += &series(&snapshot, window_ns, paint);
    text += &counters(&snapshot.counters);
    if !snapshot.lost.is_empty() {
        let lost: Vec<String> = snapshot.lost.iter().map(|(cause, n)| format!("{cause} {n}")).collect();
        text += &format!("  {}\n", paint.text(Style::Warning, &format!("lost: {}", lost.join(", "))));
    }
    text += &probes(&runs);
    text += &workloads(&runs, paint);
    text
}

/// The runs of a configuration under a load as one, folded as the view asks.
pub(super) fn pooled(view: &View<'_>, part: Part<'_>) -> Snapshot {
    let kept: Vec<_> = view.session.runs_in(part).map(|run| of_guest(&run.snapshot, view.guest)).collect();
    fold(kept.iter().map(AsRef::as_ref), view.detail.dropped())
}

fn series(snapshot: &Snapshot, window_ns: u64, paint: Paint) -> String {
    let mut sorted: Vec<&Series> = snapshot.series.iter().collect();
    sorted.sort_by_cached_key(|s| {
        let (probe, place, stage, name) = names::sort_key(&s.probe, &s.labels);
        // Stages in their order; everything else by the time it took.
        (probe, place, stage, Reverse(s.histogram.sum()), name)
    });
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    let mut probe = None;
    let mut dashes = false;
    for one in sorted {
        if probe != Some(one.probe.as_str()) {
            probe = Some(&one.probe);
            let heads = ["n", "rate", "p50", "p90", "p99", "p99.9", "max", "mean"];
            let first = Cell::new(Style::Strong, &one.probe);
            rows.push([first].into_iter().chain(heads.map(|h| Cell::new(Style::Faint, h))).collect());
        }
        let mut row = vec![Cell::from(names::of(&one.labels))];
        if let Some(reason) = one.observable.reason() {
            row.push(Cell::new(Style::Faint, format!("not observable ({reason})")));
            rows.push(row);
            continue;
        }
        let Summary { n, p50_ns, p90_ns, p99_ns, p999_ns, max_ns, mean_ns, .. } = Summary::of(&one.histogram);
        let times = [p50_ns, p90_ns, p99_ns, p999_ns, max_ns];
        dashes |= times.contains(&None);
        row.extend([Cell::from(n), format::rate(n, window_ns).into()]);
        row.extend(times.map(|ns| Cell::from(format::time_or_dash(ns.map(to_f64)))));
        row.push(format::time_or_dash(mean_ns).into());
        rows.push(row);
    }
    let mut text = columns(paint, "  ", &rows);
    if dashes {
        text += "  - too few values: p50 needs 2, p90 needs 10, p99 needs 100, p99.9 needs 1000\n";
    }
    text
}

/// Counters of one place on one line.
fn counters(counters: &[Counter]) -> String {
    let mut places: BTreeMap<(&str, String), Vec<String>> = BTreeMap::new();
    let mut times: BTreeMap<(&str, String), Times> = BTreeMap::new();
    for Counter { probe, name, labels, value } in counters {
        // Times are counted in ns and say so in their name.
        let shown = match name.strip_suffix("_ns") {
            Some(name) => format!("{name} {}", format::time(to_f64(*value))),
            None => format!("{name} {value}"),
        };
        let place = (probe.as_str(), names::of(labels));
        times.entry(place.clone()).or_default().take(name, *value);
        places.entry(place).or_default().push(shown);
    }
    let mut text = String::new();
    for (place, shown) in places {
        text += &format!("  {} {}: {}\n", place.0, place.1, shown.join(", "));
        if let Some(share) = times.get(&place).and_then(Times::share) {
            text += &format!("  {} {}: {share}\n", place.0, place.1);
        }
    }
    text
}

/// Where the time of one place's vCPUs went (ns). Files of earlier versions have no more than the guest's.
#[derive(Debug, Default)]
struct Times {
    guest: Option<u64>,
    host: Option<u64>,
    halted: Option<u64>,
}

impl Times {
    fn take(&mut self, counter: &str, value: u64) {
        match counter {
            "guest_ns" => self.guest = Some(value),
            "host_ns" => self.host = Some(value),
            "halted_ns" => self.halted = Some(value),
            _ => {}
        }
    }

    /// Shares of the time that is known; `None` when a part is unknown or nothing was counted.
    fn share(&self) -> Option<String> {
        let parts = [to_f64(self.guest?), to_f64(self.host?), to_f64(self.halted?)];
        let all: f64 = parts.iter().sum();
        let [guest, host, halted] = parts.map(|part| 100.0 * part / all);
        (all > 0.0).then(|| format!("time in guest {guest:.1} %, in host {host:.1} %, halted {halted:.1} %"))
    }
}

/// What the probes could see; said once when it was the same in all runs.
fn probes(runs: &[&Run]) -> String {
    let mut said: Vec<String> = Vec::new();
    for verdict in runs.iter().flat_map(|run| run.end.iter()).flat_map(|end| &end.verdicts) {
        let reason = if verdict.reason.is_empty() { String::new() } else { format!(": {}", verdict.reason) };
        let line = format!("  probe {} {}{reason}\n", verdict.probe, verdict.verdict.as_str());
        if !said.contains(&line) {
            said.push(line);
        }
    }
    said.concat()
}

fn workloads(runs: &[&Run], paint: Paint) -> String {
    let mut text = String::new();
    for run in runs {
        let Some(workload) = run.workload() else { continue };
        let figures: Vec<String> =
            workload.metrics.iter().map(|m| format!("{} {}", m.name, format::metric(m))).collect();
        let figures = match figures.as_slice() {
            [] if workload.continuous => "ran on".to_owned(),
            [] => format!("took {}", format::time(to_f64(workload.wall_ns))),
            some => some.join(", "),
        };
        text += &format!("  run {}: {}: {figures}\n", run.start.order, workload.command_line());
        if let Some(note) = &workload.note {
            text += &format!("    {note}\n");
        }
        if !workload.succeeded() {
            let last = workload.stderr.lines().last().unwrap_or("no message");
            let status = run.unfit().unwrap_or_default();
            text += &format!("    {}\n", paint.text(Style::Bad, &format!("{status}: {last}")));
        }
    }
    text
}

/// What a reader should know of the file, and of runs that are not compared for another reason than that they were cut off, which
/// the file's notes say, or that their workload failed, which stands beside it.
pub(super) fn notes(session: &Session, paint: Paint) -> String {
    let line = |note: String| format!("{} {note}\n", paint.text(Style::Warning, "note:"));
    let of_runs = session.runs.iter().filter_map(|run| {
        let end = run.end.as_ref()?;
        (end.broken_off.is_some() || !end.not_held.is_empty()).then_some(())?;
        let said = run.unfit()?;
        Some(format!("run {} ({}) {said}; it is not compared", run.start.order, run.config()))
    });
    session.notes.iter().cloned().chain(of_runs).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{decode, sample};

    #[test]
    fn runs_that_are_not_compared_are_told() {
        let mut session = decode(sample::lines(2, &[("own", 0.3)]).as_bytes()).unwrap();
        let plain = Paint::default();
        assert_eq!(notes(&session, plain), "");
        session.runs[1].end.as_mut().unwrap().not_held = vec!["irq 40: it is gone".to_owned()];
        session.runs[3].end.as_mut().unwrap().broken_off = Some("irq_delivery.p50 > 1ms".to_owned());
        assert_eq!(
            notes(&session, plain),
            "note: run 1 (own) did not keep its configuration: irq 40: it is gone; it is not compared\n\
             note: run 3 (own) was broken off: irq_delivery.p50 > 1ms; it is not compared\n"
        );
    }

    #[test]
    fn shares_need_all_parts() {
        type Counts = &'static [(&'static str, u64)];
        let cases: [(Counts, Option<&str>); 4] = [
            (
                &[("guest_ns", 600), ("host_ns", 100), ("halted_ns", 300), ("halt_waited_ns", 9)],
                Some("time in guest 60.0 %, in host 10.0 %, halted 30.0 %"),
            ),
            (&[("guest_ns", 600)], None),
            (&[("guest_ns", 0), ("host_ns", 0), ("halted_ns", 0)], None),
            (&[], None),
        ];
        for (counters, expected) in cases {
            let mut times = Times::default();
            for (name, value) in counters {
                times.take(name, *value);
            }
            assert_eq!(times.share().as_deref(), expected, "{counters:?}");
        }
    }
}
