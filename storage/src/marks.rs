//! The marks of the log, and everything that waits for one of them (DESIGN D2).
//!
//! One place keeps all marks, and one lock orders every move of a mark with every registration of
//! a waiter, so that a wake-up cannot be lost. A waiter names the epoch in which its bytes were
//! appended: a fence or a cut completes every waiter above it as [`Outcome::Unknown`] before any
//! mark moves again, so that other bytes at the same position never become somebody's OK.
//!
//! ```text
//!   min ≤ dispatched ≤ confirmed ≤ written ≤ appended        flushed ≤ written
//! ```

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::planted::planted;
use crate::{Epoch, PhysicalOffset, Position};

/// How far a record must have got before it counts as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// The operating system has it: survives a killed process, **not** a power cut, which may take
    /// everything written since the last flush (by default up to 0.5 s).
    Written,
    /// On stable storage: survives a power cut.
    Flushed,
    /// Consumers may see it, and no failover takes it back.
    Confirmed,
}

/// What became of the bytes somebody waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They got there.
    Reached,
    /// The epoch ended first, or the store was closed: the bytes may or may not survive.
    Unknown,
    /// The store failed to write or flush and takes nothing more until it is reopened. The bytes
    /// may or may not be found then.
    Failed,
}

/// Called once with the outcome, on the thread or step that settled it. Must not block.
pub type Waiter = Box<dyn FnOnce(Outcome) + Send>;

/// How far the log has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The current leadership period.
    pub epoch: Epoch,
    /// Start of the oldest kept segment.
    pub min: PhysicalOffset,
    /// End of what was numbered, and copied or being copied by whoever writes it next.
    pub appended: PhysicalOffset,
    /// End of what the operating system has.
    pub written: PhysicalOffset,
    /// End of what survives a power cut.
    pub flushed: PhysicalOffset,
    /// End of what consumers may see.
    pub confirmed: PhysicalOffset,
    /// End of what the consume queues hold.
    pub dispatched: PhysicalOffset,
}

impl Marks {
    /// Checks the order of the marks.
    ///
    /// # Panics
    /// When the order is broken: the store then stops rather than go on with a wrong promise.
    pub fn check(&self) {
        assert!(self.written <= self.appended, "wrote bytes that were never appended: {self:?}");
        assert!(self.flushed <= self.written, "flushed past what was written: {self:?}");
        assert!(self.confirmed <= self.written, "confirmed bytes that nobody can read: {self:?}");
        assert!(self.dispatched <= self.confirmed, "showed what failover may take back: {self:?}");
    }
}

/// What moves `confirmed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// It follows `written` or `flushed` of this store alone.
    Local(Durability),
    /// Replication says so.
    External,
}

/// Counts cuts: a completion that was started before a cut says nothing about the log after it.
pub(crate) type Generation = u64;

/// The marks and their waiters.
#[derive(Debug)]
pub(crate) struct Watermarks {
    state: Mutex<State>,
    /// Nobody waits for these two, so they move without the lock: under that of the head, and under
    /// that of the dispatcher.
    appended: AtomicU64,
    dispatched: AtomicU64,
    /// Copies for readers that need one number without the lock; written under it.
    written: AtomicU64,
    confirmed: AtomicU64,
    /// Somebody waits for a flush; written under the lock.
    flush_awaited: AtomicBool,
    confirm: Confirm,
}

struct State {
    /// All but `appended` and `dispatched`.
    marks: Marks,
    generation: Generation,
    failed: bool,
    ended: bool,
    /// One first-in-first-out line for each [`Durability`].
    lines: [VecDeque<(PhysicalOffset, Waiter)>; 3],
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let waiting: usize = self.lines.iter().map(VecDeque::len).sum();
        f.debug_struct("State").field("marks", &self.marks).field("waiting", &waiting).finish_non_exhaustive()
    }
}

impl Watermarks {
    pub(crate) fn new(marks: Marks, confirm: Confirm) -> Self {
        marks.check();
        Self {
            appended: AtomicU64::new(marks.appended.0),
            dispatched: AtomicU64::new(marks.dispatched.0),
            written: AtomicU64::new(marks.written.0),
            confirmed: AtomicU64::new(marks.confirmed.0),
            flush_awaited: AtomicBool::new(false),
            state: Mutex::new(State {
                marks,
                generation: 0,
                failed: false,
                ended: false,
                lines: Default::default(),
            }),
            confirm,
        }
    }

    pub(crate) fn snapshot(&self) -> Marks {
        self.all(&self.lock())
    }

    /// All marks. Under the lock, `written` and `confirmed` stand still, and what moves without it
    /// only moves away from them.
    fn all(&self, state: &State) -> Marks {
        let appended = PhysicalOffset(self.appended.load(Ordering::Acquire));
        Marks { appended, dispatched: self.dispatched(), ..state.marks }
    }

    pub(crate) fn generation(&self) -> Generation {
        self.lock().generation
    }

    pub(crate) fn written(&self) -> PhysicalOffset {
        PhysicalOffset(self.written.load(Ordering::Acquire))
    }

    pub(crate) fn confirmed(&self) -> PhysicalOffset {
        PhysicalOffset(self.confirmed.load(Ordering::Acquire))
    }

    pub(crate) fn dispatched(&self) -> PhysicalOffset {
        PhysicalOffset(self.dispatched.load(Ordering::Acquire))
    }

    /// Called under the lock of the head.
    pub(crate) fn appended(&self, end: PhysicalOffset) {
        let before = self.appended.load(Ordering::Relaxed);
        assert!(end.0 >= before, "the log shrank without a cut: {end} after {before}");
        self.appended.store(end.0, Ordering::Release);
    }

    /// Bytes below `end` are with the operating system.
    pub(crate) fn advance_written(&self, end: PhysicalOffset) {
        let mut state = self.lock();
        if state.failed {
            return;
        }
        state.marks.written = end;
        if self.confirm == Confirm::Local(Durability::Written) {
            state.marks.confirmed = end;
        }
        self.settle(state);
    }

    /// A flush that started in `generation` with everything below `end` written has succeeded.
    /// False when a cut came in between: the flush then proves nothing.
    pub(crate) fn advance_flushed(&self, generation: Generation, end: PhysicalOffset) -> bool {
        let mut state = self.lock();
        let stale = generation != state.generation && !planted("flush-after-cut");
        if stale || state.failed {
            return false;
        }
        if end > state.marks.flushed {
            state.marks.flushed = end;
            if self.confirm == Confirm::Local(Durability::Flushed) {
                state.marks.confirmed = state.marks.confirmed.max(end);
            }
            self.settle(state);
        }
        true
    }

    /// Replication says that bytes below `end` can no longer be taken back. Never past `written`.
    pub(crate) fn advance_confirmed(&self, epoch: Epoch, end: PhysicalOffset) {
        let mut state = self.lock();
        if state.failed || epoch != state.marks.epoch {
            return;
        }
        state.marks.confirmed = state.marks.confirmed.max(end.min(state.marks.written));
        self.settle(state);
    }

    /// Called under the lock of the dispatcher.
    pub(crate) fn advance_dispatched(&self, end: PhysicalOffset) {
        if end.0 > self.dispatched.load(Ordering::Relaxed) {
            let confirmed = end <= self.confirmed() || planted("Z14");
            assert!(confirmed, "showed what failover may take back: {end} in {self:?}");
            self.dispatched.store(end.0, Ordering::Release);
        }
    }

    pub(crate) fn advance_min(&self, min: PhysicalOffset) {
        let mut state = self.lock();
        state.marks.min = state.marks.min.max(min);
    }

    /// Calls `waiter` when `mark` has reached `position`, or with the reason why it never will.
    pub(crate) fn when(&self, mark: Durability, position: Position, waiter: Waiter) {
        let mut state = self.lock();
        let current = position.epoch == state.marks.epoch || planted("any-epoch");
        let outcome = if !current {
            Outcome::Unknown
        } else if state.mark(mark) >= position.end {
            Outcome::Reached
        } else if state.failed {
            Outcome::Failed
        } else if state.ended {
            Outcome::Unknown
        } else {
            state.line(mark).insert_in_order(position.end, waiter);
            if mark == Durability::Flushed {
                self.flush_awaited.store(true, Ordering::Release);
            }
            return;
        };
        drop(state);
        waiter(outcome);
    }

    /// Ends the epoch: everybody who still waits gets [`Outcome::Unknown`].
    pub(crate) fn begin_epoch(&self, epoch: Epoch) {
        let mut state = self.lock();
        assert!(epoch > state.marks.epoch, "epochs only grow: {epoch} after {state:?}");
        state.marks.epoch = epoch;
        if !planted("any-epoch") {
            self.settle_all(state, Outcome::Unknown);
        }
    }

    /// The log now ends at `end`. Everything that counted bytes above it is undone.
    pub(crate) fn cut(&self, end: PhysicalOffset) {
        let mut state = self.lock();
        state.generation += 1;
        let marks = &mut state.marks;
        assert!(end >= marks.confirmed, "cut below what consumers may have seen: {end} in {marks:?}");
        self.appended.store(end.0, Ordering::Release);
        marks.written = marks.written.min(end);
        marks.flushed = marks.flushed.min(end);
        self.written.store(marks.written.0, Ordering::Release);
        if !planted("any-epoch") {
            self.settle_all(state, Outcome::Unknown);
        }
    }

    /// The log, which is empty, begins at `base`: as far as it goes it is durable and confirmed. Whoever
    /// waits still does, until [`Watermarks::cut`].
    pub(crate) fn begin_at(&self, base: PhysicalOffset) {
        let mut state = self.lock();
        let epoch = state.marks.epoch;
        state.marks = Marks {
            epoch,
            min: base,
            appended: base,
            written: base,
            flushed: base,
            confirmed: base,
            dispatched: base,
        };
        for mark in [&self.appended, &self.written, &self.confirmed, &self.dispatched] {
            mark.store(base.0, Ordering::Release);
        }
    }

    /// What was confirmed above `end` no longer is: the operator chose another node's log.
    pub(crate) fn retract(&self, end: PhysicalOffset) {
        let mut state = self.lock();
        state.marks.confirmed = state.marks.confirmed.min(end);
        self.dispatched.fetch_min(end.0, Ordering::AcqRel);
        self.confirmed.store(state.marks.confirmed.0, Ordering::Release);
    }

    /// After a failed write or flush: no mark moves again, and nobody waits in vain.
    pub(crate) fn fail(&self) {
        let mut state = self.lock();
        state.failed = true;
        self.settle_all(state, Outcome::Failed);
    }

    /// After the store was closed: whoever still waits, or comes to wait, waits in vain.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        self.settle_all(state, Outcome::Unknown);
    }

    /// True when somebody waits for a flush that the store would not do by itself.
    pub(crate) fn flush_wanted(&self) -> bool {
        self.confirm == Confirm::Local(Durability::Flushed) || self.flush_awaited.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock is a broken invariant; the marks are still the best knowledge.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the marks and wakes, without the lock, everybody whose mark was reached.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        self.all(&state).check();
        self.written.store(state.marks.written.0, Ordering::Release);
        self.confirmed.store(state.marks.confirmed.0, Ordering::Release);
        let mut ready = Vec::new();
        for mark in [Durability::Written, Durability::Flushed, Durability::Confirmed] {
            let reached = state.mark(mark);
            let line = state.line(mark);
            while line.front().is_some_and(|(end, _)| *end <= reached) {
                ready.extend(line.pop_front().map(|(_, waiter)| waiter));
            }
        }
        self.flush_awaited.store(!state.line(Durability::Flushed).is_empty(), Ordering::Release);
        drop(state);
        ready.into_iter().for_each(|waiter| waiter(Outcome::Reached));
    }

    fn settle_all(&self, mut state: MutexGuard<'_, State>, outcome: Outcome) {
        let lines = std::mem::take(&mut state.lines);
        self.flush_awaited.store(false, Ordering::Release);
        drop(state);
        lines.into_iter().flatten().for_each(|(_, waiter)| waiter(outcome));
    }
}

impl State {
    fn mark(&self, mark: Durability) -> PhysicalOffset {
        match mark {
            Durability::Written => self.marks.written,
            Durability::Flushed => self.marks.flushed,
            Durability::Confirmed => self.marks.confirmed,
        }
    }

    fn line(&mut self, mark: Durability) -> &mut VecDeque<(PhysicalOffset, Waiter)> {
        match mark {
            Durability::Written => &mut self.lines[0],
            Durability::Flushed => &mut self.lines[1],
            Durability::Confirmed => &mut self.lines[2],
        }
    }
}

trait InsertInOrder {
    fn insert_in_order(&mut self, end: PhysicalOffset, waiter: Waiter);
}

impl InsertInOrder for VecDeque<(PhysicalOffset, Waiter)> {
    /// Registrations come almost in order of position, so the place is at or near the back.
    fn insert_in_order(&mut self, end: PhysicalOffset, waiter: Waiter) {
        let later = self.iter().rev().take_while(|(other, _)| *other > end).count();
        self.insert(self.len() - later, (end, waiter));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    type Heard = Arc<Mutex<Vec<(u32, Outcome)>>>;

    fn watermarks(confirm: Confirm) -> Watermarks {
        Watermarks::new(Marks { epoch: Epoch(1), ..Marks::default() }, confirm)
    }

    fn wait(marks: &Watermarks, heard: &Heard, name: u32, durability: Durability, end: u64) {
        let position = Position { epoch: marks.snapshot().epoch, end: PhysicalOffset(end) };
        wait_at(marks, heard, name, durability, position);
    }

    fn wait_at(marks: &Watermarks, heard: &Heard, name: u32, durability: Durability, position: Position) {
        let heard = Arc::clone(heard);
        let waiter = Box::new(move |outcome| heard.lock().unwrap().push((name, outcome)));
        marks.when(durability, position, waiter);
    }

    fn write_to(marks: &Watermarks, end: u64) {
        marks.appended(PhysicalOffset(end));
        marks.advance_written(PhysicalOffset(end));
    }

    /// proves: D2: waiters are first in, first out, and woken singly
    #[test]
    fn waiters_fire_once_in_order_when_their_mark_arrives() {
        let (marks, heard) = (watermarks(Confirm::Local(Durability::Flushed)), Heard::default());
        wait(&marks, &heard, 2, Durability::Flushed, 20);
        wait(&marks, &heard, 1, Durability::Flushed, 10);
        wait(&marks, &heard, 3, Durability::Confirmed, 20);
        wait(&marks, &heard, 0, Durability::Written, 20);
        write_to(&marks, 20);
        assert_eq!(heard.lock().unwrap().split_off(0), [(0, Outcome::Reached)]);
        marks.advance_flushed(0, PhysicalOffset(10));
        assert_eq!(heard.lock().unwrap().split_off(0), [(1, Outcome::Reached)]);
        marks.advance_flushed(0, PhysicalOffset(20));
        assert_eq!(heard.lock().unwrap().split_off(0), [(2, Outcome::Reached), (3, Outcome::Reached)]);
        wait(&marks, &heard, 4, Durability::Flushed, 20);
        assert_eq!(*heard.lock().unwrap(), [(4, Outcome::Reached)], "too late to wait is in time");
    }

    /// proves: I31, I48; DESIGN §7: a waiter is never satisfied by another epoch's bytes
    #[test]
    fn the_end_of_an_epoch_settles_everybody_who_waits_in_it() {
        let (marks, heard) = (watermarks(Confirm::Local(Durability::Flushed)), Heard::default());
        let old = Position { epoch: Epoch(1), end: PhysicalOffset(20) };
        write_to(&marks, 20);
        wait_at(&marks, &heard, 1, Durability::Flushed, old);
        marks.begin_epoch(Epoch(2));
        assert_eq!(heard.lock().unwrap().split_off(0), [(1, Outcome::Unknown)]);
        marks.cut(PhysicalOffset(10));
        write_to(&marks, 20);
        let generation = marks.generation();
        marks.advance_flushed(generation, PhysicalOffset(20));
        wait_at(&marks, &heard, 2, Durability::Flushed, old);
        assert_eq!(*heard.lock().unwrap(), [(2, Outcome::Unknown)]);
    }

    /// proves: DESIGN §7: a flush completing after a truncation
    #[test]
    fn a_flush_that_started_before_a_cut_proves_nothing_after_it() {
        let (marks, heard) = (watermarks(Confirm::External), Heard::default());
        write_to(&marks, 20);
        let before = marks.generation();
        marks.begin_epoch(Epoch(2));
        marks.cut(PhysicalOffset(10));
        write_to(&marks, 20);
        wait(&marks, &heard, 1, Durability::Flushed, 20);
        assert!(!marks.advance_flushed(before, PhysicalOffset(20)));
        assert!(heard.lock().unwrap().is_empty());
        assert_eq!(marks.snapshot().flushed, PhysicalOffset(0));
    }

    /// proves: I8, S35
    #[test]
    fn after_a_failure_no_mark_moves_and_nobody_waits_in_vain() {
        let (marks, heard) = (watermarks(Confirm::Local(Durability::Flushed)), Heard::default());
        write_to(&marks, 20);
        marks.advance_flushed(0, PhysicalOffset(10));
        wait(&marks, &heard, 1, Durability::Flushed, 20);
        marks.fail();
        marks.advance_flushed(0, PhysicalOffset(20));
        wait(&marks, &heard, 2, Durability::Flushed, 20);
        wait(&marks, &heard, 3, Durability::Flushed, 10);
        let expected = [(1, Outcome::Failed), (2, Outcome::Failed), (3, Outcome::Reached)];
        assert_eq!(*heard.lock().unwrap(), expected);
        assert_eq!(marks.snapshot().flushed, PhysicalOffset(10));
    }

    /// proves: I40: `confirmed` never decreases, and never passes what this log holds
    #[test]
    fn replication_confirms_only_what_is_here() {
        let marks = watermarks(Confirm::External);
        write_to(&marks, 20);
        marks.advance_confirmed(Epoch(1), PhysicalOffset(50));
        assert_eq!(marks.snapshot().confirmed, PhysicalOffset(20));
        marks.advance_confirmed(Epoch(1), PhysicalOffset(10));
        assert_eq!(marks.snapshot().confirmed, PhysicalOffset(20));
        marks.advance_confirmed(Epoch(0), PhysicalOffset(20));
    }
}
