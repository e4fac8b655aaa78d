//! The two checksums of a record: of its body (header field) and of the whole record (last property).
//!
//! Both are CRC-32/ISO-HDLC (zlib's) with the top bit cleared, because the original keeps them in
//! signed integers (store-format 3.3). Losing that bit costs no single-bit flip: a flip changes
//! the full CRC by `x^n mod P`, and that is the lost bit alone only when `n` is a multiple of
//! 2^32 - 1 bits, longer than any record.
//!
//! The record CRC is stored as text, in a suffix of the property string (store-format 3.6):
//!
//! ```text
//! 0                8      9                         19     20
//! +----------------+------+--------------------------+------+
//! | `__CRC32#`     | 0x01 | 10 digits, lowest first  | 0x02 |
//! +----------------+------+--------------------------+------+
//! ```
//! It covers every byte of the record before the suffix, with all numbers in place.

use std::ops::Range;
use std::sync::LazyLock;

use crc32fast::Hasher;

use crate::properties::{CRC32, NAME_END, PAIR_END};

const NAME: Range<usize> = 0..CRC32.len();
const NAME_SEPARATOR: usize = NAME.end;
const DIGITS: Range<usize> = NAME_SEPARATOR + 1..NAME_SEPARATOR + 1 + 10;
const PAIR_SEPARATOR: usize = DIGITS.end;

/// Length of the suffix that carries the record CRC.
pub(crate) const SUFFIX_LEN: usize = PAIR_SEPARATOR + 1;

const _: () = assert!(SUFFIX_LEN == 20, "the documented suffix");

/// The suffix before its digits are known.
pub(crate) const EMPTY_SUFFIX: [u8; SUFFIX_LEN] = {
    let mut suffix = [b'0'; SUFFIX_LEN];
    let (name, _) = suffix.split_at_mut(NAME.end);
    name.copy_from_slice(CRC32.as_bytes());
    suffix[NAME_SEPARATOR] = NAME_END;
    suffix[PAIR_SEPARATOR] = PAIR_END;
    suffix
};

/// CRC-32 of `bytes` with the top bit cleared, as records store it.
#[must_use]
pub fn crc31(bytes: &[u8]) -> u32 {
    // Cloned, because making one looks at what the processor can.
    static EMPTY: LazyLock<Hasher> = LazyLock::new(Hasher::new);
    let mut hasher = EMPTY.clone();
    hasher.update(bytes);
    hasher.finalize() & 0x7FFF_FFFF
}

/// Writes the CRC of all bytes before the suffix into the suffix, the last 20 bytes of `record`.
pub(crate) fn write_suffix(record: &mut [u8]) {
    let (covered, suffix) = record.split_at_mut(record.len() - SUFFIX_LEN);
    let crc = crc31(covered);
    // Two halves, since each digit waits for the division before it.
    let (mut low, mut high) = (crc % 100_000, crc / 100_000);
    let (lows, highs) = suffix[DIGITS].split_at_mut(5);
    for (at_low, at_high) in lows.iter_mut().zip(highs) {
        (*at_low, *at_high) = (b'0' + (low % 10) as u8, b'0' + (high % 10) as u8);
        (low, high) = (low / 10, high / 10);
    }
}

/// The CRC in the suffix of a property string; `None` when the string does not end with one.
pub(crate) fn read_suffix(properties: &[u8]) -> Option<u32> {
    let suffix = properties.last_chunk::<SUFFIX_LEN>()?;
    let framed = suffix[NAME] == *CRC32.as_bytes()
        && suffix[NAME_SEPARATOR] == NAME_END
        && suffix[PAIR_SEPARATOR] == PAIR_END
        && suffix[DIGITS].iter().all(u8::is_ascii_digit);
    if !framed {
        return None;
    }
    // Two halves, since each digit waits for the multiplication before it.
    let (low, high) = suffix[DIGITS].split_at(5);
    let number = |digits: &[u8]| digits.iter().rev().fold(0, |n, digit| n * 10 + u32::from(digit - b'0'));
    number(high).checked_mul(100_000)?.checked_add(number(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// proves: store-format 3.6
    #[test]
    fn digits_are_written_lowest_first() {
        let mut record = b"123456789".to_vec();
        record.extend_from_slice(&EMPTY_SUFFIX);
        write_suffix(&mut record);
        // The check value of this CRC is CBF43926; with the top bit cleared 1274296614.
        assert_eq!(crc31(b"123456789"), 1_274_296_614);
        assert_eq!(&record[9..], b"__CRC32#\x014166924721\x02");
        assert_eq!(read_suffix(&record), Some(1_274_296_614));
    }

    #[test]
    fn anything_else_is_no_suffix() {
        for other in
            [&b""[..], b"__CRC32#\x01123\x02", b"__CRC32#\x01416692472x\x02", b"__CRC32!\x014166924721\x02"]
        {
            assert_eq!(read_suffix(other), None);
        }
        assert_eq!(read_suffix(b"__CRC32#\x019999999999\x02"), None, "more than 32 bits");
    }
}
