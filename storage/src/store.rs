//! The store: log, queues and marks behind one handle (DESIGN §4, §5).

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::checkpoint::{self, CheckpointFile};
use crate::chores::AHEAD_BYTES;
use crate::combine::Combiner;
use crate::disk::{Directory, DirectoryLock};
use crate::dispatch::{DispatchError, Dispatcher, LogItem};
use crate::error::Failure;
use crate::log::cold::ReadDone;
use crate::log::{AppendError, CommitLog, Placed, Staged};
use crate::marks::{Marks, Waiter};
use crate::options::{Background, StoreOptions};
use crate::queue::{Boundary, ConsumeQueue, QueueEntry, QueueError, QueueTable};
use crate::state::StateFile;
use crate::threads::Housekeeper;
use crate::{
    Durability, Message, PhysicalOffset, Position, QueueId, QueueOffset, ReadError, Receipt, Record,
    RecoveryReport, TopicName,
};

/// Records dispatched at a time, before anybody else gets a turn.
const DISPATCH_BUDGET: usize = 256;

/// Bytes of records that may wait for their entries until somebody looks, or more comes.
const UNDISPATCHED_BYTES: u64 = 64 << 10;

/// An open store. Cloning shares it; [`Store::close`] closes it for everybody.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) log: Arc<CommitLog>,
    pub(crate) queues: Arc<QueueTable>,
    pub(crate) options: StoreOptions,
    pub(crate) state: Mutex<StateFile>,
    pub(crate) checkpoint: CheckpointFile,
    pub(crate) chores: Mutex<crate::chores::Chores>,
    pub(crate) dispatcher: Mutex<Dispatcher>,
    dispatching: Combiner,
    /// Somebody is to be told of every record as it comes: an observer, or a subscription.
    followed: AtomicBool,
    report: RecoveryReport,
    closed: AtomicBool,
    /// Closed, and all that was done for it: nothing becomes readable any more.
    ended: AtomicBool,
    housekeeper: Mutex<Option<Housekeeper>>,
    lock: Mutex<Option<DirectoryLock>>,
}

/// Something the owner of a store with [`Background::Steps`] lets happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write what was published.
    Write,
    /// Start a flush of what was written.
    Flush,
    /// Dispatch up to this many confirmed records.
    Dispatch(usize),
    /// Make the next segment if it will be needed soon, and write zeros to a piece of it.
    Prepare,
    /// Write the queues, remember how far everything is, remove what retention allows.
    Tidy,
}

impl Store {
    /// Opens the store and recovers it if need be; [`Store::report`] tells what was found.
    ///
    /// # Errors
    /// [`crate::OpenError`]. Nothing was changed when the store is locked or of a newer format.
    pub fn open(options: StoreOptions) -> Result<Self, crate::OpenError> {
        let opened = crate::open::open(options)?;
        let store = Self(Arc::new(opened));
        if store.0.options.background == Background::Threads {
            let housekeeper = Housekeeper::start(Arc::downgrade(&store.0))
                .map_err(|error| crate::OpenError::io("the thread of the store", error))?;
            *store.0.housekeeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(housekeeper);
        }
        store.0.drive();
        Ok(store)
    }

    /// What opening the store found and did.
    #[must_use]
    pub fn report(&self) -> &RecoveryReport {
        &self.0.report
    }

    /// Appends one message. The receipt tells where it stands; wait on it for safety.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was stored then.
    pub fn append(&self, message: &Message) -> Result<Receipt, AppendError> {
        let mut receipt = None;
        self.append_together(std::slice::from_ref(message), |placed| receipt = Some(placed))?;
        Ok(receipt.expect("an append without error places its message"))
    }

    /// Appends messages that must stay together: all of them, one behind the other in one segment,
    /// or none. Numbers of one queue are consecutive.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was stored then.
    pub fn append_batch(&self, messages: &[Message]) -> Result<Vec<Receipt>, AppendError> {
        let mut receipts = Vec::with_capacity(messages.len());
        self.append_together(messages, |receipt| receipts.push(receipt))?;
        Ok(receipts)
    }

    /// Appends independent messages in one go, in order: what arrived in one turn of a connection.
    /// One receipt or error for each.
    pub fn append_each(&self, messages: &[Message]) -> Vec<Result<Receipt, AppendError>> {
        let mut results = Vec::with_capacity(messages.len());
        let mut staged = self.0.log.staging(messages.len());
        let mut refused = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            if let Err(error) = self.0.stage(&mut staged, message) {
                refused.push((index, error));
            }
        }
        let placed = |placed| results.push(Ok(Receipt::new(self.clone(), placed)));
        let appended = self.0.append(staged, false, placed);
        self.0.follow_append();
        if let Err(error) = appended {
            results.resize(messages.len() - refused.len(), Err(error));
        }
        // Lowest first, so each comes to stand where its message does.
        refused.into_iter().for_each(|(index, error)| results.insert(index, Err(error)));
        results
    }

    /// Calls `waiter` once, when the bytes below `position` are as safe as `durability` says or
    /// never will be.
    pub fn when(&self, durability: Durability, position: Position, waiter: Waiter) {
        self.0.log.marks.when(durability, position, waiter);
        if durability == Durability::Flushed && self.0.options.background != Background::Steps {
            self.0.flush_if_wanted();
        }
    }

    /// How far the log has got.
    #[must_use]
    pub fn marks(&self) -> Marks {
        self.0.catch_up();
        self.0.log.marks.snapshot()
    }

    /// The failure that ended this store, if one did.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        self.0.log.failure()
    }

    /// The address in every record's store host field.
    #[must_use]
    pub fn store_host(&self) -> std::net::SocketAddr {
        self.0.options.store_host
    }

    /// A queue, if anything was ever appended to it.
    #[must_use]
    pub fn queue(&self, topic: &str, id: QueueId) -> Option<Queue> {
        let queue = self.0.queues.find(topic, id)?;
        Some(Queue { store: self.clone(), queue })
    }

    /// Names of all topics that have queues, in order.
    #[must_use]
    pub fn topics(&self) -> Vec<TopicName> {
        self.0.queues.topics()
    }

    /// The queues of a topic, by number.
    #[must_use]
    pub fn queues_of(&self, topic: &str) -> Vec<Queue> {
        let queues = self.0.queues.of_topic(topic);
        queues.into_iter().map(|queue| Queue { store: self.clone(), queue }).collect()
    }

    /// The record that starts at `at`, checked.
    ///
    /// # Errors
    /// [`ReadError`]: out of range, no record, damaged, or the system's error.
    pub fn record(&self, at: PhysicalOffset) -> Result<Record, ReadError> {
        self.0.log.record(at)
    }

    /// Whether looking at the `len` bytes of the log from `at` on would wait for the device: they left the
    /// memory, and [`Store::start_read`] brings them back. A guess of the moment; no where nothing is kept.
    #[must_use]
    pub fn is_cold(&self, at: PhysicalOffset, len: u64) -> bool {
        self.0.log.is_cold(at, len)
    }

    /// Starts bringing the log from `at` on into memory, at most `len` bytes and up to the end of the
    /// segment. `done` is called later, by a thread of the disk; with [`ReadError::OutOfRange`],
    /// [`ReadError::NoRecord`] or [`ReadError::Io`] when that cannot be.
    pub fn start_read(&self, at: PhysicalOffset, len: u64, done: ReadDone) {
        self.0.log.start_read(at, len, done);
    }

    /// The records from `at` on, in the order of the log, up to what is written when they are asked
    /// for. `at` is where a record or a segment starts. To follow the log, go on at
    /// [`Records::position`] later.
    #[must_use]
    pub fn records(&self, at: PhysicalOffset) -> Records {
        Records { log: Arc::clone(&self.0.log), at }
    }

    /// Removes the queues of a topic. Its messages stay in the log until retention removes them.
    ///
    /// # Errors
    /// [`QueueError`]: some files are left.
    pub fn remove_topic(&self, topic: &TopicName) -> Result<(), QueueError> {
        self.0.queues.remove_topic(topic.as_str())
    }

    /// Lets a queue go on at `next` that has no entries and has given out no numbers, because all its
    /// records were removed before this log began. Any other queue keeps its numbers. This is not
    /// remembered while the queue stays empty: say it again after opening, before anything is appended.
    pub fn continue_queue(&self, topic: &TopicName, id: QueueId, next: QueueOffset) {
        let queue = self.0.queues.find_or_create(topic, id);
        // Numbers are given out under this lock.
        let _head = self.0.log.head();
        queue.continue_at(next);
    }

    /// The directory the store lives in, for small files beside the log.
    #[must_use]
    pub fn directory(&self) -> &Arc<dyn Directory> {
        &self.0.directory
    }

    /// Lets one thing happen in a store that was opened with [`Background::Steps`].
    ///
    /// # Errors
    /// What `Tidy` or `Prepare` could not do.
    pub fn step(&self, step: Step) -> io::Result<()> {
        match step {
            Step::Write => self.0.log.write(),
            Step::Flush => drop(self.0.log.start_flush(|| {})),
            Step::Dispatch(budget) => drop(self.0.dispatch_once(budget)),
            Step::Prepare => {
                self.0.log.prepare_next_segment().map_err(io::Error::other)?;
                self.0.log.zero_ahead(AHEAD_BYTES);
            }
            Step::Tidy => return self.0.tidy(),
        }
        Ok(())
    }

    /// The work of the background thread, for a store opened with [`Background::Caller`]: call it
    /// about ten times a second.
    pub fn housekeep(&self) {
        self.0.housekeep();
    }

    /// Flushes, writes and remembers everything, and marks the directory as properly closed, that
    /// mark last. Everybody who appends later is told that the store is closed; who waits for an append
    /// that was under way learns [`crate::Outcome::Unknown`] unless it was flushed with the rest. Not to
    /// be called by a waiter.
    ///
    /// # Errors
    /// The first thing that could not be made durable; the next open then recovers.
    pub fn close(self) -> Result<(), CloseError> {
        if self.0.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let housekeeper = self.0.housekeeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(housekeeper);
        let closed = self.0.finish();
        self.0.log.marks.end();
        self.0.ended.store(true, Ordering::Release);
        self.0.queues.wake_listeners();
        self.0.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        closed
    }

    pub(crate) fn append_first(&self, message: &Message) -> Result<Receipt, AppendError> {
        let mut staged = self.0.log.staging(1);
        self.0.stage(&mut staged, message)?;
        self.0.admit()?;
        let mut receipt = None;
        self.0.log.append_first(staged, |placed| receipt = Some(Receipt::new(self.clone(), placed)))?;
        self.0.drive();
        Ok(receipt.expect("one record was staged"))
    }

    fn append_together(
        &self,
        messages: &[Message],
        mut placed: impl FnMut(Receipt),
    ) -> Result<(), AppendError> {
        let mut staged = self.0.log.staging(messages.len());
        for message in messages {
            self.0.stage(&mut staged, message)?;
        }
        self.0.append(staged, true, |it| placed(Receipt::new(self.clone(), it)))?;
        self.0.follow_append();
        Ok(())
    }
}

/// Walks the log from record to record; see [`Store::records`].
#[derive(Debug)]
pub struct Records {
    log: Arc<CommitLog>,
    at: PhysicalOffset,
}

impl Records {
    /// Where the walk stands: behind the last record returned.
    #[must_use]
    pub const fn position(&self) -> PhysicalOffset {
        self.at
    }
}

impl Iterator for Records {
    type Item = Result<Record, ReadError>;

    /// The next record; `None` at the end for now. After an error the walk stands still.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.log.item_at(self.at) {
                Ok(LogItem::Record(record)) => {
                    self.at = self.at.after(record.len().into());
                    return Some(Ok(record));
                }
                Ok(LogItem::SkipTo(next)) => self.at = next,
                Ok(LogItem::End) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Why a store could not be closed properly.
#[derive(Debug)]
pub enum CloseError {
    /// A write or flush had failed.
    Failed(Failure),
    /// The system's error while the last things were written.
    Io(io::Error),
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure) => failure.fmt(f),
            Self::Io(error) => write!(f, "closing the store failed: {error}; the next open recovers it"),
        }
    }
}

impl std::error::Error for CloseError {}

/// A consume queue of an open store.
#[derive(Clone, Debug)]
pub struct Queue {
    store: Store,
    queue: Arc<ConsumeQueue>,
}

impl Queue {
    /// The queue's topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        self.queue.topic()
    }

    /// The queue's number in its topic.
    #[must_use]
    pub fn id(&self) -> QueueId {
        self.queue.id()
    }

    /// Number of the oldest message that can be read.
    #[must_use]
    pub fn min(&self) -> QueueOffset {
        self.store.0.catch_up();
        self.queue.min()
    }

    /// Number that the next message to become readable gets.
    #[must_use]
    pub fn max(&self) -> QueueOffset {
        self.store.0.catch_up();
        self.queue.max()
    }

    /// Up to `count` entries from `from` on; fewer at the end, none at the maximum.
    ///
    /// # Errors
    /// [`ReadError::Queue`]: out of range, damaged, or the system's error.
    pub fn entries(&self, from: QueueOffset, count: usize) -> Result<Vec<QueueEntry>, ReadError> {
        self.store.0.catch_up();
        self.queue.entries(from, count).map_err(|error| ReadError::Queue(Arc::new(error)))
    }

    /// Up to `count` records from `from` on, as slices of the log.
    ///
    /// # Errors
    /// [`ReadError`]; records before the one that cannot be read are not returned.
    pub fn read(&self, from: QueueOffset, count: usize) -> Result<Vec<Record>, ReadError> {
        self.store.0.log.records(&self.entries(from, count)?)
    }

    /// The record that an entry points at, checked.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn record(&self, entry: &QueueEntry) -> Result<Record, ReadError> {
        self.store.0.log.record_named(entry)
    }

    /// The first message stored at or after `ms` (ms since the Unix epoch), or the last one stored
    /// at or before it (store-format §5.6); within [`Queue::min`] and [`Queue::max`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn seek_by_time(&self, ms: i64, boundary: Boundary) -> Result<QueueOffset, ReadError> {
        self.store.0.catch_up();
        let store_ms = |at| self.store.0.log.record(at).ok().map(|record| record.store_ms());
        let found = self.queue.seek_by_time(ms, boundary, store_ms);
        found.map_err(|error| ReadError::Queue(Arc::new(error)))
    }
}

impl Inner {
    #[allow(clippy::too_many_arguments, reason = "the parts of a store, put together in one place")]
    pub(crate) fn new(
        directory: Arc<dyn Directory>,
        log: Arc<CommitLog>,
        queues: Arc<QueueTable>,
        dispatcher: Dispatcher,
        options: StoreOptions,
        state: StateFile,
        checkpoint: CheckpointFile,
        (report, lock): (RecoveryReport, DirectoryLock),
    ) -> Self {
        Self {
            directory,
            log,
            queues,
            state: Mutex::new(state),
            checkpoint,
            chores: Mutex::default(),
            dispatcher: Mutex::new(dispatcher),
            dispatching: Combiner::default(),
            followed: AtomicBool::new(!options.observers.is_empty()),
            report,
            closed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            housekeeper: Mutex::new(None),
            lock: Mutex::new(Some(lock)),
            options,
        }
    }

    /// True once the store was closed and whoever follows it has seen all there is.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn append(
        &self,
        staged: Box<Staged>,
        together: bool,
        placed: impl FnMut(Placed),
    ) -> Result<(), AppendError> {
        self.admit()?;
        let appended = match self.options.background {
            Background::Steps => self.log.append(staged, together, placed),
            _ => self.log.append_and_write(staged, together, placed),
        };
        // A close may come in between.
        appended.map_err(|error| self.admit().err().unwrap_or(error))
    }

    pub(crate) fn admit(&self) -> Result<(), AppendError> {
        if self.closed.load(Ordering::Acquire) { Err(AppendError::Closed) } else { Ok(()) }
    }

    pub(crate) fn stage(&self, staged: &mut Staged, message: &Message) -> Result<(), AppendError> {
        let queue = staged
            .queue(&message.topic, message.queue)
            .unwrap_or_else(|| staged.add_queue(self.queues.find_or_create(&message.topic, message.queue)));
        Ok(self.log.stage(staged, message, queue)?)
    }

    /// Moves everything on that can move at once: writes, starts a flush, dispatches.
    pub(crate) fn drive(self: &Arc<Self>) {
        if self.options.background != Background::Steps {
            self.log.write();
        }
        self.follow();
    }

    /// As [`Inner::follow`], but while nobody is to be told of records as they come, their entries
    /// may wait: many are made for the price of one.
    fn follow_append(self: &Arc<Self>) {
        let marks = &self.log.marks;
        let waiting = marks.confirmed().0.saturating_sub(marks.dispatched().0);
        if waiting >= UNDISPATCHED_BYTES || self.followed.load(Ordering::Acquire) {
            self.follow();
        } else if self.options.background != Background::Steps {
            self.flush_if_wanted();
        }
    }

    /// Makes the entries that wait for somebody to look. Observers never wait, and are called by
    /// nobody else's look.
    pub(crate) fn catch_up(&self) {
        let marks = &self.log.marks;
        let may_wait = self.options.observers.is_empty() && self.options.background != Background::Steps;
        if may_wait && marks.dispatched() < marks.confirmed() {
            self.dispatch();
        }
    }

    /// From here on no entry waits for a look.
    pub(crate) fn follow_closely(&self) {
        self.followed.store(true, Ordering::Release);
        // The lock orders this with every append: one that saw nobody has moved its mark already, and
        // the next look finds it.
        let _ = self.log.marks.snapshot();
    }

    /// Starts a flush of what was written, and dispatches it.
    fn follow(self: &Arc<Self>) {
        if self.options.background != Background::Steps {
            self.flush_if_wanted();
            self.dispatch();
        }
    }

    pub(crate) fn flush_if_wanted(self: &Arc<Self>) {
        if self.log.marks.flush_wanted() {
            self.start_flush();
        }
    }

    /// Starts a flush; its completion dispatches what it confirmed and goes on while more is
    /// wanted.
    pub(crate) fn start_flush(self: &Arc<Self>) {
        let store = Arc::clone(self);
        self.log.start_flush(move || {
            store.flush_if_wanted();
            store.dispatch();
        });
    }

    fn dispatch(&self) {
        self.dispatching.run(|| self.dispatch_once(DISPATCH_BUDGET));
    }

    /// Dispatches some confirmed records. False when nothing is left, or when it cannot go on.
    fn dispatch_once(&self, budget: usize) -> bool {
        let marks = &self.log.marks;
        let upto = if crate::planted::planted("Z14") { marks.written() } else { marks.confirmed() };
        let mut dispatcher = self.dispatcher.lock().unwrap_or_else(PoisonError::into_inner);
        let before = dispatcher.dispatched();
        if before >= upto || self.log.failure().is_some() {
            return false;
        }
        let result = self.dispatch_to(&mut dispatcher, upto, budget);
        marks.advance_dispatched(dispatcher.dispatched());
        match result {
            // Whoever confirms more dispatches it, or leaves a note to do so.
            Ok(reached) => reached > before && reached < upto,
            Err(error) => {
                self.note_dispatch_error(error);
                false
            }
        }
    }

    /// Dispatches from the facts that the head left, or by walking the log up to where they start.
    fn dispatch_to(
        &self,
        dispatcher: &mut Dispatcher,
        upto: PhysicalOffset,
        budget: usize,
    ) -> Result<PhysicalOffset, DispatchError> {
        let mut facts = std::mem::take(&mut dispatcher.facts);
        let dispatched = match self.log.take_facts(dispatcher.dispatched(), upto, budget, &mut facts) {
            Ok(end) => dispatcher.step_facts(facts.make_contiguous(), end),
            Err(start) => dispatcher.step(&*self.log, upto.min(start), budget),
        };
        facts.clear();
        dispatcher.facts = facts;
        dispatched
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, StateFile> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(self: &Arc<Self>) -> Result<(), CloseError> {
        self.log.halt();
        self.log.flush_now().map_err(CloseError::Failed)?;
        let dispatches = self.options.background != Background::Steps;
        self.dispatching.halt(|| dispatches && self.dispatch_once(DISPATCH_BUDGET));
        self.tidy().map_err(CloseError::Io)?;
        self.log.remove_unused_segments().map_err(CloseError::Io)?;
        let mut state = self.state();
        let end = self.log.marks.snapshot().written;
        let closed = crate::state::State { clean_end: Some(end), ..state.state() };
        state.write(closed).map_err(CloseError::Io)?;
        checkpoint::mark_closed(&*self.directory).map_err(CloseError::Io)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("marks", &self.marks()).finish_non_exhaustive()
    }
}
