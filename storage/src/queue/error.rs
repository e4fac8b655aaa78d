//! What can go wrong with a consume queue.

use std::fmt;
use std::io;

use super::QueueEntry;
use crate::{PhysicalOffset, QueueOffset};

/// Why a consume queue cannot do what was asked.
#[derive(Debug)]
pub enum QueueError {
    /// The system's error on a file or folder.
    Io {
        /// The file or folder, relative to the store.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// The entries asked for were removed or do not exist yet.
    OutOfRange {
        /// The first entry asked for.
        from: QueueOffset,
        /// The oldest entry that can be read.
        min: QueueOffset,
        /// One past the newest entry.
        max: QueueOffset,
    },
    /// Another entry already stands under this number.
    Conflict {
        /// What stands there.
        found: Option<QueueEntry>,
        /// What was to be written.
        expected: QueueEntry,
    },
    /// The entry would leave a gap in the numbering.
    Gap {
        /// The number the queue expects next.
        max: QueueOffset,
        /// The entry that came.
        found: QueueEntry,
    },
    /// The entry points before the end of the record in front of it.
    Disordered {
        /// End of the newest record in the queue.
        after: PhysicalOffset,
        /// The entry that came.
        found: QueueEntry,
    },
    /// An inner batch came to a queue that has one entry for each message.
    InnerBatch {
        /// The entry that came.
        found: QueueEntry,
    },
    /// A block of a queue file does not match its checksum.
    Damaged {
        /// The file, relative to the store.
        path: String,
        /// First byte of the block.
        at: u64,
    },
    /// A file has another length than the options say.
    FileLength {
        /// The file, relative to the store.
        path: String,
        /// Its length in bytes.
        found: u64,
        /// The length in the options in bytes.
        expected: u64,
    },
    /// A file has a name that no queue file of this length has.
    FileName {
        /// The file, relative to the store.
        path: String,
        /// The length in the options in bytes; names are multiples of it.
        expected: u64,
    },
    /// A sync failed or a cut was left half done: what the files hold is unknown until they are
    /// read again.
    Poisoned {
        /// The file or folder, relative to the store.
        path: String,
    },
}

impl QueueError {
    pub(super) fn io(path: &str, error: io::Error) -> Self {
        Self::Io { path: path.to_owned(), error }
    }
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, error } => write!(f, "{path}: {error}"),
            Self::OutOfRange { from, min, max } => {
                write!(f, "the queue holds entries {min} to {max} (exclusive), and {from} was asked for")
            }
            Self::Conflict { found, expected } => write!(
                f,
                "entry {} of the queue is {found:?} and should be {expected:?}; reopen the store to rebuild it",
                expected.offset
            ),
            Self::Gap { max, found } => {
                write!(f, "the queue expects entry {max} next and got {}; reopen the store", found.offset)
            }
            Self::Disordered { after, found } => write!(
                f,
                "entry {} points to {}, inside or before a record that ends at {after}; reopen the store",
                found.offset, found.physical
            ),
            Self::InnerBatch { found } => write!(
                f,
                "the record at {} is a batch of {} messages and its queue has one entry for each; \
                 declare the topic as a batch topic and let the queue be rebuilt",
                found.physical, found.messages
            ),
            Self::Damaged { path, at } => {
                write!(
                    f,
                    "{path}: the block at byte {at} does not match its checksum; remove the file to rebuild it"
                )
            }
            Self::FileLength { path, found, expected } => write!(
                f,
                "{path}: the file has {found} bytes and the options say {expected}; \
                 open the store with the queue file size it was written with"
            ),
            Self::FileName { path, expected } => write!(
                f,
                "{path}: the name is no multiple of {expected}, the length in the options; \
                 open the store with the queue file size it was written with"
            ),
            Self::Poisoned { path } => {
                write!(f, "{path}: a sync or a cut failed before; reopen the store to find out what was kept")
            }
        }
    }
}

impl std::error::Error for QueueError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}
