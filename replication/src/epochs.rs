//! Which epoch every byte of a log belongs to.
//!
//! ```text
//!   base        row 1            row 2        end
//!    │ epoch 3   │ epoch 4        │ epoch 7    │
//!    ▼           ▼                ▼            ▼
//!  ──┬───────────┬────────────────┬────────────┐
//!    │ records   │ barrier …      │ barrier …  │
//! ```
//! A position is the *end* of a record, so the place where a row starts still belongs to the epoch
//! before it (DESIGN §7 rule 2). The table is a view of the barriers in the log and is never
//! trusted beyond the log's bytes.

use std::fmt;

use staticfire_storage::{Epoch, PhysicalOffset, Position};

/// An epoch and where its first record, the barrier, starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// First byte of its barrier.
    pub start: PhysicalOffset,
}

/// The epochs of one log, from its oldest kept byte to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EpochTable {
    /// Oldest kept position, and the epoch of the record that ended there.
    base: Position,
    rows: Vec<EpochStart>,
    end: PhysicalOffset,
}

/// A list of epochs that no log can have (B51).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochTableError {
    /// Epochs or starts do not ascend at this one.
    Unordered(EpochStart),
    /// It starts outside of the log.
    Outside {
        /// The row.
        row: EpochStart,
        /// Where the log ends.
        end: PhysicalOffset,
    },
}

impl fmt::Display for EpochTableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unordered(EpochStart { epoch, start }) => {
                write!(f, "epoch {epoch} at {start} is not above the one before it")
            }
            Self::Outside { row: EpochStart { epoch, start }, end } => {
                write!(f, "epoch {epoch} starts at {start}, outside of the log that ends at {end}")
            }
        }
    }
}

impl std::error::Error for EpochTableError {}

impl EpochTable {
    /// The table of a log that starts at `base` and holds these epochs up to `end`.
    ///
    /// # Errors
    /// [`EpochTableError`].
    pub fn new(base: Position, rows: &[EpochStart], end: PhysicalOffset) -> Result<Self, EpochTableError> {
        let mut table = Self { base, rows: Vec::new(), end: base.end };
        table.extend(rows, end)?;
        Ok(table)
    }

    /// The log grew to `end`, and these epochs begin in what was added.
    ///
    /// # Errors
    /// [`EpochTableError`]; the table is as before.
    pub fn extend(&mut self, rows: &[EpochStart], end: PhysicalOffset) -> Result<(), EpochTableError> {
        let mut last = EpochStart { epoch: self.last().epoch, start: self.end };
        for (index, row) in rows.iter().enumerate() {
            let above = row.start > last.start || (index == 0 && row.start == last.start);
            if row.epoch <= last.epoch || !above {
                return Err(EpochTableError::Unordered(*row));
            }
            if row.start >= end {
                return Err(EpochTableError::Outside { row: *row, end });
            }
            last = *row;
        }
        self.rows.extend_from_slice(rows);
        self.end = self.end.max(end);
        Ok(())
    }

    /// Where the log starts.
    #[must_use]
    pub const fn base(&self) -> Position {
        self.base
    }

    /// Where the log ends.
    #[must_use]
    pub const fn end(&self) -> PhysicalOffset {
        self.end
    }

    /// The epochs that begin in the log.
    #[must_use]
    pub fn rows(&self) -> &[EpochStart] {
        &self.rows
    }

    /// The end of the log as a position: what a vote compares.
    #[must_use]
    pub fn last(&self) -> Position {
        self.at(self.end)
    }

    /// `end` with the epoch of the record that ends there.
    #[must_use]
    pub fn at(&self, end: PhysicalOffset) -> Position {
        let epoch =
            self.rows.iter().rev().find(|row| row.start < end).map_or(self.base.epoch, |row| row.epoch);
        Position { epoch, end }
    }

    /// True when the record that ends at `position` is one of this log and of the same epoch, so
    /// that both logs are the same up to there.
    #[must_use]
    pub fn has(&self, position: Position) -> bool {
        (self.base.end..=self.end).contains(&position.end) && self.at(position.end) == position
    }

    /// The largest epoch of this log up to `epoch`, and where it ends: what two logs can have in
    /// common at most when the other one ends in `epoch`.
    #[must_use]
    pub fn common(&self, epoch: Epoch) -> Position {
        let next = self.rows.partition_point(|row| row.epoch <= epoch);
        self.at(self.rows.get(next).map_or(self.end, |row| row.start))
    }

    /// The log was cut at `end`.
    pub fn truncate(&mut self, end: PhysicalOffset) {
        self.rows.retain(|row| row.start < end);
        self.end = self.end.min(end);
    }

    /// The log now starts at `min`: retention removed what was before.
    pub fn forget(&mut self, min: PhysicalOffset) {
        if min > self.base.end {
            self.base = self.at(min);
            self.rows.retain(|row| row.start >= min);
            self.end = self.end.max(min);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position(epoch: u64, end: u64) -> Position {
        Position { epoch: Epoch(epoch), end: PhysicalOffset(end) }
    }

    /// A log as what it is made of: the epoch of each record, all of length 1.
    fn table(log: &[u64]) -> EpochTable {
        let mut rows = Vec::new();
        for (start, epoch) in (0..).zip(log) {
            if start == 0 || log[start - 1] != *epoch {
                rows.push(EpochStart { epoch: Epoch(*epoch), start: PhysicalOffset(start as u64) });
            }
        }
        EpochTable::new(Position::default(), &rows, PhysicalOffset(log.len() as u64)).unwrap()
    }

    fn logs() -> impl Strategy<Value = Vec<u64>> {
        proptest::collection::vec(1..6_u64, 0..12).prop_map(|mut log| {
            log.sort_unstable();
            log
        })
    }

    proptest! {
        /// proves: DESIGN §7 rule 2: the epoch of a position is that of the record ending there
        #[test]
        fn the_epoch_of_a_position_is_that_of_the_record_before_it(log in logs(), cut in 0..12_usize) {
            let mut table = table(&log);
            for end in 1..=log.len() {
                prop_assert_eq!(table.at(PhysicalOffset(end as u64)), position(log[end - 1], end as u64));
            }
            let cut = cut.min(log.len());
            table.truncate(PhysicalOffset(cut as u64));
            prop_assert_eq!(table, self::table(&log[..cut]));
        }

        /// proves: I28; KIP-320: what two logs are said to have in common is never less than what
        /// they do have, and asking again from there ends at exactly that
        #[test]
        fn two_logs_find_what_they_have_in_common(shared in logs(), mine in logs(), other in logs()) {
            // Epochs have one leader, so beyond the shared part they share no epoch.
            let top = shared.last().copied().unwrap_or(0);
            let mine: Vec<u64> = shared.iter().copied().chain(mine.iter().map(|e| top + 2 * e)).collect();
            let other: Vec<u64> = shared.iter().copied().chain(other.iter().map(|e| top + 2 * e + 1)).collect();
            let (mine, other) = (table(&mine), table(&other));
            let mut at = mine.last();
            let mut asked = 0;
            while !other.has(at) {
                let theirs = other.common(at.epoch);
                let here = mine.common(theirs.epoch);
                let end = if here.epoch == theirs.epoch { here.end.min(theirs.end) } else { here.end };
                prop_assert!(end < at.end, "asking goes down");
                at = mine.at(end);
                asked += 1;
            }
            prop_assert_eq!(at.end.0, shared.len() as u64);
            prop_assert!(asked <= 12);
        }

        /// proves: DESIGN §7 rule 2: the epoch of the oldest kept byte survives retention
        #[test]
        fn retention_keeps_the_epoch_of_the_oldest_byte(log in logs(), min in 0..12_usize) {
            let whole = table(&log);
            let mut kept = whole.clone();
            let min = min.min(log.len()) as u64;
            kept.forget(PhysicalOffset(min));
            for end in min..=log.len() as u64 {
                prop_assert_eq!(kept.at(PhysicalOffset(end)), whole.at(PhysicalOffset(end)));
            }
        }
    }

    /// proves: B51
    #[test]
    fn impossible_tables_are_refused() {
        let row = |epoch, start| EpochStart { epoch: Epoch(epoch), start: PhysicalOffset(start) };
        let refused =
            |rows: &[EpochStart]| EpochTable::new(position(2, 10), rows, PhysicalOffset(100)).unwrap_err();
        assert_eq!(refused(&[row(2, 10)]), EpochTableError::Unordered(row(2, 10)), "an epoch twice");
        assert_eq!(refused(&[row(4, 30), row(3, 40)]), EpochTableError::Unordered(row(3, 40)));
        assert_eq!(refused(&[row(4, 30), row(5, 30)]), EpochTableError::Unordered(row(5, 30)));
        assert_eq!(refused(&[row(4, 5)]), EpochTableError::Unordered(row(4, 5)), "before the log");
        let outside = EpochTableError::Outside { row: row(4, 100), end: PhysicalOffset(100) };
        assert_eq!(refused(&[row(4, 100)]), outside);
    }
}
