//! A distribution as bars of text, one for each power of two.

use super::{View, table::pooled};
use crate::{
    report::format,
    session::Part,
    stats::{Histogram, Snapshot, summary::to_f64},
};

/// Width of the longest bar.
const WIDTH: usize = 50;

/// The delivery latency under one configuration, all vectors together.
pub(super) fn headline(view: &View<'_>, part: Part<'_>) -> String {
    let histogram = delivery(&pooled(view, part));
    match bars(&histogram) {
        lines if lines.is_empty() => "  irq_delivery delivery: no values to draw\n".to_owned(),
        lines => format!("  irq_delivery delivery, n {}\n{lines}", histogram.n()),
    }
}

fn delivery(snapshot: &Snapshot) -> Histogram {
    let mut sum = Histogram::default();
    for series in &snapshot.series {
        if series.probe == "irq_delivery" && series.labels.get("stage").is_some_and(|s| s == "delivery") {
            sum.merge(&series.histogram);
        }
    }
    sum
}

/// Exact counts: every power of two ends a kernel bucket. The last bar has no upper end.
fn bars(histogram: &Histogram) -> String {
    let at_or_below: Vec<u64> = (0..=36).map(|bit| histogram.count_at_or_below(1 << bit)).collect();
    let mut counts: Vec<(u64, u64)> = vec![(0, at_or_below[0])];
    counts.extend(at_or_below.windows(2).zip(0u32..).map(|(pair, bit)| (1u64 << bit, pair[1] - pair[0])));
    let used = |(_, count): &(u64, u64)| *count > 0;
    let (Some(first), Some(last)) = (counts.iter().position(used), counts.iter().rposition(used)) else {
        return String::new();
    };
    let shown = &counts[first..=last];
    let most = shown.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
    let bar = |(from, count): &(u64, u64)| {
        let filled = count * WIDTH as u64 / most;
        // What is there is seen, however little it is.
        let filled = usize::try_from(filled).unwrap_or(WIDTH).max(usize::from(*count > 0));
        let (from, to) = (format::time(to_f64(*from)), format::time(to_f64(from.max(&1) * 2)));
        format!("  {from:>8} .. {to:>8} {count:>9} |{:<WIDTH$}|\n", "#".repeat(filled))
    };
    shown.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_power_of_two_has_its_count() {
        let mut histogram = Histogram::default();
        assert_eq!(bars(&histogram), "");
        for (value, times) in [(1500, 100), (3000, 1), (9000, 50)] {
            (0..times).for_each(|_| histogram.record(value));
        }
        let text = bars(&histogram);
        let rows: Vec<(&str, usize)> =
            text.lines().map(|l| (l.split('|').next().unwrap().trim(), l.matches('#').count())).collect();
        assert_eq!(
            rows,
            [
                ("1.02 us ..  2.05 us       100", 50),
                ("2.05 us ..  4.10 us         1", 1),
                ("4.10 us ..  8.19 us         0", 0),
                ("8.19 us ..  16.4 us        50", 25),
            ]
        );
    }
}
