//! `vfprobe show`.

mod bars;
mod table;

use super::{Exit, Failure, Globals, failures, names, paint::Paint, print};
use crate::{
    report::{
        export::{self, Part},
        json,
    },
    session::{self, Session},
    stats::{compare::Detail, gate::Selector},
};
use anyhow::anyhow;
use std::path::PathBuf;

/// Arguments of `show`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The session file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only this guest
    #[arg(long, value_name = "NAME")]
    guest: Option<String>,
    /// Only this configuration
    #[arg(long, value_name = "NAME", conflicts_with = "json")]
    config: Option<String>,
    /// Only runs under this load, in a session with several
    #[arg(long, value_name = "NAME", conflicts_with = "json")]
    load: Option<String>,
    /// Every vector slot and vCPU by itself
    #[arg(long, conflicts_with = "json")]
    full: bool,
    /// Draw the distribution of the delivery latency
    #[arg(long, conflicts_with = "json")]
    histogram: bool,
    /// JSON instead of tables (docs/json.md)
    #[arg(long)]
    json: bool,
    /// An HdrHistogram log: one histogram for each run and series
    #[arg(long, conflicts_with_all = ["json", "csv", "histogram"])]
    hlog: bool,
    /// Figures of each run and series as CSV
    #[arg(long, conflicts_with_all = ["json", "histogram"])]
    csv: bool,
    /// The percentile distribution of some series of one configuration (.hgrm), such as irq_delivery or
    /// 'irq_delivery{stage=wake}': what HdrHistogram's plotting tools read
    #[arg(long, value_name = "SERIES", conflicts_with_all = ["json", "csv", "hlog", "histogram"])]
    hgrm: Option<Selector>,
}

/// What a table shows of a session.
#[derive(Debug)]
struct View<'a> {
    session: &'a Session,
    guest: Option<&'a str>,
    detail: Detail,
}

/// Reads a session and prints it.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<Exit, Failure> {
    let Args { file, guest, config, load, full, histogram, json, hlog, csv, hgrm } = args;
    let session = session::read(file).map_err(failures::session)?;
    if let Some(guest) = guest {
        names::known(file, "guest", guest, &names::guests(&session))?;
    }
    if let Some(config) = config {
        names::known(file, "configuration", config, &session.config_names())?;
    }
    if let Some(load) = load {
        names::known(file, "load", load, &session.load_names())?;
    }
    if *json {
        let text = json::session(&session, guest.as_deref()).map_err(Failure::cannot_run)?;
        return print((text + "\n").as_bytes());
    }
    let detail = if *full { Detail::Full } else { Detail::Folded };
    let (guest, config, load) = (guest.as_deref(), config.as_deref(), load.as_deref());
    let part = Part { session: &session, guest, config, load, detail };
    if *hlog {
        return print(export::hlog(&part).map_err(Failure::cannot_run)?.as_bytes());
    }
    if *csv {
        return print(export::csv(&part).as_bytes());
    }
    if let Some(selected) = hgrm {
        return print(distribution(&part, selected)?.as_bytes());
    }
    let view = View { session: &session, guest, detail };
    print(text(&view, (config, load), *histogram, Paint::stdout(globals.color())).as_bytes())
}

/// A fresh recording, as `record` shows it.
pub(super) fn recording(globals: &Globals, session: &Session) -> String {
    text(
        &View { session, guest: None, detail: Detail::Folded },
        (None, None),
        true,
        Paint::stdout(globals.color()),
    )
}

fn text(
    view: &View<'_>,
    (config, load): (Option<&str>, Option<&str>),
    histogram: bool,
    paint: Paint,
) -> String {
    let mut text = table::heading(view.session);
    let parts = view.session.parts().into_iter();
    let wanted = |part: &session::Part<'_>| {
        config.is_none_or(|c| c == part.config) && load.is_none_or(|load| Some(load) == part.load)
    };
    for part in parts.filter(wanted) {
        text.push('\n');
        text += &table::configuration(view, part, paint);
        if histogram {
            text += &bars::headline(view, part);
        }
    }
    text + &table::notes(view.session, paint)
}

/// A percentile distribution. Runs of different configurations or loads are never taken together.
fn distribution(part: &Part<'_>, selected: &Selector) -> Result<String, Failure> {
    let wanted = |one: &session::Part<'_>| {
        part.config.is_none_or(|c| c == one.config) && part.load.is_none_or(|load| Some(load) == one.load)
    };
    let chosen: Vec<String> =
        part.session.parts().iter().filter(|p| wanted(p)).map(ToString::to_string).collect();
    if chosen.len() > 1 {
        return Err(Failure::usage(anyhow!(
            "a distribution is of one configuration; choose with --config and --load among {}",
            chosen.join(", ")
        )));
    }
    export::hgrm(part, selected).ok_or_else(|| {
        Failure::usage(anyhow!("no value of these series was counted, or they could not be seen"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{decode, sample};

    fn shown(detail: Detail) -> String {
        let session = decode(sample::lines(2, &[("own", 0.3)]).as_bytes()).unwrap();
        let view = View { session: &session, guest: None, detail };
        let heading = table::heading(&session);
        let part = |config| session::Part { config, load: None };
        let configs = ["baseline", "own"].map(|c| table::configuration(&view, part(c), Paint::default()));
        heading
            + &configs.concat()
            + &bars::headline(&view, part("own"))
            + &table::notes(&session, Paint::default())
    }

    #[test]
    fn everything_that_was_counted_is_shown() {
        let folded = shown(Detail::Folded);
        for part in [
            "2 configurations, 4 runs",
            "host1, Linux 6.12.0, 2 CPUs",
            "baseline: 2 runs, 10.0 s counted",
            "changes: irq 40",
            "vm1 0000:01:10.0 delivery",
            "p99.9",
            "raised 802",
            "lost: irq_delivery.unmatched 2",
            "irq_delivery ready",
            "ping -i 0.04 10.0.0.2",
            "rtt_p99",
        ] {
            assert!(folded.contains(part), "{part:?} is missing in\n{folded}");
        }
        assert!(!folded.contains("slot 1"));
        let full = shown(Detail::Full);
        assert!(full.contains("slot 1 vcpu 0 delivery"));
        assert!(full.contains("not observable (posted: hardware delivers it)"), "{full}");
    }

    #[test]
    fn a_percentile_of_too_little_is_a_dash_that_is_explained() {
        let mut session = decode(sample::lines(1, &[]).as_bytes()).unwrap();
        session.runs[0].snapshot.series.truncate(1);
        let view = View { session: &session, guest: None, detail: Detail::Folded };
        let text =
            table::configuration(&view, session::Part { config: "baseline", load: None }, Paint::default());
        let row = text.lines().find(|l| l.contains("vm1 ")).unwrap();
        assert_eq!(row.split("  ").filter(|cell| cell.trim() == "-").count(), 1, "{row}");
        assert!(text.contains("p99.9 needs 1000"), "{text}");
    }
}
