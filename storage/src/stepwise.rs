//! An append taken apart into its three steps (DESIGN D3), so that a simulator can stop a producer in
//! the middle. [`Store::append_batch`] does the same at once.

use std::fmt;

use crate::log::{AppendError, Reservation};
use crate::{Message, Receipt, Store};

/// A producer that has its numbers and its place in the log, and has not handed over its records.
///
/// The log goes on without it, but only in memory: nothing behind its place is written, flushed or
/// confirmed until it publishes. Dropped, it is a producer that never comes back.
#[doc(hidden)]
pub struct StoppedProducer {
    store: Store,
    reservation: Reservation,
    filled: bool,
}

impl Store {
    /// The first step of an append of messages that must stay together: *reserve*.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was reserved then.
    #[doc(hidden)]
    pub fn reserve(&self, messages: &[Message]) -> Result<StoppedProducer, AppendError> {
        let mut staged = self.0.log.staging(messages.len());
        for message in messages {
            self.0.stage(&mut staged, message)?;
        }
        self.0.admit()?;
        let reservation = self.0.log.reserve(staged, true)?;
        Ok(StoppedProducer { store: self.clone(), reservation, filled: false })
    }
}

impl StoppedProducer {
    /// What the append will return.
    #[must_use]
    pub fn receipts(&self) -> Vec<Receipt> {
        self.reservation.placed().map(|placed| Receipt::new(self.store.clone(), placed)).collect()
    }

    /// The second step: *fill*.
    pub fn fill(&mut self) {
        self.reservation.fill();
        self.filled = true;
    }

    /// The last step: *publish*, and whatever moves on by itself then; fills first if that was not done.
    pub fn publish(mut self) -> Vec<Receipt> {
        if !self.filled {
            self.fill();
        }
        let receipts = self.receipts();
        self.store.0.log.publish(self.reservation);
        self.store.0.drive();
        receipts
    }
}

impl fmt::Debug for StoppedProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoppedProducer").field("filled", &self.filled).finish_non_exhaustive()
    }
}
