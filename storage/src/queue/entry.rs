//! Entries of consume queues: fixed width, big-endian.
//!
//! ```text
//! ordinary queue, 20 bytes (store-format §5.1)
//! 0                8          12                20
//! +----------------+----------+-----------------+
//! | physical   i64 | size i32 | tags code   i64 |
//! +----------------+----------+-----------------+
//!
//! batch queue, 46 bytes (store-format §6.2): one entry for all messages of an inner batch
//! 0                8          12                20             28         36        38       42     46
//! +----------------+----------+-----------------+--------------+----------+---------+--------+------+
//! | physical   i64 | size i32 | tags code   i64 | store ms i64 | base i64 | count   | -1 i32 | 0    |
//! |                |          |                 |              |          |     i16 |        |  i32 |
//! +----------------+----------+-----------------+--------------+----------+---------+--------+------+
//! ```
//! `size` is above 0 in every written entry, so zeros read as the end of the queue. An entry with
//! `physical` 0 and `size` 0x7FFFFFFF is padding: it takes a number and names no record. The number
//! of an ordinary entry is its place; a batch entry carries the number of its first message.

use std::ops::Range;

use crate::{PhysicalOffset, QueueOffset};

const PHYSICAL: Range<usize> = 0..8;
const SIZE: Range<usize> = PHYSICAL.end..PHYSICAL.end + 4;
const TAGS_CODE: Range<usize> = SIZE.end..SIZE.end + 8;
const STORE_MS: Range<usize> = TAGS_CODE.end..TAGS_CODE.end + 8;
const BASE: Range<usize> = STORE_MS.end..STORE_MS.end + 8;
const COUNT: Range<usize> = BASE.end..BASE.end + 2;
const COMPACTED: Range<usize> = COUNT.end..COUNT.end + 4;
const RESERVED: Range<usize> = COMPACTED.end..COMPACTED.end + 4;

const _: () = assert!(TAGS_CODE.end == 20, "the documented layout");
const _: () = assert!(RESERVED.end == 46, "the documented layout");

/// Size of a padding entry.
const PADDING_SIZE: u32 = 0x7FFF_FFFF;

/// What a consume queue knows of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueEntry {
    /// Where the record starts in the commit log.
    pub physical: PhysicalOffset,
    /// Bytes of the record.
    pub size: u32,
    /// Hash of the tags, or the delivery time in milliseconds in the schedule topic.
    pub tags_code: i64,
    /// Number of the record's first message in the queue.
    pub offset: QueueOffset,
    /// Messages in the record: 1, or more for an inner batch.
    pub messages: u16,
}

impl QueueEntry {
    /// Padding: takes the number `offset` and names no record.
    #[must_use]
    pub const fn padding(offset: QueueOffset) -> Self {
        Self { physical: PhysicalOffset(0), size: PADDING_SIZE, tags_code: 0, offset, messages: 1 }
    }

    /// True for an entry that names no record; readers step over it.
    #[must_use]
    pub const fn is_padding(&self) -> bool {
        self.physical.0 == 0 && self.size == PADDING_SIZE
    }

    /// The position behind the record.
    ///
    /// # Panics
    /// When the record would end past 2^63 - 1; decoding lets no such entry through.
    #[must_use]
    pub fn physical_end(&self) -> PhysicalOffset {
        self.physical.after(u64::from(self.size))
    }

    /// Number of the message after this record's last one.
    ///
    /// # Panics
    /// When the number would pass 2^63 - 1; decoding lets no such entry through.
    #[must_use]
    pub fn next(&self) -> QueueOffset {
        self.offset.after(u64::from(self.messages))
    }
}

/// How the entries of a queue are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// One entry of 20 bytes for each message, in `consumequeue/`.
    Single,
    /// One entry of 46 bytes for each record, in `batchconsumequeue/`.
    Batch,
}

impl Layout {
    /// Bytes of an entry.
    #[must_use]
    pub const fn width(self) -> usize {
        match self {
            Self::Single => TAGS_CODE.end,
            Self::Batch => RESERVED.end,
        }
    }

    /// The folder of all queues with this layout.
    #[must_use]
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Single => "consumequeue",
            Self::Batch => "batchconsumequeue",
        }
    }

    /// Appends the bytes of `entry`; `store_ms` is kept by batch queues only.
    pub(crate) fn encode(self, entry: &QueueEntry, store_ms: i64, to: &mut Vec<u8>) {
        let mut bytes = [0; RESERVED.end];
        bytes[PHYSICAL].copy_from_slice(&entry.physical.0.to_be_bytes());
        bytes[SIZE].copy_from_slice(&entry.size.to_be_bytes());
        bytes[TAGS_CODE].copy_from_slice(&entry.tags_code.to_be_bytes());
        if self == Self::Batch {
            bytes[STORE_MS].copy_from_slice(&store_ms.to_be_bytes());
            bytes[BASE].copy_from_slice(&entry.offset.0.to_be_bytes());
            bytes[COUNT].copy_from_slice(&entry.messages.to_be_bytes());
            bytes[COMPACTED].copy_from_slice(&(-1_i32).to_be_bytes());
        }
        to.extend_from_slice(&bytes[..self.width()]);
    }

    /// The entry in `bytes`, which stands in slot `slot`; `None` when no entry was written there or
    /// its numbers are out of range.
    ///
    /// # Panics
    /// When `bytes` is shorter than [`Layout::width`].
    pub(crate) fn decode(self, bytes: &[u8], slot: u64) -> Option<QueueEntry> {
        let physical = i64::from_be_bytes(field(bytes, PHYSICAL));
        let size = u32::try_from(i32::from_be_bytes(field(bytes, SIZE))).ok().filter(|size| *size > 0)?;
        physical.checked_add(i64::from(size))?;
        let tags_code = i64::from_be_bytes(field(bytes, TAGS_CODE));
        let (offset, messages) = match self {
            Self::Single => (slot, 1),
            Self::Batch => {
                let base = u64::try_from(i64::from_be_bytes(field(bytes, BASE))).ok()?;
                let count = u16::try_from(i16::from_be_bytes(field(bytes, COUNT))).ok()?;
                (base, count)
            }
        };
        let next = offset.checked_add(u64::from(messages)).filter(|_| messages > 0)?;
        i64::try_from(next).ok()?;
        let physical = PhysicalOffset(u64::try_from(physical).ok()?);
        Some(QueueEntry { physical, size, tags_code, offset: QueueOffset(offset), messages })
    }

    /// The store time kept in the entry, if this layout keeps it.
    pub(crate) fn store_ms(self, bytes: &[u8]) -> Option<i64> {
        (self == Self::Batch).then(|| i64::from_be_bytes(field(bytes, STORE_MS)))
    }
}

fn field<const N: usize>(bytes: &[u8], at: Range<usize>) -> [u8; N] {
    bytes[at].try_into().expect("the field has this width")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(layout: Layout, entry: QueueEntry, store_ms: i64) -> Vec<u8> {
        let mut bytes = Vec::new();
        layout.encode(&entry, store_ms, &mut bytes);
        assert_eq!(layout.decode(&bytes, entry.offset.0), Some(entry));
        bytes
    }

    fn hex(text: &str) -> Vec<u8> {
        text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    }

    fn entry(physical: u64, size: u32, tags_code: i64, offset: u64, messages: u16) -> QueueEntry {
        let (physical, offset) = (PhysicalOffset(physical), QueueOffset(offset));
        QueueEntry { physical, size, tags_code, offset, messages }
    }

    /// proves: the vectors of store-format §19.1, §19.2, §19.3, §19.6
    #[test]
    fn ordinary_entries_have_the_documented_bytes() {
        for (entry, bytes) in [
            (entry(0, 0xc0, 2_598_919, 0, 1), "00 00 00 00 00 00 00 00 00 00 00 c0 00 00 00 00 00 27 a8 07"),
            (
                entry(192, 0xdf, -2_147_483_648, 1, 1),
                "00 00 00 00 00 00 00 c0 00 00 00 df ff ff ff ff 80 00 00 00",
            ),
            (entry(415, 0xe0, 0, 0, 1), "00 00 00 00 00 00 01 9f 00 00 00 e0 00 00 00 00 00 00 00 00"),
            (
                entry(639, 200, 1_700_000_000_123 + 10_000, 0, 1),
                "00 00 00 00 00 00 02 7f 00 00 00 c8 00 00 01 8b cf e5 8f 8b",
            ),
            (
                QueueEntry::padding(QueueOffset(4)),
                "00 00 00 00 00 00 00 00 7f ff ff ff 00 00 00 00 00 00 00 00",
            ),
        ] {
            assert_eq!(bytes_of(Layout::Single, entry, 0), hex(bytes), "{entry:?}");
        }
    }

    /// proves: the vector of store-format §19.6
    #[test]
    fn batch_entries_have_the_documented_bytes() {
        let bytes = bytes_of(Layout::Batch, entry(639, 300, 2_598_919, 10, 2), 1_700_000_000_123);
        assert_eq!(
            bytes,
            hex("00 00 00 00 00 00 02 7f 00 00 01 2c 00 00 00 00 00 27 a8 07 00 00 01 8b cf e5 68 7b
                 00 00 00 00 00 00 00 0a 00 02 ff ff ff ff 00 00 00 00")
        );
        assert_eq!(Layout::Batch.store_ms(&bytes), Some(1_700_000_000_123));
    }

    /// proves: I72
    #[test]
    fn bytes_that_no_writer_makes_are_no_entry() {
        let no_size = "00 00 00 00 00 00 00 09 00 00 00 00 00 00 00 00 00 00 00 07";
        let negative_size = "00 00 00 00 00 00 00 09 80 00 00 01 00 00 00 00 00 00 00 07";
        let negative_offset = "ff 00 00 00 00 00 00 09 00 00 00 01 00 00 00 00 00 00 00 07";
        let past_the_end = "7f ff ff ff ff ff ff ff 00 00 00 01 00 00 00 00 00 00 00 07";
        for bytes in [no_size, negative_size, negative_offset, past_the_end] {
            assert_eq!(Layout::Single.decode(&hex(bytes), 3), None, "{bytes}");
        }
        assert_eq!(Layout::Batch.decode(&[0; 46], 3), None);
    }
}
