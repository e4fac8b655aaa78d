//! The blank record that fills a segment from its last record to its end (store-format 3.5).
//!
//! ```text
//! 0            4                8                      len
//! +------------+----------------+----------- ... --------+
//! | len    u32 | CB D4 31 94    | anything               |
//! +------------+----------------+----------- ... --------+
//! ```
//! `len` counts from the first byte to the end of the segment. A reader that meets the magic goes
//! on at the next segment. Every finished segment ends with one, so an appended record leaves at
//! least [`BLANK_LEN_MIN`] bytes.

use std::ops::Range;

/// Marks a blank record.
pub const BLANK_MAGIC: u32 = 0xCBD4_3194;

const LEN: Range<usize> = 0..4;
const MAGIC: Range<usize> = LEN.end..LEN.end + 4;

/// The shortest blank: length and magic.
pub const BLANK_LEN_MIN: usize = MAGIC.end;

const _: () = assert!(BLANK_LEN_MIN == 8, "the documented layout");

/// The first bytes of a blank that is `len` bytes long; the rest may hold anything.
#[must_use]
pub fn encode(len: u32) -> [u8; BLANK_LEN_MIN] {
    let mut bytes = [0; BLANK_LEN_MIN];
    bytes[LEN].copy_from_slice(&len.to_be_bytes());
    bytes[MAGIC].copy_from_slice(&BLANK_MAGIC.to_be_bytes());
    bytes
}
