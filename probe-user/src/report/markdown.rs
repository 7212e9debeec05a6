//! Comparisons as Markdown (GitHub's dialect), to be pasted into a pull request: the verdict first, then its table.

use super::{
    aims::{Aims, aims, change},
    assess::Assessment,
    format, names, sentence,
};
use crate::stats::compare::{Compared, Estimate, Row, Verdict};

/// One section for each pair of configurations, the notes on the files at the end. `full` also lists rows without enough
/// data.
#[must_use]
pub fn compare(assessments: &[Assessment<'_>], notes: &[String], full: bool) -> String {
    let tables = aims(assessments);
    let first = tables.iter().map(aims_section);
    let mut text = first.chain(assessments.iter().map(|a| section(a, full))).collect::<Vec<_>>().join("\n");
    if !notes.is_empty() {
        text += &format!("\n{}", list(notes.iter().map(|note| format!("note: {note}"))));
    }
    text
}

/// What loads were made for, with the stages that explain it.
fn aims_section(table: &Aims<'_>) -> String {
    let (word, line) = (table.verdict().to_string(), table.sentence());
    let mut text = format!("**{word}**{}\n", escaped(line.strip_prefix(&word).unwrap_or(&line)));
    text += &format!(
        "\n| figure | n | {} | {} | change | interval | verdict |\n",
        escaped(table.before),
        escaped(table.after)
    );
    text += "|:--|--:|--:|--:|--:|:--|:--|\n";
    let mut push = |name: &str, n: String, compared: &Compared, shown: &dyn Fn(f64) -> String| {
        let value = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), shown);
        let (ratio, interval) = match &compared.estimate {
            Some(Estimate { ratio, low, high, .. }) => {
                (change(*ratio), format!("{} to {}", change(*low), change(*high)))
            }
            None => ("-".to_owned(), "-".to_owned()),
        };
        let (before, after) = (value(compared.before.value), value(compared.after.value));
        let verdict = outcome(compared);
        text += &format!("| {name} | {n} | {before} | {after} | {ratio} | {interval} | {verdict} |\n");
    };
    for aim in &table.rows {
        let compared = &aim.figure.compared;
        let runs = format!("{} {}", compared.before.runs, compared.after.runs);
        let name = format!("**{}**", escaped(&aim.name()));
        push(&name, runs, compared, &|value| format::value(value, aim.figure.unit));
        for Row { labels, quantile, compared, .. } in &aim.stages {
            let name = escaped(&format!("{} {}", names::of(labels), quantile.title()));
            let n = format!("{} {}", compared.before.n, compared.after.n);
            push(&name, n, compared, &format::time);
        }
    }
    text
}

fn section(assessment: &Assessment<'_>, full: bool) -> String {
    let Assessment { before, after, headline, comparison, .. } = assessment;
    let word = headline.compared.verdict.to_string();
    let line = sentence::verdict(assessment);
    let rest = line.strip_prefix(&word).unwrap_or(&line);
    let mut text = format!("**{word}**{}\n", escaped(rest));
    let remarks = sentence::remarks(assessment);
    if !remarks.is_empty() {
        text += &format!("\n{}", list(remarks));
    }
    let (rows, hidden) = table(assessment, full);
    if !rows.is_empty() {
        text += &format!(
            "\n| series | | n | {} | {} | ratio | interval | verdict |\n",
            escaped(&before.name),
            escaped(&after.name)
        );
        text += "|:--|:--|--:|--:|--:|--:|:--|:--|\n";
        text += &rows.concat();
    }
    let mut below: Vec<String> = sentence::family(assessment).into_iter().collect();
    if hidden > 0 {
        below.push(format!("{hidden} rows without enough data are not shown"));
    }
    let left_out = &comparison.left_out;
    below.extend(left_out.iter().map(|l| format!("{} {}: {}", l.probe, names::of(&l.labels), l.reason)));
    if !below.is_empty() {
        text += &format!("\n{}", list(below));
    }
    let changes = after.runs.first().map_or(&[][..], |run| run.start.changes.as_slice());
    if !changes.is_empty() {
        let what = if changes.len() == 1 { "change" } else { "changes" };
        text += &format!(
            "\n<details><summary>{} {what} of {}</summary>\n\n{}\n</details>\n",
            changes.len(),
            escaped(&after.name),
            list(changes)
        );
    }
    text
}

/// The lines of the table, and how many rows are not among them.
fn table(assessment: &Assessment<'_>, full: bool) -> (Vec<String>, usize) {
    let (listed, hidden) = assessment.listed(full);
    let mut lines: Vec<String> = Vec::new();
    for row in listed {
        let name = format!("{} {}", row.probe, names::of(&row.labels));
        let n = format!("{} {}", row.compared.before.n, row.compared.after.n);
        lines.push(line(&name, row.quantile.title(), &n, &row.compared, format::time));
    }
    for metric in &assessment.workloads {
        let name = format!("workload {} {}", metric.tool, metric.name);
        let n = format!("{} {}", metric.compared.before.runs, metric.compared.after.runs);
        lines.push(line(&name, "", &n, &metric.compared, |value| format::value(value, metric.unit)));
    }
    (lines, hidden)
}

fn line(name: &str, quantile: &str, n: &str, compared: &Compared, shown: impl Fn(f64) -> String) -> String {
    let value = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), &shown);
    let (ratio, interval) = match &compared.estimate {
        Some(e) => (format::ratio(e.ratio), format!("{} .. {}", format::ratio(e.low), format::ratio(e.high))),
        None => ("-".to_owned(), "-".to_owned()),
    };
    let verdict = outcome(compared);
    let (before, after) = (value(compared.before.value), value(compared.after.value));
    format!(
        "| {} | {quantile} | {n} | {before} | {after} | {ratio} | {interval} | {verdict} |\n",
        escaped(name)
    )
}

fn outcome(compared: &Compared) -> String {
    match (compared.verdict, &compared.reason) {
        (verdict @ (Verdict::Better | Verdict::Worse), _) => format!("**{verdict}**"),
        (verdict, Some(reason)) => format!("{verdict}: {}", escaped(reason)),
        (verdict, None) => verdict.to_string(),
    }
}

fn list(items: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    items.into_iter().map(|item| format!("- {}\n", escaped(item.as_ref()))).collect()
}

/// Text that Markdown shows as it is: names of guests, files and configurations are their owners' choice.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut previous = ' ';
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let in_a_word = previous.is_alphanumeric() && rest.peek().is_some_and(|next| next.is_alphanumeric());
        match c {
            '\n' | '\r' => out.push(' '),
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            // Within a word it is no emphasis, and irq_delivery is easier to read in the source.
            '_' if in_a_word => out.push(c),
            '\\' | '|' | '*' | '_' | '`' | '[' | ']' | '~' => out.extend(['\\', c]),
            _ => out.push(c),
        }
        previous = c;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::assess::{Named, assess, pairs_between, pairs_within},
        session::{Session, decode, sample},
        stats::compare::Detail,
    };

    fn session(repeats: u32, others: &[(&str, f64)]) -> Session {
        decode(sample::lines(repeats, others).as_bytes()).unwrap()
    }

    /// Rows of the other probe.
    fn exits(assessment: &Assessment<'_>) -> usize {
        assessment.comparison.rows.iter().filter(|row| row.probe == "vm_exit").count()
    }

    /// Cells of a line: what stands between bars that are not escaped.
    fn cells(line: &str) -> usize {
        line.replace("\\|", "").matches('|').count()
    }

    #[test]
    fn several_loads_have_their_table_first() {
        let session = sample::loads(5, &[("own", 0.5, 1.24)]);
        let pairs = pairs_within(Named { file: "f", session: &session }, None, None).unwrap();
        let assessments: Vec<_> = pairs.into_iter().map(|pair| assess(pair, Detail::Folded, None)).collect();
        let text = compare(&assessments, &[], false);
        assert!(text.starts_with("**better**: own against baseline: iperf3 throughput +2"), "{text}");
        for part in [
            "\n| figure | n | baseline | own | change | interval | verdict |\n|:--|",
            "\n| **ping rtt mean** | 5 5 | ",
            "\n**better**: irq_delivery p99 of vm1 under ping: ",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        let (first, _) = text.split_once("\n**better**").unwrap();
        let widths: Vec<usize> = first.lines().filter(|l| l.starts_with('|')).map(cells).collect();
        assert!(widths.len() > 10 && widths.iter().all(|width| *width == 8), "{widths:?}\n{text}");
    }

    #[test]
    fn the_verdict_comes_first_then_a_table_of_one_width() {
        let session = session(5, &[("own", 3.0), ("near", 1.0)]);
        let pairs = pairs_within(Named { file: "f", session: &session }, None, None).unwrap();
        let assessments: Vec<_> = pairs.into_iter().map(|pair| assess(pair, Detail::Folded, None)).collect();
        let text = compare(&assessments, &["half a line at its end".to_owned()], false);
        assert!(text.starts_with("**worse**: irq_delivery p99 of vm1: "), "{text}");
        for part in [
            "\n**no difference**: irq_delivery p99 of vm1",
            "\n| series | | n | baseline | own | ratio | interval | verdict |\n|:--|",
            "\n| series | | n | baseline | near |",
            "\n| irq_delivery vm1 0000:01:10.0 delivery | p99 | 4000 4000 | ",
            "| **worse** |\n",
            "\n| workload ping rtt_p99 |  | 5 5 |",
            "\n- vm_exit vm1 HLT: its time is the guest's own idling\n",
            "rows hold together at 95 % (Holm's correction)",
            "rows without enough data are not shown\n",
            "\n\n- note: half a line at its end\n",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        let table: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert!(table.len() > 20 && table.iter().all(|line| cells(line) == 9), "{text}");
        // Each table, list and block stands by itself, else the renderer takes it for part of the text above.
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2) {
            let kind = |line: &str| line.chars().next().filter(|c| "|-<".contains(*c));
            assert!(
                pair.contains(&"") || kind(pair[0]) == kind(pair[1]),
                "no empty line between {pair:?}\n{text}"
            );
        }
    }

    #[test]
    fn rows_without_data_are_listed_in_full() {
        let session = session(2, &[("own", 1.0)]);
        let pairs = pairs_within(Named { file: "f", session: &session }, None, None).unwrap();
        let assessment = assess(pairs[0].clone(), Detail::Full, None);
        let assessments = [assessment];
        let listed = |full| {
            let text = compare(&assessments, &[], full);
            let without =
                |line: &&str| line.starts_with("| irq_delivery") && line.contains("not enough data: ");
            text.lines().filter(without).count()
        };
        assert_eq!(
            (listed(false), listed(true)),
            (0, assessments[0].comparison.rows.len() - exits(&assessments[0]))
        );
    }

    #[test]
    fn names_cannot_break_the_table() {
        let session = session(3, &[]);
        let named = Named { file: "a|b<c>*_x_", session: &session };
        let pairs = pairs_between(named, named, None, None).unwrap();
        let text = compare(&[assess(pairs[0].clone(), Detail::Folded, None)], &[], false);
        assert!(text.lines().filter(|l| l.starts_with('|')).all(|l| cells(l) == 9), "{text}");
        for (plain, shown) in [
            ("irq_delivery", "irq_delivery"),
            ("_a_", "\\_a\\_"),
            ("a|b", "a\\|b"),
            ("<b>&", "&lt;b>&amp;"),
            ("a\nb", "a b"),
            ("`x` [y] ~z~ \\*", "\\`x\\` \\[y\\] \\~z\\~ \\\\\\*"),
        ] {
            assert_eq!(escaped(plain), shown);
        }
    }
}
