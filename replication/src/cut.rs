//! What is said of a range that was cut off the log (I76).

use std::fmt;

use staticfire_storage::orphans::CutReason;
use staticfire_storage::{Epoch, PhysicalOffset};

/// A range that was cut off the log of this node, and is kept as an orphan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogCut {
    /// Why.
    pub reason: CutReason,
    /// Where it began.
    pub from: PhysicalOffset,
    /// Where it ended.
    pub end: PhysicalOffset,
    /// The epoch of its first record.
    pub first: Epoch,
    /// The epoch of its last record.
    pub last: Epoch,
    /// The epoch in which it was cut.
    pub epoch: Epoch,
    /// Where the log goes on.
    pub goes_on: PhysicalOffset,
}

impl LogCut {
    /// Bytes that were cut.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.end.0.saturating_sub(self.from.0)
    }
}

impl fmt::Display for LogCut {
    /// `name=value` for each field, so that machines read it too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, from, end, first, last, epoch, goes_on } = self;
        write!(
            f,
            "event=log-cut reason={reason} from={from} end={end} bytes={} first-epoch={first} last-epoch={last} \
             epoch={epoch} goes-on={goes_on}",
            self.bytes()
        )
    }
}
