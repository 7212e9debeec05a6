//! A drawing with two axes: areas, lines, dots and marks. Places only; what they mean is the caller's.

use super::scale::{Px, Tick};
use askama::Template;

/// Width of every drawing in its own units.
pub(super) const WIDTH: f64 = 680.0;
/// Height of a drawing with two axes.
pub(super) const HEIGHT: f64 = 320.0;
/// Where the area for data begins and ends.
pub(super) const LEFT: f64 = 62.0;
pub(super) const RIGHT: f64 = WIDTH - 14.0;
pub(super) const TOP: f64 = 34.0;
pub(super) const BOTTOM: f64 = HEIGHT - 44.0;

/// Which side of the comparison something belongs to: the class of its colour and shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SideOf {
    Before,
    After,
}

impl SideOf {
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// A path in SVG's own language.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Path {
    pub(super) side: SideOf,
    pub(super) d: String,
}

/// A point; before is round, after is square, so that they differ without colour.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dot {
    pub(super) side: SideOf,
    pub(super) x: Px,
    pub(super) y: Px,
    /// Read out, and shown where the pointer rests.
    pub(super) title: String,
}

/// A labelled line across the drawing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mark {
    pub(super) side: SideOf,
    pub(super) x1: Px,
    pub(super) y1: Px,
    pub(super) x2: Px,
    pub(super) y2: Px,
    pub(super) label: String,
    pub(super) label_x: Px,
    pub(super) label_y: Px,
    /// `start` or `end`: on which side of `label_x` the label stands.
    pub(super) anchor: &'static str,
}

/// The drawing.
#[derive(Clone, Debug, PartialEq, Template)]
#[template(path = "report/chart.svg")]
pub(super) struct Chart {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) description: String,
    pub(super) x_label: String,
    pub(super) y_label: String,
    pub(super) x_ticks: Vec<Tick>,
    pub(super) y_ticks: Vec<Tick>,
    pub(super) areas: Vec<Path>,
    pub(super) lines: Vec<Path>,
    pub(super) dots: Vec<Dot>,
    pub(super) marks: Vec<Mark>,
}

impl Chart {
    fn width(&self) -> Px {
        Px(WIDTH)
    }

    fn height(&self) -> Px {
        Px(HEIGHT)
    }

    fn left(&self) -> Px {
        Px(LEFT)
    }

    fn right(&self) -> Px {
        Px(RIGHT)
    }

    fn bottom(&self) -> Px {
        Px(BOTTOM)
    }

    fn middle_x(&self) -> Px {
        Px((LEFT + RIGHT) / 2.0)
    }
}

/// Straight lines through points.
pub(super) fn polyline(points: impl IntoIterator<Item = (Px, Px)>) -> String {
    let points: Vec<String> = points.into_iter().map(|(x, y)| format!("{x},{y}")).collect();
    if points.is_empty() { String::new() } else { format!("M{}", points.join("L")) }
}
