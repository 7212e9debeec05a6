//! Which kernel the lab boots: by Debian suite, never by version, so that the newest security update of a suite is
//! what gets tested. Values only.

use std::fmt;
use std::str::FromStr;

use anyhow::{Error, bail};

/// Kernels that the tests run on, with the suite that ships them.
const KNOWN: [(&str, &str); 2] = [("6.1", "bookworm"), ("6.12", "trixie")];

/// A kernel of the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// Its name in commands and in the cache: the series for known ones, else the suite.
    pub(crate) name: String,
    /// The Debian suite whose `linux-image-amd64` it is.
    pub(crate) suite: String,
}

impl Kernel {
    /// The kernels of a full test run.
    pub(crate) fn tested() -> Vec<Self> {
        KNOWN
            .iter()
            .map(|(name, suite)| Self { name: (*name).to_owned(), suite: (*suite).to_owned() })
            .collect()
    }
}

impl FromStr for Kernel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some((name, suite)) = KNOWN.iter().find(|(name, suite)| text == *name || text == *suite) {
            return Ok(Self { name: (*name).to_owned(), suite: (*suite).to_owned() });
        }
        let is_suite = text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !is_suite {
            let known: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
            bail!(
                "`{text}` is no kernel of the lab: one of {}, or a Debian suite such as sid",
                known.join(", ")
            );
        }
        Ok(Self { name: text.to_owned(), suite: text.to_owned() })
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_named_by_series_or_suite() {
        let cases = [
            ("6.1", Some(("6.1", "bookworm"))),
            ("trixie", Some(("6.12", "trixie"))),
            ("sid", Some(("sid", "sid"))),
            ("bookworm-backports", Some(("bookworm-backports", "bookworm-backports"))),
            ("6.2", None),
            ("../x", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let kernel = text.parse::<Kernel>().ok();
            let pair = kernel.as_ref().map(|k| (k.name.as_str(), k.suite.as_str()));
            assert_eq!(pair, expected, "{text}");
        }
    }
}
