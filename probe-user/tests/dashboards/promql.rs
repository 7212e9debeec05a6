//! Reads the names out of PromQL: which metrics an expression selects, by which labels, and what it groups by.
//!
//! Not a full grammar (promtool has that, see the test `promtool`): brackets must balance, every name must be a known
//! function, a keyword, a metric or a label, and the two last are checked against the registry.

use probe_user::export::registry::{self, Kind};
use std::collections::{BTreeMap, BTreeSet};

/// Labels by the name of a recording rule's result.
pub(crate) type Recorded = BTreeMap<String, BTreeSet<String>>;

/// Labels that Prometheus itself adds to every series.
const OF_THE_SCRAPE: [&str; 2] = ["instance", "job"];
const FUNCTIONS: [&str; 17] = [
    "sum",
    "count",
    "min",
    "max",
    "avg",
    "topk",
    "bottomk",
    "quantile",
    "histogram_quantile",
    "rate",
    "increase",
    "irate",
    "vector",
    "clamp_min",
    "label_replace",
    "absent",
    "changes",
];
const KEYWORDS: [&str; 5] = ["and", "or", "unless", "offset", "bool"];
const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Functions that take a counter's range.
const OF_COUNTERS: [&str; 3] = ["rate", "increase", "irate"];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Name(String),
    Text(String),
    Number(String),
    Sign(String),
}

/// Names that an expression's result can be labelled with.
pub(crate) struct Checked {
    /// Labels of the selected metrics, those of the scrape included.
    pub(crate) labels: BTreeSet<String>,
    /// What the outermost `by` keeps, when the expression begins with an aggregation.
    pub(crate) grouped_by: Option<BTreeSet<String>>,
}

/// Checks an expression; Grafana's variables may stand where they may stand.
pub(crate) fn check(expression: &str, recorded: &Recorded) -> Result<Checked, String> {
    let tokens = tokens(&without_variables(expression))?;
    balanced(&tokens)?;
    let mut labels: BTreeSet<String> = OF_THE_SCRAPE.iter().map(ToString::to_string).collect();
    let mut grouping = Vec::new();
    let mut metrics = 0;
    let mut i = 0;
    while i < tokens.len() {
        let Token::Name(name) = &tokens[i] else {
            i += 1;
            continue;
        };
        let next = tokens.get(i + 1);
        if GROUPING.contains(&name.as_str()) {
            let end = closing(&tokens, i + 1)?;
            grouping.push(names(&tokens[i + 2..end])?);
            i = end + 1;
        } else if KEYWORDS.contains(&name.as_str()) {
            i += 1;
        } else if FUNCTIONS.contains(&name.as_str()) {
            let followed = matches!(next, Some(Token::Sign(s)) if s == "(")
                || matches!(next, Some(Token::Name(n)) if GROUPING.contains(&n.as_str()));
            if !followed {
                return Err(format!("function {name} without arguments"));
            }
            i += 1;
        } else {
            let of_metric = labels_of(name, recorded)?;
            metrics += 1;
            i += 1;
            let counts = registry::find(name).is_some_and(|m| m.kind == Kind::Counter)
                || part_of_histogram(name).is_some();
            let called =
                i >= 3 && matches!(&tokens[i - 3], Token::Name(f) if OF_COUNTERS.contains(&f.as_str()));
            if counts != called {
                return Err(format!("{name}: rate() or increase() belongs around counters, and only there"));
            }
            if matches!(tokens.get(i), Some(Token::Sign(s)) if s == "{") {
                let end = closing(&tokens, i)?;
                for label in matched(&tokens[i + 1..end])? {
                    if !of_metric.contains(&label) {
                        return Err(format!("{name} has no label {label}"));
                    }
                }
                i = end + 1;
            }
            labels.extend(of_metric);
        }
    }
    if metrics == 0 {
        return Err("selects no metric".to_owned());
    }
    if let Some(label) = grouping.iter().flatten().find(|label| !labels.contains(*label)) {
        return Err(format!("groups by {label}, which no selected metric has"));
    }
    let aggregated = matches!(tokens.get(1), Some(Token::Name(n)) if n == "by");
    let grouped_by = aggregated.then(|| grouping[0].iter().cloned().collect());
    Ok(Checked { labels, grouped_by })
}

/// `$instance` in a matcher is text already; a variable as a duration becomes one.
fn without_variables(expression: &str) -> String {
    expression.replace("[$__rate_interval]", "[5m]").replace("[$__range]", "[1h]")
}

fn part_of_histogram(name: &str) -> Option<(&'static registry::Metric, &'static str)> {
    ["_bucket", "_sum", "_count"].into_iter().find_map(|part| {
        let metric = registry::find(name.strip_suffix(part)?)?;
        (metric.kind == Kind::Histogram).then_some((metric, part))
    })
}

/// The labels a selected name may have.
pub(crate) fn labels_of(name: &str, recorded: &Recorded) -> Result<BTreeSet<String>, String> {
    if name == "up" {
        return Ok(OF_THE_SCRAPE.iter().map(ToString::to_string).collect());
    }
    if let Some(labels) = recorded.get(name) {
        return Ok(labels.clone());
    }
    let (metric, le) = match (part_of_histogram(name), registry::find(name)) {
        (Some((metric, part)), _) => (metric, part == "_bucket"),
        (None, Some(metric)) if metric.kind == Kind::Histogram => {
            return Err(format!("{name} is a histogram: select its _bucket, _sum or _count"));
        }
        (None, Some(metric)) => (metric, false),
        (None, None) => {
            return Err(format!("{name} is neither a metric nor a recording rule nor a known function"));
        }
    };
    let own = metric.labels.iter().chain(&OF_THE_SCRAPE).map(ToString::to_string);
    Ok(own.chain(le.then(|| "le".to_owned())).collect())
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = |more: &[char]| {
            rest.find(|c: char| !c.is_ascii_alphanumeric() && !more.contains(&c)).unwrap_or(rest.len())
        };
        let (token, len) = match first {
            'a'..='z' | 'A'..='Z' | '_' | ':' => {
                let len = word(&['_', ':']);
                (Token::Name(rest[..len].to_owned()), len)
            }
            '0'..='9' => {
                let len = word(&['.']);
                (Token::Number(rest[..len].to_owned()), len)
            }
            '"' => {
                let inside = &rest[1..];
                let len = inside.find('"').ok_or("text without an end")?;
                if inside[..len].contains('\\') {
                    return Err("escapes in texts are not read".to_owned());
                }
                (Token::Text(inside[..len].to_owned()), len + 2)
            }
            _ => {
                let signs = [
                    "=~", "!~", "!=", "==", ">=", "<=", "(", ")", "{", "}", "[", "]", ",", "=", ">", "<",
                    "+", "-", "*", "/",
                ];
                let sign = signs.into_iter().find(|sign| rest.starts_with(sign));
                let sign = sign.ok_or_else(|| format!("unexpected {first:?}"))?;
                (Token::Sign(sign.to_owned()), sign.len())
            }
        };
        tokens.push(token);
        rest = rest[len..].trim_start();
    }
    Ok(tokens)
}

fn balanced(tokens: &[Token]) -> Result<(), String> {
    let mut open = Vec::new();
    for token in tokens {
        let Token::Sign(sign) = token else { continue };
        let opening = match sign.as_str() {
            "(" | "[" | "{" => {
                open.push(sign.as_str());
                continue;
            }
            ")" => "(",
            "]" => "[",
            "}" => "{",
            _ => continue,
        };
        if open.pop() != Some(opening) {
            return Err(format!("{sign} closes nothing"));
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("{} is never closed", open.join(" "))) }
}

/// Where the bracket that opens at `start` closes; both kinds used here do not nest.
fn closing(tokens: &[Token], start: usize) -> Result<usize, String> {
    let close = match tokens.get(start) {
        Some(Token::Sign(s)) if s == "(" => ")",
        Some(Token::Sign(s)) if s == "{" => "}",
        _ => return Err("a list is missing".to_owned()),
    };
    let len = tokens[start..].iter().position(|t| matches!(t, Token::Sign(s) if s == close));
    len.map(|len| start + len).ok_or_else(|| format!("{close} is missing"))
}

fn names(list: &[Token]) -> Result<Vec<String>, String> {
    list.split(|t| *t == Token::Sign(",".to_owned()))
        .filter(|part| !part.is_empty())
        .map(|part| match part {
            [Token::Name(name)] => Ok(name.clone()),
            _ => Err(format!("not a label: {part:?}")),
        })
        .collect()
}

fn matched(list: &[Token]) -> Result<Vec<String>, String> {
    list.split(|t| *t == Token::Sign(",".to_owned()))
        .filter(|part| !part.is_empty())
        .map(|part| match part {
            [Token::Name(name), Token::Sign(op), Token::Text(_)]
                if ["=", "!=", "=~", "!~"].contains(&op.as_str()) =>
            {
                Ok(name.clone())
            }
            _ => Err(format!("not a matcher: {part:?}")),
        })
        .collect()
}

#[test]
fn good_expressions_pass() {
    let recorded = Recorded::from([("a:b:c".to_owned(), BTreeSet::from(["guest".to_owned()]))]);
    for good in [
        "vfprobe_up",
        "up == 0",
        "sum by (le) (rate(vfprobe_vm_exit_seconds_bucket{guest=~\"$guest\"}[$__rate_interval]))",
        "count(vfprobe_probe_up{instance=~\"$instance\"} == 0) or vector(0)",
        "a:b:c{guest=\"x\"} * 300 > 1000",
        "vfprobe_config_info unless vfprobe_config_info offset 1m",
    ] {
        check(good, &recorded).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
}

#[test]
fn mistakes_are_found() {
    for (bad, why) in [
        ("vfprobe_upp", "vfprobe_upp is neither"),
        ("vfprobe_up{guest=\"x\"}", "has no label guest"),
        ("vfprobe_vm_exit_seconds", "_bucket"),
        ("rate(vfprobe_vm_exit_seconds_bucket[5m]", "never closed"),
        ("sum by (vf) (rate(vfprobe_vm_exit_seconds_count[5m]))", "groups by vf"),
        ("vfprobe_irq_delivery_raised_total", "rate() or increase()"),
        ("rate(vfprobe_up[5m])", "rate() or increase()"),
        ("rate(vfprobe_vm_exit_seconds_sum{le=\"1\"}[5m])", "has no label le"),
        ("frobnicate(vfprobe_up)", "frobnicate is neither"),
        ("a:b:c", "a:b:c is neither"),
        ("vector(1)", "selects no metric"),
        ("vfprobe_up{instance}", "not a matcher"),
        ("vfprobe_up ; vfprobe_up", "unexpected"),
    ] {
        let error = check(bad, &Recorded::new()).err().unwrap_or_else(|| panic!("{bad} passed"));
        assert!(error.contains(why), "{bad}: {error}");
    }
}
