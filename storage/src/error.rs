//! What can go wrong with a store, in types that a program can act on.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::PhysicalOffset;
use crate::record::RecordError;

/// A write or flush failed, and the store takes nothing more until it is reopened (DESIGN D6).
///
/// Nothing is acknowledged any more, and what had been acknowledged as flushed stays. What was only
/// *written* is from then on promised as little as after a power cut, even if only the process ends: the
/// system may show again what the medium holds. What is gone then is a suffix of the log that begins at or
/// behind the end of the last flush that succeeded. The next open writes anew what it can read, flushes
/// it, and only then counts on it.
#[derive(Clone, Debug)]
pub struct Failure {
    what: FailedStep,
    file: String,
    at: Option<u64>,
    error: Arc<io::Error>,
}

#[derive(Clone, Copy, Debug)]
enum FailedStep {
    Write,
    Flush,
    Cut,
}

impl Failure {
    pub(crate) fn write(file: String, at: u64, error: io::Error) -> Self {
        Self { what: FailedStep::Write, file, at: Some(at), error: Arc::new(error) }
    }

    pub(crate) fn flush(file: String, error: io::Error) -> Self {
        Self { what: FailedStep::Flush, file, at: None, error: Arc::new(error) }
    }

    pub(crate) fn cut(error: io::Error) -> Self {
        let file = crate::log::segments::FOLDER.to_owned();
        Self { what: FailedStep::Cut, file, at: None, error: Arc::new(error) }
    }

    /// The kind of the system's error.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.error.kind()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, error, .. } = self;
        match (self.what, self.at) {
            (FailedStep::Write, Some(at)) => write!(f, "{file}: writing at byte {at} failed: {error}")?,
            (FailedStep::Cut, _) => {
                return write!(f, "{file}: a cut was not finished: {error}; reopen the store to finish it");
            }
            _ => write!(f, "{file}: flushing failed: {error}")?,
        }
        f.write_str("; what was not flushed may be lost, reopen the store to find out")
    }
}

impl std::error::Error for Failure {}

/// Why a record cannot be read.
#[derive(Clone, Debug)]
pub enum ReadError {
    /// The position was removed by retention or was never written.
    OutOfRange {
        /// The position asked for.
        at: PhysicalOffset,
        /// Start of the oldest kept segment.
        min: PhysicalOffset,
        /// End of what is written.
        end: PhysicalOffset,
    },
    /// No record starts there.
    NoRecord {
        /// The position asked for.
        at: PhysicalOffset,
    },
    /// The record is damaged; it is neither served nor skipped.
    Damaged {
        /// Where the record starts.
        at: PhysicalOffset,
        /// What is wrong with it.
        error: RecordError,
    },
    /// A consume queue cannot answer.
    Queue(Arc<crate::queue::QueueError>),
    /// A write or flush failed while a subscription waited: nothing more will come.
    Failed(Failure),
    /// The system's error.
    Io {
        /// The position asked for.
        at: PhysicalOffset,
        /// What the system said.
        error: Arc<io::Error>,
    },
}

impl ReadError {
    pub(crate) fn io(at: PhysicalOffset, error: &io::Error) -> Self {
        Self::Io { at, error: Arc::new(io::Error::new(error.kind(), error.to_string())) }
    }

    pub(crate) const fn damaged(at: PhysicalOffset, error: RecordError) -> Self {
        Self::Damaged { at, error }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { at, min, end } => {
                write!(f, "the log holds {min} to {end}, and {at} was asked for")
            }
            Self::NoRecord { at } => write!(f, "no record starts at {at}"),
            Self::Damaged { at, error } => write!(
                f,
                "the record at {at} is damaged: {error}; `staticfire store verify` lists all damage"
            ),
            Self::Queue(error) => error.fmt(f),
            Self::Failed(failure) => failure.fmt(f),
            Self::Io { at, error } => write!(f, "reading the log at {at} failed: {error}"),
        }
    }
}

impl std::error::Error for ReadError {}
