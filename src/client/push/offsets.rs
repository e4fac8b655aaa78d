//! Where a queue starts, and how far the group is.

use std::sync::Arc;

use super::{Inner, KeptOffsets, OwnedQueue, StartFrom};
use crate::client::wait::{all_of, lock};
use crate::client::{ClientError, pull};
use crate::protocol::body::MessageQueue;
use crate::protocol::names::group_of_retry_topic;

/// Stores offsets every five seconds, until the consumer closes.
pub(super) async fn run(inner: Arc<Inner>) {
    while !inner.is_closing() {
        inner.client.runtime.sleep(inner.options.commit_interval).await;
        if !inner.is_closing() {
            all_of(inner.owned().iter().map(|owned| inner.commit(owned))).await;
            inner.keep();
        }
    }
}

/// The offsets of a broadcasting consumer.
pub(super) struct Kept {
    offsets: KeptOffsets,
    /// Since they were stored.
    changed: bool,
}

impl Kept {
    pub(super) const fn new(offsets: KeptOffsets) -> Self {
        Self { offsets, changed: false }
    }
}

impl Inner {
    /// Stores a queue's offset if it changed. What cannot be stored now is stored next time. A
    /// broadcasting group's is only noted: [`Inner::keep`] stores those of all queues at once.
    pub(super) async fn commit(&self, owned: &OwnedQueue) {
        let (offset, generation) = {
            let state = lock(&owned.state);
            let offset = state.flight.commit_offset();
            if state.committed == Some(offset) {
                return;
            }
            (offset, state.generation)
        };
        if !self.is_clustering() {
            let mut kept = lock(&self.kept);
            kept.offsets.insert(owned.queue.clone(), offset);
            kept.changed = true;
            lock(&owned.state).committed = Some(offset);
            return;
        }
        let stored = pull::commit_offset(&self.client, self.group.as_str(), &owned.queue, offset).await;
        let mut state = lock(&owned.state);
        if stored.is_ok() && state.generation == generation {
            state.committed = Some(offset);
        }
    }

    /// Stores the offsets of a broadcasting group if some changed.
    pub(super) fn keep(&self) {
        let mut kept = lock(&self.kept);
        // What cannot be stored now is stored next time.
        if kept.changed && self.options.offsets.store(&self.group, &kept.offsets).is_ok() {
            kept.changed = false;
        }
    }

    /// The first offset to consume, and the group's offset as it is stored.
    pub(super) async fn start_offset(&self, queue: &MessageQueue) -> Result<(i64, Option<i64>), ClientError> {
        if self.is_clustering() {
            let known = pull::committed_offset(&self.client, self.group.as_str(), queue).await?;
            if let Some(offset) = known.filter(|offset| *offset >= 0) {
                return Ok((offset, known));
            }
        } else if let Some(offset) = lock(&self.kept).offsets.get(queue).copied() {
            return Ok((offset, Some(offset)));
        }
        // Whatever lies in the retry topic was meant for this group.
        if group_of_retry_topic(&queue.topic).is_some() {
            return Ok((0, None));
        }
        let start = match self.options.start {
            StartFrom::Latest => pull::max_offset(&self.client, queue).await?,
            StartFrom::Earliest => pull::min_offset(&self.client, queue).await?,
            StartFrom::Time(ms) => pull::offset_at(&self.client, queue, ms).await?,
        };
        Ok((start, None))
    }
}
