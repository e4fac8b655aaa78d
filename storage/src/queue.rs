//! Consume queues: for every queue of a topic the positions of its records in the commit log.
//!
//! ```text
//!  commit log   |rec a|rec b|rec c|rec d|rec e|        one sequence, all topics
//!                  |     |     |     |     |
//!  orders, 0    [0]a        [1]c              min = 0, max = 2
//!  orders, 1          [0]b        [1]d [2]e   min = 0, max = 3
//! ```
//! Queues are a pure function of the log: whatever is lost of them is rebuilt from it, so dispatching
//! a record costs no system call. Its entry stays in memory until a block of 4 KiB is full or the
//! background step writes it out; readers see file and memory as one.
//!
//! The files are RocketMQ's: `consumequeue/<topic>/<queue>/<first byte, 20 digits>`, entries of 20
//! bytes; a queue that has a folder in `batchconsumequeue/` has entries of 46 bytes, one for each
//! inner batch.

mod believe;
mod entry;
mod error;
mod handles;
mod load;
mod rebuild;
mod recovery;
mod slots;
pub(crate) mod sums;
mod table;
mod time;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::Waker;

pub use believe::Distrust;
pub use entry::{Layout, QueueEntry};
pub use error::QueueError;
pub use rebuild::QueueFindings;
pub use recovery::{LogRange, QueueRecovery, QueueRecoveryError};
pub use table::{QueueOptions, QueueTable};
pub use time::Boundary;

use crate::{PhysicalOffset, QueueId, QueueOffset, TopicName};
use slots::{Slots, Unsynced};

/// The most entries that one call of [`ConsumeQueue::entries`] returns.
pub const ENTRIES_MAX: usize = 4096;

/// Numbers from here on are in no queue: their place in its files could not be computed.
const NUMBER_MAX: u64 = (i64::MAX / 64).cast_unsigned();

/// One queue of a topic.
pub struct ConsumeQueue {
    topic: TopicName,
    id: QueueId,
    layout: Layout,
    /// The number that the next appended message gets; changed under the append lock of the log.
    numbering: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
    /// The topic was removed: nothing is written any more. Set under the lock.
    removed: AtomicBool,
    state: RwLock<State>,
}

struct State {
    slots: Slots,
    /// First slot that is not padding in front of a queue created late.
    begin: u64,
    /// End of the newest record in the queue.
    last_end: PhysicalOffset,
    /// A cut was left half done.
    poisoned: bool,
    /// Who is to be woken when the queue changes, by the number of the listener.
    listeners: Vec<(u64, Waker)>,
}

/// What became of a pushed entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is the newest entry of the queue now.
    Appended,
    /// It stood there already.
    AlreadyThere,
}

impl ConsumeQueue {
    fn new(topic: TopicName, id: QueueId, slots: Slots) -> Self {
        let layout = slots.layout;
        let state =
            State { slots, begin: 0, last_end: PhysicalOffset(0), poisoned: false, listeners: Vec::new() };
        let zero = || AtomicU64::new(0);
        Self {
            topic,
            id,
            layout,
            numbering: zero(),
            min: zero(),
            max: zero(),
            removed: AtomicBool::new(false),
            state: RwLock::new(state),
        }
    }

    /// The topic of the queue.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The number of the queue in its topic.
    #[must_use]
    pub fn id(&self) -> QueueId {
        self.id
    }

    /// How the entries are laid out.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The oldest entry whose record is still in the log, or [`ConsumeQueue::max`] when none is.
    #[must_use]
    pub fn min(&self) -> QueueOffset {
        QueueOffset(self.min.load(Ordering::Acquire))
    }

    /// One past the newest readable entry.
    #[must_use]
    pub fn max(&self) -> QueueOffset {
        QueueOffset(self.max.load(Ordering::Acquire))
    }

    /// End of the newest record that the queue knows; 0 when it never had one.
    #[must_use]
    pub fn physical_end(&self) -> PhysicalOffset {
        self.read().last_end
    }

    /// The number that the next appended message will get.
    #[must_use]
    pub fn numbering(&self) -> QueueOffset {
        QueueOffset(self.numbering.load(Ordering::Relaxed))
    }

    /// Gives out the next `count` numbers and returns the first. The caller holds the append lock of
    /// the log, so that numbers and positions grow together.
    #[must_use]
    pub fn take_numbers(&self, count: u64) -> QueueOffset {
        // No read-modify-write: the append lock is held, see above.
        let first = QueueOffset(self.numbering.load(Ordering::Relaxed));
        self.numbering.store(first.after(count).0, Ordering::Relaxed);
        first
    }

    /// Sets the number of the next appended message: at recovery, and after the log was cut.
    pub fn set_numbering(&self, next: QueueOffset) {
        self.numbering.store(next.0, Ordering::Relaxed);
    }

    /// Adds the entry of a dispatched record; it is readable when this returns. Called in the order
    /// of the log, by one dispatcher.
    ///
    /// A queue that never had an entry starts at `entry.offset`. `store_ms` is the store time of the
    /// record.
    ///
    /// # Errors
    /// [`QueueError::Conflict`], [`QueueError::Gap`], [`QueueError::Disordered`] or
    /// [`QueueError::InnerBatch`] when the entry does not continue the queue; [`QueueError::Io`]
    /// when the disk has taken nothing for so long that memory is full. Nothing was added then.
    pub fn push(&self, entry: &QueueEntry, store_ms: i64) -> Result<Pushed, QueueError> {
        let mut state = self.write();
        let max = QueueOffset(self.max.load(Ordering::Relaxed));
        if self.is_removed() {
            return Ok(Pushed::AlreadyThere);
        }
        if entry.offset < max {
            let found = state.find(entry.offset)?;
            let same = found.as_ref() == Some(entry);
            return if same {
                Ok(Pushed::AlreadyThere)
            } else {
                Err(QueueError::Conflict { found, expected: *entry })
            };
        }
        if entry.offset > max {
            if !state.slots.is_fresh() || entry.offset.0 > NUMBER_MAX {
                return Err(QueueError::Gap { max, found: *entry });
            }
            self.begin_at(&mut state, entry.offset);
        }
        self.append(&mut state, entry, store_ms)?;
        wake(state);
        Ok(Pushed::Appended)
    }

    /// A queue that has neither entries nor numbers goes on at `next`; one that has keeps what it has. For
    /// a queue whose records are gone. The caller holds the append lock of the log. Nothing is written:
    /// the owner says it again after the next opening.
    pub(crate) fn continue_at(&self, next: QueueOffset) {
        let mut state = self.write();
        let has_numbers = self.numbering() > QueueOffset(0) || self.max() > QueueOffset(0);
        if self.is_removed() || has_numbers || !state.slots.is_fresh() || next.0 > NUMBER_MAX {
            return;
        }
        self.begin_at(&mut state, next);
        self.set_numbering(next);
    }

    fn begin_at(&self, state: &mut State, at: QueueOffset) {
        if state.slots.layout == Layout::Single {
            state.slots.set_end(at.0);
            state.begin = at.0;
        }
        self.min.store(at.0, Ordering::Release);
        self.max.store(at.0, Ordering::Release);
    }

    fn append(&self, state: &mut State, entry: &QueueEntry, store_ms: i64) -> Result<(), QueueError> {
        if state.poisoned {
            return Err(QueueError::Poisoned { path: state.slots.folder().to_owned() });
        }
        if entry.physical < state.last_end {
            return Err(QueueError::Disordered { after: state.last_end, found: *entry });
        }
        if entry.messages > 1 && state.slots.layout == Layout::Single {
            return Err(QueueError::InnerBatch { found: *entry });
        }
        state.slots.append(entry, store_ms)?;
        state.last_end = entry.physical_end();
        self.max.store(entry.next().0, Ordering::Release);
        Ok(())
    }

    /// At most `count` entries (and at most [`ENTRIES_MAX`]), the first being the one that holds
    /// message `from`. Empty at the end of the queue. Padding is included, see
    /// [`QueueEntry::is_padding`].
    ///
    /// # Errors
    /// [`QueueError::OutOfRange`] below `min` or above `max`; [`QueueError::Damaged`];
    /// [`QueueError::Io`].
    pub fn entries(&self, from: QueueOffset, count: usize) -> Result<Vec<QueueEntry>, QueueError> {
        let state = self.read();
        let (min, max) = (self.min(), self.max());
        if from < min || from > max {
            return Err(QueueError::OutOfRange { from, min, max });
        }
        let first = state.slot_of(from)?;
        let count = count.min(ENTRIES_MAX) as u64;
        let range = first..state.slots.end().min(first + count);
        let mut found = Vec::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0));
        let (layout, mut hole) = (state.slots.layout, None);
        state.slots.read(range, |slot, bytes| match layout.decode(bytes, slot) {
            Some(entry) => found.push(entry),
            None => hole = hole.or(Some(slot)),
        })?;
        match hole {
            Some(slot) => Err(state.damaged(slot)),
            None => Ok(found),
        }
    }

    /// The entry that holds message `at`.
    ///
    /// # Errors
    /// As [`ConsumeQueue::entries`]; also [`QueueError::OutOfRange`] for `max` itself.
    pub fn entry(&self, at: QueueOffset) -> Result<QueueEntry, QueueError> {
        let found = self.entries(at, 1)?;
        found.first().copied().ok_or(QueueError::OutOfRange { from: at, min: self.min(), max: self.max() })
    }

    /// Raises `min` to the first entry whose record starts at or behind `log_min`, the start of the
    /// oldest kept segment (store-format §5.5). With no such entry the queue is empty and keeps its
    /// numbers: `min` becomes `max`.
    ///
    /// # Errors
    /// [`QueueError::Io`] or [`QueueError::Damaged`]; `min` is unchanged then.
    pub fn correct_min(&self, log_min: PhysicalOffset) -> Result<QueueOffset, QueueError> {
        let state = self.write();
        let from = state.slot_of(self.min())?;
        // Most often nothing was removed, and then one entry tells.
        let first = if from < state.slots.end() { state.slots.entry(from)? } else { None };
        if first.is_some_and(|first| !first.is_padding() && first.physical >= log_min) {
            return Ok(self.min());
        }
        let slot = state.first_at_or_behind(log_min, from)?;
        let min = if slot < state.slots.end() { state.offset_of(slot)? } else { self.max() };
        self.min.fetch_max(min.0, Ordering::AcqRel);
        Ok(self.min())
    }

    /// Removes the files that hold nothing at or above `min`, and returns how many. A newer file with
    /// an entry of a record before `noted` always stays: it keeps the numbering, and only what was
    /// noted as durable is sure to.
    ///
    /// # Errors
    /// [`QueueError::Io`] or [`QueueError::Damaged`]; files older than the one named are gone.
    pub fn remove_old_files(&self, noted: PhysicalOffset) -> Result<usize, QueueError> {
        let mut state = self.write();
        let min_slot = state.slot_of(self.min())?;
        let starts: Vec<u64> = state.slots.starts().collect();
        let mut removed = 0;
        for pair in starts.windows(2).take_while(|pair| pair[1] <= min_slot) {
            let next = if pair[1] < state.slots.end() { state.slots.entry(pair[1])? } else { None };
            if !next.is_some_and(|next| !next.is_padding() && next.physical < noted) {
                break;
            }
            state.slots.remove(pair[0])?;
            state.begin = state.begin.max(pair[1]);
            removed += 1;
        }
        Ok(removed)
    }

    /// Drops the entries of all records at or behind `cut`, durably: no crash brings them back. The
    /// numbering is the caller's to set, since records that were not dispatched have numbers too.
    /// Called through [`QueueTable::truncate`], which leaves a trace for recovery meanwhile.
    ///
    /// # Errors
    /// [`QueueError::Io`]: the queue takes nothing more until the store is reopened.
    fn truncate(&self, cut: PhysicalOffset) -> Result<(), QueueError> {
        let mut state = self.write();
        if state.poisoned {
            return Err(QueueError::Poisoned { path: state.slots.folder().to_owned() });
        }
        if state.last_end <= cut {
            return Ok(());
        }
        let slot = state.first_at_or_behind(cut, state.begin)?;
        if slot == state.slots.end() {
            return Ok(());
        }
        let max = state.offset_of(slot)?;
        state.last_end = state.end_before(slot)?;
        self.min.fetch_min(max.0, Ordering::AcqRel);
        self.max.store(max.0, Ordering::Release);
        let cut = state.slots.cut(slot);
        state.poisoned |= cut.is_err();
        cut
    }

    /// Writes the entries that only memory holds; one system call for a queue that has any.
    ///
    /// # Errors
    /// [`QueueError::Io`]; the entries stay readable and are written by a later call.
    pub fn write_pending(&self) -> Result<(), QueueError> {
        let mut state = self.write();
        if self.is_removed() { Ok(()) } else { state.slots.write_out() }
    }

    fn take_unsynced(&self) -> Result<Unsynced, QueueError> {
        let mut state = self.write();
        if state.poisoned {
            return Err(QueueError::Poisoned { path: state.slots.folder().to_owned() });
        }
        Ok(state.slots.take_unsynced())
    }

    /// Removes all files; later pushes have no effect.
    fn remove(&self) -> Result<(), QueueError> {
        let mut state = self.write();
        self.removed.store(true, Ordering::Release);
        let removed = state.slots.remove_all();
        wake(state);
        removed
    }

    /// Wakes `waker` at the next change, in place of an earlier one of the same listener. False, and
    /// nothing is remembered, when the queue does not end at `next` or was removed.
    pub(crate) fn listen(&self, listener: u64, next: QueueOffset, waker: &Waker) -> bool {
        let mut state = self.write();
        if self.is_removed() || self.max() != next {
            return false;
        }
        state.listeners.retain(|(other, _)| *other != listener);
        state.listeners.push((listener, waker.clone()));
        true
    }

    pub(crate) fn stop_listening(&self, listener: u64) {
        self.write().listeners.retain(|(other, _)| *other != listener);
    }

    fn wake_listeners(&self) {
        wake(self.write());
    }

    /// The topic was removed: nothing comes any more.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes, without the lock, everybody who listens.
fn wake(mut state: RwLockWriteGuard<'_, State>) {
    if state.listeners.is_empty() {
        return;
    }
    let listeners = std::mem::take(&mut state.listeners);
    drop(state);
    listeners.into_iter().for_each(|(_, waker)| waker.wake());
}

impl State {
    /// The entry that holds message `at`, which lies below the queue's end.
    fn find(&self, at: QueueOffset) -> Result<Option<QueueEntry>, QueueError> {
        let slot = self.slot_of(at)?;
        if slot < self.begin || slot >= self.slots.end() {
            return Ok(None);
        }
        self.slots.entry(slot)
    }

    /// The slot that holds message `at`, or the end.
    fn slot_of(&self, at: QueueOffset) -> Result<u64, QueueError> {
        match self.slots.layout {
            Layout::Single => Ok(at.0),
            Layout::Batch => self.partition(self.begin, |entry| entry.next() <= at),
        }
    }

    fn offset_of(&self, slot: u64) -> Result<QueueOffset, QueueError> {
        match self.slots.layout {
            Layout::Single => Ok(QueueOffset(slot)),
            Layout::Batch => Ok(self.slots.entry(slot)?.ok_or_else(|| self.damaged(slot))?.offset),
        }
    }

    /// The first slot from `from` on whose record starts at or behind `physical`, or the end.
    fn first_at_or_behind(&self, physical: PhysicalOffset, from: u64) -> Result<u64, QueueError> {
        self.partition(from.max(self.begin), |entry| entry.physical < physical)
    }

    /// The first slot from `from` on whose entry is not `before`, or the end. Padding counts as what
    /// stands in front of it.
    fn partition(&self, from: u64, before: impl Fn(&QueueEntry) -> bool) -> Result<u64, QueueError> {
        let (mut low, mut high) = (from, self.slots.end());
        while low < high {
            let middle = low + (high - low) / 2;
            let mut probe = middle;
            let entry = loop {
                let entry = self.slots.entry(probe)?.ok_or_else(|| self.damaged(probe))?;
                if !entry.is_padding() || probe == low {
                    break entry;
                }
                probe -= 1;
            };
            if entry.is_padding() || before(&entry) {
                low = middle + 1;
            } else {
                high = probe;
            }
        }
        Ok(low)
    }

    /// End of the last record in front of `slot`; 0 without one. Padding has no end: taken for an
    /// entry it would end at 2 GiB, and nothing below could follow it.
    fn end_before(&self, slot: u64) -> Result<PhysicalOffset, QueueError> {
        for slot in (self.begin..slot).rev() {
            let entry = self.slots.entry(slot)?.ok_or_else(|| self.damaged(slot))?;
            if !entry.is_padding() {
                return Ok(entry.physical_end());
            }
        }
        Ok(PhysicalOffset(0))
    }

    fn damaged(&self, slot: u64) -> QueueError {
        let start = self.slots.start_of(slot);
        QueueError::Damaged { path: self.slots.path(start), at: (slot - start) * self.slots.width() }
    }
}

impl fmt::Debug for ConsumeQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumeQueue")
            .field("topic", &self.topic)
            .field("id", &self.id)
            .field("min", &self.min())
            .field("max", &self.max())
            .field("numbering", &self.numbering())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
