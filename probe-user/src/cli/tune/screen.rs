//! How a session goes on: a bar on a terminal, and one line for each finished run.

use crate::app::tune::{Event, Place};
use crate::cli::{Globals, progress};
use crate::session;
use std::time::{Duration, Instant};

/// Progress: a bar on a terminal, and one line per finished run.
pub(super) struct Screen<'a> {
    globals: &'a Globals,
    bar: Option<progress::Bar>,
    began: Instant,
}

impl<'a> Screen<'a> {
    pub(super) fn new(globals: &'a Globals) -> Self {
        Self { globals, bar: None, began: Instant::now() }
    }

    pub(super) fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Looking(elapsed) => {
                self.bar.get_or_insert_with(|| progress::Bar::new(self.globals, "look", None)).at(*elapsed);
            }
            Event::Begin(place) => {
                self.clear();
                let left = remaining(self.began.elapsed(), place);
                let what = format!("{}/{} {}, {left}", place.number + 1, place.of, name_of(place));
                self.bar = Some(progress::Bar::new(self.globals, &what, Some(place.load.duration)));
            }
            Event::Progress(p) => {
                if let Some(bar) = &self.bar {
                    bar.show(p);
                }
            }
            Event::End(place, finished) => {
                self.clear();
                if !self.globals.quiet {
                    let figures = progress::headline(&finished.snapshot);
                    eprintln!("run {:>3}/{}  {:<14} {figures}", place.number + 1, place.of, name_of(place));
                }
                // What leaves a run out of all comparisons is no detail.
                let failed = finished.end.workload.as_ref().filter(|workload| !workload.succeeded());
                let failed = failed.map(|workload| {
                    let last = workload.stderr.lines().last().unwrap_or("it said nothing on standard error");
                    format!("{}: {last}", workload.ending())
                });
                let end = &finished.end;
                let not_held = end.not_held.iter().map(|line| format!("not compared: {line}"));
                let remarks = end.remarks.iter().filter(|_| !self.globals.quiet).cloned();
                for line in failed.into_iter().chain(not_held).chain(remarks) {
                    eprintln!("             {line}");
                }
            }
        }
    }

    pub(super) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.clear();
        }
    }
}

fn name_of(place: &Place<'_>) -> String {
    session::Part { config: place.config, load: place.load.name.as_deref() }.to_string()
}

/// How long the rest of a session takes, as its runs so far did; before the first, as they are asked for.
fn remaining(elapsed: Duration, place: &Place<'_>) -> String {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (done, left) = (count(place.made), count(place.left));
    let each = elapsed.checked_div(done).unwrap_or(place.load.warm_up + place.load.duration);
    match each.saturating_mul(left).as_secs() {
        seconds @ 0..=99 => format!("about {seconds} s left"),
        seconds => format!("about {} min left", seconds.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::loads::Load;
    use crate::workload::Reading;

    #[test]
    fn remaining_time_follows_the_runs_made() {
        let load = Load {
            name: None,
            command: Vec::new(),
            reading: Reading::ByTool,
            continuous: false,
            warm_up: Duration::from_secs(1),
            duration: Duration::from_secs(9),
        };
        for (made, left, elapsed, text) in
            [(0, 12, 0, "about 2 min left"), (5, 7, 60, "about 84 s left"), (11, 1, 110, "about 10 s left")]
        {
            let place = Place { number: made, of: 12, made, left, config: "own", load: &load };
            assert_eq!(remaining(Duration::from_secs(elapsed), &place), text);
        }
    }
}
