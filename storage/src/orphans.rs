//! What was cut off the log, kept as evidence, and how to read it.
//!
//! ```text
//! staticfire/orphans/<epoch>-<position>-<reason>   numbers in 20 digits; -1, -2, ... behind, when there are several
//!
//!   as long as a segment:  the segment as it was; what was cut begins at the place of the position in it
//!   shorter:               what was cut and nothing else
//! ```
//! The epoch is the one in which it was cut; the position, where it stood in the log; the reason, one of
//! [`CutReason`], which older files lack. They are evidence, for a while: see
//! [`crate::StoreOptions::orphans`].

use std::fmt;
use std::io;

use bytes::Bytes;

use crate::disk::Directory;
use crate::log::segments;
use crate::record::{Scanned, next_at};
use crate::{Epoch, PhysicalOffset, Record, RecordCrc, RecordError};

pub(crate) const FOLDER: &str = "staticfire/orphans";

/// Why something was cut off a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CutReason {
    /// The leader of a newer epoch does not have it; it was not confirmed.
    Diverged,
    /// The master that the operator chose does not have it. Here it may have been confirmed, and shown.
    Retracted,
    /// The leader keeps nothing any more of what had to be copied next, so that the log begins anew.
    BegunAnew,
    /// A crash left the end of the log incomplete.
    Torn,
}

impl CutReason {
    /// All of them, by the number that the state file has.
    pub(crate) const ALL: [Self; 4] = [Self::Diverged, Self::Retracted, Self::BegunAnew, Self::Torn];

    /// One word, as in names of files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Diverged => "diverged",
            Self::Retracted => "retracted",
            Self::BegunAnew => "anew",
            Self::Torn => "torn",
        }
    }

    /// A few words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Diverged => "a newer leader does not have it",
            Self::Retracted => "the master chosen by the operator does not have it",
            Self::BegunAnew => "the leader keeps nothing of what came next",
            Self::Torn => "a crash left it incomplete",
        }
    }
}

impl fmt::Display for CutReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A range that was cut off the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Its file, within the store directory.
    pub file: String,
    /// The epoch in which it was cut.
    pub epoch: Epoch,
    /// Where it stood in the log.
    pub start: PhysicalOffset,
    /// Why; `None` for what was cut before reasons were noted.
    pub reason: Option<CutReason>,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// Its place in the file.
    place: u64,
}

impl Orphan {
    /// All orphans of a store, oldest epoch first. Nothing is changed; files with other names are left out.
    ///
    /// # Errors
    /// The system's error.
    pub fn all(directory: &dyn Directory) -> io::Result<Vec<Self>> {
        let files = match directory.list(FOLDER) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed?,
        };
        let log = match directory.list(segments::FOLDER) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed?,
        };
        let segment_bytes = log.iter().map(|file| file.len).max();
        let mut all: Vec<Self> = files
            .iter()
            .filter_map(|file| {
                let (epoch, start, reason) = of_name(&file.name)?;
                // Without a log, all that is left are the segments themselves.
                let segment = segment_bytes.unwrap_or(file.len);
                let place = if file.len >= segment { start.0.checked_rem(segment)? } else { 0 };
                let (file, file_bytes) = (format!("{FOLDER}/{}", file.name), file.len);
                Some(Self { file, epoch, start, reason, file_bytes, place })
            })
            .collect();
        all.sort_by(|a, b| (a.epoch, a.start, &a.file).cmp(&(b.epoch, b.start, &b.file)));
        Ok(all)
    }

    /// Its records, as far as they are whole.
    ///
    /// # Errors
    /// The system's error.
    pub fn records(&self, directory: &dyn Directory) -> io::Result<OrphanRecords> {
        let file = directory.open(&self.file)?;
        let bytes = file.read(self.place.min(file.len())..file.len())?;
        Ok(OrphanRecords { bytes, at: self.start })
    }
}

fn of_name(name: &str) -> Option<(Epoch, PhysicalOffset, Option<CutReason>)> {
    let mut parts = name.splitn(4, '-');
    let mut number = || parts.next()?.parse().ok();
    let (epoch, start) = (Epoch(number()?), PhysicalOffset(number()?));
    let reason = parts.next().and_then(|word| CutReason::ALL.into_iter().find(|it| it.name() == word));
    Some((epoch, start, reason))
}

/// Walks an orphan from record to record; see [`Orphan::records`].
#[derive(Debug)]
pub struct OrphanRecords {
    bytes: Bytes,
    at: PhysicalOffset,
}

impl Iterator for OrphanRecords {
    type Item = Result<Record, RecordError>;

    /// The next record; an error for one that is damaged, and one where something else stands, which
    /// ends the walk.
    fn next(&mut self) -> Option<Self::Item> {
        match next_at(&self.bytes) {
            Scanned::Record { len } => {
                let record = Record::parse(self.bytes.clone(), self.at, RecordCrc::IfPresent);
                self.at = self.at.after(len.into());
                self.bytes = self.bytes.slice(len as usize..);
                Some(record)
            }
            Scanned::Damaged(error) => {
                self.bytes.clear();
                Some(Err(error))
            }
            Scanned::Nothing | Scanned::Blank { .. } => None,
        }
    }
}
