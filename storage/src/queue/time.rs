//! Search by store time (store-format §5.6).

use std::sync::atomic::Ordering;

use super::{ConsumeQueue, Layout, QueueError, State};
use crate::{PhysicalOffset, QueueOffset};

/// Which entry a search by time finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Boundary {
    /// The first message stored at or after the time.
    Lower,
    /// The last message stored at or before the time.
    Upper,
}

impl ConsumeQueue {
    /// The first message stored at or after `ms` ([`Boundary::Lower`]; the end of the queue when
    /// there is none), or the last one stored at or before it ([`Boundary::Upper`]; the start of the
    /// queue when there is none). Always within `min..=max`.
    ///
    /// `store_time_of` gives the store time of the record at a position; `None`, for a record that
    /// cannot be read, counts as very old. Store times do not decrease along the log, so this is a
    /// binary search.
    ///
    /// # Errors
    /// [`QueueError::Damaged`] or [`QueueError::Io`].
    pub fn seek_by_time(
        &self,
        ms: i64,
        boundary: Boundary,
        store_time_of: impl Fn(PhysicalOffset) -> Option<i64>,
    ) -> Result<QueueOffset, QueueError> {
        let state = self.read();
        let (min, max) = (self.min.load(Ordering::Acquire), self.max.load(Ordering::Acquire));
        let first = state.slot_of(QueueOffset(min))?;
        let is_before = |slot| {
            let time = state.store_time(slot, first, &store_time_of)?;
            Ok(time.is_none_or(|time| if boundary == Boundary::Lower { time < ms } else { time <= ms }))
        };
        let (mut low, mut high) = (first, state.slots.end());
        while low < high {
            let middle = low + (high - low) / 2;
            if is_before(middle)? { low = middle + 1 } else { high = middle }
        }
        let slot = if boundary == Boundary::Lower { low } else { low.saturating_sub(1).max(first) };
        let found = if slot < state.slots.end() { state.offset_of(slot)?.0 } else { max };
        Ok(QueueOffset(found.clamp(min, max)))
    }
}

impl State {
    /// The store time of the record in `slot`; of the nearest one in front for padding.
    fn store_time(
        &self,
        slot: u64,
        first: u64,
        store_time_of: impl Fn(PhysicalOffset) -> Option<i64>,
    ) -> Result<Option<i64>, QueueError> {
        for slot in (first..=slot).rev() {
            let (entry, kept) = self.slots.timed_entry(slot)?;
            let entry = entry.ok_or_else(|| self.damaged(slot))?;
            if self.slots.layout == Layout::Batch {
                return Ok(kept);
            }
            if !entry.is_padding() {
                return Ok(store_time_of(entry.physical));
            }
        }
        Ok(None)
    }
}
