//! What is written down before anything is changed, and what can be told from it afterwards.
//!
//! One record a line: `NUMBER CRC32 JSON`, the CRC over `NUMBER JSON`. Lines are numbered from 0, so a lost line shows as
//! much as a changed one. A file that ends in the middle of a line, or in a line that does not check, lost its last
//! record while that was written; since a step's record is on disk before the step is carried out, nothing follows from
//! such a record. Anywhere else a bad line means that the file was damaged.

mod record;
mod standing;

pub use record::{Begin, JOURNAL_FORMAT, Record, encode};
pub use standing::Standing;

use super::{Step, TargetKey};
use crate::model::Value;
use record::decode;

/// A journal that cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// A line in the middle does not check.
    #[error("line {line} (byte {offset}) is damaged")]
    Damaged {
        /// Counted from 1.
        line: u64,
        /// Where it starts.
        offset: usize,
    },
    /// A record that cannot stand where it stands.
    #[error("line {line}: {what}")]
    Misplaced {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
    /// A newer form.
    #[error("it has format {0}, this vfprobe knows {JOURNAL_FORMAT}")]
    Format(u32),
}

/// What a journal says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// Transactions, oldest first.
    pub transactions: Vec<Transaction>,
    /// Length of the part that holds whole records, in bytes.
    pub valid_len: usize,
    /// Number of whole records: the number of the next line.
    pub lines: u64,
    /// Damaged lines that were passed over, counted from 1 (only by [`Journal::salvage`]). Each may have been a step.
    pub damaged: Vec<u64>,
    /// Whether a torn last record follows the valid part.
    pub torn: bool,
    /// Whether everything is being undone: `rollback` was begun and not finished.
    pub undoing_all: bool,
}

/// One `apply`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Its head.
    pub begin: Begin,
    /// Its steps.
    pub entries: Vec<Entry>,
    /// Whether all were carried out.
    pub applied: bool,
    /// Whether it failed and its steps are being undone.
    pub undoing: bool,
    /// Whether it was undone entirely.
    pub closed: bool,
}

/// A step, and how far it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub n: u32,
    /// The step.
    pub step: Step,
    /// How far it got.
    pub state: EntryState,
    /// What the kernel made of the value, where it took only part of it.
    pub taken: Option<Value>,
}

/// How far a step got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// Recorded; whether it was carried out is not known.
    Begun,
    /// Carried out and read back.
    Done,
    /// Carried out on something that has gone since.
    Released,
    /// Not carried out.
    Skipped {
        /// Why.
        why: String,
        /// Whether the kernel refuses to move the target at all.
        immovable: bool,
    },
}

impl Journal {
    /// Reads a journal. A torn last record is passed over.
    ///
    /// # Errors
    /// [`JournalError`] says where the file is damaged.
    pub fn parse(bytes: &[u8]) -> Result<Self, JournalError> {
        Self::read(bytes, false)
    }

    /// Reads what can be read of a damaged journal, passing over lines that do not check or have lost their place.
    ///
    /// # Errors
    /// [`JournalError::Format`] when a later vfprobe wrote it.
    pub fn salvage(bytes: &[u8]) -> Result<Self, JournalError> {
        Self::read(bytes, true)
    }

    fn read(bytes: &[u8], lenient: bool) -> Result<Self, JournalError> {
        let mut journal = Self::default();
        let mut offset = 0;
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let start = offset;
            offset += line.len();
            let last = offset == bytes.len();
            let record = line.strip_suffix(b"\n").and_then(|text| decode(journal.lines, text));
            let number = journal.lines + 1;
            let outcome = match record {
                Some(record) => journal.add(record, lenient).map_err(|fault| fault.at(number)),
                None if last => {
                    journal.torn = true;
                    return Ok(journal);
                }
                None => Err(JournalError::Damaged { line: number, offset: start }),
            };
            match outcome {
                Ok(()) => {}
                Err(error @ JournalError::Format(_)) => return Err(error),
                Err(_) if lenient => journal.damaged.push(number),
                Err(error) => return Err(error),
            }
            journal.lines = number;
            journal.valid_len = offset;
        }
        Ok(journal)
    }

    /// With `gaps`, steps before a step may be missing.
    fn add(&mut self, record: Record, gaps: bool) -> Result<(), Fault> {
        if let Record::Begin(begin) = record {
            if begin.format != JOURNAL_FORMAT {
                return Err(Fault::Format(begin.format));
            }
            let entries = Vec::new();
            self.transactions.push(Transaction {
                begin,
                entries,
                applied: false,
                undoing: false,
                closed: false,
            });
            return Ok(());
        }
        let known_step = |n: u32| Fault::Misplaced(format!("step {n} was never begun"));
        let next = self.next_step();
        let current = self
            .transactions
            .last_mut()
            .ok_or_else(|| Fault::Misplaced("a record before any transaction".to_owned()))?;
        match record {
            Record::Begin(_) => {}
            Record::Step { n, step } => {
                if n < next || (n > next && !gaps) {
                    return Err(Fault::Misplaced(format!("step {n} where step {next} is due")));
                }
                current.entries.push(Entry { n, step, state: EntryState::Begun, taken: None });
            }
            Record::Done { n, taken } => {
                let entry = self.entry(n).ok_or_else(|| known_step(n))?;
                (entry.state, entry.taken) = (EntryState::Done, taken);
            }
            Record::Skipped { n, why, immovable } => {
                self.entry(n).ok_or_else(|| known_step(n))?.state = EntryState::Skipped { why, immovable };
            }
            Record::Released { n } => {
                self.entry(n).ok_or_else(|| known_step(n))?.state = EntryState::Released;
            }
            Record::Applied => current.applied = true,
            Record::Undo { all: true } => self.undoing_all = true,
            Record::Undo { all: false } => current.undoing = true,
            Record::Closed if self.undoing_all => {
                self.undoing_all = false;
                self.transactions.iter_mut().for_each(|t| t.closed = true);
            }
            Record::Closed => current.closed = true,
        }
        Ok(())
    }

    fn entry(&mut self, n: u32) -> Option<&mut Entry> {
        self.transactions.iter_mut().rev().flat_map(|t| &mut t.entries).find(|e| e.n == n)
    }

    /// Number of the next step.
    #[must_use]
    pub fn next_step(&self) -> u32 {
        self.transactions.iter().flat_map(|t| &t.entries).map(|e| e.n + 1).max().unwrap_or(0)
    }

    /// Transactions that are not undone.
    pub fn open(&self) -> impl DoubleEndedIterator<Item = &Transaction> {
        self.transactions.iter().filter(|t| !t.closed)
    }

    /// Whether everything on record is either in force or undone: no `apply` or `rollback` was cut short.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.undoing_all && self.open().all(|t| t.applied && !t.undoing)
    }

    /// What stands written on the host, in the order in which it was written first.
    #[must_use]
    pub fn standing(&self) -> Vec<Standing> {
        standing::merge(self.open().flat_map(|t| &t.entries))
    }

    /// The same of the last transaction alone.
    #[must_use]
    pub fn standing_last(&self) -> Vec<Standing> {
        standing::merge(self.open().next_back().into_iter().flat_map(|t| &t.entries))
    }

    /// Steps that were not carried out: the last of each target, without those that were since; with the reason, and
    /// whether the kernel refuses to move the target at all.
    #[must_use]
    pub fn passed_over(&self) -> Vec<(&Step, &str, bool)> {
        let mut last: Vec<&Entry> = Vec::new();
        for entry in self.open().flat_map(|t| &t.entries) {
            last.retain(|before| before.step.target.key() != entry.step.target.key());
            last.push(entry);
        }
        let skipped = last.into_iter().filter_map(|entry| match &entry.state {
            EntryState::Skipped { why, immovable } => Some((&entry.step, why.as_str(), *immovable)),
            _ => None,
        });
        skipped.collect()
    }

    /// Targets that were written to and have gone since, or been made anew.
    pub fn released(&self) -> impl Iterator<Item = TargetKey> + '_ {
        let entries = self.open().flat_map(|t| &t.entries);
        entries.filter(|e| e.state == EntryState::Released).map(|e| e.step.target.key())
    }

    /// Targets that the kernel refused to move.
    pub fn immovable(&self) -> impl Iterator<Item = TargetKey> + '_ {
        self.open()
            .flat_map(|t| &t.entries)
            .filter(|e| matches!(e.state, EntryState::Skipped { immovable: true, .. }))
            .map(|e| e.step.target.key())
    }
}

/// A record that checks but cannot stand where it stands.
enum Fault {
    Misplaced(String),
    Format(u32),
}

impl Fault {
    fn at(self, line: u64) -> JournalError {
        match self {
            Self::Misplaced(what) => JournalError::Misplaced { line, what },
            Self::Format(format) => JournalError::Format(format),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::record::checksum;
    use super::*;
    use crate::model::{CpuId, CpuSet, Pid, Tid};
    use crate::plan::{Need, Role, Target, ThreadTarget};
    use proptest::prelude::*;

    fn begin() -> Record {
        Record::Begin(Begin {
            format: JOURNAL_FORMAT,
            boot_id: "b".to_owned(),
            unix_time: 1,
            ticks: 2,
            vfprobe: "0.1.0".to_owned(),
            pid: 3,
            config: "own".to_owned(),
            guests: vec!["vm1".to_owned()],
            guarded: CpuId(2).into(),
            kept_by: None,
            irqs: Vec::new(),
        })
    }

    fn step(n: u32, tid: u32, now: &str, new: &str) -> Record {
        let target = Target::Thread(ThreadTarget {
            pid: Pid(1),
            tid: Tid(tid),
            start_time: 5,
            comm: "x y".to_owned(),
            role: Role::Host,
        });
        let [now, new] = [now, new].map(|list| list.parse::<CpuSet>().unwrap().into());
        let step = Step { target, now, effective: None, new, need: Need::Required, reason: "why".to_owned() };
        Record::Step { n, step }
    }

    fn text(records: &[Record]) -> String {
        records.iter().zip(0..).map(|(record, line)| encode(line, record)).collect()
    }

    fn standing(records: &[Record]) -> Vec<String> {
        let journal = Journal::parse(text(records).as_bytes()).unwrap();
        let line = |s: Standing| format!("{:?}: {} -> {}", s.steps, s.old, s.asked());
        journal.standing().into_iter().map(line).collect()
    }

    #[test]
    fn what_stands() {
        let check = |records: &[Record], expect: &[&str]| assert_eq!(standing(records), expect);
        let skipped = |n| Record::Skipped { n, why: String::new(), immovable: true };
        check(&[], &[]);
        check(&[begin(), step(0, 7, "0-3", "2")], &["[0]: 0-3 -> 2"]);
        check(&[begin(), step(0, 7, "0-3", "2"), skipped(0)], &[]);
        // A second transaction goes on where the first one ended, or starts anew after somebody else's change.
        let first =
            [begin(), step(0, 7, "0-3", "2"), Record::Done { n: 0, taken: None }, Record::Applied, begin()];
        check(&[&first[..], &[step(1, 7, "2", "3")]].concat(), &["[0, 1]: 0-3 -> 3"]);
        check(&[&first[..], &[step(1, 7, "1", "3")]].concat(), &["[0, 1]: 1 -> 3"]);
        check(
            &[&first[..], &[step(1, 7, "2", "3"), Record::Undo { all: false }, Record::Closed]].concat(),
            &["[0]: 0-3 -> 2"],
        );
        check(&[&first[..4], &[Record::Undo { all: true }, Record::Closed]].concat(), &[]);
        // A step back leaves nothing once it is known to be done.
        let back = [&first[..], &[step(1, 7, "2", "0-3")]].concat();
        check(&back, &["[0, 1]: 0-3 -> 0-3"]);
        check(&[&back[..], &[Record::Done { n: 1, taken: None }]].concat(), &[]);
        check(&[&first[..4], &[Record::Released { n: 0 }]].concat(), &[]);
        // Part of it was taken, and a later step goes on from there.
        let part = Record::Done { n: 0, taken: Some("2".parse::<CpuSet>().unwrap().into()) };
        let part =
            [begin(), step(0, 7, "0-3", "2-3"), part, Record::Applied, begin(), step(1, 7, "2", "2-3")];
        check(&part[..4], &["[0]: 0-3 -> 2-3"]);
        check(&part, &["[0, 1]: 0-3 -> 2-3"]);
    }

    #[test]
    fn settled_or_cut_short() {
        let check = |records: &[Record], expect: bool| {
            let journal = Journal::parse(text(records).as_bytes()).unwrap();
            assert_eq!(journal.is_settled(), expect, "{records:?}");
        };
        check(&[], true);
        check(&[begin()], false);
        check(&[begin(), Record::Applied], true);
        check(&[begin(), Record::Applied, Record::Undo { all: true }], false);
        check(&[begin(), Record::Applied, Record::Undo { all: true }, Record::Closed], true);
        check(&[begin(), Record::Undo { all: false }], false);
        check(&[begin(), Record::Undo { all: false }, Record::Closed], true);
    }

    #[test]
    fn damage_is_named_and_can_be_passed_over() {
        let whole = text(&[begin(), step(0, 7, "0-3", "2"), step(1, 8, "0-3", "2"), Record::Applied]);
        let third = whole.match_indices('\n').nth(1).unwrap().0 + 1;
        let mut bytes = whole.clone().into_bytes();
        bytes[third + 20] ^= 1;
        assert_eq!(Journal::parse(&bytes), Err(JournalError::Damaged { line: 3, offset: third }));
        let salvaged = Journal::salvage(&bytes).unwrap();
        assert_eq!((salvaged.standing().len(), salvaged.damaged), (1, vec![3]));

        // What follows a step that is lost is not lost with it.
        let mut bytes = whole.clone().into_bytes();
        let second = whole.find('\n').unwrap() + 1;
        bytes[second + 20] ^= 1;
        let salvaged = Journal::salvage(&bytes).unwrap();
        let targets: Vec<_> = salvaged.standing().into_iter().flat_map(|item| item.steps).collect();
        assert_eq!((salvaged.transactions[0].applied, salvaged.damaged, targets), (true, vec![2], vec![1]));

        let without_second: String =
            whole.lines().enumerate().filter(|(i, _)| *i != 1).map(|(_, l)| format!("{l}\n")).collect();
        assert!(matches!(
            Journal::parse(without_second.as_bytes()),
            Err(JournalError::Damaged { line: 2, .. })
        ));

        let misplaced = text(&[begin(), Record::Done { n: 4, taken: None }]);
        assert!(matches!(Journal::parse(misplaced.as_bytes()), Err(JournalError::Misplaced { line: 2, .. })));
        let newer = text(&[begin()]).replace("\"format\":1", "\"format\":9");
        let json = newer.split_once('{').unwrap().1.trim_end();
        let newer = format!("0 {:08x} {{{json}\n", checksum(0, &format!("{{{json}")));
        assert_eq!(Journal::parse(newer.as_bytes()), Err(JournalError::Format(9)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Journal::parse(&bytes);
            let _ = Journal::salvage(&bytes);
        }

        #[test]
        fn any_flipped_byte_is_seen(at in any::<proptest::sample::Index>(), flip in 1_u8..=255) {
            let whole = text(&[begin(), step(0, 7, "0-3", "2"), Record::Done { n: 0, taken: None }, Record::Applied]);
            let mut bytes = whole.clone().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let intact = Journal::parse(whole.as_bytes()).unwrap();
            let read = Journal::parse(&bytes);
            prop_assert_ne!(read.as_ref().ok(), Some(&intact));
            // Damage before the last record never passes for a shorter journal.
            if at < whole.trim_end().rfind('\n').unwrap() {
                prop_assert!(read.is_err());
            }
        }

        #[test]
        fn any_truncation_leaves_the_records_before_it(cut in any::<proptest::sample::Index>()) {
            let records = [begin(), step(0, 7, "0-3", "2"), Record::Done { n: 0, taken: None }, step(1, 8, "1", "2")];
            let whole = text(&records);
            let cut = cut.index(whole.len() + 1);
            let journal = Journal::parse(&whole.as_bytes()[..cut]).unwrap();
            let kept = whole[..cut].matches('\n').count();
            prop_assert_eq!(journal.lines, u64::try_from(kept).unwrap());
            prop_assert_eq!(journal.torn, !whole[..cut].is_empty() && !whole[..cut].ends_with('\n'));
            prop_assert_eq!(journal.standing(), Journal::parse(text(&records[..kept]).as_bytes()).unwrap().standing());
        }
    }
}
