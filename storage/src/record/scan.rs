//! Walks a segment from record to record.

use super::view::head;
use super::{MAGIC, RecordError, TOTAL, i32_at};
use crate::blank::{BLANK_LEN_MIN, BLANK_MAGIC};

/// What starts at a place in a segment, by its first eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// A record of this length, all of it there. Nothing else is checked.
    Record {
        /// Bytes to the next record.
        len: u32,
    },
    /// The blank that ends the segment: go on at the next one.
    Blank {
        /// The stored length. It should be the distance to the end of the segment, but RocketMQ
        /// does not look at it, so nobody may walk by it.
        len: u32,
    },
    /// Zeros, or no bytes at all: nothing was written here, or it did not survive.
    Nothing,
    /// Anything else.
    Damaged(RecordError),
}

/// Looks at the first of `bytes`, the rest of a segment.
#[must_use]
pub fn next_at(bytes: &[u8]) -> Scanned {
    let Some(first) = bytes.first_chunk::<BLANK_LEN_MIN>() else {
        return match bytes.iter().all(|byte| *byte == 0) {
            true => Scanned::Nothing,
            false => Scanned::Damaged(RecordError::Truncated {
                needed: BLANK_LEN_MIN as u64,
                available: bytes.len() as u64,
            }),
        };
    };
    if *first == [0; BLANK_LEN_MIN] {
        return Scanned::Nothing;
    }
    if i32_at(first, MAGIC.start).cast_unsigned() == BLANK_MAGIC {
        return Scanned::Blank { len: i32_at(first, TOTAL.start).cast_unsigned() };
    }
    match head(bytes) {
        Ok((len, _)) => Scanned::Record { len },
        Err(error) => Scanned::Damaged(error),
    }
}
