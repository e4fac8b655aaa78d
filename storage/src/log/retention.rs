//! Removing whole segments: the oldest that may go, and those made ahead of time and never used.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::CommitLog;
use super::segments::{FOLDER, Segment, path};
use crate::PhysicalOffset;
use crate::options::Retention;
use crate::orphans::Orphan;

impl CommitLog {
    /// Store time of the newest record, in ms.
    pub(crate) fn newest_store_ms(&self) -> i64 {
        self.head().store_ms
    }

    /// Removes whole segments, oldest first, until the first that must stay: the newest, one that
    /// is not flushed and dispatched or whose queue entries were not noted as durable, one that is young and
    /// within the size, or one that holds what the owner still needs.
    pub(crate) fn remove_old_segments(
        &self,
        retention: &Retention,
        noted: PhysicalOffset,
    ) -> io::Result<bool> {
        // The log is not cut meanwhile.
        let _one = self.rolling.lock().unwrap_or_else(PoisonError::into_inner);
        let marks = self.marks.snapshot();
        let safe = marks.flushed.min(marks.dispatched).min(noted);
        let keep_from = self.keep_from.iter().map(|from| from.load(Ordering::Acquire)).min();
        let keep_from = PhysicalOffset(keep_from.unwrap_or(u64::MAX));
        let (mut removed, mut waits_for) = (false, PhysicalOffset(0));
        for segment in self.segments.all() {
            let newest = segment.end() >= marks.written;
            if newest || segment.end() > safe || !self.may_go(&segment, retention, marks.written)? {
                break;
            }
            if segment.end() > keep_from {
                waits_for = segment.end();
                break;
            }
            // The minimum moves first: whoever reads below it is told so, not shown a gap.
            self.marks.advance_min(segment.end());
            self.segments.forget(segment.start);
            self.directory.remove(&path(segment.start))?;
            // One by one, so that a power cut cannot leave a hole between segments.
            self.directory.sync(FOLDER)?;
            removed = true;
        }
        self.retention_waits_for.store(waits_for.0, Ordering::Release);
        Ok(removed)
    }

    fn may_go(&self, segment: &Segment, retention: &Retention, end: PhysicalOffset) -> io::Result<bool> {
        let too_many = retention.bytes.is_some_and(|bytes| end.0 - segment.start.0 > bytes);
        let too_old = match retention.age_ms {
            Some(age) => segment.file.modified_ms()?.saturating_add(age) <= self.clock.wall_ms(),
            None => false,
        };
        Ok(too_many || too_old)
    }

    /// Removes what was cut off the log, oldest first, but for the newest file; `limit` is that of the log.
    /// Bytes that are left.
    pub(crate) fn remove_old_orphans(&self, orphans: &Retention, limit: Option<u64>) -> io::Result<u64> {
        // Nothing is cut meanwhile.
        let _one = self.rolling.lock().unwrap_or_else(PoisonError::into_inner);
        let all = Orphan::all(&*self.directory)?;
        let mut bytes: u64 = all.iter().map(|orphan| orphan.file_bytes).sum();
        let (most, now_ms) = (orphans.bytes.or(limit.map(|bytes| bytes / 4)), self.clock.wall_ms());
        let mut removed = false;
        for orphan in all.iter().take(all.len().saturating_sub(1)) {
            let old = match orphans.age_ms {
                Some(age) => self.directory.open(&orphan.file)?.modified_ms()?.saturating_add(age) <= now_ms,
                None => false,
            };
            if old || most.is_some_and(|most| bytes > most) {
                self.directory.remove(&orphan.file)?;
                bytes -= orphan.file_bytes;
                removed = true;
            }
        }
        if removed {
            self.directory.sync(crate::orphans::FOLDER)?;
        }
        Ok(bytes)
    }

    /// Removes segments that were made ahead of time and hold nothing, so that the directory ends
    /// where the log does.
    pub(crate) fn remove_unused_segments(&self) -> io::Result<()> {
        let end = self.head().end;
        // The first one stays: it says where the log begins.
        let unused: Vec<_> = self.segments.all().into_iter().skip(1).filter(|it| it.start >= end).collect();
        for segment in unused.iter().rev() {
            self.segments.forget(segment.start);
            self.directory.remove(&path(segment.start))?;
        }
        if unused.is_empty() { Ok(()) } else { self.directory.sync(FOLDER) }
    }
}

/// Who needs what is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptFor {
    /// The state of its owner, which is a function of the log.
    State,
    /// What replication has not noted elsewhere.
    Replication,
}

impl crate::Store {
    /// Retention removes nothing at or behind `position` from here on, for somebody needs it. Until the first
    /// call after opening, nobody does.
    pub fn keep_from(&self, by: KeptFor, position: PhysicalOffset) {
        self.0.log.keep_from[by as usize].store(position.0, Ordering::Release);
    }

    /// Where [`Store::keep_from`](crate::Store::keep_from) would have to be for retention to remove the next
    /// segment, when it found one that was too old or too many and had to stay.
    #[must_use]
    pub fn retention_waits_for(&self) -> Option<PhysicalOffset> {
        let position = self.0.log.retention_waits_for.load(Ordering::Acquire);
        (position > 0).then_some(PhysicalOffset(position))
    }
}
