//! Leadership periods: what replication does to a store (DESIGN D2, D5, §7).

use std::fmt;
use std::io;
use std::sync::PoisonError;

use bytes::Bytes;

use crate::dispatch::{DispatchError, number_undispatched};
use crate::error::Failure;
use crate::log::AppendError;
use crate::orphans::CutReason;
use crate::queue::QueueError;
use crate::{Epoch, Message, PhysicalOffset, ReadError, Receipt, Store};

/// Why a log could not be cut.
#[derive(Debug)]
pub enum CutError {
    /// The log is not fenced, or reservations made before the fence are not written yet.
    NotFenced,
    /// The cut lies above the end of the log.
    PastEnd {
        /// Where the log ends.
        end: PhysicalOffset,
    },
    /// The cut would take back what consumers may have seen. Nothing was changed; a human must look.
    BelowConfirmed {
        /// What was confirmed.
        confirmed: PhysicalOffset,
    },
    /// A write or flush had failed, and what was not flushed before it may be gone from under the
    /// orphan. Nothing was changed; the next open writes anew what is there and can be cut then.
    Failed(Failure),
    /// No segment begins where the log shall begin.
    NoSegment {
        /// Where it shall begin.
        at: PhysicalOffset,
    },
    /// The system's error. The cut was decided and is finished by the next open.
    Io(io::Error),
    /// The queues could not be cut; they are rebuilt by the next open.
    Queue(QueueError),
    /// The records between the queues' end and the cut could not be numbered.
    Dispatch(DispatchError),
}

impl fmt::Display for CutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFenced => f.write_str("only a fenced log is cut"),
            Self::PastEnd { end } => write!(f, "the log ends at {end}, before the cut"),
            Self::BelowConfirmed { confirmed } => {
                write!(f, "everything below {confirmed} was confirmed and is never cut")
            }
            Self::Failed(failure) => failure.fmt(f),
            Self::NoSegment { at } => {
                write!(f, "no segment begins at {at}: all nodes of a group need segments of the same size")
            }
            Self::Io(error) => write!(f, "the cut was not finished: {error}; reopen the store"),
            Self::Queue(error) => write!(f, "the queues were not cut: {error}; reopen the store"),
            Self::Dispatch(error) => write!(f, "the queues were not numbered: {error}; reopen the store"),
        }
    }
}

impl std::error::Error for CutError {}

/// Why an epoch could not begin.
#[derive(Debug)]
pub enum LeadError {
    /// The records above `dispatched` could not be read, so their numbers are unknown.
    Dispatch(DispatchError),
    /// Its first record was not taken.
    Append(AppendError),
}

impl fmt::Display for LeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dispatch(error) => error.fmt(f),
            Self::Append(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LeadError {}

impl Store {
    /// Ends the current epoch: nothing is accepted any more, everybody who waits learns
    /// [`crate::Outcome::Unknown`], and `epoch` is the current one.
    ///
    /// # Panics
    /// When `epoch` is not above the current one.
    pub fn fence(&self, epoch: Epoch) {
        self.0.log.fence(epoch);
    }

    /// Where the fenced log ends; `None` while a reservation made before the fence is under way.
    #[must_use]
    pub fn final_end(&self) -> Option<PhysicalOffset> {
        self.0.log.final_end()
    }

    /// Accepts appends in the epoch for which the log was fenced; a store opened with
    /// [`crate::Durability::Confirmed`] accepts none before.
    ///
    /// # Errors
    /// The records above `dispatched` could not be read, or not yet because [`Store::final_end`] is not
    /// known, so their numbers are unknown.
    pub fn open_epoch(&self) -> Result<(), DispatchError> {
        self.number_all()?;
        self.0.log.open_epoch();
        Ok(())
    }

    /// Accepts appends in the epoch for which the log was fenced, `first` before all others.
    ///
    /// # Errors
    /// [`LeadError`], as [`Store::open_epoch`] for the numbers; the log stays fenced.
    pub fn open_epoch_with(&self, first: &Message) -> Result<Receipt, LeadError> {
        self.number_all().map_err(LeadError::Dispatch)?;
        self.append_first(first).map_err(LeadError::Append)
    }

    /// Takes bytes that another node appended at `at`, the end of this fenced log. They may be cut
    /// anywhere and may cross segments.
    ///
    /// # Errors
    /// [`AppendError`]; `NotAtEnd` when this log has its own producers or does not end at `at`. When
    /// there is no room for the next segment, what went into the one before it stays.
    pub fn append_raw(&self, at: PhysicalOffset, bytes: &[u8]) -> Result<(), AppendError> {
        let taken = self.0.log.append_raw(at, bytes);
        self.0.drive();
        taken
    }

    /// The bytes from `from` up to `to`, as slices of the log, one for each segment: what another
    /// node copies. They may be cut anywhere.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] when some of it is not written or no longer kept, or the system's.
    pub fn slices(&self, from: PhysicalOffset, to: PhysicalOffset) -> Result<Vec<Bytes>, ReadError> {
        self.0.log.slices(from, to)
    }

    /// Says that everything below `end` can no longer be taken back, for a store opened with
    /// [`crate::Durability::Confirmed`]. `end` is the end of a record or of a segment.
    pub fn confirm(&self, epoch: Epoch, end: PhysicalOffset) {
        self.0.log.marks.advance_confirmed(epoch, end);
        self.0.drive();
    }

    /// As [`Store::truncate`], but takes back what was confirmed too: consumers may have seen it. For
    /// an old master after the operator chose another one.
    ///
    /// # Errors
    /// [`CutError`].
    pub fn retract(&self, to: PhysicalOffset) -> Result<(), CutError> {
        self.take_back(to);
        self.cut(to, CutReason::Retracted)
    }

    /// What was confirmed above `to` no longer is. Nobody dispatches meanwhile.
    fn take_back(&self, to: PhysicalOffset) {
        let mut dispatcher = self.0.dispatcher();
        self.0.log.marks.retract(to);
        dispatcher.truncated(to);
    }

    /// Cuts the fenced log at `to`, the end of a record, durably. What stood above is kept in
    /// `staticfire/orphans`; slices that were read from it never change.
    ///
    /// # Errors
    /// [`CutError`].
    pub fn truncate(&self, to: PhysicalOffset) -> Result<(), CutError> {
        self.cut(to, CutReason::Diverged)
    }

    fn cut(&self, to: PhysicalOffset, reason: CutReason) -> Result<(), CutError> {
        if let Some(failure) = self.failure() {
            return Err(CutError::Failed(failure.clone()));
        }
        let Some(end) = self.final_end() else { return Err(CutError::NotFenced) };
        if to > end {
            return Err(CutError::PastEnd { end });
        }
        let confirmed = self.0.log.marks.confirmed();
        if to < confirmed {
            return Err(CutError::BelowConfirmed { confirmed });
        }
        self.0.log.truncate(to, reason, &mut self.0.state()).map_err(CutError::Io)?;
        self.0.queues.truncate(to).map_err(CutError::Queue)?;
        self.0.dispatcher().truncated(to);
        self.number().map_err(CutError::Dispatch)
    }

    /// Empties the fenced log and lets it begin at `base`, durably: another node keeps nothing from before,
    /// and copying goes on there. What the log held, confirmed or not, is kept in `staticfire/orphans`; the
    /// queues are gone, and each begins with the number of the first record that comes for it.
    ///
    /// A machine that fails meanwhile leaves the old log, nothing, or the new one: whoever asked for it
    /// remembers that, and asks again after opening.
    ///
    /// # Errors
    /// [`CutError`]; [`CutError::NoSegment`] when `base` is not where a segment begins.
    pub fn restart(&self, base: PhysicalOffset) -> Result<(), CutError> {
        if let Some(failure) = self.failure() {
            return Err(CutError::Failed(failure.clone()));
        }
        if self.final_end().is_none() || self.0.log.is_accepting() {
            return Err(CutError::NotFenced);
        }
        if !base.0.is_multiple_of(self.0.options.segment_bytes) {
            return Err(CutError::NoSegment { at: base });
        }
        let log = &self.0.log;
        self.take_back(self.marks().min);
        // Nobody notes marks of the old log meanwhile.
        let mut state = self.0.state();
        log.restart(base, &mut state).map_err(CutError::Io)?;
        self.0.queues.clear().map_err(CutError::Queue)?;
        let mut dispatcher = self.0.dispatcher();
        log.marks.begin_at(base);
        dispatcher.begin_at(base);
        drop((dispatcher, state));
        log.marks.cut(base);
        Ok(())
    }

    /// Numbers the queues of a fenced log that nobody adds to any more.
    fn number_all(&self) -> Result<(), DispatchError> {
        if self.final_end().is_none() {
            let error = "a reservation made before the fence is under way".into();
            return Err(DispatchError::Log { at: self.marks().written, error });
        }
        self.number()
    }

    /// Gives every queue the number of its next message: what is readable, and then the records
    /// that are not dispatched yet.
    fn number(&self) -> Result<(), DispatchError> {
        for queue in self.0.queues.all() {
            queue.set_numbering(queue.max());
        }
        let marks = self.0.log.marks.snapshot();
        let rules = &self.0.options.rules;
        number_undispatched(&*self.0.log, &self.0.queues, rules, marks.dispatched, marks.written)
    }
}

impl crate::store::Inner {
    fn dispatcher(&self) -> std::sync::MutexGuard<'_, crate::dispatch::Dispatcher> {
        self.dispatcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
