//! Sets of CPUs, in the two text forms the kernel uses: lists (`0-3,7`) and hexadecimal masks (`ff,0000000f`).

use super::CpuId;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// Highest CPU number accepted: the kernel's own limit (`NR_CPUS` with `MAXSMP`) is 8192 CPUs.
pub const MAX_CPU: u32 = 8191;

/// A set of CPUs. Printed and parsed as the kernel's list form.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CpuSet(BTreeSet<CpuId>);

/// A text that is not a CPU list or mask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotACpuSet {
    /// The list form was expected.
    #[error("{0:?} is not a CPU list (expected numbers and ranges such as 0-3,7)")]
    List(String),
    /// The mask form was expected.
    #[error("{0:?} is not a CPU mask (expected hexadecimal words such as ff,0000000f)")]
    Mask(String),
}

impl CpuSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Parses the mask form of `smp_affinity` and `default_smp_affinity`: 32-bit words, most significant first.
    ///
    /// # Errors
    /// [`NotACpuSet::Mask`] names the text.
    pub fn parse_mask(text: &str) -> Result<Self, NotACpuSet> {
        let bad = || NotACpuSet::Mask(text.to_owned());
        let mut set = Self::new();
        for (word_index, word) in text.trim().rsplit(',').enumerate() {
            if word.is_empty() || word.len() > 8 || !word.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            let bits = u32::from_str_radix(word, 16).map_err(|_| bad())?;
            let base = u32::try_from(word_index * 32).map_err(|_| bad())?;
            for bit in (0..32).filter(|bit| bits & 1 << bit != 0) {
                if base + bit > MAX_CPU {
                    return Err(bad());
                }
                set.insert(CpuId(base + bit));
            }
        }
        Ok(set)
    }

    /// The mask form for the kernel's mask files.
    #[must_use]
    pub fn to_mask(&self) -> String {
        let words = self.0.last().map_or(1, |last| last.0 / 32 + 1);
        let word = |w: u32| {
            (0..32).filter(|bit| self.contains(CpuId(w * 32 + bit))).fold(0u32, |acc, bit| acc | 1 << bit)
        };
        let mut text = format!("{:x}", word(words - 1));
        for w in (0..words - 1).rev() {
            text.push_str(&format!(",{:08x}", word(w)));
        }
        text
    }

    /// Adds a CPU.
    pub fn insert(&mut self, cpu: CpuId) {
        self.0.insert(cpu);
    }

    /// Whether a CPU is in the set.
    #[must_use]
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0.contains(&cpu)
    }

    /// Number of CPUs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no CPU is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The CPUs, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = CpuId> + '_ {
        self.0.iter().copied()
    }

    /// The lowest CPU.
    #[must_use]
    pub fn first(&self) -> Option<CpuId> {
        self.0.first().copied()
    }

    /// The CPU of a set that holds just one.
    #[must_use]
    pub fn only(&self) -> Option<CpuId> {
        self.first().filter(|_| self.len() == 1)
    }

    /// CPUs in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.0.intersection(&other.0).copied().collect()
    }

    /// CPUs in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.0.union(&other.0).copied().collect()
    }

    /// CPUs of this set that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.0.difference(&other.0).copied().collect()
    }

    /// Whether every CPU of this set is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }
}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl From<CpuId> for CpuSet {
    fn from(cpu: CpuId) -> Self {
        Self::from_iter([cpu])
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        let mut cpus = self.iter().map(|c| c.0).peekable();
        while let Some(first) = cpus.next() {
            let mut last = first;
            while cpus.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(&first.to_string());
            if last > first {
                text.push_str(&format!("-{last}"));
            }
        }
        f.pad(&text)
    }
}

impl FromStr for CpuSet {
    type Err = NotACpuSet;

    /// Parses the list form. An empty text is the empty set, as the kernel prints it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || NotACpuSet::List(text.to_owned());
        let number = |t: &str| {
            (!t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()))
                .then(|| t.parse::<u32>().ok())
                .flatten()
                .filter(|n| *n <= MAX_CPU)
                .ok_or_else(bad)
        };
        let mut set = Self::new();
        for part in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(bad());
            }
            (first..=last).for_each(|cpu| set.insert(CpuId(cpu)));
        }
        Ok(set)
    }
}

impl From<CpuSet> for String {
    fn from(set: CpuSet) -> Self {
        set.to_string()
    }
}

impl TryFrom<String> for CpuSet {
    type Error = NotACpuSet;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists() {
        for (text, printed) in [("", ""), ("0", "0"), ("0-3,7\n", "0-3,7"), ("3,1,2", "1-3"), ("5-5", "5")] {
            assert_eq!(text.parse::<CpuSet>().unwrap().to_string(), printed, "{text:?}");
        }
        for bad in ["a", "1-", "-1", "3-1", "1,,2", "1 2", "99999", "+1"] {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn masks() {
        for (mask, list) in
            [("0", ""), ("f", "0-3"), ("00000001,00000000", "32"), ("ff,0000000f", "0-3,32-39")]
        {
            assert_eq!(CpuSet::parse_mask(mask).unwrap().to_string(), list, "{mask:?}");
        }
        for bad in ["", "x", "1,", "123456789"] {
            assert!(CpuSet::parse_mask(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in any::<String>(), like in "[0-9a-f,\\- \n]{0,40}") {
            for text in [text, like] {
                let _ = text.parse::<CpuSet>();
                let _ = CpuSet::parse_mask(&text);
            }
        }

        #[test]
        fn both_forms_round_trip(cpus in proptest::collection::btree_set(0..=MAX_CPU, 0..40)) {
            let set: CpuSet = cpus.into_iter().map(CpuId).collect();
            prop_assert_eq!(&set.to_string().parse::<CpuSet>().unwrap(), &set);
            prop_assert_eq!(&CpuSet::parse_mask(&set.to_mask()).unwrap(), &set);
        }
    }
}
