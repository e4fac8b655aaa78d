//! What an append returns: where the message came to stand, and a way to wait until it is safe.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::log::Placed;
use crate::{Durability, MessageId, Outcome, PhysicalOffset, Position, QueueOffset, Store};

/// A message was numbered and copied; how safe it is, [`Receipt::wait`] or [`Receipt::reached`]
/// tells.
#[derive(Clone, Debug)]
pub struct Receipt {
    store: Store,
    placed: Placed,
}

impl Receipt {
    pub(crate) const fn new(store: Store, placed: Placed) -> Self {
        Self { store, placed }
    }

    /// The end of the record within its epoch: what waiters wait for.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.placed.position
    }

    /// Where the record starts in the log.
    #[must_use]
    pub const fn start(&self) -> PhysicalOffset {
        self.placed.start
    }

    /// The message's number in its queue; the first one for an inner batch, 0 for a prepared or
    /// rolled-back transaction.
    #[must_use]
    pub const fn queue_offset(&self) -> QueueOffset {
        self.placed.queue_offset
    }

    /// The store time, in ms since the Unix epoch; never decreasing along the log.
    #[must_use]
    pub const fn store_ms(&self) -> i64 {
        self.placed.store_ms
    }

    /// The id by which a client can ask for the message.
    #[must_use]
    pub fn message_id(&self) -> MessageId {
        MessageId { host: self.store.store_host(), physical: self.placed.start }
    }

    /// Blocks until the message got as far as `durability`.
    ///
    /// # Errors
    /// [`NotReached`]: the message may or may not be stored.
    pub fn wait(self, durability: Durability) -> Result<Self, NotReached> {
        let settled = self.settled(durability);
        let mut state = settled.lock();
        loop {
            match state.outcome {
                Some(outcome) => return self.judge(outcome),
                None => state = settled.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Completes when the message got as far as `durability`; runs on any executor.
    #[must_use]
    pub fn reached(self, durability: Durability) -> Reached {
        Reached { settled: self.settled(durability), receipt: Some(self) }
    }

    fn settled(&self, durability: Durability) -> Arc<Settled> {
        let settled = Arc::new(Settled::default());
        let waiter = Arc::clone(&settled);
        self.store.when(durability, self.placed.position, Box::new(move |outcome| waiter.settle(outcome)));
        settled
    }

    fn judge(self, outcome: Outcome) -> Result<Self, NotReached> {
        match outcome {
            Outcome::Reached => Ok(self),
            Outcome::Unknown => Err(NotReached::Unknown),
            Outcome::Failed => Err(NotReached::Failed),
        }
    }
}

/// The future of [`Receipt::reached`].
#[derive(Debug)]
pub struct Reached {
    settled: Arc<Settled>,
    receipt: Option<Receipt>,
}

impl Future for Reached {
    type Output = Result<Receipt, NotReached>;

    /// # Panics
    /// When polled after it completed.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.settled.lock();
        let Some(outcome) = state.outcome else {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        drop(state);
        let receipt = self.receipt.take().expect("a completed future is not polled again");
        Poll::Ready(receipt.judge(outcome))
    }
}

#[derive(Debug, Default)]
struct Settled {
    state: Mutex<SettledState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SettledState {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

impl Settled {
    fn lock(&self) -> std::sync::MutexGuard<'_, SettledState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, outcome: Outcome) {
        let mut state = self.lock();
        state.outcome = Some(outcome);
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A message did not get as far as wanted. It may or may not be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReached {
    /// The epoch ended first.
    Unknown,
    /// A write or flush failed; [`Store::failure`] says which. Reopen the store to find out.
    Failed,
}

impl fmt::Display for NotReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "the epoch ended first; the message may or may not be stored",
            Self::Failed => "a write or flush failed; the message may or may not be stored",
        })
    }
}

impl std::error::Error for NotReached {}
