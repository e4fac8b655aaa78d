//! Bytes that come from the leader, put together to whole records.
//!
//! They may be cut anywhere; a record may take many answers. Only whole records go to the log, so
//! the log always ends at the end of one.

use std::fmt;

use bytes::{Bytes, BytesMut};
use staticfire_storage::blank::{BLANK_LEN_MIN, BLANK_MAGIC};
use staticfire_storage::{PhysicalOffset, Record, RecordCrc, RecordError};

use crate::wire::WireError;
use crate::{Barrier, EpochStart};

/// No record, and no blank at the end of a segment, is longer: 4 MiB of body and what goes with it.
const LEN_MAX: usize = 16 << 20;

/// What has come of a record, and not yet all.
#[derive(Debug, Default)]
pub(crate) struct Incoming(BytesMut);

/// Whole records.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) bytes: Bytes,
    pub(crate) epochs: Vec<EpochStart>,
}

/// Bytes that no leader sends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum IncomingError {
    /// A length that no record has.
    Length { at: PhysicalOffset, len: usize },
    /// Not a record.
    Record { at: PhysicalOffset, error: RecordError },
    /// Not a barrier, though it says so.
    Barrier { at: PhysicalOffset, error: WireError },
}

impl fmt::Display for IncomingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { at, len } => {
                write!(f, "the leader sent {len} bytes as the length of a record at {at}")
            }
            Self::Record { at, error } => write!(f, "the leader sent a damaged record at {at}: {error}"),
            Self::Barrier { at, error } => write!(f, "the leader sent a damaged barrier at {at}: {error}"),
        }
    }
}

impl Incoming {
    /// Forgets the part of a record.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds bytes, and gives the whole records that now are there; the first one starts at `at`.
    ///
    /// # Errors
    /// [`IncomingError`]; everything is forgotten then.
    pub(crate) fn add(&mut self, at: PhysicalOffset, bytes: Bytes) -> Result<Whole, IncomingError> {
        // Mostly nothing is left over, and nothing is copied.
        let all = if self.0.is_empty() {
            bytes
        } else {
            self.0.extend_from_slice(&bytes);
            std::mem::take(&mut self.0).freeze()
        };
        let mut epochs = Vec::new();
        let mut taken = 0;
        while let Some(len) = next_len(&all[taken..], at.after(taken as u64))? {
            let piece = all.slice(taken..taken + len);
            if piece[4..8] != BLANK_MAGIC.to_be_bytes() {
                epochs.extend(epoch_begun(piece, at.after(taken as u64))?);
            }
            taken += len;
        }
        self.0.extend_from_slice(&all[taken..]);
        Ok(Whole { bytes: all.slice(..taken), epochs })
    }
}

/// The length of the record or blank that `bytes` begin with, when all of it is there.
fn next_len(bytes: &[u8], at: PhysicalOffset) -> Result<Option<usize>, IncomingError> {
    let Some(head) = bytes.first_chunk::<BLANK_LEN_MIN>() else { return Ok(None) };
    let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if !(BLANK_LEN_MIN..=LEN_MAX).contains(&len) {
        return Err(IncomingError::Length { at, len });
    }
    Ok((bytes.len() >= len).then_some(len))
}

fn epoch_begun(bytes: Bytes, at: PhysicalOffset) -> Result<Option<EpochStart>, IncomingError> {
    let record = Record::parse(bytes, at, RecordCrc::IfPresent);
    let record = record.map_err(|error| IncomingError::Record { at, error })?;
    let barrier = Barrier::read(&record).map_err(|error| IncomingError::Barrier { at, error })?;
    Ok(barrier.map(|barrier| EpochStart { epoch: barrier.epoch, start: at }))
}
