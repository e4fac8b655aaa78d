//! Zeros for the next segment, written while nothing else happens (DESIGN D5).
//!
//! A durable write into blocks that were written before takes half as long as one into blocks that
//! are only allocated, since the file system need not note that they hold something now. What the
//! segment reads as does not change, so recovery sees no difference.

use std::io;
use std::ops::Range;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};

use super::CommitLog;
use super::segments::{Segment, path};
use crate::disk::SegmentFile;
use crate::error::Failure;

/// Bytes written before an append gets its turn.
const PIECE: u64 = 256 << 10;

/// How far the next segment was written.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    file: Option<Weak<dyn SegmentFile>>,
    zeroed: u64,
    syncing: bool,
}

impl CommitLog {
    /// Writes zeros to the next `budget` bytes of the segment behind the current one, if it exists,
    /// and starts to make them durable. Does nothing while the bytes before them are on their way.
    pub(crate) fn zero_ahead(self: &Arc<Self>, budget: u64) {
        // No segment is made, cut off or given to the orphans meanwhile.
        let _one = self.rolling.lock().unwrap_or_else(PoisonError::into_inner);
        let end = self.head().end;
        let next = self.segments.all().into_iter().find(|segment| segment.start > end);
        let Some(segment) = next.filter(|_| self.failure().is_none()) else { return };
        let Some(from) = self.ahead().goes_on_at(&segment.file) else { return };
        let to = segment.file.len().min(from + budget);
        let mut at = from;
        while at < to && self.zero(&segment, at..to.min(at + PIECE)) {
            at = to.min(at + PIECE);
        }
        if at > from {
            let mut ahead = self.ahead();
            (ahead.zeroed, ahead.syncing) = (at, true);
            drop(ahead);
            self.sync_ahead(&segment);
        }
    }

    /// Writes zeros as the writer. False when there is another one, or the log got there first.
    fn zero(&self, segment: &Segment, range: Range<u64>) -> bool {
        let (at, mut zeroed) = (range.start, None);
        self.writer.run(|| {
            if zeroed.is_some() {
                return self.write_once();
            }
            let unused = self.marks.written() <= segment.start;
            let written = if unused { segment.file.write_zeros(range.clone()) } else { Ok(()) };
            zeroed = Some(written.map(|()| unused));
            true
        });
        match zeroed {
            None => false,
            Some(Ok(unused)) => unused,
            Some(Err(error)) => {
                self.fail(Failure::write(path(segment.start), at, error));
                false
            }
        }
    }

    /// Promises nothing to anybody: without it, the first flush of a record would have to write all
    /// the zeros too.
    fn sync_ahead(self: &Arc<Self>, segment: &Segment) {
        let (log, file) = (Arc::clone(self), path(segment.start));
        segment.file.start_sync(Box::new(move |result: io::Result<()>| {
            log.ahead().syncing = false;
            if let Err(error) = result {
                log.fail(Failure::flush(file, error));
            }
        }));
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ahead {
    /// Where to go on in `file`; `None` while a sync is under way.
    fn goes_on_at(&mut self, file: &Arc<dyn SegmentFile>) -> Option<u64> {
        let known =
            self.file.as_ref().is_some_and(|known| std::ptr::addr_eq(Weak::as_ptr(known), Arc::as_ptr(file)));
        if !known {
            (self.file, self.zeroed) = (Some(Arc::downgrade(file)), 0);
        }
        (!self.syncing).then_some(self.zeroed)
    }
}
