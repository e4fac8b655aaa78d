//! Beginning a log anew: the leader keeps nothing any more of what this node would need next, so what
//! is here is put aside, and copying goes on where the leader's log begins.
//!
//! ```text
//! staticfire/reset      | SFRESET1 | base epoch | base end | crc32 u32 |
//! ```
//! The file is there while it is under way. It comes first and goes last, so that a node which fails in
//! between does it again before it takes part: a log that was emptied and does not know the epoch
//! of its beginning could vote for a node that lacks what was confirmed.

use staticfire_storage::disk::parent;
use staticfire_storage::{Position, Store, small_file};

use crate::EpochTable;
use crate::notes::{NotesError, checked, sealed, write_epochs};
use crate::wire::WireError;

const RESET: &str = "staticfire/reset";
const RESET_MAGIC: &[u8; 8] = b"SFRESET1";

/// Drops the log of `store` and lets it begin at `base`, durably.
pub(crate) fn begin(store: &Store, base: Position) -> Result<(), NotesError> {
    let bytes = sealed(RESET_MAGIC, [base.epoch.0, base.end.0].into_iter());
    small_file::replace(&**store.directory(), RESET, &bytes).map_err(io)?;
    carry_out(store, base)
}

/// Finishes what an earlier process began; where the log begins now, if there was something to finish.
pub(crate) fn finish(store: &Store) -> Result<Option<Position>, NotesError> {
    let Some(bytes) = small_file::read(&**store.directory(), RESET).map_err(io)? else { return Ok(None) };
    let base = decode(&bytes).map_err(NotesError::Reset)?;
    carry_out(store, base).map(|()| Some(base))
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Position, WireError> {
    let mut fields = checked(bytes, RESET_MAGIC)?;
    let base = fields.position()?;
    if fields.0.is_empty() { Ok(base) } else { Err(WireError::Length) }
}

fn carry_out(store: &Store, base: Position) -> Result<(), NotesError> {
    let directory = &**store.directory();
    store.restart(base.end).map_err(|error| NotesError::Restart(Box::new(error)))?;
    let table = EpochTable::new(base, &[], base.end).map_err(NotesError::Epochs)?;
    write_epochs(directory, &table).map_err(io)?;
    directory.remove(RESET).and_then(|()| directory.sync(parent(RESET))).map_err(io)
}

fn io(error: std::io::Error) -> NotesError {
    NotesError::Io(RESET, error)
}
