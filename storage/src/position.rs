//! Positions are types: a byte in the commit log, an entry in a consume queue, a leadership period.

use std::fmt;

macro_rules! position {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

position! {
    /// Position of a byte in the commit log, counted from the first byte ever appended.
    ///
    /// On disk a signed 64-bit integer, so values stay below 2^63.
    PhysicalOffset
}

position! {
    /// Number of an entry in one consume queue: 0, 1, 2, … without gap.
    QueueOffset
}

position! {
    /// Number of a leadership period. Bytes appended in different epochs may differ at the same
    /// position; within one epoch a position names its bytes for ever.
    Epoch
}

/// Number of one queue of a topic, 0 to `i32::MAX`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u32);

impl QueueId {
    /// The largest number the record's signed field holds.
    pub const MAX: Self = Self(i32::MAX as u32);
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PhysicalOffset {
    /// The position `len` bytes further on.
    ///
    /// # Panics
    /// When the position would pass 2^63 - 1, which no log reaches.
    #[must_use]
    pub fn after(self, len: u64) -> Self {
        let end = self.0.checked_add(len).filter(|end| i64::try_from(*end).is_ok());
        Self(end.expect("a physical offset fits 63 bits"))
    }

    /// Bytes from `earlier` up to this position; `None` when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl QueueOffset {
    /// The entry `count` further on.
    ///
    /// # Panics
    /// When the number would pass 2^63 - 1.
    #[must_use]
    pub fn after(self, count: u64) -> Self {
        let next = self.0.checked_add(count).filter(|next| i64::try_from(*next).is_ok());
        Self(next.expect("a queue offset fits 63 bits"))
    }
}

/// The end of a record within an epoch: what a waiter waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The leadership period in which the record was appended.
    pub epoch: Epoch,
    /// One past the last byte of the record.
    pub end: PhysicalOffset,
}
