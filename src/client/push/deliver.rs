//! Brings messages to the listener: at most so many calls at a time over all queues, and in an
//! ordered consumer one at a time for each queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::listener::{self, ConsumeResult};
use super::{Inner, OwnedQueue};
use crate::client::message::Message;
use crate::client::pull;
use crate::client::wait::lock;
use crate::client::{ClientError, ReceivedMessage};
use crate::protocol::delay;
use staticfire_storage::properties;

/// An ordered consumer waits so long before it delivers the same messages again.
const ORDERED_PAUSE: Duration = Duration::from_secs(1);
/// A message that could not be sent back is delivered again after this.
const AFTER_FAILED_SEND_BACK: Duration = Duration::from_secs(5);
/// Redeliveries before a message becomes a dead letter, in a concurrent consumer.
const REDELIVERIES_MAX: i32 = 16;

/// Queues with messages that wait, and how many tasks bring them.
#[derive(Default)]
pub(super) struct Work {
    ready: VecDeque<Arc<OwnedQueue>>,
    runners: usize,
}

/// Messages on their way to the listener.
struct Batch {
    owned: Arc<OwnedQueue>,
    generation: u64,
    messages: Vec<ReceivedMessage>,
}

impl Inner {
    /// There are messages waiting in this queue.
    pub(super) fn deliver(self: &Arc<Self>, owned: &Arc<OwnedQueue>) {
        let batches = {
            let mut work = lock(&self.work);
            let mut state = lock(&owned.state);
            if !state.listed {
                state.listed = true;
                work.ready.push_back(Arc::clone(owned));
            }
            let batches = state.flight.waiting().div_ceil(self.options.batch.max(1));
            let batches = if self.options.ordered { batches.min(1) } else { batches };
            let runners = batches.min(self.options.concurrency.max(1).saturating_sub(work.runners));
            work.runners += runners;
            runners
        };
        for _ in 0..batches {
            let inner = Arc::clone(self);
            self.client.runtime.spawn(Box::pin(async move {
                while let Some(batch) = inner.next_batch() {
                    inner.consume(batch).await;
                }
            }));
        }
    }

    /// The next messages of the queue whose turn it is; without work the runner ends.
    fn next_batch(&self) -> Option<Batch> {
        let mut work = lock(&self.work);
        while let Some(owned) = work.ready.pop_front() {
            let mut state = lock(&owned.state);
            state.listed = false;
            let blocked = self.options.ordered && (state.running > 0 || !self.may_consume(&state));
            if state.given_up || blocked {
                continue;
            }
            let messages = state.flight.take(self.options.batch.max(1));
            if messages.is_empty() {
                continue;
            }
            state.running += 1;
            if !self.options.ordered && state.flight.waiting() > 0 {
                state.listed = true;
                work.ready.push_back(Arc::clone(&owned));
            }
            let generation = state.generation;
            drop(state);
            return Some(Batch { owned, generation, messages });
        }
        work.runners -= 1;
        None
    }

    async fn consume(self: &Arc<Self>, batch: Batch) {
        let result = listener::consume(&*self.listener, batch.messages.clone()).await;
        let owned = Arc::clone(&batch.owned);
        match result {
            ConsumeResult::Consumed => self.finish(&batch, &batch.messages),
            _ if self.options.ordered => self.again_in_order(batch).await,
            ConsumeResult::Later => self.again(batch, 0).await,
            ConsumeResult::LaterAtLevel(level) => self.again(batch, level).await,
        }
        lock(&owned.state).running -= 1;
        owned.consumed.raise();
        if self.options.ordered && lock(&owned.state).flight.waiting() > 0 {
            self.deliver(&owned);
        }
    }

    /// These messages of the batch are done with.
    fn finish(&self, batch: &Batch, messages: &[ReceivedMessage]) {
        let mut state = lock(&batch.owned.state);
        if state.generation == batch.generation {
            messages.iter().for_each(|message| state.flight.finish(message.queue_offset()));
            state.attempts = 0;
        }
    }

    /// Each message is stored again for later, and only then done with. A broadcasting group has no
    /// later: the message is passed over.
    async fn again(self: &Arc<Self>, batch: Batch, level: i32) {
        let mut failed = Vec::new();
        for message in &batch.messages {
            // A queue that was given up is redelivered to its next owner, from the offset.
            if lock(&batch.owned.state).given_up {
                return;
            }
            if !self.is_clustering() || self.send_back(message, level).await.is_ok() {
                self.finish(&batch, std::slice::from_ref(message));
            } else {
                failed.push(message.clone());
            }
        }
        if !failed.is_empty() {
            self.redeliver(&batch, failed, AFTER_FAILED_SEND_BACK);
        }
    }

    /// The batch comes again after a pause; after too many times it is stored for later or as a
    /// dead letter, so that the queue goes on.
    async fn again_in_order(self: &Arc<Self>, batch: Batch) {
        let attempts = {
            let mut state = lock(&batch.owned.state);
            state.attempts = state.attempts.saturating_add(1);
            state.attempts
        };
        if self.options.redeliveries_max.is_some_and(|max| attempts > max) {
            self.again(batch, 0).await;
        } else {
            let messages = batch.messages.clone();
            self.redeliver(&batch, messages, ORDERED_PAUSE);
        }
    }

    fn redeliver(self: &Arc<Self>, batch: &Batch, messages: Vec<ReceivedMessage>, pause: Duration) {
        let (inner, owned, generation) = (Arc::clone(self), Arc::clone(&batch.owned), batch.generation);
        if self.options.ordered {
            // Nothing else of this queue may be taken during the pause.
            lock(&owned.state).running += 1;
        }
        self.client.runtime.spawn(Box::pin(async move {
            let interrupted = owned.interrupted.count();
            inner.client.sleep_or(pause, &owned.interrupted, interrupted).await;
            {
                let mut state = lock(&owned.state);
                if inner.options.ordered {
                    state.running -= 1;
                }
                if state.generation == generation {
                    state.flight.give_back(messages);
                }
            }
            owned.consumed.raise();
            inner.deliver(&owned);
        }));
    }

    /// Lets the broker store the message again; when it cannot, sends a copy to the retry topic.
    async fn send_back(&self, message: &ReceivedMessage, level: i32) -> Result<(), ClientError> {
        let max = self.options.redeliveries_max.unwrap_or(REDELIVERIES_MAX);
        let group = self.group.as_str();
        if pull::send_back(&self.client, group, message, level, max).await.is_ok() {
            return Ok(());
        }
        let times = message.reconsume_times();
        let level = if level > 0 { level } else { delay::retry_level(times) };
        let origin =
            message.property(properties::ORIGIN_MESSAGE_ID).map_or_else(|| message.id(), str::to_owned);
        let copy = Message::copy_for_retry(message, self.group.retry_topic())
            .property(properties::RETRY_TOPIC, message.topic())
            .property(properties::ORIGIN_MESSAGE_ID, &origin)
            .delay_level(level);
        self.retries.send_retry(copy, times.saturating_add(1), max).await.map(drop)
    }
}
