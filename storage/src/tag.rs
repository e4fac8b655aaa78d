//! Tags in queue entries: a 32-bit hash instead of the text.

use crate::properties::TAGS;
use crate::record::Record;

/// Java's `String.hashCode`: over UTF-16 units, `h = 31 * h + unit`, modulo 2^32.
#[must_use]
pub fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// What a queue entry keeps of the `TAGS` value: the hash of the whole text, sign-extended. Texts
/// with equal hashes exist, so whoever filters by it looks at the record too.
#[must_use]
pub fn code_of(tags: &str) -> i64 {
    i64::from(java_hash(tags))
}

/// The plain tags code of a record: [`code_of`] its `TAGS`, 0 without.
///
/// Records in the schedule topic keep their delivery time in this field instead; the dispatcher
/// takes care of that.
#[must_use]
pub fn tags_code(record: &Record) -> i64 {
    match record.properties().value(TAGS) {
        Some(tags) => code_of(&String::from_utf8_lossy(tags)),
        None => 0,
    }
}
