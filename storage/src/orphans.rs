//! What was cut off the log, kept as evidence, and how to read it.
//!
//! ```text
//! staticfire/orphans/<epoch>-<position>      both in 20 digits; -1, -2, ... behind, when there are several
//!
//!   as long as a segment:  the segment as it was; what was cut begins at the place of the position in it
//!   shorter:               what was cut and nothing else
//! ```
//! The epoch is the one in which it was cut; the position, where it stood in the log. A log is cut when
//! its node had records that the leader of a newer epoch does not have, and when its end did not survive a
//! crash whole.

use std::io;

use bytes::Bytes;

use crate::disk::Directory;
use crate::log::segments;
use crate::record::{Scanned, next_at};
use crate::{Epoch, PhysicalOffset, Record, RecordCrc, RecordError};

pub(crate) const FOLDER: &str = "staticfire/orphans";

/// A range that was cut off the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Its file, within the store directory.
    pub file: String,
    /// The epoch in which it was cut.
    pub epoch: Epoch,
    /// Where it stood in the log.
    pub start: PhysicalOffset,
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
                let (epoch, start) = of_name(&file.name)?;
                // Without a log, all that is left are the segments themselves.
                let segment = segment_bytes.unwrap_or(file.len);
                let place = if file.len >= segment { start.0.checked_rem(segment)? } else { 0 };
                Some(Self { file: format!("{FOLDER}/{}", file.name), epoch, start, place })
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

fn of_name(name: &str) -> Option<(Epoch, PhysicalOffset)> {
    let mut parts = name.splitn(3, '-');
    let mut number = || parts.next()?.parse().ok();
    Some((Epoch(number()?), PhysicalOffset(number()?)))
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
