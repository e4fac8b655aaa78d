//! Group commit: one flush at a time covers everything written before it started.
//!
//! A flush is started, and its completion comes later as an input (DESIGN D4). It carries the
//! generation in which it started: after a cut it proves nothing. Durable is what a flush covers
//! that *started* after the write, so the end is read before the flush is.

use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::{CommitLog, Covered};
use crate::error::Failure;
use crate::planted::planted;

/// The flush under way, if any.
#[derive(Debug, Default)]
pub(super) struct Flush {
    in_flight: Option<Covered>,
}

impl CommitLog {
    /// Starts a flush of everything written, unless one is under way or there is nothing to flush.
    /// `then` runs after the completion was applied; it usually calls this again. True when a
    /// flush was started.
    pub(crate) fn start_flush(self: &Arc<Self>, then: impl FnOnce() + Send + 'static) -> bool {
        if self.failure().is_some() {
            return false;
        }
        let mut flush = self.flush_state();
        let generation = self.marks.generation();
        if flush.in_flight.is_some_and(|(started, _)| started == generation) {
            return false;
        }
        let marks = self.marks.snapshot();
        if marks.flushed == marks.written {
            return false;
        }
        // One file at a time, oldest first: a mark in the next file stands on this one.
        let Some(segment) = self.segments.find(marks.flushed) else {
            unreachable!("the flushed mark stands in a segment that exists: {marks:?}");
        };
        let end = marks.written.min(segment.end());
        flush.in_flight = Some((generation, end));
        drop(flush);
        if planted("Z1") {
            self.marks.advance_flushed(generation, end);
        }
        let log = Arc::clone(self);
        let file = super::segments::path(segment.start);
        segment.file.start_sync(Box::new(move |result| {
            log.flush_completed((generation, end), file, result);
            then();
        }));
        true
    }

    fn flush_completed(&self, covered: Covered, file: String, result: io::Result<()>) {
        match result {
            Ok(()) => drop(self.marks.advance_flushed(covered.0, covered.1)),
            Err(_) if planted("Z5") => {}
            Err(_) if planted("Z6") => drop(self.marks.advance_flushed(covered.0, covered.1)),
            Err(error) => self.fail(Failure::flush(file, error)),
        }
        // Only now: the first of those who were woken would start the next flush for its record alone,
        // and all others would wait for the one after that.
        let mut flush = self.flush_state();
        if flush.in_flight == Some(covered) {
            flush.in_flight = None;
        }
    }

    /// Flushes everything written before returning.
    ///
    /// # Errors
    /// The failure that ended the log.
    pub(crate) fn flush_now(&self) -> Result<(), Failure> {
        loop {
            if let Some(failure) = self.failure() {
                return Err(failure.clone());
            }
            let generation = self.marks.generation();
            let marks = self.marks.snapshot();
            if marks.flushed == marks.written {
                return Ok(());
            }
            let Some(segment) = self.segments.find(marks.flushed) else {
                unreachable!("the flushed mark stands in a segment that exists: {marks:?}");
            };
            let end = marks.written.min(segment.end());
            match segment.file.sync() {
                Ok(()) => drop(self.marks.advance_flushed(generation, end)),
                Err(error) => self.fail(Failure::flush(super::segments::path(segment.start), error)),
            }
        }
    }

    fn flush_state(&self) -> MutexGuard<'_, Flush> {
        self.flush.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
