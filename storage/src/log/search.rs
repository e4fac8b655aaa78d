//! Finding the next valid record behind damage.

use std::io;

use crate::PhysicalOffset;
use crate::record::{MAGIC_V1, MAGIC_V2, Record, RecordCrc};
use crate::sparse::Sparse;

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
        let file = Sparse::of(&*segment.file, u64::MAX)?;
        let mut from = ((at.0 + 1).max(segment.start.0) - segment.start.0) as usize;
        // A record is looked for by its magic, which has no zero in it and so lies in no hole.
        while let Some(found) = file.find(from + MAGIC_AT, magic_from).map(|magic| magic - MAGIC_AT) {
            let at = PhysicalOffset(segment.start.0 + found as u64);
            match Record::parse(file.item(found).1, at, crc(at)) {
                Ok(record) => {
                    from = found + record.len() as usize;
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

/// Where the magic stands in a record.
const MAGIC_AT: usize = 4;
const MAGIC_LEN: usize = 4;

/// The first place at or behind `from` where a record's magic stands.
fn magic_from(bytes: &[u8], from: usize) -> Option<usize> {
    const ZEROS: [u8; 64] = [0; 64];
    let last = bytes.len().checked_sub(MAGIC_LEN)?;
    let mut at = from;
    while at <= last {
        // Long stretches of zeros are the usual case.
        if bytes[at..].starts_with(&ZEROS) {
            at += ZEROS.len();
            continue;
        }
        let magic = bytes[at..at + MAGIC_LEN].iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
        if magic == MAGIC_V1 || magic == MAGIC_V2 {
            return Some(at);
        }
        at += 1;
    }
    None
}
