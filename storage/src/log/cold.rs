//! What the device alone holds: finding that out, and fetching it on a thread of the disk. Looked at
//! through the mapping it would stop whoever looks for as long as the device takes, and what the device
//! cannot read would be a signal instead of an error.

use std::ops::Range;

use super::CommitLog;
use super::segments::Segment;
use crate::{PhysicalOffset, ReadError};

/// Called once with the result of [`crate::Store::start_read`], on whatever thread or step runs completions.
pub type ReadDone = Box<dyn FnOnce(Result<(), ReadError>) + Send>;

impl CommitLog {
    pub(crate) fn is_cold(&self, at: PhysicalOffset, len: u64) -> bool {
        self.kept(at, len).is_ok_and(|(segment, range)| segment.file.is_cold(range))
    }

    pub(crate) fn start_read(&self, at: PhysicalOffset, len: u64, done: ReadDone) {
        match self.kept(at, len) {
            Ok((segment, range)) => segment.file.start_read(
                range,
                Box::new(move |read| done(read.map_err(|error| ReadError::io(at, &error)))),
            ),
            Err(error) => done(Err(error)),
        }
    }

    /// The segment that holds `at`, and which of its bytes those from there on are: what is written of
    /// them, up to the segment's end.
    fn kept(&self, at: PhysicalOffset, len: u64) -> Result<(Segment, Range<u64>), ReadError> {
        let end = self.in_range(at)?;
        let segment = self.segments.find(at).ok_or(ReadError::NoRecord { at })?;
        let upto = at.0.saturating_add(len).min(end.0).min(segment.end().0);
        let range = at.0 - segment.start.0..upto - segment.start.0;
        Ok((segment, range))
    }
}
