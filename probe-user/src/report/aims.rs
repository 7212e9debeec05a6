//! What loads were made for, side by side: throughput under one, round trips under the other, and below each the stages
//! of interrupt delivery that explain it. The paper's table is one of these.
//!
//! Only sessions with several loads have one. Its figures are named beforehand and few, so that they are corrected for
//! their own number and not for that of all series.

use super::assess::{Assessment, MetricRow};
use crate::stats::compare::{Compared, Direction, Estimate, Row, Verdict, correct};

/// Two configurations under several loads.
#[derive(Clone, Debug)]
pub struct Aims<'a> {
    /// The configuration before, as results call it.
    pub before: &'a str,
    /// The configuration after.
    pub after: &'a str,
    /// One for each load whose aim is known.
    pub rows: Vec<Aim<'a>>,
}

/// One load's figure, and what explains it.
#[derive(Clone, Debug)]
pub struct Aim<'a> {
    /// The load.
    pub load: &'a str,
    /// Its figure; the verdict holds together with those of the other loads.
    pub figure: MetricRow,
    /// Stages of the delivery of interrupts under this load; their verdicts hold together with all series of the load.
    pub stages: Vec<&'a Row>,
}

/// The tables of a session's comparisons, one for each pair of configurations; none when no load has a name.
#[must_use]
pub fn aims<'a>(assessments: &'a [Assessment<'_>]) -> Vec<Aims<'a>> {
    let mut tables: Vec<Aims<'a>> = Vec::new();
    for assessment in assessments {
        let (Some(load), Some(figure)) = (assessment.before.load, &assessment.aim) else { continue };
        let (before, after) = (assessment.before.name.as_str(), assessment.after.name.as_str());
        let stage = |row: &&Row| row.probe == "irq_delivery" && row.compared.estimate.is_some();
        let stages = assessment.listed(false).0.into_iter().filter(stage).collect();
        let aim = Aim { load, figure: figure.clone(), stages };
        match tables.iter_mut().find(|table| (table.before, table.after) == (before, after)) {
            Some(table) => table.rows.push(aim),
            None => tables.push(Aims { before, after, rows: vec![aim] }),
        }
    }
    for table in &mut tables {
        correct(table.rows.iter_mut().map(|row| &mut row.figure.compared).collect());
    }
    tables
}

impl Aims<'_> {
    /// All figures in one word: worse as soon as one is, better when one is and none is worse.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let has = |verdict| self.rows.iter().any(|row| row.figure.compared.verdict == verdict);
        [Verdict::Worse, Verdict::Better, Verdict::NoDifference]
            .into_iter()
            .find(|verdict| has(*verdict))
            .unwrap_or(Verdict::NotEnoughData)
    }

    /// How far all figures together went, as a latency's ratio: the geometric mean, below 1 for a gain. `None` when one
    /// has no ratio.
    #[must_use]
    pub fn gain(&self) -> Option<f64> {
        let logs: Option<Vec<f64>> = self
            .rows
            .iter()
            .map(|row| {
                let log = row.figure.compared.estimate?.ratio.ln();
                Some(if row.figure.direction == Direction::Lower { log } else { -log })
            })
            .collect();
        let logs = logs.filter(|logs| !logs.is_empty())?;
        Some((logs.iter().sum::<f64>() / logs.len() as f64).exp())
    }

    /// The verdict in one line: `better: own against baseline: iperf3 throughput +24 % (+20 % to +28 %), better; ...`.
    #[must_use]
    pub fn sentence(&self) -> String {
        let parts: Vec<String> = self.rows.iter().map(Aim::sentence).collect();
        format!("{}: {} against {}: {}", self.verdict(), self.after, self.before, parts.join("; "))
    }
}

impl Aim<'_> {
    /// `iperf3 throughput`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.load, self.figure.name.replace('_', " "))
    }

    fn sentence(&self) -> String {
        let Compared { estimate, verdict, reason, .. } = &self.figure.compared;
        let Some(Estimate { ratio, low, high, level, .. }) = estimate else {
            return format!("{} {verdict} ({})", self.name(), reason.as_deref().unwrap_or("no figures"));
        };
        format!(
            "{} {} ({:.0} % interval {} to {}), {verdict}",
            self.name(),
            change(*ratio),
            level * 100.0,
            change(*low),
            change(*high)
        )
    }
}

/// A ratio as a change: `+24 %`, `-30.5 %`.
#[must_use]
pub fn change(ratio: f64) -> String {
    let percent = (ratio - 1.0) * 100.0;
    if percent.abs() >= 99.95 { format!("{percent:+.0} %") } else { format!("{percent:+.1} %") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::assess::{Named, assess, pairs_between, pairs_within},
        session::{Session, sample},
        stats::compare::Detail,
    };

    fn assessed(session: &Session) -> Vec<Assessment<'_>> {
        let pairs = pairs_within(Named { file: "f", session }, None, None).unwrap();
        pairs.into_iter().map(|pair| assess(pair, Detail::Folded, None)).collect()
    }

    #[test]
    fn each_load_has_its_row_and_its_stages() {
        let session = sample::loads(5, &[("own", 0.5, 1.24), ("near", 1.0, 1.0)]);
        let assessments = assessed(&session);
        let [own, near] = &aims(&assessments)[..] else { panic!("two pairs") };
        assert_eq!((own.before, own.after, own.verdict()), ("baseline", "own", Verdict::Better));
        assert_eq!(near.verdict(), Verdict::NoDifference, "{near:?}");
        let names: Vec<String> = own.rows.iter().map(Aim::name).collect();
        assert_eq!(names, ["iperf3 throughput", "ping rtt mean"]);
        for aim in &own.rows {
            assert_eq!((aim.figure.compared.before.runs, aim.figure.compared.verdict), (5, Verdict::Better));
            let stages: Vec<&str> = aim.stages.iter().map(|row| row.labels["stage"].as_str()).collect();
            assert!(stages.starts_with(&["dispatch"]) && stages.contains(&"delivery"), "{stages:?}");
        }
        let text = own.sentence();
        assert!(text.starts_with("better: own against baseline: iperf3 throughput +2"), "{text}");
        assert!(text.contains("% interval +") && text.ends_with(", better"), "{text}");
        assert!(own.gain().unwrap() < 0.7 && near.gain().unwrap() > 0.9);
    }

    #[test]
    fn a_session_with_one_load_has_none() {
        let session = crate::session::decode(sample::lines(3, &[("own", 0.5)]).as_bytes()).unwrap();
        assert!(aims(&assessed(&session)).is_empty());
        let loads = sample::loads(3, &[("own", 0.5, 1.2)]);
        let error = pairs_between(
            Named { file: "a", session: &session },
            Named { file: "b", session: &loads },
            Some("own"),
            Some("own"),
        );
        assert!(error.unwrap_err().to_string().contains("different loads"));
    }

    #[test]
    fn one_that_is_worse_makes_it_worse() {
        let session = sample::loads(5, &[("own", 0.5, 0.5)]);
        let assessments = assessed(&session);
        let tables = aims(&assessments);
        assert_eq!(tables[0].verdict(), Verdict::Worse, "{}", tables[0].sentence());
        let few = sample::loads(2, &[("own", 0.5, 0.5)]);
        let assessments = assessed(&few);
        let tables = aims(&assessments);
        assert_eq!(tables[0].verdict(), Verdict::NotEnoughData);
        assert!(tables[0].sentence().contains("3 runs a side are needed"), "{}", tables[0].sentence());
    }

    #[test]
    fn changes() {
        for (ratio, text) in [(1.24, "+24.0 %"), (0.7, "-30.0 %"), (3.0, "+200 %"), (1.0, "+0.0 %")] {
            assert_eq!(change(ratio), text);
        }
    }
}
