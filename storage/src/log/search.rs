//! Finding the next valid record behind damage.

use std::io;

use crate::PhysicalOffset;
use crate::record::{MAGIC_V1, MAGIC_V2, Record, RecordCrc};

use super::segments::Segment;

/// The valid records behind `at`, in order. `crc` says which check a record at a place must pass.
/// Records that a later segment holds are found too.
///
/// Bytes are tried one by one, so this is for damage, not for walking.
pub(crate) fn valid_records_after(
    segments: &[Segment],
    at: PhysicalOffset,
    crc: impl Fn(PhysicalOffset) -> RecordCrc,
    mut each: impl FnMut(Record) -> bool,
) -> io::Result<()> {
    for segment in segments.iter().filter(|segment| segment.end() > at) {
        let bytes = segment.file.read(0..segment.file.len())?;
        let mut from = (at.0 + 1).max(segment.start.0) - segment.start.0;
        while let Some(found) = magic_after(&bytes, from) {
            let at = PhysicalOffset(segment.start.0 + found);
            match Record::parse(bytes.slice(found as usize..), at, crc(at)) {
                Ok(record) => {
                    from = found + u64::from(record.len());
                    if !each(record) {
                        return Ok(());
                    }
                }
                Err(_) => from = found + 1,
            }
        }
    }
    Ok(())
}

/// The first place at or behind `from` where a record's magic stands in its place.
fn magic_after(bytes: &[u8], from: u64) -> Option<u64> {
    const MAGIC_AT: usize = 4;
    const ZEROS: [u8; 64] = [0; 64];
    let tail = bytes.get(usize::try_from(from).ok()?..)?;
    let last = tail.len().checked_sub(MAGIC_AT + 4)?;
    let mut at = 0;
    while at <= last {
        // Long stretches of zeros are the usual case; no magic starts in the first 57 of 64.
        if tail[at..].starts_with(&ZEROS) {
            at += ZEROS.len() - 7;
            continue;
        }
        let magic = tail[at + MAGIC_AT..at + MAGIC_AT + 4].iter().fold(0, |n, b| n << 8 | u32::from(*b));
        if magic == MAGIC_V1 || magic == MAGIC_V2 {
            return Some(from + at as u64);
        }
        at += 1;
    }
    None
}
