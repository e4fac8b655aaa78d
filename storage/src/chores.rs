//! What is done now and then: flush in `written` mode, write queues and marks, make the next
//! segment and write zeros to it, remove old ones. Counted in rounds of 100 ms.

use std::io;
use std::sync::PoisonError;

use crate::checkpoint::Checkpoint;
use crate::state::State;
use crate::store::Inner;
use crate::{PhysicalOffset, QueueError};
use std::sync::Arc;

/// Rounds between two flushes that nobody asked for: 0.5 s, the loss window of `written`.
const FLUSH_ROUNDS: u64 = 5;
/// Rounds between two notes of how far the log is durable: 1 s.
const NOTE_ROUNDS: u64 = 10;
/// Rounds between two syncs of the queues: 10 s, which bounds what an unclean start dispatches.
const QUEUE_ROUNDS: u64 = 100;
/// Rounds between two looks at what retention allows to remove: 10 s.
const RETAIN_ROUNDS: u64 = 100;

/// Zeros written to the next segment in a round in which nothing was appended: 40 MiB a second.
pub(crate) const AHEAD_BYTES: u64 = 4 << 20;

/// Where the rounds stand.
#[derive(Debug, Default)]
pub(crate) struct Chores {
    round: u64,
    /// Where the log ended in the last round.
    end: PhysicalOffset,
    /// The last thing that went wrong, told once in words by whoever asks.
    pub(crate) trouble: Option<String>,
}

impl Inner {
    /// One round of the background work; never waits for another one.
    pub(crate) fn housekeep(self: &Arc<Self>) {
        let end = self.log.marks.snapshot().appended;
        let (round, idle) = {
            let mut chores = self.chores.lock().unwrap_or_else(PoisonError::into_inner);
            chores.round += 1;
            (chores.round, std::mem::replace(&mut chores.end, end) == end)
        };
        if self.log.failure().is_some() || self.admit().is_err() {
            return;
        }
        let due = |every: u64| round.is_multiple_of(every);
        let mut done = self.log.prepare_next_segment().map_err(io::Error::other);
        if idle {
            self.log.zero_ahead(AHEAD_BYTES);
        }
        self.drive();
        if due(FLUSH_ROUNDS) {
            self.start_flush();
        }
        if due(QUEUE_ROUNDS) {
            done = done.and(self.tidy());
        } else if due(NOTE_ROUNDS) {
            done = done.and(self.note_marks(None));
        }
        if due(RETAIN_ROUNDS) {
            done = done.and(self.retain());
        }
        self.chores.lock().unwrap_or_else(PoisonError::into_inner).trouble =
            done.err().map(|error| error.to_string());
    }

    /// Makes the queues durable, remembers how far everything is, and removes what may go.
    pub(crate) fn tidy(self: &Arc<Self>) -> io::Result<()> {
        self.catch_up();
        let (dispatched, generation) = (self.log.marks.snapshot().dispatched, self.log.marks.generation());
        self.queues.write_pending().and_then(|()| self.queues.sync_all()).map_err(io::Error::other)?;
        // Of a log that was cut since, other queues may be meant.
        let whole = generation == self.log.marks.generation();
        self.note_marks(whole.then_some(dispatched))
    }

    /// Remembers the durable mark, and how far the queues are durable when that is known.
    fn note_marks(&self, queues_complete: Option<PhysicalOffset>) -> io::Result<()> {
        // First of all: whoever cuts the log has it.
        let mut file = self.state();
        let marks = self.log.marks.snapshot();
        // Marks that stand at the end of a record: `flushed` may stand inside one on a follower.
        let durable = marks.flushed.min(marks.dispatched);
        let old = file.state();
        let new = State {
            epoch: marks.epoch,
            durable: durable.max(old.durable),
            queues_complete: queues_complete.map_or(old.queues_complete, |at| at.min(durable)),
            store_ms: self.log.newest_store_ms(),
            clean_end: None,
            ..old
        };
        if new != old {
            file.write(new)?;
        }
        let logics_ms = match queues_complete {
            Some(at) if at == marks.dispatched && at == marks.written => new.store_ms,
            _ => 0,
        };
        self.note_checkpoint(marks.flushed == marks.written, new.store_ms, logics_ms)
    }

    /// RocketMQ starts its recovery from these times, so they only say what is certain: all of the
    /// log, all of the queues, or what was said before.
    fn note_checkpoint(&self, all_flushed: bool, store_ms: i64, logics_ms: i64) -> io::Result<()> {
        let old = Checkpoint::read(&*self.directory)?;
        let new = Checkpoint {
            // After the log was cut, what was said before may be of records that are gone.
            physic_ms: if all_flushed { store_ms } else { old.physic_ms.min(store_ms) },
            logics_ms: logics_ms.max(old.logics_ms.min(store_ms)),
            ..old
        };
        self.checkpoint.write(&new)
    }

    /// Removes the oldest segments that retention lets go, and what pointed at them.
    pub(crate) fn retain(&self) -> io::Result<()> {
        // Records whose queue entries may yet be lost stay: they hold the numbering.
        let noted = self.state().state().queues_complete;
        let mut retention = self.options.retention;
        let orphans = self.log.remove_old_orphans(&self.options.orphans, retention.bytes)?;
        retention.bytes = retention.bytes.map(|bytes| bytes - orphans.min(bytes / 2));
        let removed = self.log.remove_old_segments(&retention, noted)?;
        if !removed {
            return Ok(());
        }
        let min = self.log.marks.snapshot().min;
        self.queues.follow_min(min, noted).map_err(io::Error::other)
    }

    pub(crate) fn note_dispatch_error(&self, error: impl std::fmt::Display) {
        let trouble = Some(format!("dispatch stopped: {error}"));
        self.chores.lock().unwrap_or_else(PoisonError::into_inner).trouble = trouble;
    }
}

impl crate::Store {
    /// Removes now what [`Retention`](crate::Retention) allows, instead of within the next 10 s.
    ///
    /// # Errors
    /// The system's error.
    pub fn retain(&self) -> io::Result<()> {
        self.0.tidy().and_then(|()| self.0.retain())
    }

    /// What the background work could not do when it last tried, in words.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.0.chores.lock().unwrap_or_else(PoisonError::into_inner).trouble.clone()
    }
}

impl From<QueueError> for io::Error {
    fn from(error: QueueError) -> Self {
        Self::other(error)
    }
}
