//! Which runs are compared with which, and what comes out: the common ground of text, JSON and HTML.

use super::names;
use crate::{
    session::{Run, Session},
    stats::{
        Snapshot,
        compare::{
            Compared, Comparison, Detail, Direction, Headline, Method, Row, Verdict, compare, correct,
            headline, judge,
        },
        gate::Figure,
        series::fold,
    },
    workload::{Better, Metric, Unit},
};
use std::{borrow::Cow, collections::BTreeMap};

/// Name of the configuration that others are measured against, when there is one of that name.
pub const BASELINE: &str = "baseline";
/// What a load is made for: the first of these figures that its tool gives.
const AIMS: [&str; 7] = [
    "throughput",
    "transaction_rate",
    "request_rate",
    "call_rate",
    "message_rate",
    "rtt_mean",
    "latency_mean",
];

/// The runs of one configuration of one session.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// How it is called in results: the configuration, with its file when two files are compared.
    pub name: String,
    /// The session.
    pub session: &'a Session,
    /// The configuration.
    pub config: &'a str,
    /// The load its runs were made under, in a session with several.
    pub load: Option<&'a str>,
    /// Runs that can be compared.
    pub runs: Vec<&'a Run>,
    /// Runs that cannot, and why, one line each.
    pub unfit: Vec<String>,
}

/// One figure of a workload, compared.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricRow {
    /// The tool whose figure it is.
    pub tool: String,
    /// Its name.
    pub name: String,
    /// Its unit.
    pub unit: Unit,
    /// Which direction is better.
    pub direction: Direction,
    /// Figures and outcome.
    pub compared: Compared,
}

impl Group<'_> {
    /// Time counted, all runs together (ns).
    #[must_use]
    pub fn window_ns(&self) -> u64 {
        self.runs.iter().map(|run| run.duration_ns()).sum()
    }
}

/// Everything that is known of two groups of runs.
#[derive(Clone, Debug)]
pub struct Assessment<'a> {
    /// The runs before.
    pub before: Group<'a>,
    /// The runs after.
    pub after: Group<'a>,
    /// The verdict's figure.
    pub headline: Headline,
    /// All series.
    pub comparison: Comparison,
    /// Workload figures.
    pub workloads: Vec<MetricRow>,
    /// The workload figure that the load was made for, judged alone; only in a session with several loads.
    pub aim: Option<MetricRow>,
    /// The runs before as one, slots and vCPUs folded.
    pub pooled_before: Snapshot,
    /// The runs after as one.
    pub pooled_after: Snapshot,
}

impl Assessment<'_> {
    /// The workload figures, for conditions on them.
    #[must_use]
    pub fn figures(&self) -> Vec<Figure<&Compared>> {
        let load = self.before.load;
        self.workloads
            .iter()
            .map(|row| Figure {
                tool: row.tool.clone(),
                load: load.map(str::to_owned),
                name: row.name.clone(),
                measure: row.unit.measure(),
                value: &row.compared,
            })
            .collect()
    }

    /// The rows in the order in which tables list them, and how many are not among them: without `full`, those that lack
    /// data.
    #[must_use]
    pub fn listed(&self, full: bool) -> (Vec<&Row>, usize) {
        let all = &self.comparison.rows;
        let shown = |row: &&Row| full || row.compared.verdict != Verdict::NotEnoughData;
        let mut rows: Vec<&Row> = all.iter().filter(shown).collect();
        rows.sort_by_cached_key(|row| (names::sort_key(&row.probe, &row.labels), row.quantile));
        let hidden = all.len() - rows.len();
        (rows, hidden)
    }
}

/// Configurations that cannot be paired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// No run at all.
    #[error("{file} has no runs to compare")]
    NoRuns {
        /// The file.
        file: String,
    },
    /// Nothing to compare with.
    #[error(
        "{file} has only runs of {config:?}; name a second file, or record a second configuration into it"
    )]
    OnlyOne {
        /// The file.
        file: String,
        /// The one configuration.
        config: String,
    },
    /// No such configuration.
    #[error("{file} has no configuration {wanted:?}; it has {}", .known.join(", "))]
    Unknown {
        /// The file.
        file: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Two files whose runs were made under different loads.
    #[error("{before} and {after} were recorded under different loads, which cannot be compared")]
    OtherLoads {
        /// The first file.
        before: String,
        /// The second file.
        after: String,
    },
    /// Two files with several configurations each, none in common.
    #[error("{before} and {after} have no configuration in common; choose with --before and --after")]
    NothingInCommon {
        /// The first file.
        before: String,
        /// The second file.
        after: String,
    },
}

/// A session and the name of its file.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// The file's name.
    pub file: &'a str,
    /// Its content.
    pub session: &'a Session,
}

impl<'a> Named<'a> {
    fn group(self, config: &'a str, load: Option<&'a str>, name: String) -> Group<'a> {
        let mut group =
            Group { name, session: self.session, config, load, runs: Vec::new(), unfit: Vec::new() };
        for run in self.session.runs_of(config).filter(|run| run.start.load.as_deref() == load) {
            match run.unfit() {
                None => group.runs.push(run),
                Some(reason) => group.unfit.push(format!("run {} ({config}) {reason}", run.start.order)),
            }
        }
        group
    }

    /// The loads, each of which is compared by itself; one without a name when no run names one.
    fn loads(self) -> Vec<Option<&'a str>> {
        let unnamed = self.session.runs.iter().any(|run| run.start.load.is_none());
        let named = self.session.load_names().into_iter().map(Some);
        unnamed.then_some(None).into_iter().chain(named).collect()
    }

    fn configs(self) -> Result<Vec<&'a str>, PairError> {
        let names = self.session.config_names();
        if names.is_empty() {
            return Err(PairError::NoRuns { file: self.file.to_owned() });
        }
        Ok(names)
    }

    fn config(self, wanted: &str) -> Result<&'a str, PairError> {
        let names = self.configs()?;
        names.iter().find(|n| **n == wanted).copied().ok_or_else(|| PairError::Unknown {
            file: self.file.to_owned(),
            wanted: wanted.to_owned(),
            known: names.iter().map(|n| (*n).to_owned()).collect(),
        })
    }
}

/// A configuration before, and one after.
pub type Pair<'a> = (Group<'a>, Group<'a>);

/// Pairs within one session: `before` (else `baseline`, else the first) against `after` (else each of the others).
///
/// # Errors
/// [`PairError`].
pub fn pairs_within<'a>(
    one: Named<'a>,
    before: Option<&str>,
    after: Option<&str>,
) -> Result<Vec<Pair<'a>>, PairError> {
    let names = one.configs()?;
    let before = match before {
        Some(wanted) => one.config(wanted)?,
        None => one.config(BASELINE).unwrap_or(names[0]),
    };
    let others: Vec<&'a str> = match after {
        Some(wanted) => vec![one.config(wanted)?],
        None => names.into_iter().filter(|name| *name != before).collect(),
    };
    if others.is_empty() {
        return Err(PairError::OnlyOne { file: one.file.to_owned(), config: before.to_owned() });
    }
    let group = |config: &'a str, load| one.group(config, load, config.to_owned());
    let each = others.into_iter().flat_map(|after| one.loads().into_iter().map(move |load| (after, load)));
    Ok(each.map(|(after, load)| (group(before, load), group(after, load))).collect())
}

/// Pairs of two sessions: the named configurations; else the only one of each; else those of the same name.
///
/// # Errors
/// [`PairError`].
pub fn pairs_between<'a>(
    a: Named<'a>,
    b: Named<'a>,
    before: Option<&str>,
    after: Option<&str>,
) -> Result<Vec<Pair<'a>>, PairError> {
    let chosen = |one: Named<'a>, wanted: Option<&str>| match wanted {
        Some(wanted) => one.config(wanted).map(|name| vec![name]),
        None => one.configs(),
    };
    let (first, second) = (chosen(a, before)?, chosen(b, after)?);
    let pairs: Vec<(&'a str, &'a str)> = match (first.as_slice(), second.as_slice()) {
        ([one], others) => others.iter().map(|other| (*one, *other)).collect(),
        (ones, [other]) => ones.iter().map(|one| (*one, *other)).collect(),
        (ones, others) => ones.iter().filter(|one| others.contains(one)).map(|one| (*one, *one)).collect(),
    };
    if pairs.is_empty() {
        return Err(PairError::NothingInCommon { before: a.file.to_owned(), after: b.file.to_owned() });
    }
    let name = |one: Named<'a>, config: &str| format!("{config} ({})", one.file);
    let loads: Vec<_> = a.loads().into_iter().filter(|load| b.loads().contains(load)).collect();
    if loads.is_empty() {
        return Err(PairError::OtherLoads { before: a.file.to_owned(), after: b.file.to_owned() });
    }
    let each = pairs.into_iter().flat_map(|pair| loads.iter().map(move |load| (pair, *load)));
    Ok(each
        .map(|((one, other), load)| (a.group(one, load, name(a, one)), b.group(other, load, name(b, other))))
        .collect())
}

/// Compares two groups of runs, of one guest only when it is named.
#[must_use]
pub fn assess<'a>((before, after): Pair<'a>, detail: Detail, guest: Option<&str>) -> Assessment<'a> {
    let kept = |group: &Group<'a>| -> Vec<Cow<'a, Snapshot>> {
        group.runs.iter().map(|run| of_guest(&run.snapshot, guest)).collect()
    };
    let (b, a) = (kept(&before), kept(&after));
    let (b, a): (Vec<&Snapshot>, Vec<&Snapshot>) =
        (b.iter().map(AsRef::as_ref).collect(), a.iter().map(AsRef::as_ref).collect());
    let mut comparison = compare(&b, &a, detail);
    let mut workloads = workloads(&before.runs, &after.runs);
    let headline = headline(&b, &a);
    let aim =
        before.load.and_then(|_| AIMS.iter().find_map(|name| workloads.iter().position(|w| w.name == *name)));
    // One table, one family; the headline was named beforehand and is a test of its own, also where a row repeats it, and so
    // is what a load is made for.
    let rows = comparison.rows.iter_mut().filter(|row| !repeats(row, &headline)).map(|row| &mut row.compared);
    let figures = workloads.iter_mut().enumerate().filter(|(at, _)| Some(*at) != aim);
    correct(rows.chain(figures.map(|(_, row)| &mut row.compared)).collect());
    let aim = aim.map(|at| workloads[at].clone());
    Assessment {
        headline,
        comparison,
        workloads,
        aim,
        pooled_before: fold(b, Detail::Folded.dropped()),
        pooled_after: fold(a, Detail::Folded.dropped()),
        before,
        after,
    }
}

/// Whether a row is the headline's figure over again, as it is where the guest has one VF.
fn repeats(row: &Row, headline: &Headline) -> bool {
    row.probe == headline.probe
        && row.quantile == headline.quantile
        && headline.labels.iter().all(|(name, value)| row.labels.get(name) == Some(value))
        && (&row.compared.before, &row.compared.after)
            == (&headline.compared.before, &headline.compared.after)
}

/// A snapshot with the series of one guest, and those that belong to none.
#[must_use]
pub fn of_guest<'a>(snapshot: &'a Snapshot, guest: Option<&str>) -> Cow<'a, Snapshot> {
    let Some(guest) = guest else { return Cow::Borrowed(snapshot) };
    let mut kept = snapshot.clone();
    kept.series.retain(|s| s.labels.get("guest").is_none_or(|g| g == guest));
    kept.counters.retain(|c| c.labels.get("guest").is_none_or(|g| g == guest));
    Cow::Owned(kept)
}

fn workloads(before: &[&Run], after: &[&Run]) -> Vec<MetricRow> {
    type Key = (String, String);
    type Found = (Vec<f64>, Vec<f64>, Metric);
    let mut found: BTreeMap<Key, Found> = BTreeMap::new();
    for (runs, is_after) in [(before, false), (after, true)] {
        for workload in runs.iter().filter_map(|run| run.workload()) {
            let Some(tool) = &workload.tool else { continue };
            for metric in workload.metrics.iter().filter(|m| m.better != Better::Neither) {
                let key = (tool.clone(), metric.name.clone());
                let (b, a, _) = found.entry(key).or_insert_with(|| (Vec::new(), Vec::new(), metric.clone()));
                if is_after { a.push(metric.value) } else { b.push(metric.value) }
            }
        }
    }
    let exact = Method { bucket_width: 0.0, ..Method::default() };
    let row = |((tool, name), (b, a, metric)): (Key, Found)| {
        let direction = match metric.better {
            Better::Lower => Direction::Lower,
            Better::Higher => Direction::Higher,
            Better::Neither => return None,
        };
        let runs = |values: &[f64]| u64::try_from(values.len()).unwrap_or(u64::MAX);
        let compared = judge((&b, runs(&b)), (&a, runs(&a)), direction, exact);
        Some(MetricRow { tool, name, unit: metric.unit, direction, compared })
    };
    found.into_iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{decode, sample};

    fn session(repeats: u32, others: &[(&str, f64)]) -> Session {
        decode(sample::lines(repeats, others).as_bytes()).unwrap()
    }

    fn names(pairs: &[Pair<'_>]) -> Vec<(String, String)> {
        pairs.iter().map(|(b, a)| (b.name.clone(), a.name.clone())).collect()
    }

    fn pair(before: &str, after: &str) -> (String, String) {
        (before.to_owned(), after.to_owned())
    }

    #[test]
    fn configurations_are_paired() {
        let three = session(1, &[("own", 0.3), ("near", 0.5)]);
        let one = session(1, &[]);
        let (t, o) = (Named { file: "t", session: &three }, Named { file: "o", session: &one });
        assert_eq!(
            names(&pairs_within(t, None, None).unwrap()),
            [pair("baseline", "own"), pair("baseline", "near")]
        );
        assert_eq!(names(&pairs_within(t, Some("own"), Some("near")).unwrap()), [pair("own", "near")]);
        assert_eq!(names(&pairs_between(o, o, None, None).unwrap()), [pair("baseline (o)", "baseline (o)")]);
        assert_eq!(names(&pairs_between(t, t, None, None).unwrap()).len(), 3);
        assert_eq!(
            names(&pairs_between(o, t, None, Some("near")).unwrap()),
            [pair("baseline (o)", "near (t)")]
        );
        for (error, said) in [
            (pairs_within(o, None, None).unwrap_err(), "only runs of \"baseline\""),
            (pairs_within(t, Some("far"), None).unwrap_err(), "it has baseline, own, near"),
            (
                pairs_within(Named { file: "e", session: &Session::default() }, None, None).unwrap_err(),
                "no runs",
            ),
        ] {
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn a_pair_is_assessed_with_its_workload() {
        let session = session(3, &[("own", 0.3)]);
        let pairs = pairs_within(Named { file: "f", session: &session }, None, None).unwrap();
        let assessment = assess(pairs[0].clone(), Detail::Folded, Some("vm1"));
        assert_eq!(assessment.headline.compared.verdict, Verdict::Better);
        let repeated: Vec<_> =
            assessment.comparison.rows.iter().filter(|row| repeats(row, &assessment.headline)).collect();
        assert_eq!(repeated.len(), 1, "the guest has one VF");
        assert_eq!((repeated[0].compared.p_holm, repeated[0].compared.verdict), (None, Verdict::Better));
        let p99 = assessment.workloads.iter().find(|w| w.name == "rtt_p99").unwrap();
        assert_eq!((p99.tool.as_str(), p99.compared.verdict), ("ping", Verdict::Better));
        let loss = &assessment.workloads.iter().find(|w| w.name == "loss").unwrap().compared;
        assert_eq!(
            (loss.verdict, loss.before.value, loss.after.value),
            (Verdict::NoDifference, Some(0.0), Some(0.0))
        );
        assert_eq!(loss.reason.as_deref(), Some("zero in every run"));
        let other = assess(pairs[0].clone(), Detail::Folded, Some("vm2"));
        assert_eq!(other.headline.compared.verdict, Verdict::NotEnoughData);
        assert!(other.comparison.rows.is_empty());
    }

    #[test]
    fn unfit_runs_are_kept_out_and_named() {
        let mut session = session(3, &[("own", 0.3)]);
        session.runs[0].end = None;
        session.runs[1].end.as_mut().unwrap().workload.as_mut().unwrap().exit_code = Some(2);
        let (before, after) = &pairs_within(Named { file: "f", session: &session }, None, None).unwrap()[0];
        assert_eq!((before.runs.len(), after.runs.len()), (2, 2));
        assert_eq!(before.unfit, ["run 0 (baseline) was cut off"]);
        assert_eq!(after.unfit, ["run 1 (own) workload failed with exit code 2"]);
    }
}
