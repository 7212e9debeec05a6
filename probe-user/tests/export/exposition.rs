//! A reader of Prometheus' text exposition, format 0.0.4, which shares nothing with the exporter.
//!
//! Stricter than a scraper: what the format or its naming rules forbid is an error with the line in it.

use std::collections::{BTreeMap, BTreeSet};

/// Label names and values.
pub(crate) type Labels = BTreeMap<String, String>;

/// All samples of an answer.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    /// Type and help by metric name.
    pub(crate) families: BTreeMap<String, Family>,
    /// Values by sample name (with `_bucket` and the like) and labels.
    pub(crate) samples: BTreeMap<(String, Labels), f64>,
}

#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: String,
}

impl Exposition {
    /// The value of the sample with exactly these labels.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.samples.get(&(name.to_owned(), labels)).copied()
    }

    /// Samples of that name.
    pub(crate) fn named(&self, name: &str) -> impl Iterator<Item = (&Labels, f64)> {
        self.samples.iter().filter(move |((n, _), _)| n == name).map(|((_, labels), value)| (labels, *value))
    }
}

/// Reads and checks a whole answer.
pub(crate) fn parse(text: &str) -> Result<Exposition, String> {
    let mut all = Exposition::default();
    let mut current = String::new();
    let mut closed = BTreeSet::new();
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    for line in text.lines() {
        let bad = |why: &str| format!("{why}: {line}");
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or_else(|| bad("no help"))?;
            if all.families.contains_key(name) {
                return Err(bad("family twice"));
            }
            closed.insert(std::mem::replace(&mut current, name.to_owned()));
            all.families.insert(name.to_owned(), Family { help: help.to_owned(), ..Family::default() });
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or_else(|| bad("no type"))?;
            if name != current || !["counter", "gauge", "histogram"].contains(&kind) {
                return Err(bad("type"));
            }
            all.families.get_mut(name).ok_or_else(|| bad("type before help"))?.kind = kind.to_owned();
        } else {
            let (name, labels, value) = sample(line).ok_or_else(|| bad("sample"))?;
            let histogram = all.families.get(&current).is_some_and(|family| family.kind == "histogram");
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let family = if histogram { base.ok_or_else(|| bad("not part of a histogram"))? } else { &name };
            if family != current {
                return Err(bad("outside its family"));
            }
            if all.samples.insert((name, labels), value).is_some() {
                return Err(bad("sample twice"));
            }
        }
    }
    all.families
        .iter()
        .filter(|(_, f)| f.kind == "histogram")
        .try_for_each(|(name, _)| histogram(&all, name))?;
    Ok(all)
}

/// Buckets grow with their bounds, end in `+Inf`, and that is the count.
fn histogram(all: &Exposition, name: &str) -> Result<(), String> {
    let mut by_series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    for (labels, value) in all.named(&format!("{name}_bucket")) {
        let mut labels = labels.clone();
        let le = labels.remove("le").and_then(|le| number(&le)).ok_or("bucket without le")?;
        by_series.entry(labels).or_default().push((le, value));
    }
    for (labels, mut buckets) in by_series {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        if !buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1) {
            return Err(format!("{name}{labels:?}: counts fall"));
        }
        let count = all.samples.get(&(format!("{name}_count"), labels.clone()));
        if buckets.last().map(|(le, n)| (le.is_infinite(), n)) != count.map(|n| (true, n)) {
            return Err(format!("{name}{labels:?}: +Inf is not the count"));
        }
        if !all.samples.contains_key(&(format!("{name}_sum"), labels.clone())) {
            return Err(format!("{name}{labels:?}: no sum"));
        }
    }
    Ok(())
}

fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            if value.is_empty() || labels.insert(label.to_owned(), value).is_some() {
                return None;
            }
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    Some((name.to_owned(), labels, number(rest.strip_prefix(' ')?)?))
}

/// Reads up to the closing quote; returns the value and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[i + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                c @ ('"' | '\\') => c,
                _ => return None,
            }),
            c => value.push(c),
        }
    }
    None
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        _ => text.parse().ok().filter(|n: &f64| n.is_finite()),
    }
}

#[test]
fn what_the_format_forbids_is_refused() {
    let good = "# HELP a_total A\n# TYPE a_total counter\na_total{x=\"1\\n\\\"\"} 2\n";
    assert_eq!(parse(good).unwrap().value("a_total", &[("x", "1\n\"")]), Some(2.0));
    for bad in [
        "a 1\n",
        "# HELP a A\n# TYPE a counter\na{x=\"1\"} 2",
        "# HELP a A\n# TYPE a gauge\na 1\na 1\n",
        "# HELP a A\n# TYPE a gauge\na{x=\"1} 2\n",
        "# HELP h H\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
        "# HELP h H\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n",
    ] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
}
