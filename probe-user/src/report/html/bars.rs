//! Bars: what a delivery is made of, and what exits cost.

use super::{
    chart::{SideOf, WIDTH},
    scale::{LinearAxis, Px, Tick},
    table::{Table, figure},
};
use crate::{
    report::{assess::Assessment, format, names::STAGES},
    stats::{Histogram, Series, Snapshot, compare::idle_time, summary::to_f64},
};
use askama::Template;
use std::collections::BTreeMap;

/// Where bars begin and end.
const LEFT: f64 = 150.0;
const RIGHT: f64 = WIDTH - 90.0;
const BAR: f64 = 18.0;
/// Reasons that get a bar; the rest is in the table.
const MOST_REASONS: usize = 10;

/// Part of a bar.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Segment {
    x: Px,
    width: Px,
    class: String,
    title: String,
}

/// One bar with its name and total.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bar {
    label: String,
    y: Px,
    segments: Vec<Segment>,
    total: String,
    total_x: Px,
}

impl Bar {
    fn label_y(&self) -> Px {
        Px(self.y.0 + BAR * 0.72)
    }

    fn height(&self) -> Px {
        Px(BAR)
    }
}

/// A drawing of horizontal bars.
#[derive(Clone, Debug, PartialEq, Template)]
#[template(path = "report/bars.svg")]
pub(super) struct Bars {
    id: String,
    title: String,
    description: String,
    height: Px,
    ticks: Vec<Tick>,
    bars: Vec<Bar>,
    /// Class and name of what the segments are; empty when bars tell the sides apart.
    pub(super) legend: Vec<(String, String)>,
}

impl Bars {
    fn width(&self) -> Px {
        Px(WIDTH)
    }

    fn label_x(&self) -> Px {
        Px(LEFT - 10.0)
    }

    fn bottom(&self) -> Px {
        Px(self.height.0 - 26.0)
    }

    fn tick_y(&self) -> Px {
        Px(self.height.0 - 10.0)
    }
}

/// The mean delivery, made of its stages, and a table of all stages. `None` where no delivery was seen.
pub(super) fn stages(id: usize, assessment: &Assessment<'_>) -> Option<(Bars, Table)> {
    let sides = [
        (SideOf::Before, assessment.before.name.as_str(), stage_sums(&assessment.pooled_before)),
        (SideOf::After, assessment.after.name.as_str(), stage_sums(&assessment.pooled_after)),
    ];
    // What a stage adds to the mean delivery: its whole time over the number of deliveries. Not every delivery has a wake.
    let share = |sums: &BTreeMap<String, Histogram>, stage: &str| {
        let deliveries = sums.get("delivery").map_or(0, Histogram::n);
        let sum = sums.get(stage).map_or(0, Histogram::sum);
        if deliveries == 0 { 0.0 } else { to_f64(sum) / to_f64(deliveries) }
    };
    let parts = &STAGES[..3];
    let total =
        |sums: &BTreeMap<String, Histogram>| parts.iter().map(|stage| share(sums, stage)).sum::<f64>();
    let most =
        sides.iter().map(|(_, _, sums)| total(sums)).max_by(f64::total_cmp).filter(|most| *most > 0.0)?;
    let axis = LinearAxis::up_to(most, LEFT, RIGHT);
    let mut bars = Vec::new();
    let mut description = String::new();
    for (n, (side, name, sums)) in (0u32..).zip(&sides) {
        let mut from = 0.0;
        let mut segments = Vec::new();
        for stage in parts {
            let part = share(sums, stage);
            let (start, end) = (axis.at(from), axis.at(from + part));
            let title = format!("{name}, {stage}: {}", format::time(part));
            description += &format!("{title}; ");
            let class = format!("stage-{stage} {}", side.class());
            segments.push(Segment { x: start, width: Px(end.0 - start.0), class, title });
            from += part;
        }
        bars.push(Bar {
            label: (*name).to_owned(),
            y: Px(10.0 + f64::from(n) * (BAR + 12.0)),
            segments,
            total: format::time(from),
            total_x: Px(axis.at(from).0 + 8.0),
        });
    }
    let drawing = Bars {
        id: format!("stages-{id}"),
        title: "Mean delivery by stage".to_owned(),
        description,
        height: Px(10.0 + 2.0 * (BAR + 12.0) + 30.0),
        ticks: axis.ticks(format::time),
        bars,
        legend: parts.iter().map(|stage| (format!("stage-{stage}"), (*stage).to_owned())).collect(),
    };
    Some((drawing, stage_table(&sides, share)))
}

type Sums = BTreeMap<String, Histogram>;

fn stage_table(sides: &[(SideOf, &str, Sums); 2], share: impl Fn(&Sums, &str) -> f64) -> Table {
    let [(_, before, b), (_, after, a)] = sides;
    let heads = ["stage", "n before", "n after", "adds before", "adds after"];
    let mut table = Table::new(
        format!("What each stage adds to the mean delivery under {before} (before) and {after} (after)"),
        &heads,
    );
    for stage in STAGES {
        let n = |sums: &Sums| figure(sums.get(stage).map_or(0, Histogram::n).to_string());
        let mean = |sums: &Sums| match sums.get(stage) {
            Some(h) if h.n() > 0 => figure(format::time(share(sums, stage))),
            _ => figure("-"),
        };
        table.push(vec![stage.into(), n(b), n(a), mean(b), mean(a)]);
    }
    table
}

fn stage_sums(snapshot: &Snapshot) -> Sums {
    let mut sums = Sums::new();
    for series in snapshot.series.iter().filter(|s| s.probe == "irq_delivery" && s.observable.is_yes()) {
        if let Some(stage) = series.labels.get("stage") {
            sums.entry(stage.clone()).or_default().merge(&series.histogram);
        }
    }
    sums
}

/// What a drawing of costs is about.
struct Costs {
    id: String,
    title: String,
    /// Of its table, in front of the configurations' names.
    caption: &'static str,
    /// What the rows are: `reason`.
    head: &'static str,
}

/// Host time that exits cost, by reason, without those in which the guest idles. `None` where no exit was seen.
pub(super) fn exits(id: usize, assessment: &Assessment<'_>) -> Option<(Bars, Table)> {
    let about = Costs {
        id: format!("exits-{id}"),
        title: "Host time spent in exits, for each second".to_owned(),
        caption: "Exits, and host time in them for each second,",
        head: "reason",
    };
    costs(about, assessment, |series| {
        let counts = series.probe == "vm_exit" && idle_time(&series.probe, &series.labels).is_none();
        series.labels.get("reason").filter(|_| counts).cloned()
    })
}

/// Time that was taken from guarded CPUs, by source. `None` where none was counted.
pub(super) fn noise(id: usize, assessment: &Assessment<'_>) -> Option<(Bars, Table)> {
    let about = Costs {
        id: format!("noise-{id}"),
        title: "Time taken from guarded CPUs, for each second".to_owned(),
        caption: "Disturbances of guarded CPUs, and the time they took for each second,",
        head: "source",
    };
    costs(about, assessment, |series| {
        let kind = series.labels.get("kind").filter(|_| series.probe == "cpu_noise")?;
        let source = series.labels.get("source").map_or("", String::as_str);
        Some(format!("{kind} {source}").trim().to_owned())
    })
}

/// Times by what they were spent on, before and after.
fn costs(
    about: Costs,
    assessment: &Assessment<'_>,
    key: impl Fn(&Series) -> Option<String>,
) -> Option<(Bars, Table)> {
    let (b, a) = (sums_by(&assessment.pooled_before, &key), sums_by(&assessment.pooled_after, &key));
    let windows = [assessment.before.window_ns(), assessment.after.window_ns()];
    let per_second = |h: Option<&Histogram>, window: u64| {
        let sum = h.map_or(0, Histogram::sum);
        if window == 0 { 0.0 } else { to_f64(sum) / to_f64(window) * 1e9 }
    };
    let cost =
        |reason: &String| [per_second(b.get(reason), windows[0]), per_second(a.get(reason), windows[1])];
    let mut reasons: Vec<&String> = b.keys().chain(a.keys()).collect();
    reasons.sort_by(|x, y| {
        let most = |reason| cost(reason).into_iter().fold(0.0, f64::max);
        most(y).total_cmp(&most(x)).then_with(|| x.cmp(y))
    });
    reasons.dedup();
    let most =
        reasons.first().map(|reason| cost(reason).into_iter().fold(0.0, f64::max)).filter(|m| *m > 0.0)?;
    let axis = LinearAxis::up_to(most, LEFT, RIGHT);
    let names = [&assessment.before.name, &assessment.after.name];
    let mut bars = Vec::new();
    let mut description = String::new();
    let mut y = 8.0;
    for reason in reasons.iter().take(MOST_REASONS) {
        for (n, side) in [SideOf::Before, SideOf::After].into_iter().enumerate() {
            let cost = cost(reason)[n];
            let title = format!("{reason}, {}: {} per second", names[n], format::time(cost));
            description += &format!("{title}; ");
            let width = Px(axis.at(cost).0 - LEFT);
            let segment = Segment { x: Px(LEFT), width, class: side.class().to_owned(), title };
            bars.push(Bar {
                label: if n == 0 { (*reason).clone() } else { String::new() },
                y: Px(y),
                segments: vec![segment],
                total: format::time(cost),
                total_x: Px(axis.at(cost).0 + 8.0),
            });
            y += BAR + 2.0;
        }
        y += 10.0;
    }
    let drawing = Bars {
        id: about.id,
        title: about.title,
        description,
        height: Px(y + 30.0),
        ticks: axis.ticks(format::time),
        bars,
        legend: Vec::new(),
    };
    let heads = [about.head, "rate before", "rate after", "time before", "time after"];
    let mut table =
        Table::new(format!("{} under {} (before) and {} (after)", about.caption, names[0], names[1]), &heads);
    for reason in reasons {
        let rate =
            |sums: &Sums, window| figure(format::rate(sums.get(reason).map_or(0, Histogram::n), window));
        let [before, after] = cost(reason).map(|cost| figure(format::time(cost)));
        table.push(vec![reason.as_str().into(), rate(&b, windows[0]), rate(&a, windows[1]), before, after]);
    }
    Some((drawing, table))
}

fn sums_by(snapshot: &Snapshot, key: impl Fn(&Series) -> Option<String>) -> Sums {
    let mut sums = Sums::new();
    for series in &snapshot.series {
        if let Some(key) = key(series) {
            sums.entry(key).or_default().merge(&series.histogram);
        }
    }
    sums
}
