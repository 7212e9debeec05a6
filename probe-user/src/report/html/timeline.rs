//! When each run of a session was made: interleaving, gaps and runs that do not count are seen at once.

use super::{
    chart::WIDTH,
    scale::{LinearAxis, Px, Tick},
    table::{Table, figure},
};
use crate::{
    report::format,
    session::{Part, Run, Session},
    stats::summary::to_f64,
};
use askama::Template;

const LEFT: f64 = 150.0;
const RIGHT: f64 = WIDTH - 24.0;
const LANE: f64 = 28.0;

/// One run's bar.
struct Bar {
    x: Px,
    width: Px,
    /// `fit`, or `unfit` for one that is not compared.
    class: &'static str,
    title: String,
}

/// One configuration's runs.
struct Lane {
    name: String,
    y: Px,
    label_y: Px,
    runs: Vec<Bar>,
}

/// The drawing.
#[derive(Template)]
#[template(path = "report/timeline.svg")]
pub(super) struct Timeline {
    id: String,
    height: Px,
    ticks: Vec<Tick>,
    lanes: Vec<Lane>,
}

impl Timeline {
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

/// The runs of a session over time, and as a table. `None` without runs.
pub(super) fn runs(id: usize, session: &Session) -> Option<(Timeline, Table)> {
    let first = session.runs.iter().map(|run| run.snapshot.from_ns).min()?;
    let last = session.runs.iter().map(|run| run.snapshot.to_ns).max()?;
    let axis = LinearAxis::up_to(to_f64(last.saturating_sub(first)).max(1.0), LEFT, RIGHT);
    let place = |ns: u64| axis.at(to_f64(ns.saturating_sub(first)));
    let heads = ["run", "configuration", "begins after", "length", "interrupts", "remarks"];
    let mut table = Table::new("The session's runs in their order", &heads);
    let lane = |(at, part): (u32, Part<'_>)| {
        let y = 8.0 + f64::from(at) * LANE;
        let bar = |run: &Run| {
            let (from, to) = (place(run.snapshot.from_ns), place(run.snapshot.to_ns));
            Bar {
                x: from,
                // However short, a run is seen.
                width: Px((to.0 - from.0).max(1.5)),
                class: if run.unfit().is_some() { "unfit" } else { "fit" },
                title: format!("run {}, {part}{}", run.start.order, said(run.unfit())),
            }
        };
        let runs = session.runs_in(part).map(bar).collect();
        Lane { name: part.to_string(), y: Px(y), label_y: Px(y + 13.0), runs }
    };
    let lanes: Vec<Lane> = (0..).zip(session.parts()).map(lane).collect();
    for run in &session.runs {
        let part = Part { config: run.config(), load: run.start.load.as_deref() };
        let delivered = run.snapshot.series.iter().filter(|s| {
            s.probe == "irq_delivery" && s.labels.get("stage").is_some_and(|stage| stage == "delivery")
        });
        let remarks = run.end.iter().flat_map(|end| end.remarks.iter().cloned());
        let remarks: Vec<String> = run.unfit().into_iter().chain(remarks).collect();
        table.push(vec![
            run.start.order.to_string().into(),
            part.to_string().into(),
            figure(since(to_f64(run.snapshot.from_ns.saturating_sub(first)))),
            figure(format::time(to_f64(run.duration_ns()))),
            figure(delivered.map(|s| s.histogram.n()).sum::<u64>().to_string()),
            remarks.join("; ").into(),
        ]);
    }
    let drawing = Timeline {
        id: format!("timeline-{id}"),
        height: Px(8.0 + to_f64(lanes.len().try_into().unwrap_or(0)) * LANE + 30.0),
        ticks: axis.ticks(since),
        lanes,
    };
    Some((drawing, table))
}

/// A time since the first run: `0 s`, `19.5 s`.
fn since(ns: f64) -> String {
    if ns > 0.0 { format::time(ns) } else { "0 s".to_owned() }
}

fn said(unfit: Option<String>) -> String {
    unfit.map_or_else(String::new, |why| format!(": {why}, not compared"))
}
