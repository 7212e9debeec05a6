//! Counting tests: what libtest and the lab's scripts print, as numbers and names. Pure.

/// What a set of tests came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    /// Names of the failed tests, with a detail where there is one.
    pub(crate) failed: Vec<String>,
    /// Names of the tests that could not run here, with the reason.
    pub(crate) skipped: Vec<String>,
}

impl Tally {
    /// One test that passed.
    pub(crate) fn one() -> Self {
        Self { passed: 1, ..Self::default() }
    }

    /// One test that failed.
    pub(crate) fn failure(name: impl Into<String>) -> Self {
        Self { failed: vec![name.into()], ..Self::default() }
    }

    /// Adds the tests of `other`.
    pub(crate) fn add(&mut self, other: Self) {
        let Self { passed, failed, skipped } = other;
        self.passed += passed;
        self.failed.extend(failed);
        self.skipped.extend(skipped);
    }

    /// Whether there was any test at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.passed == 0 && self.failed.is_empty() && self.skipped.is_empty()
    }

    /// Puts `prefix` before every name.
    pub(crate) fn prefixed(mut self, prefix: &str) -> Self {
        for name in self.failed.iter_mut().chain(&mut self.skipped) {
            name.insert_str(0, prefix);
        }
        self
    }
}

/// Reads the output of `cargo test ... -- --show-output`. libtest knows no skip at run time, so a test that cannot
/// run here prints the line `SKIP <test>: <reason>` and returns; it is then not counted as passed.
pub(crate) fn parse_libtest(output: &str) -> Tally {
    let mut tally = Tally::default();
    for line in output.lines() {
        if let Some(rest) = line.strip_prefix("test result: ") {
            tally.passed += count_before(rest, " passed");
        } else if let Some(rest) = line.strip_prefix("test ")
            && let Some(name) = rest.strip_suffix(" ... FAILED")
        {
            tally.failed.push(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("SKIP ") {
            tally.skipped.push(rest.to_owned());
        }
    }
    tally.passed = tally.passed.saturating_sub(tally.skipped.len());
    tally
}

fn count_before(text: &str, word: &str) -> usize {
    text.split(';')
        .find_map(|part| part.strip_suffix(word))
        .and_then(|part| part.rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Reads one line of a lab script: `TEST <name> ok`, `TEST <name> FAILED <detail>`, `TEST <name> skipped <why>`.
/// `None` for every other line; a TEST line of another form is a failure, so that no result is lost.
pub(crate) fn parse_lab_line(line: &str) -> Option<Tally> {
    let rest = line.strip_prefix("TEST ")?;
    let (name, result) = rest.split_once(' ').unwrap_or((rest, ""));
    let (word, detail) = result.split_once(' ').unwrap_or((result, ""));
    let described = if detail.is_empty() { name.to_owned() } else { format!("{name}: {detail}") };
    Some(match word {
        "ok" => Tally::one(),
        "FAILED" => Tally::failure(described),
        "skipped" => Tally { skipped: vec![described], ..Tally::default() },
        _ => Tally::failure(format!("{name}: not a result: `{line}`")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: usize, failed: &[&str], skipped: &[&str]) -> Tally {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Tally { passed, failed: own(failed), skipped: own(skipped) }
    }

    #[test]
    fn libtest_output_is_counted() {
        let cases = [
            ("", tally(0, &[], &[])),
            (
                "running 2 tests\ntest a ... ok\ntest b ... ok\n\ntest result: ok. 2 passed; 0 failed; 0 ignored\n\
                 test result: ok. 3 passed; 0 failed; 0 ignored\n",
                tally(5, &[], &[]),
            ),
            (
                "test a::b ... FAILED\nfailures:\n    a::b\ntest result: FAILED. 4 passed; 1 failed; 0 ignored\n",
                tally(4, &["a::b"], &[]),
            ),
            (
                "test msi ... ok\nsuccesses:\n---- msi stdout ----\nSKIP msi: no /dev/kvm on this machine\n\
                 test result: ok. 1 passed; 0 failed; 0 ignored\n",
                tally(0, &[], &["msi: no /dev/kvm on this machine"]),
            ),
        ];
        for (output, expected) in cases {
            assert_eq!(parse_libtest(output), expected, "{output}");
        }
    }

    #[test]
    fn lab_lines_are_counted() {
        let cases = [
            ("TEST ping ok", Some(tally(1, &[], &[]))),
            ("TEST ping FAILED 100% loss", Some(tally(0, &["ping: 100% loss"], &[]))),
            ("TEST ping FAILED", Some(tally(0, &["ping"], &[]))),
            ("TEST ping skipped no card", Some(tally(0, &[], &["ping: no card"]))),
            ("TEST ping", Some(tally(0, &["ping: not a result: `TEST ping`"], &[]))),
            ("a TEST b ok", None),
            ("", None),
        ];
        for (line, expected) in cases {
            assert_eq!(parse_lab_line(line), expected, "{line}");
        }
    }

    #[test]
    fn tallies_add_up_and_names_get_their_place() {
        let mut sum = tally(1, &["a"], &[]);
        sum.add(tally(2, &["b"], &["c: why"]));
        assert_eq!(sum.clone().prefixed("g::"), tally(3, &["g::a", "g::b"], &["g::c: why"]));
        assert!(!sum.is_empty() && Tally::default().is_empty());
    }
}
