//! The ways of guests' packets through the host: a box for each hop, in order, as wide as the hop takes long.

use super::{
    chart::WIDTH,
    scale::Px,
    table::{Table, figure},
};
use crate::{
    report::{assess::Assessment, assess::Group, format, names::HOPS, paths},
    stats::{Histogram, Snapshot, summary::to_f64},
};
use askama::Template;
use std::collections::BTreeSet;

const LEFT: f64 = 130.0;
/// Where the widest way ends; what it takes in all stands behind it.
const RIGHT: f64 = WIDTH - 130.0;
const BOX: f64 = 24.0;
/// However short, a hop is seen.
const LEAST: f64 = 4.0;
/// Between two boxes, for the line that joins them.
const GAP: f64 = 8.0;
/// A letter in a box, at most.
const LETTER: f64 = 7.0;
/// Guests that are drawn; the rest is in the table.
const MOST_GUESTS: usize = 12;
/// Of a VF: the one time that the host sees.
const DELIVERY: &str = "interrupt";

/// A hop.
struct HopBox {
    x: Px,
    width: Px,
    class: String,
    /// Empty where the box is too small for it.
    name: String,
    title: String,
}

impl HopBox {
    fn middle(&self) -> Px {
        Px(self.x.0 + self.width.0 / 2.0)
    }

    /// Where the box before it ends.
    fn joined(&self) -> Px {
        Px(self.x.0 - GAP)
    }
}

/// One direction of a guest on one side of the comparison.
struct Lane {
    label: String,
    y: Px,
    boxes: Vec<HopBox>,
    /// From the first box to the last.
    end: Px,
    words: String,
}

impl Lane {
    fn middle(&self) -> Px {
        Px(self.y.0 + BOX / 2.0)
    }

    fn text_y(&self) -> Px {
        Px(self.y.0 + BOX * 0.68)
    }

    fn words_x(&self) -> Px {
        Px(self.end.0 + 8.0)
    }
}

/// One direction of a guest.
struct Way {
    heading: String,
    y: Px,
    lanes: Vec<Lane>,
}

/// The drawing.
#[derive(Template)]
#[template(path = "report/paths.svg")]
pub(super) struct Paths {
    id: String,
    title: String,
    description: String,
    height: Px,
    ways: Vec<Way>,
}

impl Paths {
    fn width(&self) -> Px {
        Px(WIDTH)
    }

    fn label_x(&self) -> Px {
        Px(LEFT - 10.0)
    }

    fn box_height(&self) -> Px {
        Px(BOX)
    }

    /// Class and name of each hop.
    pub(super) fn legend() -> Vec<(String, String)> {
        let hop = |hop: &str| (format!("hop-{hop}"), hop.to_owned());
        HOPS.into_iter().filter(|name| *name != "total").chain([DELIVERY]).map(hop).collect()
    }
}

const DIRECTIONS: [(&str, &str); 2] = [("to_guest", "to guest"), ("from_guest", "from guest")];

/// A side of the comparison.
struct Side<'a> {
    group: &'a Group<'a>,
    snapshot: &'a Snapshot,
}

impl Side<'_> {
    fn hop(&self, guest: &str, direction: &str, hop: &str) -> Histogram {
        let mut all = Histogram::default();
        let vf = hop == DELIVERY;
        for series in &self.snapshot.series {
            let is = |label: &str, value: &str| series.labels.get(label).is_some_and(|known| known == value);
            let wanted = if vf {
                series.probe == "irq_delivery" && is("stage", "delivery") && direction == "to_guest"
            } else {
                series.probe == "packet_path" && is("direction", direction) && is("hop", hop)
            };
            if wanted && is("guest", guest) && series.observable.is_yes() {
                all.merge(&series.histogram);
            }
        }
        all
    }

    /// Hops that packets took, in order, with their means (ns).
    fn taken(&self, guest: &str, direction: &str) -> Vec<(&'static str, Histogram)> {
        let hops = HOPS.into_iter().filter(|hop| *hop != "total").chain([DELIVERY]);
        hops.map(|hop| (hop, self.hop(guest, direction, hop))).filter(|(_, h)| h.n() > 0).collect()
    }

    /// Words behind the boxes: `12.4 us (n 400)`.
    fn words(&self, guest: &str, direction: &str, boxes: &[(&str, Histogram)]) -> String {
        let total = self.hop(guest, direction, "total");
        let shown = |h: &Histogram| format!("{} (n {})", format::time_or_dash(mean(h)), h.n());
        match boxes {
            [] if paths::in_group(self.group, guest).as_deref() == Some("VF")
                && direction == "from_guest" =>
            {
                "no hop of the host".to_owned()
            }
            [] => "no packet seen".to_owned(),
            [(DELIVERY, delivery)] => shown(delivery),
            _ if total.n() == 0 => String::new(),
            _ => shown(&total),
        }
    }
}

fn mean(histogram: &Histogram) -> Option<f64> {
    (histogram.n() > 0).then(|| to_f64(histogram.sum()) / to_f64(histogram.n()))
}

/// The ways of packets before and after, and a table of all hops. `None` where no packet was followed on either side.
pub(super) fn ways(id: usize, assessment: &Assessment<'_>) -> Option<(Paths, Table)> {
    let sides = [
        Side { group: &assessment.before, snapshot: &assessment.pooled_before },
        Side { group: &assessment.after, snapshot: &assessment.pooled_after },
    ];
    let series = || sides.iter().flat_map(|side| &side.snapshot.series).filter(|s| s.histogram.n() > 0);
    if !series().any(|s| s.probe == "packet_path") {
        return None;
    }
    let seen = series().filter(|s| s.probe == "packet_path" || s.probe == "irq_delivery");
    let guests: BTreeSet<&str> = seen.filter_map(|s| s.labels.get("guest")).map(String::as_str).collect();
    let sum = |side: &Side<'_>, guest: &str, direction: &str| {
        side.taken(guest, direction).iter().filter_map(|(_, h)| mean(h)).sum::<f64>()
    };
    let all = || {
        let drawn = guests.iter().take(MOST_GUESTS);
        drawn.flat_map(|guest| DIRECTIONS.iter().map(move |(key, words)| (*guest, *key, *words)))
    };
    let most = all()
        .flat_map(|(guest, direction, _)| sides.iter().map(move |side| sum(side, guest, direction)))
        .fold(1.0, f64::max);
    // Gaps take their place whatever the scale.
    let gaps = GAP * to_f64(u64::try_from(HOPS.len()).unwrap_or(0));
    let scale = (RIGHT - LEFT - gaps) / most;
    let (mut ways, mut description, mut y) = (Vec::new(), String::new(), 4.0);
    for (guest, direction, words) in all() {
        let heading = format!("{guest}, {words}{}", path_words(assessment, guest));
        let at = Px(y + 12.0);
        y += 20.0;
        let mut lanes = Vec::new();
        for side in &sides {
            let taken = side.taken(guest, direction);
            let mut x = LEFT;
            let mut boxes = Vec::new();
            for (hop, histogram) in &taken {
                let Some(mean) = mean(histogram) else { continue };
                let width = (mean * scale).max(LEAST);
                let letters = to_f64(u64::try_from(hop.len()).unwrap_or(0));
                boxes.push(HopBox {
                    x: Px(x),
                    width: Px(width),
                    class: format!("hop-{hop}"),
                    name: if letters * LETTER + 6.0 <= width { (*hop).to_owned() } else { String::new() },
                    title: format!("{hop}: mean {} (n {})", format::time(mean), histogram.n()),
                });
                x += width + GAP;
            }
            let told: Vec<&str> = boxes.iter().map(|one| one.title.as_str()).collect();
            let words = side.words(guest, direction, &taken);
            let hops = if told.is_empty() { words.clone() } else { told.join(", then ") };
            description += &format!("{heading}, {}: {hops}; ", side.group.name);
            let end = if boxes.is_empty() { LEFT - 8.0 } else { x - GAP };
            lanes.push(Lane { label: side.group.name.clone(), y: Px(y), boxes, end: Px(end), words });
            y += BOX + 6.0;
        }
        ways.push(Way { heading, y: at, lanes });
        y += 8.0;
    }
    let drawing = Paths {
        id: format!("paths-{id}"),
        title: "Hops of packets through the host".to_owned(),
        description,
        height: Px(y),
        ways,
    };
    Some((drawing, table(&sides, &guests)))
}

/// `: virtio-net + bridge -> VF`.
fn path_words(assessment: &Assessment<'_>, guest: &str) -> String {
    let sides = [&assessment.before, &assessment.after].map(|group| paths::in_group(group, guest));
    match sides {
        [Some(then), Some(now)] if then != now => format!(": {then} -> {now}"),
        [Some(path), _] | [None, Some(path)] => format!(": {path}"),
        [None, None] => String::new(),
    }
}

fn table(sides: &[Side<'_>; 2], guests: &BTreeSet<&str>) -> Table {
    let caption = format!(
        "Mean time of each hop under {} (before) and {} (after)",
        sides[0].group.name, sides[1].group.name
    );
    let mut table = Table::new(caption, &["hop", "n before", "n after", "mean before", "mean after"]);
    for guest in guests {
        for (direction, words) in DIRECTIONS {
            for hop in HOPS.into_iter().chain([DELIVERY]) {
                let both = [0, 1].map(|side: usize| sides[side].hop(guest, direction, hop));
                if both.iter().all(|h| h.n() == 0) {
                    continue;
                }
                let n = both.iter().map(|h| figure(h.n().to_string()));
                let means = both.iter().map(|h| figure(format::time_or_dash(mean(h))));
                let name = format!("{guest} {words} {hop}");
                table.push([name.into()].into_iter().chain(n).chain(means).collect());
            }
        }
    }
    table
}
