//! Many rows, one table: Holm's correction, so that the chance of even one false difference in it stays at the stated level.
//!
//! S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6(2), 1979. It
//! holds whatever the rows have to do with each other, and percentiles of one series have much to do with each other.

use super::verdict::{Compared, Verdict};

/// Corrects the verdicts of rows that are shown together: a row stays better or worse only when it differs among all of
/// them. Rows without enough data are no test and do not count.
pub fn correct(rows: Vec<&mut Compared>) {
    let (mut tested, p): (Vec<&mut Compared>, Vec<f64>) =
        rows.into_iter().filter_map(|row| row.estimate.map(|e| (row, e.p))).unzip();
    let among = tested.len();
    for (row, p) in tested.iter_mut().zip(adjusted(&p)) {
        row.p_holm = Some(p);
        let allowed = row.estimate.map_or(0.0, |e| 1.0 - e.level);
        if p > allowed && matches!(row.verdict, Verdict::Better | Verdict::Worse) {
            row.reason = Some(format!("{} if judged alone, maybe chance among {among} rows", row.verdict));
            row.verdict = Verdict::NoDifference;
        }
    }
}

/// Holm's adjusted p-values, in the order of the given ones.
fn adjusted(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|one, other| p[*one].total_cmp(&p[*other]));
    let mut adjusted = vec![1.0; p.len()];
    let mut reached = 0.0_f64;
    for (passed, at) in order.iter().enumerate() {
        // No row may look surer than one with a smaller p.
        reached = reached.max((p[*at] * (p.len() - passed) as f64).min(1.0));
        adjusted[*at] = reached;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::compare::{Direction, Method, judge};

    #[test]
    fn adjusted_as_r_does() {
        // p.adjust(p, "holm") of R.
        for (p, expected) in [
            (&[][..], &[][..]),
            (&[0.03], &[0.03]),
            (&[0.01, 0.04, 0.03], &[0.03, 0.06, 0.06]),
            (&[0.5, 0.001, 0.02, 0.02], &[0.5, 0.004, 0.06, 0.06]),
            (&[0.9, 0.8, 0.7], &[1.0, 1.0, 1.0]),
            (&[0.0, 1.0], &[0.0, 1.0]),
        ] {
            let found = adjusted(p);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-12, "{p:?}: {found} is not {expected}");
            }
        }
    }

    #[test]
    fn a_lone_difference_needs_more_among_many() {
        let calm = [1.0, 1.1, 0.9, 1.05, 0.95];
        let row = |factor: f64| {
            let after = calm.map(|x| x * factor);
            judge(
                (&calm, 5),
                (&after, 5),
                Direction::Lower,
                Method { bucket_width: 0.0, ..Method::default() },
            )
        };
        for (factor, others, expected) in [
            (1.2, 0, Verdict::Worse),
            (1.2, 39, Verdict::NoDifference),
            (0.4, 39, Verdict::Better),
            (1.0, 39, Verdict::NoDifference),
        ] {
            let mut rows: Vec<Compared> = (0..others).map(|_| row(1.0)).collect();
            rows.insert(0, row(factor));
            rows.push(row(1.0));
            let last = rows.len() - 1;
            rows[last] = Compared::not_enough(rows[last].before, rows[last].after, "too few".to_owned());
            correct(rows.iter_mut().collect());
            assert_eq!(rows[0].verdict, expected, "{factor} among {others}: {:?}", rows[0]);
            assert!(rows[0].p_holm.unwrap() >= rows[0].estimate.unwrap().p);
            let alone = factor > 1.0 && expected == Verdict::NoDifference;
            assert_eq!(
                rows[0].reason.as_deref(),
                alone.then_some("worse if judged alone, maybe chance among 40 rows")
            );
            assert_eq!((rows[last].p_holm, rows[last].verdict), (None, Verdict::NotEnoughData));
        }
    }
}
