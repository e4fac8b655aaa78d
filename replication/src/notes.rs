//! What a node must find again when it starts: its promise, and the epochs of its log.
//!
//! ```text
//! staticfire/promise    | SFPROMI1 | disk | epoch | vote + 1 or 0 | barred | floor epoch | floor end |
//!                       | n | n x (node, disk) | crc32 u32 |
//! staticfire/epochs     | SFEPOCH1 | base epoch | base end | looked to | n | n x (epoch, start) | crc32 u32 |
//! ```
//! Big-endian u64 but for the checksum. Both are replaced as a whole and durably. What was appended after
//! `looked to` is looked through again, and without the file all is, unless retention removed the
//! barriers.

use std::fmt;
use std::io;
use std::sync::Arc;

use staticfire_storage::disk::{Directory, OnSynced};
use staticfire_storage::small_file;
use staticfire_storage::{Epoch, PhysicalOffset, Position, Store};

use crate::wire::{Fields, WireError};
use crate::{Barrier, DiskId, EpochStart, EpochTable, EpochTableError, Promise};

const PROMISE: &str = "staticfire/promise";
const EPOCHS: &str = "staticfire/epochs";
/// What helps a node that lost what it must know.
const AS_EMPTY: &str = "move its data directory away, and it joins as an empty node";
const PROMISE_MAGIC: &[u8; 8] = b"SFPROMI1";
const EPOCHS_MAGIC: &[u8; 8] = b"SFEPOCH1";

/// What could not be read.
#[derive(Debug)]
pub enum NotesError {
    /// The system's error.
    Io(&'static str, io::Error),
    /// The promise is damaged: a node that may have voted and does not know for whom must not vote
    /// again. Remove its whole directory, and it joins as an empty one.
    Promise(WireError),
    /// The barriers of the log contradict each other.
    Epochs(EpochTableError),
    /// The note is damaged that says where the log begins anew.
    Reset(WireError),
    /// The log could not be emptied.
    Restart(Box<staticfire_storage::CutError>),
    /// Retention removed barriers that were not noted: in which epoch the log begins is not known.
    Base(PhysicalOffset),
    /// The log cannot be read.
    Log(Box<staticfire_storage::ReadError>),
}

impl fmt::Display for NotesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => write!(f, "{path}: {error}"),
            Self::Promise(error) => write!(
                f,
                "{PROMISE}: {error}; this node may have voted and cannot know it, so it must not vote again: \
                 {AS_EMPTY}"
            ),
            Self::Epochs(error) => write!(f, "the epochs of the log contradict each other: {error}"),
            Self::Reset(error) => write!(f, "staticfire/reset: {error}; {AS_EMPTY}"),
            Self::Restart(error) => write!(f, "the log cannot begin anew: {error}"),
            Self::Base(min) => write!(
                f,
                "{EPOCHS} does not reach the oldest record at {min}, so the epoch there is not known; {AS_EMPTY}"
            ),
            Self::Log(error) => write!(f, "the epochs of the log cannot be read: {error}"),
        }
    }
}

impl std::error::Error for NotesError {}

/// The promise of a directory; `None` in a new one.
pub(crate) fn read_promise(directory: &dyn Directory) -> Result<Option<(DiskId, Promise)>, NotesError> {
    let Some(bytes) = small_file::read(directory, PROMISE).map_err(|error| NotesError::Io(PROMISE, error))?
    else {
        return Ok(None);
    };
    decode_promise(&bytes).map(Some).map_err(NotesError::Promise)
}

/// Reads a promise, and whose disk gave it.
///
/// # Errors
/// [`WireError`].
pub fn decode_promise(bytes: &[u8]) -> Result<(DiskId, Promise), WireError> {
    let mut fields = checked(bytes, PROMISE_MAGIC)?;
    let disk = DiskId(fields.u64()?);
    let epoch = fields.epoch()?;
    let vote = match fields.u64()? {
        0 => None,
        vote => Some(crate::NodeId(u32::try_from(vote - 1).map_err(|_| WireError::Value)?)),
    };
    let (barred, floor, formed) = (fields.epoch()?, fields.position()?, fields.formed()?);
    if !fields.0.is_empty() {
        return Err(WireError::Length);
    }
    Ok((disk, Promise { epoch, vote, barred, floor, formed }))
}

pub(crate) fn write_promise(directory: &dyn Directory, disk: DiskId, promise: &Promise) -> io::Result<()> {
    small_file::replace(directory, PROMISE, &encode_promise(disk, promise))
}

/// Starts to write it; `done` gets the result later, or never.
pub(crate) fn start_promise(directory: &Arc<dyn Directory>, disk: DiskId, promise: &Promise, done: OnSynced) {
    small_file::start_replace(directory, PROMISE, &encode_promise(disk, promise), done);
}

/// A promise as it is written down.
#[must_use]
pub fn encode_promise(disk: DiskId, promise: &Promise) -> Vec<u8> {
    let Promise { epoch, vote, barred, floor, formed } = promise;
    let vote = vote.map_or(0, |node| u64::from(node.0) + 1);
    let head = [disk.0, epoch.0, vote, barred.0, floor.epoch.0, floor.end.0, formed.len() as u64];
    let formed = formed.iter().flat_map(|(node, disk)| [u64::from(node.0), disk.0]);
    sealed(PROMISE_MAGIC, head.into_iter().chain(formed))
}

/// The epochs of the log of `store`, noted; with `new`, it was not replicated before, and what retention
/// removed held no barriers. What was noted is corrected first of all: the log may have lost its end, and retention
/// may since have removed barriers that only the note tells of.
pub(crate) fn read_epochs(store: &Store, new: bool) -> Result<EpochTable, NotesError> {
    let bytes =
        small_file::read(&**store.directory(), EPOCHS).map_err(|error| NotesError::Io(EPOCHS, error))?;
    let marks = store.marks();
    let cached = bytes.as_deref().and_then(|bytes| decode_epochs(bytes).ok());
    let mut table = cached.clone().unwrap_or_default();
    if table.end() < marks.min && !new {
        return Err(NotesError::Base(marks.min));
    }
    table.truncate(marks.written);
    let mut epochs = Vec::new();
    let mut records = store.records(table.end().max(marks.min));
    for record in records.by_ref() {
        let record = record.map_err(|error| NotesError::Log(Box::new(error)))?;
        if let Some(barrier) = Barrier::read(&record).map_err(NotesError::Promise)? {
            epochs.push(EpochStart { epoch: barrier.epoch, start: record.physical() });
        }
    }
    table.extend(&epochs, marks.written).map_err(NotesError::Epochs)?;
    table.forget(marks.min);
    if cached.as_ref() != Some(&table) {
        write_epochs(&**store.directory(), &table).map_err(|error| NotesError::Io(EPOCHS, error))?;
    }
    Ok(table)
}

/// The epochs as they were noted last.
pub(crate) fn noted_epochs(directory: &dyn Directory) -> Option<EpochTable> {
    decode_epochs(&small_file::read(directory, EPOCHS).ok()??).ok()
}

/// Reads the epochs of a log.
///
/// # Errors
/// [`WireError`].
pub fn decode_epochs(bytes: &[u8]) -> Result<EpochTable, WireError> {
    let mut fields = checked(bytes, EPOCHS_MAGIC)?;
    let (base, end) = (fields.position()?, fields.offset()?);
    if end < base.end {
        return Err(WireError::Value);
    }
    let len = fields.u64()?;
    if len != (fields.0.len() / 16) as u64 || fields.0.len() % 16 != 0 {
        return Err(WireError::Length);
    }
    let row = |fields: &mut Fields<'_>| Ok(EpochStart { epoch: fields.epoch()?, start: fields.offset()? });
    let rows = (0..len).map(|_| row(&mut fields)).collect::<Result<Vec<_>, WireError>>()?;
    EpochTable::new(base, &rows, end).map_err(|_| WireError::Value)
}

/// The epochs of a log as they are written down.
#[must_use]
pub fn encode_epochs(table: &EpochTable) -> Vec<u8> {
    let Position { epoch: Epoch(epoch), end: PhysicalOffset(base) } = table.base();
    let head = [epoch, base, table.end().0, table.rows().len() as u64];
    let rows = table.rows().iter().flat_map(|row| [row.epoch.0, row.start.0]);
    sealed(EPOCHS_MAGIC, head.into_iter().chain(rows))
}

pub(crate) fn write_epochs(directory: &dyn Directory, table: &EpochTable) -> io::Result<()> {
    small_file::replace(directory, EPOCHS, &encode_epochs(table))
}

pub(crate) fn sealed(magic: &[u8; 8], values: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    values.for_each(|value| bytes.extend_from_slice(&value.to_be_bytes()));
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes
}

pub(crate) fn checked<'a>(bytes: &'a [u8], magic: &[u8; 8]) -> Result<Fields<'a>, WireError> {
    let (covered, crc) = bytes.split_last_chunk::<4>().ok_or(WireError::Length)?;
    if crc32fast::hash(covered) != u32::from_be_bytes(*crc) {
        return Err(WireError::Checksum);
    }
    covered.strip_prefix(magic).map(Fields).ok_or(WireError::Magic)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// proves: B51: no log ends before it begins
    #[test]
    fn epochs_of_a_log_that_ends_before_it_begins_are_refused() {
        let base = |end| [Epoch(1).0, 7, end, 0];
        assert!(decode_epochs(&sealed(EPOCHS_MAGIC, base(7).into_iter())).is_ok());
        let refused = decode_epochs(&sealed(EPOCHS_MAGIC, base(6).into_iter()));
        assert!(matches!(refused, Err(WireError::Value)), "{refused:?}");
    }
}
