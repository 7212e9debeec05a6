//! What noise is allowed: limits for a CPU as a whole, limits for each source of a kind, and sources that may do as
//! they like. As TOML text; unknown keys and impossible values are refused with their line.

use crate::stats::summary::to_f64;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The kinds of noise.
const KINDS: [&str; 6] = ["irq", "vector", "softirq", "kernel-thread", "user-thread", "nmi"];

/// A budget.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// Limits for everything on one CPU together.
    pub cpu: Limits,
    /// Limits for each single source, by kind.
    pub kinds: BTreeMap<String, Limits>,
    /// Sources that do not count.
    pub allow: Vec<Allow>,
}

/// Limits; what is not set is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    /// Share of the time (%), 0 to 100.
    pub share_percent: Option<f64>,
    /// The longest interval (us).
    pub max_us: Option<f64>,
    /// Intervals per second.
    pub per_second: Option<f64>,
}

/// Sources that do not count.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// Only of this kind.
    pub kind: Option<String>,
    /// Their name; `*` stands for any text.
    pub source: String,
}

/// A text that is not a budget.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct BudgetError {
    /// Where, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl Default for Budget {
    /// Without a file: a thousandth of the time, and never more than 50 us at once.
    fn default() -> Self {
        let cpu = Limits { share_percent: Some(0.1), max_us: Some(50.0), per_second: None };
        Self { cpu, kinds: BTreeMap::new(), allow: Vec::new() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cpu: Option<Limits>,
    #[serde(default)]
    kind: BTreeMap<toml::Spanned<String>, toml::Spanned<Limits>>,
    #[serde(default)]
    allow: Vec<toml::Spanned<Allow>>,
}

/// Reads a budget. Without a table `cpu` the default limits for a CPU hold.
///
/// # Errors
/// [`BudgetError`] says what is wrong, and in which line.
pub fn parse_budget(text: &str) -> Result<Budget, BudgetError> {
    let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let error = |at: usize, what: String| BudgetError { line: line(at), what };
    let file: File =
        toml::from_str(text).map_err(|e| error(e.span().map_or(0, |s| s.start), e.message().to_owned()))?;
    let known = |kind: &str, at: usize| {
        if KINDS.contains(&kind) {
            return Ok(());
        }
        Err(error(at, format!("there is no kind {kind:?}, only {}", KINDS.join(", "))))
    };
    let mut kinds = BTreeMap::new();
    for (kind, limits) in file.kind {
        known(kind.get_ref(), kind.span().start)?;
        limits.get_ref().check().map_err(|what| error(limits.span().start, what))?;
        kinds.insert(kind.into_inner(), limits.into_inner());
    }
    if let Some(limits) = &file.cpu {
        limits.check().map_err(|what| error(text.find("[cpu]").unwrap_or(0), what))?;
    }
    for allow in &file.allow {
        if let Some(kind) = &allow.get_ref().kind {
            known(kind, allow.span().start)?;
        }
    }
    Ok(Budget {
        cpu: file.cpu.unwrap_or_else(|| Budget::default().cpu),
        kinds,
        allow: file.allow.into_iter().map(toml::Spanned::into_inner).collect(),
    })
}

impl Limits {
    fn check(&self) -> Result<(), String> {
        let Self { share_percent, max_us, per_second } = self;
        for (name, value, most) in [
            ("share-percent", share_percent, 100.0),
            ("max-us", max_us, f64::MAX),
            ("per-second", per_second, f64::MAX),
        ] {
            if value.is_some_and(|value| !(0.0..=most).contains(&value)) {
                return Err(format!("{name} is out of range"));
            }
        }
        Ok(())
    }

    /// The limits that `n` intervals of `total_ns` together, `max_ns` at most, break in a window; in words.
    pub(super) fn broken(&self, n: u64, total_ns: u64, max_ns: Option<u64>, window_ns: u64) -> Vec<String> {
        let Self { share_percent, max_us, per_second } = *self;
        let mut broken = Vec::new();
        if window_ns == 0 {
            return broken;
        }
        let percent = to_f64(total_ns) / to_f64(window_ns) * 100.0;
        if let Some(limit) = share_percent.filter(|limit| percent > *limit) {
            broken.push(format!("{percent:.3} % of the time, limit {limit} %"));
        }
        let longest = max_ns.map(|ns| to_f64(ns) / 1e3);
        if let (Some(limit), Some(longest)) = (max_us, longest)
            && longest > limit
        {
            broken.push(format!("longest {}, limit {}", time(longest), time(limit)));
        }
        let rate = to_f64(n) / (to_f64(window_ns) / 1e9);
        if let Some(limit) = per_second.filter(|limit| rate > *limit) {
            broken.push(format!("{rate:.2} /s, limit {limit:.2} /s"));
        }
        broken
    }
}

impl Budget {
    /// Whether a source does not count.
    #[must_use]
    pub fn allows(&self, kind: &str, source: &str) -> bool {
        let fits = |allow: &Allow| {
            allow.kind.as_deref().is_none_or(|k| k == kind) && matches_glob(&allow.source, source)
        };
        self.allow.iter().any(fits)
    }
}

/// A time in us, as people read it.
fn time(us: f64) -> String {
    if us < 1000.0 { format!("{us:.1} us") } else { format!("{:.2} ms", us / 1000.0) }
}

/// Whether `text` is what `pattern` says; `*` stands for any text, also none.
fn matches_glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| matches_glob(rest, &text[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_budget_is_refused_with_its_line() {
        for (text, expected) in [
            ("[cpu]\nshare-percent = 101\n", "line 1: share-percent is out of range"),
            ("[cpu]\nshare = 1\n", "line 2: unknown field `share`"),
            ("\n[kind.disk]\nmax-us = 1\n", "line 2: there is no kind \"disk\", only irq, vector"),
            ("[kind.irq]\nmax-us = -1\n", "line 1: max-us is out of range"),
            ("[[allow]]\nkind = \"irq\"\n", "line 1: missing field `source`"),
            ("[[allow]]\nkind = \"x\"\nsource = \"y\"\n", "line 1: there is no kind \"x\""),
            ("[cpu\n", "line 1:"),
        ] {
            let error = parse_budget(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        assert_eq!(parse_budget("").unwrap(), Budget::default());
        let budget = parse_budget("[kind.nmi]\nper-second = 0\n[[allow]]\nsource = \"vfio-*\"\n").unwrap();
        assert_eq!(budget.cpu, Budget::default().cpu);
        assert_eq!(budget.kinds["nmi"].per_second, Some(0.0));
        assert!(budget.allows("irq", "vfio-msix[0](0000:01:10.0)") && !budget.allows("irq", "nvme0q1"));
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("vfio-*", "vfio-msix[0]", true),
            ("vfio-*", "xvfio-", false),
            ("k*/2:*", "kworker/2:1", true),
            ("k*/2:*", "kworker/3:1", false),
            ("RCU", "RCU2", false),
            ("*é", "né", true),
        ] {
            assert_eq!(matches_glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
