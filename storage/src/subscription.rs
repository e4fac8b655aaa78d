//! Following a queue: its records one after the other, and then as they come.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use crate::queue::{ConsumeQueue, QueueEntry};
use crate::{QueueId, QueueOffset, ReadError, Record, Store, TopicName};

/// Entries read at a time.
const AHEAD: usize = 64;

/// A reader of one queue that waits for what is not there yet; see [`Store::subscribe`].
///
/// It yields every record of the queue once, in order, as slices of the log, as soon as consumers may
/// see it. As an iterator it blocks; [`Subscription::poll_next`] and [`Subscription::recv`] run on any
/// executor; [`Subscription::try_next`] does neither.
///
/// It ends, after the last record, when the store is closed or the topic removed. It holds a handle
/// of the store, which therefore stays open until it is closed or this is dropped too.
pub struct Subscription {
    store: Store,
    queue: Arc<ConsumeQueue>,
    /// Number of the next message.
    next: QueueOffset,
    ahead: VecDeque<QueueEntry>,
    listener: u64,
}

impl Store {
    /// Follows a queue from message `from` on, whether or not anything was ever appended to it: 0 for
    /// all there will ever be, [`Queue::min`](crate::Queue::min) for what is left,
    /// [`Queue::max`](crate::Queue::max) for what is new.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use staticfire_storage::disk::SimulatedDisk;
    /// # use staticfire_storage::{Message, QueueId, QueueOffset, Store, StoreOptions, SystemClock, TopicName};
    /// # let disk = SimulatedDisk::new(1).completing_at_once();
    /// let store = Store::open(StoreOptions::on(disk.directory(), Arc::new(SystemClock)))?;
    /// let topic = TopicName::new("orders")?;
    /// let mut orders = store.subscribe(&topic, QueueId(0), QueueOffset(0));
    /// store.append(&Message::new(topic, QueueId(0), "paid"))?;
    /// assert_eq!(orders.next().unwrap()?.body(), "paid");
    /// store.close()?;
    /// assert!(orders.next().is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn subscribe(&self, topic: &TopicName, queue: QueueId, from: QueueOffset) -> Subscription {
        static LISTENERS: AtomicU64 = AtomicU64::new(0);
        self.0.follow_closely();
        Subscription {
            store: self.clone(),
            queue: self.0.queues.find_or_create(topic, queue),
            next: from,
            ahead: VecDeque::new(),
            listener: LISTENERS.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl Subscription {
    /// Number of the message that comes next.
    #[must_use]
    pub const fn position(&self) -> QueueOffset {
        self.next
    }

    /// Goes on at message `to`, forwards or backwards: after an error, where it makes sense to go on.
    pub fn seek(&mut self, to: QueueOffset) {
        self.ahead.clear();
        self.next = to;
    }

    /// The next record. `Ready(None)`: there will never be one. `Pending`: not yet, and the waker of
    /// `cx` is woken when that changes; what arrives between the look and the wait is not missed.
    ///
    /// An error leaves the subscription where it stands. [`ReadError::Queue`] with
    /// [`QueueError::OutOfRange`](crate::QueueError::OutOfRange): retention has removed the message, or
    /// the queue has not got as far as its number; the error names the range.
    /// [`ReadError::Failed`]: the store has failed, and nothing more will come.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Record, ReadError>>> {
        loop {
            // Asked before the look, so that the look finds all that came before the end.
            let end = self.end();
            if self.queue.is_removed() {
                return Poll::Ready(None);
            }
            if let Some(found) = self.look().transpose() {
                return Poll::Ready(Some(found));
            }
            if let Some(end) = end {
                return Poll::Ready(end.err().map(Err));
            }
            // Asked after the waker is in its place, so that an end from here on wakes it.
            if self.queue.listen(self.listener, self.next, cx.waker()) && self.end().is_none() {
                return Poll::Pending;
            }
        }
    }

    /// The next record, when it comes; `None` at the end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`Subscription::poll_next`].
    pub async fn recv(&mut self) -> Option<Result<Record, ReadError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next record if it is there; `None` when it is not, or never will be.
    ///
    /// # Errors
    /// As [`Subscription::poll_next`], but that a failed store is not told.
    pub fn try_next(&mut self) -> Result<Option<Record>, ReadError> {
        if self.queue.is_removed() { Ok(None) } else { self.look() }
    }

    fn look(&mut self) -> Result<Option<Record>, ReadError> {
        // Of records that came before this followed the queue.
        self.store.0.catch_up();
        loop {
            if self.ahead.is_empty() && self.next != self.queue.max() {
                let entries = self.queue.entries(self.next, AHEAD);
                self.ahead = entries.map_err(|error| ReadError::Queue(Arc::new(error)))?.into();
            }
            let Some(entry) = self.ahead.front().copied() else { return Ok(None) };
            let record = if entry.is_padding() { None } else { Some(self.record(&entry)) };
            match record.transpose() {
                Err(ReadError::OutOfRange { at, min, .. }) if at < min => {
                    // Retention came in between. Its answer is a number of this queue.
                    self.ahead.clear();
                    self.queue.correct_min(min).map_err(|error| ReadError::Queue(Arc::new(error)))?;
                }
                record => {
                    let record = record?;
                    self.ahead.pop_front();
                    self.next = entry.next();
                    if record.is_some() {
                        return Ok(record);
                    }
                }
            }
        }
    }

    fn record(&self, entry: &QueueEntry) -> Result<Record, ReadError> {
        self.store.0.log.record_named(entry)
    }

    /// Whether nothing more will become readable, and whether that is in order.
    fn end(&self) -> Option<Result<(), ReadError>> {
        if self.store.0.has_ended() {
            return Some(Ok(()));
        }
        self.store.failure().map(|failure| Err(ReadError::Failed(failure.clone())))
    }
}

impl Iterator for Subscription {
    type Item = Result<Record, ReadError>;

    /// Blocks until there is a record, an error, or the end. In a store that does nothing by itself
    /// ([`Background`](crate::Background)) somebody else must go on meanwhile.
    fn next(&mut self) -> Option<Self::Item> {
        struct Unpark(Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let mut waker = None;
        loop {
            let waker: &Waker = waker.get_or_insert_with(|| Arc::new(Unpark(std::thread::current())).into());
            match self.poll_next(&mut Context::from_waker(waker)) {
                Poll::Ready(item) => return item,
                // Unparked too early, it looks once more.
                Poll::Pending => std::thread::park(),
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.queue.stop_listening(self.listener);
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", self.queue.topic())
            .field("queue", &self.queue.id())
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}
