//! Removing whole segments: the oldest that may go, and those made ahead of time and never used.

use std::io;

use super::CommitLog;
use super::segments::{FOLDER, Segment, path};
use crate::PhysicalOffset;
use crate::options::Retention;

impl CommitLog {
    /// Store time of the newest record, in ms.
    pub(crate) fn newest_store_ms(&self) -> i64 {
        self.head().store_ms
    }

    /// Removes whole segments, oldest first, until the first that must stay: the newest, one that
    /// is not flushed and dispatched or whose queue entries were not noted as durable, or one that is young and within the size.
    pub(crate) fn remove_old_segments(
        &self,
        retention: &Retention,
        noted: PhysicalOffset,
    ) -> io::Result<bool> {
        let marks = self.marks.snapshot();
        let safe = marks.flushed.min(marks.dispatched).min(noted);
        let mut removed = false;
        for segment in self.segments.all() {
            if segment.end() > safe || !self.may_go(&segment, retention, marks.written)? {
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

    /// Removes segments that were made ahead of time and hold nothing, so that the directory ends
    /// where the log does.
    pub(crate) fn remove_unused_segments(&self) -> io::Result<()> {
        let end = self.head().end;
        let unused: Vec<_> =
            self.segments.all().into_iter().filter(|it| it.start >= end && it.start.0 != 0).collect();
        for segment in unused.iter().rev() {
            self.segments.forget(segment.start);
            self.directory.remove(&path(segment.start))?;
        }
        if unused.is_empty() { Ok(()) } else { self.directory.sync(FOLDER) }
    }
}
