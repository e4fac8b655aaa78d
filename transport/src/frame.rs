//! Remoting frames: bytes in, commands out, and back.
//!
//! ```text
//! 0             4         5              8
//! +-------------+---------+--------------+--------- - - -+------ - - -+
//! | length  u32 | type u8 | header   u24 | header        | body       |
//! +-------------+---------+--------------+--------- - - -+------ - - -+
//! ```
//! Big-endian. `length` counts what follows it, `type` is 0 for a JSON header and 1 for a binary
//! one. A frame has 16 MiB at most, its length field included.
//!
//! Decoding is incremental and total: any bytes give commands or a [`FrameError`], lengths are
//! checked before anything is allocated, and a body is a slice of the buffer it was read into.

mod binary;
mod json;

use std::fmt;

use bytes::{Buf, BytesMut};

use crate::{Command, ExtFields, HeaderEncoding, SendError};

/// Most bytes of a frame, its length field included.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// Most bytes of a header. The largest one a client sends holds properties of 32,767 bytes; in
/// the worst case JSON needs six bytes for each of them, and 60 KiB are left for the rest.
pub const HEADER_BYTES_MAX: usize = 256 << 10;

/// Most named fields in a header.
pub const FIELDS_MAX: usize = 256;

/// Most bytes of a field's name.
pub const NAME_BYTES_MAX: usize = 128;

/// Most bytes of a field's value, and of a remark. Properties have 32,767.
pub const TEXT_BYTES_MAX: usize = 32 << 10;

/// Bytes before the header.
const PREFIX: usize = 8;

/// Turns the bytes of one connection into commands, however they were cut.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: BytesMut,
    failed: Option<FrameError>,
}

impl FrameDecoder {
    /// A decoder at the start of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete command, or `None` until more arrives.
    ///
    /// # Errors
    /// The bytes are not a frame. There is no way to find the next one: every later call returns
    /// the same error.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at the first gap")]
    pub fn next(&mut self) -> Result<Option<Command>, FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.decode().inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Bytes of a frame that is not complete yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// Where a reader may append what arrives, instead of [`Self::push`].
    pub(crate) const fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    fn decode(&mut self) -> Result<Option<Command>, FrameError> {
        let Some(length) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = checked_length(u32::from_be_bytes(*length))?;
        let Some(&[_, _, _, _, encoding, a, b, c]) = self.buffer.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let encoding = match encoding {
            0 => HeaderEncoding::Json,
            1 => HeaderEncoding::Binary,
            unknown => return Err(FrameError::Encoding(unknown)),
        };
        let header_length = checked_header(u32::from_be_bytes([0, a, b, c]), length - 4)?;
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        let header = &self.buffer[PREFIX..PREFIX + header_length];
        let mut command = match encoding {
            HeaderEncoding::Json => json::decode(header)?,
            HeaderEncoding::Binary => binary::decode(header)?,
        };
        self.buffer.advance(PREFIX + header_length);
        let body = length - 4 - header_length;
        if body > 0 {
            command.body = self.buffer.split_to(body).freeze().into();
        }
        Ok(Some(command))
    }
}

fn checked_length(declared: u32) -> Result<usize, FrameError> {
    let limit = (FRAME_BYTES_MAX - 4) as u32;
    if (4..=limit).contains(&declared) {
        Ok(declared as usize)
    } else {
        Err(FrameError::Length { declared, limit })
    }
}

fn checked_header(declared: u32, space: usize) -> Result<usize, FrameError> {
    let limit = space.min(HEADER_BYTES_MAX);
    if declared == 0 || declared as usize > limit {
        return Err(FrameError::HeaderLength { declared, limit: limit as u32 });
    }
    Ok(declared as usize)
}

/// Appends everything of `command` but its body to `out`: prefix and header. Returns the length of
/// the whole frame, body included.
///
/// # Errors
/// [`SendError::TooLarge`] and [`SendError::Inexpressible`]; `out` is then as before.
pub fn encode_header(command: &Command, out: &mut Vec<u8>) -> Result<usize, SendError> {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    let written = match command.encoding {
        HeaderEncoding::Json => json::encode(command, out),
        HeaderEncoding::Binary => binary::encode(command, out),
    };
    let prefix = written.and_then(|()| prefix(command, out.len() - start - PREFIX));
    match prefix {
        Ok((prefix, frame)) => {
            out[start..start + PREFIX].copy_from_slice(&prefix);
            Ok(frame)
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

fn prefix(command: &Command, header: usize) -> Result<([u8; PREFIX], usize), SendError> {
    let frame = PREFIX + header + command.body.len();
    if header > HEADER_BYTES_MAX || frame > FRAME_BYTES_MAX {
        return Err(SendError::TooLarge);
    }
    let length = ((frame - 4) as u32).to_be_bytes();
    let [_, a, b, c] = (header as u32).to_be_bytes();
    let encoding = match command.encoding {
        HeaderEncoding::Json => 0,
        HeaderEncoding::Binary => 1,
    };
    Ok(([length[0], length[1], length[2], length[3], encoding, a, b, c], frame))
}

/// What both header formats check once the texts are in place.
fn checked_texts(remark: Option<&str>, ext: &ExtFields) -> Result<(), FrameError> {
    let too_many = |what, limit| Err(FrameError::Limit { what, limit });
    if ext.len() > FIELDS_MAX {
        return too_many("fields", FIELDS_MAX);
    }
    if remark.is_some_and(|remark| remark.len() > TEXT_BYTES_MAX) {
        return too_many("bytes in its remark", TEXT_BYTES_MAX);
    }
    let (name, value) = ext.longest();
    if name > NAME_BYTES_MAX {
        return too_many("bytes in a field's name", NAME_BYTES_MAX);
    }
    if value > TEXT_BYTES_MAX {
        return too_many("bytes in a field's value", TEXT_BYTES_MAX);
    }
    if ext.text().as_bytes().contains(&0) || remark.is_some_and(|remark| remark.as_bytes().contains(&0)) {
        return too_many("NUL characters", 0);
    }
    Ok(())
}

/// Why bytes are not a frame. The connection they came from is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The length field is below 4 or above what a frame may have.
    Length {
        /// Bytes declared to follow the field.
        declared: u32,
        /// The most that may follow.
        limit: u32,
    },
    /// The header's length leaves the frame, is zero or above what a header may have.
    HeaderLength {
        /// Bytes declared.
        declared: u32,
        /// The most this frame can hold.
        limit: u32,
    },
    /// The header is neither JSON (0) nor binary (1).
    Encoding(u8),
    /// The header is not the JSON of a command.
    Json(String),
    /// The binary header ends early or has a length that leaves it.
    Binary {
        /// The field that is wrong.
        field: &'static str,
        /// Byte of the header at which it starts.
        at: usize,
    },
    /// A header field is larger, or there are more of them, than accepted.
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The most accepted.
        limit: usize,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { declared, limit } => {
                write!(f, "frame length is {declared}, must be between 4 and {limit}")
            }
            Self::HeaderLength { declared, limit } => {
                write!(f, "header length is {declared}, must be between 1 and {limit}")
            }
            Self::Encoding(found) => write!(f, "header encoding is {found}, must be 0 (JSON) or 1 (binary)"),
            Self::Json(error) => write!(f, "JSON header: {error}"),
            Self::Binary { field, at } => write!(f, "binary header: bad {field} at byte {at}"),
            Self::Limit { what, limit } => write!(f, "header has more than {limit} {what}"),
        }
    }
}

impl std::error::Error for FrameError {}

#[cfg(test)]
mod tests;
