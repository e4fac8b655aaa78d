//! What can be wrong with a store, and where.

use std::fmt;

use crate::{PhysicalOffset, QueueEntry, QueueId, QueueOffset, RecordError};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Damage, or only unfinished.
    pub severity: Severity,
    /// The file, by its path in the store.
    pub file: String,
    /// The first byte concerned, in that file.
    pub at: u64,
    /// What is wrong there.
    pub problem: Problem,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Something that was stored is not there, or not as it was stored.
    Damage,
    /// What a crash leaves, or others put there: the next open puts it right or steps over it.
    Leftover,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No valid record, where one must be.
    Record {
        /// What is wrong with the bytes.
        error: RecordError,
        /// Where the log goes on; `None` when nothing valid follows in this file.
        resumes: Option<PhysicalOffset>,
    },
    /// Zeros in the middle of the log.
    Hole {
        /// Where the log goes on; `None` when nothing valid follows in this file.
        resumes: Option<PhysicalOffset>,
    },
    /// The blank record does not reach the end of its segment.
    BlankLen {
        /// The length stored.
        found: u32,
        /// The distance to the end of the segment.
        expected: u64,
    },
    /// The log ends elsewhere than the store remembers.
    LogEnd {
        /// Where it ends.
        found: PhysicalOffset,
        /// Where it should end, or the least it should reach.
        expected: PhysicalOffset,
    },
    /// Bytes that are not zero where nothing was written.
    StrayBytes,
    /// A record whose number does not continue its queue.
    Number {
        /// Topic of the queue.
        topic: String,
        /// Its number.
        queue: QueueId,
        /// The record's number in it.
        found: QueueOffset,
        /// One more than that of the record before.
        expected: QueueOffset,
    },
    /// A file of the sequence is missing.
    FileMissing,
    /// The file has another length than its siblings, or than its format demands.
    FileLength {
        /// Its length.
        found: u64,
        /// The length it should have.
        expected: u64,
    },
    /// The number in the file's name is no multiple of the length of its siblings.
    FileName,
    /// The store does not know what this is.
    Foreign,
    /// A queue entry that names no place in the log.
    Dangling(QueueEntry),
    /// A queue entry that names a place where no record is.
    NoRecord {
        /// The entry.
        entry: QueueEntry,
        /// What is wrong with the bytes there.
        error: RecordError,
    },
    /// A queue entry that names a record of another queue, or one that has no entry.
    OtherRecord(QueueEntry),
    /// A queue entry that differs from its record.
    Entry {
        /// The entry.
        found: QueueEntry,
        /// What the record says.
        expected: QueueEntry,
    },
    /// Records of the log without entry in their queue.
    EntriesMissing {
        /// Topic of the queue.
        topic: String,
        /// Its number.
        queue: QueueId,
        /// The first missing entry.
        from: QueueOffset,
        /// How many are missing.
        count: u64,
    },
    /// Padding between entries.
    Padding,
    /// The checksum of a block of a queue file, kept beside it, does not hold.
    Sum,
    /// Our state file cannot be read.
    State,
    /// The checkpoint names a time after the newest record.
    CheckpointTime {
        /// The time in the checkpoint, in ms since the Unix epoch.
        found: i64,
        /// Store time of the newest record.
        newest: i64,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Damage => "damaged",
            Severity::Leftover => "left over",
        };
        write!(f, "{} at byte {}: {word}: {}", self.file, self.at, self.problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record { error, resumes } => {
                write!(f, "no valid record: {error}")?;
                goes_on(*resumes, f)
            }
            Self::Hole { resumes } => {
                f.write_str("zeros, although the log goes on behind")?;
                goes_on(*resumes, f)
            }
            Self::BlankLen { found, expected } => {
                write!(f, "the blank says {found} bytes, {expected} are left in the file")
            }
            Self::LogEnd { found, expected } => {
                write!(f, "the log ends at {found}, the store remembers {expected}")
            }
            Self::StrayBytes => f.write_str("bytes that are not zero where nothing was written"),
            Self::Number { topic, queue, found, expected } => {
                write!(f, "the record is number {found} of queue {queue} of {topic}, should be {expected}")
            }
            Self::FileMissing => f.write_str("the file is missing"),
            Self::FileLength { found, expected } => {
                write!(f, "the file has {found} bytes, should have {expected}")
            }
            Self::FileName => f.write_str("the number in the name does not fit the length of the files"),
            Self::Foreign => f.write_str("not a file of the store"),
            Self::Dangling(entry) => {
                write!(f, "entry {}: {} is not in the log", entry.offset, entry.physical)
            }
            Self::NoRecord { entry, error } => {
                write!(f, "entry {}: no record at {}: {error}", entry.offset, entry.physical)
            }
            Self::OtherRecord(entry) => {
                write!(f, "entry {}: the record at {} is another", entry.offset, entry.physical)
            }
            Self::Entry { found, expected } => write!(
                f,
                "entry {}: position {}, size {}, tags {}, messages {}; by its record position {}, size {}, tags {}, \
                 messages {}",
                found.offset,
                found.physical,
                found.size,
                found.tags_code,
                found.messages,
                expected.physical,
                expected.size,
                expected.tags_code,
                expected.messages
            ),
            Self::EntriesMissing { topic, queue, from, count } => {
                write!(f, "queue {queue} of {topic} lacks {count} entries from {from} on")
            }
            Self::Padding => f.write_str("padding between entries"),
            Self::Sum => f.write_str("the checksum of a block of the queue file does not hold"),
            Self::State => f.write_str("the state of the store cannot be read"),
            Self::CheckpointTime { found, newest } => {
                write!(f, "time {found} is after the newest record, stored at {newest}")
            }
        }
    }
}

fn goes_on(resumes: Option<PhysicalOffset>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match resumes {
        Some(at) => write!(f, "; the log goes on at {at}"),
        None => f.write_str("; nothing valid follows in this file"),
    }
}
