//! The headline's distributions: how values are spread, their percentiles, and each run's figure.

use super::{
    chart::{BOTTOM, Chart, Dot, LEFT, Mark, Path, RIGHT, SideOf, TOP, polyline},
    scale::{LinearAxis, LogAxis, Px, Tick},
};
use crate::{
    report::{assess::Assessment, format},
    stats::{Histogram, Summary, summary::to_f64},
};
use probe_ebpf::hist;

/// From how many values on a distribution is drawn in eighths of a doubling instead of quarters.
const FINE_FROM: u64 = 2000;

/// Room that a mark's label needs.
const LABEL: f64 = 90.0;

/// One step of a distribution: values above `low` up to `high`, and their share per doubling.
struct Step {
    low: f64,
    high: f64,
    density: f64,
}

/// Kernel buckets joined into steps of equal number per power of two. Shares are per doubling, so that steps of
/// different width compare.
fn steps(histogram: &Histogram) -> Vec<Step> {
    let n = to_f64(histogram.n());
    let joined = if histogram.n() >= FINE_FROM { 2 } else { 4 };
    let linear = usize::try_from(hist::LINEAR).unwrap_or(usize::MAX).min(hist::BUCKETS);
    let mut steps = Vec::new();
    let mut first = 0;
    while first < hist::BUCKETS {
        let width = if first < linear { 1 } else { joined };
        let last = (first + width).min(hist::BUCKETS) - 1;
        let count = histogram.count(first..last + 1);
        let (low, high) = (to_f64(hist::lower(first)).max(0.5), to_f64(hist::upper(last)));
        steps.push(Step { low, high, density: to_f64(count) / n / (high / low).log2() });
        first = last + 1;
    }
    let used = |step: &Step| step.density > 0.0;
    let (Some(from), Some(to)) = (steps.iter().position(used), steps.iter().rposition(used)) else {
        return Vec::new();
    };
    steps.drain(from..=to).collect()
}

fn sides<'a>(assessment: &'a Assessment<'_>) -> [(SideOf, &'a str, &'a Histogram); 2] {
    let headline = &assessment.headline;
    [
        (SideOf::Before, assessment.before.name.as_str(), &headline.before),
        (SideOf::After, assessment.after.name.as_str(), &headline.after),
    ]
}

/// How the values are spread, both sides over each other.
pub(super) fn spread(id: usize, assessment: &Assessment<'_>) -> Option<Chart> {
    let drawn: Vec<(SideOf, &str, &Histogram, Vec<Step>)> =
        sides(assessment).into_iter().map(|(side, name, h)| (side, name, h, steps(h))).collect();
    let all = || drawn.iter().flat_map(|(.., steps)| steps);
    let low = all().map(|s| s.low).min_by(f64::total_cmp)?;
    let high = all().map(|s| s.high).max_by(f64::total_cmp)?;
    let most = all().map(|s| s.density).max_by(f64::total_cmp)?;
    let (x, y) = (LogAxis::around(low, high, LEFT, RIGHT), LinearAxis::up_to(most, BOTTOM, TOP));
    let mut chart = Chart {
        id: format!("spread-{id}"),
        title: "Delivery latency of interrupts, as distributions".to_owned(),
        description: describe(assessment),
        x_label: "delivery latency".to_owned(),
        y_label: "share of interrupts per doubling of latency".to_owned(),
        x_ticks: x.time_ticks(),
        y_ticks: y.ticks(|share| format!("{:.0} %", share * 100.0)),
        areas: Vec::new(),
        lines: Vec::new(),
        dots: Vec::new(),
        marks: Vec::new(),
    };
    for (side, .., steps) in &drawn {
        let (Some(first), Some(last)) = (steps.first(), steps.last()) else { continue };
        let outline: Vec<(Px, Px)> = [(x.at(first.low), Px(BOTTOM))]
            .into_iter()
            .chain(
                steps.iter().flat_map(|s| [(x.at(s.low), y.at(s.density)), (x.at(s.high), y.at(s.density))]),
            )
            .chain([(x.at(last.high), Px(BOTTOM))])
            .collect();
        chart.areas.push(Path { side: *side, d: polyline(outline.clone()) + "Z" });
        chart.lines.push(Path { side: *side, d: polyline(outline) });
    }
    let mut tails: Vec<(SideOf, f64)> = drawn
        .iter()
        .filter_map(|(side, _, histogram, _)| Some((*side, to_f64(Summary::of(histogram).p99_ns?))))
        .collect();
    tails.sort_by(|a, b| a.1.total_cmp(&b.1));
    // The faster one's label stands left of its line, the slower one's right, so that they never meet.
    for (n, (side, p99)) in tails.into_iter().enumerate() {
        let at = x.at(p99);
        let left = (n == 0 && at.0 - LABEL > LEFT) || at.0 + LABEL > RIGHT;
        let (anchor, shift) = if left { ("end", -4.0) } else { ("start", 4.0) };
        chart.marks.push(Mark {
            side,
            x1: at,
            y1: Px(TOP - 14.0),
            x2: at,
            y2: Px(BOTTOM),
            label: format!("p99 {}", format::time(p99)),
            label_x: Px(at.0 + shift),
            label_y: Px(TOP - 6.0),
            anchor,
        });
    }
    Some(chart)
}

fn describe(assessment: &Assessment<'_>) -> String {
    let one = |(_, name, h): (SideOf, &str, &Histogram)| {
        let Summary { n, p50_ns, p99_ns, .. } = Summary::of(h);
        let [p50, p99] = [p50_ns, p99_ns].map(|ns| format::time_or_dash(ns.map(to_f64)));
        format!("{name}: {n} interrupts, p50 {p50}, p99 {p99}")
    };
    sides(assessment).map(one).join("; ")
}

/// Percentiles towards the tail: every step to the right leaves a tenth of the interrupts.
pub(super) fn percentiles(id: usize, assessment: &Assessment<'_>) -> Option<Chart> {
    let drawn: Vec<(SideOf, Vec<(f64, f64)>)> =
        sides(assessment).into_iter().map(|(side, _, h)| (side, tail(h))).collect();
    let all = || drawn.iter().flat_map(|(_, points)| points);
    let low = all().map(|(_, v)| *v).min_by(f64::total_cmp)?;
    let high = all().map(|(_, v)| *v).max_by(f64::total_cmp)?;
    let nines = all().map(|(nines, _)| *nines).max_by(f64::total_cmp)?.max(1.0);
    let y = LogAxis::around(low, high, BOTTOM, TOP);
    let x = |value: f64| Px(LEFT + (value / nines).min(1.0) * (RIGHT - LEFT));
    let named = [
        (0.0, "0 %"),
        (0.5, "50 %"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9 %"),
        (0.9999, "99.99 %"),
        (0.99999, "99.999 %"),
    ];
    let x_ticks = named
        .into_iter()
        .map(|(share, label)| (-f64::log10(1.0 - share), label))
        .filter(|(at, _)| *at <= nines + 1e-9)
        .map(|(at, label)| Tick { at: x(at), label: label.to_owned() })
        .collect();
    let lines = drawn
        .iter()
        .map(|(side, points)| Path {
            side: *side,
            d: polyline(points.iter().map(|(n, v)| (x(*n), y.at(*v)))),
        })
        .collect();
    Some(Chart {
        id: format!("percentiles-{id}"),
        title: "Delivery latency by percentile".to_owned(),
        description: describe(assessment),
        x_label: "share of interrupts that were delivered within".to_owned(),
        y_label: "delivery latency".to_owned(),
        x_ticks,
        y_ticks: y.time_ticks(),
        areas: Vec::new(),
        lines,
        dots: Vec::new(),
        marks: Vec::new(),
    })
}

/// Latency over the number of nines of the share of values that are not slower; up to the last value but one.
fn tail(histogram: &Histogram) -> Vec<(f64, f64)> {
    let n = to_f64(histogram.n());
    let (Some(min), Some(max)) = (histogram.min(), histogram.max()) else { return Vec::new() };
    let mut points = vec![(0.0, to_f64(min))];
    let mut below = 0.0;
    for (bucket, count) in histogram.buckets() {
        below += to_f64(count);
        let value = to_f64(hist::upper(bucket)).min(to_f64(max));
        // The last value has no share above it; it stands where one value of n does.
        let above = (1.0 - below / n).max(1.0 / n);
        points.push((-above.log10(), value));
    }
    points
}

/// The headline's figure of each run, in the order in which they were made.
pub(super) fn runs(id: usize, assessment: &Assessment<'_>) -> Option<Chart> {
    let headline = &assessment.headline;
    let quantile = headline.quantile;
    let sides = [
        (SideOf::Before, &assessment.before, &headline.runs_before, headline.compared.before.value),
        (SideOf::After, &assessment.after, &headline.runs_after, headline.compared.after.value),
    ];
    let figures = || sides.iter().flat_map(|(_, _, figures, _)| figures.iter().flatten());
    let low = figures().copied().min_by(f64::total_cmp)?;
    let high = figures().copied().max_by(f64::total_cmp)?;
    let orders =
        sides.iter().flat_map(|(_, group, ..)| &group.runs).map(|run| f64::from(run.start.order) + 1.0);
    let last = orders.max_by(f64::total_cmp)?;
    let y = LogAxis::around(low, high, BOTTOM, TOP);
    let x = |order: f64| Px(LEFT + order / (last + 1.0) * (RIGHT - LEFT));
    let mut chart = Chart {
        id: format!("runs-{id}"),
        title: format!("{quantile} of delivery in each run"),
        description: String::new(),
        x_label: "run, in the order in which they were made".to_owned(),
        y_label: format!("{quantile} delivery latency"),
        x_ticks: Vec::new(),
        y_ticks: y.time_ticks(),
        areas: Vec::new(),
        lines: Vec::new(),
        dots: Vec::new(),
        marks: Vec::new(),
    };
    let upper = sides.iter().filter_map(|(.., mean)| *mean).max_by(f64::total_cmp);
    for (side, group, figures, mean) in sides {
        for (run, figure) in group.runs.iter().zip(figures) {
            let Some(figure) = figure else { continue };
            let order = f64::from(run.start.order) + 1.0;
            let title = format!("run {}, {}: {}", run.start.order, group.name, format::time(*figure));
            chart.description += &format!("{title}; ");
            chart.x_ticks.push(Tick { at: x(order), label: run.start.order.to_string() });
            chart.dots.push(Dot { side, x: x(order), y: y.at(*figure), title });
        }
        if let Some(mean) = mean {
            let at = y.at(mean);
            chart.marks.push(Mark {
                side,
                x1: Px(LEFT),
                y1: at,
                x2: Px(RIGHT),
                y2: at,
                label: format!("{} {}", group.name, format::time(mean)),
                label_x: Px(RIGHT),
                label_y: Px(if Some(mean) == upper { at.0 - 6.0 } else { at.0 + 15.0 }),
                anchor: "end",
            });
        }
    }
    // Runs of two files have the same numbers: each is labelled once.
    chart.x_ticks.sort_by(|a, b| a.at.0.total_cmp(&b.at.0));
    chart.x_ticks.dedup_by(|a, b| a.at == b.at);
    let every = chart.x_ticks.len().div_ceil(24).max(1);
    chart.x_ticks = chart.x_ticks.into_iter().step_by(every).collect();
    Some(chart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_per_doubling_add_up_to_all_values() {
        let mut histogram = Histogram::default();
        for value in [900u64, 1000, 1100, 5000, 5001, 70_000] {
            (0..100).for_each(|_| histogram.record(value));
        }
        let total: f64 = steps(&histogram).iter().map(|s| s.density * (s.high / s.low).log2()).sum();
        assert!((total - 1.0).abs() < 1e-9, "{total}");
        assert!(steps(&Histogram::default()).is_empty());
    }

    #[test]
    fn the_tail_rises_to_the_maximum() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|value| histogram.record(value * 100));
        let points = tail(&histogram);
        assert!(points.windows(2).all(|p| p[0].0 <= p[1].0 && p[0].1 <= p[1].1));
        assert_eq!((points[0], points.last().unwrap().1), ((0.0, 100.0), 100_000.0));
        assert!((points.last().unwrap().0 - 3.0).abs() < 1e-9, "one of a thousand: three nines");
    }
}
