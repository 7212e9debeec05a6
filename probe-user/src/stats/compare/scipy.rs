//! The comparison of runs against SciPy's: tests/fixtures/evaluate.py made the figures, and shares nothing with this code.

use super::{
    interval::{Method, REACH, estimate},
    verdict::{Direction, Verdict, judge},
};
use serde::Deserialize;
use statrs::distribution::{ContinuousCDF as _, StudentsT};

const EVALUATED: &str = include_str!("../../../../tests/fixtures/session-v1.evaluated.json");

#[derive(Deserialize)]
struct Evaluated {
    workloads: Vec<Case>,
    invented: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    before: Vec<f64>,
    after: Vec<f64>,
    level: f64,
    ratio: f64,
    welch: Option<Welch>,
    bootstrap_interval: Option<[f64; 2]>,
    mann_whitney_p: f64,
}

#[derive(Deserialize)]
struct Welch {
    t: f64,
    freedom: f64,
    p: f64,
    interval: [f64; 2],
}

/// Figures as they are, without the smear of a histogram's buckets.
const EXACT: Method = Method { resamples: 4000, seed: 1, bucket_width: 0.0 };

fn close(found: f64, expected: f64, relative: f64) -> bool {
    (found - expected).abs() <= relative * expected.abs().max(1e-300)
}

#[test]
fn ratios_and_chances_are_scipys() {
    let Evaluated { workloads, invented } = serde_json::from_str(EVALUATED).unwrap();
    assert!(workloads.len() >= 5 && invented.len() >= 10);
    for case in workloads.iter().chain(&invented) {
        let found = estimate(&case.before, &case.after, EXACT).unwrap();
        assert!(close(found.ratio, case.ratio, 1e-9), "{}: {found:?}", case.name);
        assert_eq!(found.level, case.level, "{}", case.name);
        let Some(Welch { t, freedom, p, .. }) = case.welch else { continue };
        let student = StudentsT::new(0.0, 1.0, freedom).unwrap();
        // SciPy's own p first, so that a difference of the distributions cannot hide in the reduced one.
        assert!(close(2.0 * student.cdf(-t.abs()), p, 1e-6), "{}: p {p}", case.name);
        let reduced = 2.0 * student.cdf(-t.abs() / REACH);
        assert!(
            close(found.p, reduced, 1e-6) && found.p >= p,
            "{}: {found:?}, expected {reduced}",
            case.name
        );
    }
}

/// An expanded percentile interval follows the runs' own distribution, so it is not Welch's; but it is about as wide, and
/// wider than the plain bootstrap's, which is known to be too narrow.
#[test]
fn intervals_lie_between_the_plain_bootstrap_and_welch() {
    let Evaluated { invented, .. } = serde_json::from_str(EVALUATED).unwrap();
    for case in &invented {
        let found = estimate(&case.before, &case.after, EXACT).unwrap();
        let (Some(Welch { interval: [low, high], .. }), Some(plain)) = (&case.welch, case.bootstrap_interval)
        else {
            panic!("{} has no interval", case.name)
        };
        let width = (found.high / found.low).ln() / (high / low).ln();
        assert!((0.75..1.2).contains(&width), "{}: {width:.2} of Welch's width", case.name);
        // SciPy draws other resamples: a hundredth of the width is theirs.
        let slack = (found.high / found.low).powf(0.01);
        let holds = found.low <= plain[0] * slack && found.high >= plain[1] / slack;
        assert!(holds, "{}: {found:?} does not hold {plain:?}", case.name);
    }
}

#[test]
fn clear_verdicts_are_those_of_the_tests() {
    let Evaluated { invented, .. } = serde_json::from_str(EVALUATED).unwrap();
    let mut judged = 0;
    for case in &invented {
        let n = u64::try_from(case.before.len()).unwrap();
        let found = judge((&case.before, n), (&case.after, n), Direction::Lower, EXACT);
        let p = case.welch.as_ref().unwrap().p;
        let allowed = 1.0 - case.level;
        let differs = matches!(found.verdict, Verdict::Better | Verdict::Worse);
        // Near the level the widened interval and the plain tests may say different things.
        if p < allowed / 3.0 && case.mann_whitney_p <= allowed && !close(case.ratio, 1.0, 0.06) {
            assert!(differs, "{}: p {p}, but {found:?}", case.name);
            judged += 1;
        } else if p > 2.0 * allowed && case.mann_whitney_p > allowed {
            assert!(!differs, "{}: p {p}, but {found:?}", case.name);
            judged += 1;
        }
    }
    assert!(judged >= 6, "only {judged} cases are clear");
}
