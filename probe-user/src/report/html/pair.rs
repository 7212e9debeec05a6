//! One comparison as a chapter of the page.

use super::{
    bars, cpus, distribution, paths,
    scale::{LogAxis, Px, Tick},
    table::{Table, class_of, compared, figure, sign_of},
};
use crate::{
    report::{
        aims::change,
        assess::{Assessment, Group},
        format, names, sentence,
    },
    stats::{
        Histogram, Quantile, Summary,
        compare::{Estimate, Verdict},
        summary::{at_shares, to_f64},
    },
};
use askama::Template;

/// A chapter.
#[derive(Template)]
#[template(path = "report/pair.html")]
pub(super) struct PairView {
    pub(super) id: usize,
    /// Whether the page has others, so that each says which it is.
    many: bool,
    pub(super) before: String,
    pub(super) after: String,
    /// ` under iperf3`; empty in a session with one load.
    pub(super) under: String,
    pub(super) verdict: String,
    pub(super) class: &'static str,
    pub(super) sign: &'static str,
    subject: String,
    sentence: String,
    runs_before: usize,
    runs_after: usize,
    value_before: String,
    value_after: String,
    ratio: Option<RatioView>,
    remarks: Vec<String>,
    figures: Vec<Figure>,
    workloads: Table,
    series: Table,
    hidden_rows: usize,
    left_out: Vec<String>,
    changes_before: Changes,
    changes_after: Changes,
}

/// What was changed for a configuration: those of the guest itself, and, folded, those that make room for it.
#[derive(Template)]
#[template(path = "report/changes.html")]
pub(super) struct Changes {
    others: Vec<String>,
    own: Vec<String>,
    /// What an empty list means.
    nothing: &'static str,
}

/// The ratio on its axis.
#[derive(Template)]
#[template(path = "report/ratio.svg")]
pub(super) struct RatioView {
    id: usize,
    text: String,
    class: &'static str,
    ticks: Vec<Tick>,
    one: Px,
    low: Px,
    high: Px,
    at: Px,
}

/// A drawing with its words and its table.
pub(super) struct Figure {
    id: String,
    heading: &'static str,
    lead: String,
    drawing: String,
    /// Class and name of what is told apart by colour.
    legend: Vec<(String, String)>,
    table: Table,
}

impl PairView {
    pub(super) fn new(id: usize, assessment: &Assessment<'_>, many: bool) -> Result<Self, askama::Error> {
        let Assessment { before, after, headline, comparison, .. } = assessment;
        let verdict = headline.compared.verdict;
        let (series, hidden_rows) = series(assessment);
        let guest = headline.labels.get("guest").map_or_else(String::new, |guest| format!(", {guest}"));
        let under = before.load.map_or_else(String::new, |load| format!(" under {load}"));
        Ok(Self {
            id,
            many,
            before: before.name.clone(),
            after: after.name.clone(),
            verdict: verdict.to_string(),
            class: class_of(verdict),
            sign: sign_of(verdict),
            subject: format!("99th percentile of interrupt delivery{guest}{under}"),
            under,
            sentence: sentence::verdict(assessment),
            runs_before: headline.compared.before.runs,
            runs_after: headline.compared.after.runs,
            value_before: format::time_or_dash(headline.compared.before.value),
            value_after: format::time_or_dash(headline.compared.after.value),
            ratio: headline.compared.estimate.map(|estimate| RatioView::new(id, estimate, verdict)),
            remarks: sentence::remarks(assessment),
            figures: figures(id, assessment)?,
            workloads: workloads(assessment),
            series,
            hidden_rows,
            left_out: comparison
                .left_out
                .iter()
                .map(|left| format!("{} {}: {}", left.probe, names::of(&left.labels), left.reason))
                .collect(),
            changes_before: Changes::of(before),
            changes_after: Changes::of(after),
        })
    }
}

impl Changes {
    fn of(group: &Group<'_>) -> Self {
        let (others, own) = group.runs.first().map(|run| run.changes()).unwrap_or_default();
        let tuned = group.session.tuning.is_some();
        let nothing =
            if tuned { "nothing: the host as it was found" } else { "nothing by vfprobe for this recording" };
        Self { others: others.to_vec(), own: own.to_vec(), nothing }
    }

    fn is_empty(&self) -> bool {
        self.others.is_empty() && self.own.is_empty()
    }
}

impl RatioView {
    fn new(id: usize, estimate: Estimate, verdict: Verdict) -> Self {
        let Estimate { ratio, low, high, level, .. } = estimate;
        let axis = LogAxis::around(low.min(0.5), high.max(2.0), 20.0, 400.0);
        Self {
            id,
            text: format!(
                "{}, with {:.0} % confidence {} to {}",
                change(ratio),
                level * 100.0,
                change(low),
                change(high)
            ),
            class: class_of(verdict),
            ticks: axis.ratio_ticks(),
            one: axis.at(1.0),
            low: axis.at(low),
            high: axis.at(high),
            at: axis.at(ratio),
        }
    }

    fn width(&self) -> Px {
        Px(self.high.0 - self.low.0)
    }
}

fn figures(id: usize, assessment: &Assessment<'_>) -> Result<Vec<Figure>, askama::Error> {
    let sides = vec![
        ("before".to_owned(), assessment.before.name.clone()),
        ("after".to_owned(), assessment.after.name.clone()),
    ];
    let mut figures = Vec::new();
    if let Some((drawings, table)) = cpus::before_and_after(id, assessment) {
        let [before, after] = &drawings;
        let side = |class: &str, name: &str, drawing: String| {
            let name = askama::filters::escape(name, askama::filters::Html).map(|name| name.to_string());
            let name = name.unwrap_or_default();
            format!(
                "<p class=\"side\"><span class=\"swatch {class}\" aria-hidden=\"true\"></span>{name}</p>\n{drawing}"
            )
        };
        figures.push(Figure {
            id: format!("cpus-{id}"),
            heading: "Where vCPUs and vectors were",
            lead: "As the host had them when the first run of each side began. A box is a CPU; in it stands what can be on no \
                   other. What may be on several CPUs is in the table; CPUs that hold nothing on either side are not drawn."
                .to_owned(),
            drawing: side("before", &assessment.before.name, before.render()?)
                + &side("after", &assessment.after.name, after.render()?),
            legend: vec![("vcpu".to_owned(), "vCPU".to_owned()), ("slot".to_owned(), "VF's vector".to_owned())],
            table,
        });
    }
    if let Some(chart) = distribution::spread(id, assessment) {
        figures.push(Figure {
            id: chart.id.clone(),
            heading: "How long interrupts took to reach the guest",
            lead: "From the host's interrupt handler to the guest's entry with the vector injected; all runs of a \
                   configuration together, so that its percentiles are near the verdict's, which are means of the runs' own. \
                   Left is faster."
                .to_owned(),
            drawing: chart.render()?,
            legend: sides.clone(),
            table: percentile_table(assessment),
        });
    }
    if let Some(chart) = distribution::percentiles(id, assessment) {
        figures.push(Figure {
            id: chart.id.clone(),
            heading: "The tail",
            lead: "Each step to the right leaves a tenth of the interrupts. Lower is faster.".to_owned(),
            drawing: chart.render()?,
            legend: sides.clone(),
            table: tail_table(assessment),
        });
    }
    if let Some(chart) = distribution::runs(id, assessment) {
        figures.push(Figure {
            id: chart.id.clone(),
            heading: "Run by run",
            lead: "The verdict compares these points, one for each run: interrupts of one run are not independent of \
                   each other. Lines are the geometric means."
                .to_owned(),
            drawing: chart.render()?,
            legend: sides.clone(),
            table: run_table(assessment),
        });
    }
    if let Some((drawing, table)) = bars::stages(id, assessment) {
        figures.push(Figure {
            id: format!("stages-{id}"),
            heading: "What a delivery is made of",
            lead: "dispatch: from the handler until KVM accepts the vector. wake: until the vCPU runs again. inject: \
                   until the guest is entered with it. The bar is the mean; service, the guest's own handling, comes after."
                .to_owned(),
            drawing: drawing.render()?,
            legend: drawing.legend.clone(),
            table,
        });
    }
    if let Some((drawing, table)) = paths::ways(id, assessment) {
        figures.push(Figure {
            id: format!("paths-{id}"),
            heading: "The ways of packets",
            lead: "Hops of the host in the order in which packets take them, each as wide as its mean is long, all drawn to one \
                   scale; behind them the mean of the whole way. bridge: until queued at the next device. qdisc: until given \
                   to its driver. ring: until the VMM or vhost has read it. A VF has no such hop: drawn is the host's delivery \
                   of its interrupt."
                .to_owned(),
            drawing: drawing.render()?,
            legend: paths::Paths::legend(),
            table,
        });
    }
    if let Some((drawing, table)) = bars::exits(id, assessment) {
        figures.push(Figure {
            id: format!("exits-{id}"),
            heading: "What exits cost",
            lead: "Host time between a vCPU's exit and its next entry, for each second of recording, by reason. Exits in \
                   which the guest idles (HLT, MWAIT) are left out. More interrupts delivered mean more exits: look at the rates."
                .to_owned(),
            drawing: drawing.render()?,
            legend: sides.clone(),
            table,
        });
    }
    if let Some((drawing, table)) = bars::noise(id, assessment) {
        figures.push(Figure {
            id: format!("noise-{id}"),
            heading: "What disturbed the guest's CPUs",
            lead: "Time taken from guarded CPUs for each second of recording, net of what interrupted it in turn, by source; \
                   all CPUs together."
                .to_owned(),
            drawing: drawing.render()?,
            legend: sides,
            table,
        });
    }
    Ok(figures)
}

fn percentile_table(assessment: &Assessment<'_>) -> Table {
    let heads = ["figure", assessment.before.name.as_str(), assessment.after.name.as_str()];
    let mut table = Table::new("Delivery latency, all runs together", &heads);
    let sides: [Summary; 2] =
        [&assessment.headline.before, &assessment.headline.after].map(|h: &Histogram| Summary::of(h));
    let mut row = |name: &str, shown: &dyn Fn(&Summary) -> String| {
        table.push(vec![name.into(), figure(shown(&sides[0])), figure(shown(&sides[1]))]);
    };
    row("interrupts", &|s| s.n.to_string());
    row("mean", &|s| format::time_or_dash(s.mean_ns));
    row("min", &|s| format::time_or_dash(s.min_ns.map(to_f64)));
    for quantile in Quantile::ALL {
        row(quantile.title(), &|s| format::time_or_dash(s.quantile(quantile).map(to_f64)));
    }
    row("max", &|s| format::time_or_dash(s.max_ns.map(to_f64)));
    table
}

/// Percentiles further out than the named ones, as far as the values reach.
fn tail_table(assessment: &Assessment<'_>) -> Table {
    let heads = ["percentile", assessment.before.name.as_str(), assessment.after.name.as_str()];
    let mut table = Table::new("Delivery latency that so many interrupts did not exceed", &heads);
    const SHARES: [f64; 10] = [0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 0.99999];
    let before = at_shares(&assessment.headline.before, SHARES);
    let after = at_shares(&assessment.headline.after, SHARES);
    for (share, pair) in SHARES.into_iter().zip(before.into_iter().zip(after)) {
        if pair != (None, None) {
            let name = format!("{} %", (share * 1e5).round() / 1e3);
            let cell = |ns: Option<u64>| figure(format::time_or_dash(ns.map(to_f64)));
            table.push(vec![name.into(), cell(pair.0), cell(pair.1)]);
        }
    }
    table
}

fn run_table(assessment: &Assessment<'_>) -> Table {
    let headline = &assessment.headline;
    let title = headline.quantile.title();
    let mut table = Table::new(format!("{title} of delivery in each run"), &["run", "configuration", title]);
    let sides = [(&assessment.before, &headline.runs_before), (&assessment.after, &headline.runs_after)];
    let mut rows: Vec<(u32, &str, Option<f64>)> = sides
        .into_iter()
        .flat_map(|(group, figures)| {
            group
                .runs
                .iter()
                .zip(figures)
                .map(|(run, figure)| (run.start.order, group.name.as_str(), *figure))
        })
        .collect();
    rows.sort_by_key(|(order, ..)| *order);
    for (order, name, value) in rows {
        table.push(vec![order.to_string().into(), name.into(), figure(format::time_or_dash(value))]);
    }
    table
}

fn workloads(assessment: &Assessment<'_>) -> Table {
    let heads = ["figure", &assessment.before.name, &assessment.after.name, "ratio", "interval", "verdict"];
    let mut table = Table::new("Workload figures, compared over runs", &heads);
    for row in &assessment.workloads {
        let name = format!("{} {}", row.tool, row.name.replace('_', " "));
        let cells = compared(&row.compared, |value| format::value(value, row.unit));
        table.push([name.into()].into_iter().chain(cells).collect());
    }
    table
}

/// All rows that have enough data, and how many have not.
fn series(assessment: &Assessment<'_>) -> (Table, usize) {
    let heads =
        ["series", "", "n", &assessment.before.name, &assessment.after.name, "ratio", "interval", "verdict"];
    let mut table = Table::new("Every series, compared over runs", &heads);
    let (rows, hidden) = assessment.listed(false);
    for row in rows {
        let name = format!("{} {}", row.probe, names::of(&row.labels));
        let n = format!("{} / {}", row.compared.before.n, row.compared.after.n);
        let first = [name.into(), row.quantile.title().into(), figure(n)];
        table.push(first.into_iter().chain(compared(&row.compared, format::time)).collect());
    }
    (table, hidden)
}
