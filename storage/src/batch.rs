//! The body of a client batch: several messages in one (store-format 3.7).
//!
//! ```text
//! total size 4 | 0 (magic) 4 | 0 (body CRC) 4 | flag 4
//! body length 4 | body | properties length 2 | properties
//! ```
//! for each message, one after the other. Readers ignore magic and body CRC.

use std::fmt;

use bytes::Bytes;

use crate::properties::PROPERTIES_LEN_MAX;

/// The most messages in one batch: as many as the count in a batch consume queue can say.
pub const BATCH_COUNT_MAX: usize = i16::MAX as usize;

const MAGIC_AND_CRC_LEN: usize = 8;
/// The shortest message in a batch: all fixed fields.
const PART_LEN_MIN: usize = 4 + MAGIC_AND_CRC_LEN + 4 + 4 + 2;

const _: () = assert!(PART_LEN_MIN == 22, "the documented layout");

/// One message of a batch: what it has of its own. The rest comes from the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchPart {
    /// The sender's own number.
    pub flag: i32,
    /// The body.
    pub body: Bytes,
    /// The encoded property string.
    pub properties: Bytes,
}

/// Takes a batch body apart; the parts are slices of it.
///
/// # Errors
/// [`BatchError`] when any part is wrong: none of the batch may be stored then.
pub fn decode(body: &Bytes) -> Result<Vec<BatchPart>, BatchError> {
    if body.is_empty() {
        return Err(BatchError::Empty);
    }
    let mut parts = Vec::new();
    let mut at = 0;
    while at < body.len() {
        if parts.len() == BATCH_COUNT_MAX {
            return Err(BatchError::TooMany);
        }
        let (part, len) = decode_part(body, at).ok_or(BatchError::Part { number: parts.len(), at })?;
        parts.push(part);
        at += len;
    }
    Ok(parts)
}

/// Appends a message to a batch body.
///
/// # Errors
/// [`BatchError::TooLong`] when a length does not fit its field; `out` is unchanged then.
pub fn append(out: &mut Vec<u8>, part: &BatchPart) -> Result<(), BatchError> {
    let len = PART_LEN_MIN + part.body.len() + part.properties.len();
    let (Ok(len), true) = (i32::try_from(len), part.properties.len() <= PROPERTIES_LEN_MAX) else {
        return Err(BatchError::TooLong);
    };
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&[0; MAGIC_AND_CRC_LEN]);
    out.extend_from_slice(&part.flag.to_be_bytes());
    out.extend_from_slice(&(part.body.len() as u32).to_be_bytes());
    out.extend_from_slice(&part.body);
    out.extend_from_slice(&(part.properties.len() as u16).to_be_bytes());
    out.extend_from_slice(&part.properties);
    Ok(())
}

/// The message at `at` and its length; `None` when its lengths do not fit together.
fn decode_part(batch: &Bytes, at: usize) -> Option<(BatchPart, usize)> {
    let number = |from: usize| {
        let field = batch.get(from..from.checked_add(4)?)?;
        Some(i32::from_be_bytes(field.try_into().expect("four bytes")))
    };
    let len = usize::try_from(number(at)?).ok()?;
    let end = at.checked_add(len).filter(|end| *end <= batch.len())?;
    let flag_at = at + 4 + MAGIC_AND_CRC_LEN;
    let body_start = flag_at + 8;
    let body_end = body_start.checked_add(usize::try_from(number(flag_at + 4)?).ok()?)?;
    let properties_start = body_end.checked_add(2)?;
    let field = batch.get(body_end..properties_start)?;
    let properties_len = i16::from_be_bytes(field.try_into().expect("two bytes"));
    let properties_end = properties_start.checked_add(usize::try_from(properties_len).ok()?)?;
    (properties_end == end).then(|| {
        let part = BatchPart {
            flag: number(flag_at).unwrap_or_default(),
            body: batch.slice(body_start..body_end),
            properties: batch.slice(properties_start..properties_end),
        };
        (part, len)
    })
}

/// What is wrong with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// It holds no message.
    Empty,
    /// It holds more than [`BATCH_COUNT_MAX`] messages.
    TooMany,
    /// A message whose lengths are negative, pass the end, or do not add up.
    Part {
        /// Which one, from 0.
        number: usize,
        /// Where in the batch body it starts.
        at: usize,
    },
    /// A message too long for the format.
    TooLong,
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the batch holds no message"),
            Self::TooMany => write!(f, "the batch holds more than {BATCH_COUNT_MAX} messages"),
            Self::Part { number, at } => {
                write!(f, "message {number} of the batch, at byte {at}: its lengths do not fit together")
            }
            Self::TooLong => f.write_str("the message is too long for a batch"),
        }
    }
}

impl std::error::Error for BatchError {}
