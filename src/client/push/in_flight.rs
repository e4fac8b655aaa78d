//! The messages of one queue between the pull and the end of their consumption: a pure table.
//!
//! ```text
//!   consumed ──┤ unfinished: with a listener, or waiting for one ├── next: to be pulled
//!              ^ commit offset
//! ```

use std::collections::{BTreeMap, VecDeque};

use crate::client::ReceivedMessage;

/// The most a queue may hold before pulling pauses.
#[derive(Clone, Copy, Debug)]
pub struct FlowLimits {
    /// Messages. Default: 1000.
    pub messages: usize,
    /// Bytes of records. Default: 32 MiB.
    pub bytes: usize,
    /// Distance between the first unfinished and the last message. Default: 2000.
    pub span: i64,
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self { messages: 1000, bytes: 32 << 20, span: 2000 }
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct InFlight {
    waiting: VecDeque<ReceivedMessage>,
    unfinished: BTreeMap<i64, usize>,
    bytes: usize,
    next: i64,
}

impl InFlight {
    /// Nothing; the first pull will be at `next`.
    pub(super) fn starting_at(next: i64) -> Self {
        Self { next, ..Self::default() }
    }

    /// The offset to pull.
    pub(super) const fn next(&self) -> i64 {
        self.next
    }

    /// Takes what a pull brought. The queue was read up to `next`.
    pub(super) fn put(&mut self, messages: Vec<ReceivedMessage>, next: i64) {
        for message in messages {
            let size = message.record().bytes().len();
            if self.unfinished.insert(message.queue_offset(), size).is_none() {
                self.bytes += size;
                self.waiting.push_back(message);
            }
        }
        self.next = next;
    }

    /// The next messages for a listener, oldest first.
    pub(super) fn take(&mut self, max: usize) -> Vec<ReceivedMessage> {
        self.waiting.drain(..max.min(self.waiting.len())).collect()
    }

    /// How many messages wait for a listener.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A message is consumed, or stored for later.
    pub(super) fn finish(&mut self, offset: i64) {
        if let Some(size) = self.unfinished.remove(&offset) {
            self.bytes -= size;
        }
    }

    /// Messages that were taken wait again, before all others.
    pub(super) fn give_back(&mut self, messages: Vec<ReceivedMessage>) {
        for message in messages.into_iter().rev() {
            self.waiting.push_front(message);
        }
    }

    /// The group's offset: everything before it is consumed.
    pub(super) fn commit_offset(&self) -> i64 {
        self.unfinished.first_key_value().map_or(self.next, |(offset, _)| *offset)
    }

    /// Must pulling pause?
    pub(super) fn is_full(&self, limits: FlowLimits) -> bool {
        self.unfinished.len() >= limits.messages
            || self.bytes >= limits.bytes
            || self.next - self.commit_offset() >= limits.span
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::message::tests::received;

    /// proves: I63
    #[test]
    fn the_commit_offset_is_the_first_unfinished_message() {
        let mut flight = InFlight::starting_at(5);
        assert_eq!(flight.commit_offset(), 5);
        flight.put(vec![received("t", 5, "a"), received("t", 7, "b")], 9);
        let taken = flight.take(10);
        assert_eq!((taken.len(), flight.commit_offset(), flight.next()), (2, 5, 9));
        flight.finish(7);
        assert_eq!(flight.commit_offset(), 5, "a later message does not move it");
        flight.finish(5);
        assert_eq!(flight.commit_offset(), 9, "and what was filtered out counts as consumed");
        flight.finish(5);
        assert_eq!(flight.bytes, 0);
    }

    #[test]
    fn messages_given_back_come_first_and_in_order() {
        let mut flight = InFlight::starting_at(0);
        flight.put((0..4).map(|offset| received("t", offset, "x")).collect(), 4);
        let taken = flight.take(2);
        flight.give_back(taken);
        let offsets: Vec<_> = flight.take(4).iter().map(ReceivedMessage::queue_offset).collect();
        assert_eq!(offsets, [0, 1, 2, 3]);
    }

    #[test]
    fn pulling_pauses_at_each_limit() {
        let limits = FlowLimits { messages: 2, bytes: 1 << 20, span: 100 };
        let mut flight = InFlight::starting_at(0);
        flight.put(vec![received("t", 0, "x")], 1);
        assert!(!flight.is_full(limits));
        flight.put(Vec::new(), 100);
        assert!(flight.is_full(limits), "span");
        flight.finish(0);
        flight.put(vec![received("t", 100, "x"), received("t", 101, "x")], 102);
        assert!(flight.is_full(limits), "count");
        flight.finish(100);
        assert!(!flight.is_full(limits));
        assert!(flight.is_full(FlowLimits { bytes: 1, ..limits }), "bytes");
    }
}
