//! Pulls of messages that only the device holds: they wait for it on threads of the disk, and nobody else
//! waits with them. Looked at through the mapping of the log they would stop all connections of a
//! network thread, and what the device cannot read would end the process (DESIGN D5).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use staticfire_storage::{PhysicalOffset, QueueEntry, ReadError, Store};

use super::pull::Pull;
use super::refusal::Refusal;
use super::shared::Shared;
use crate::protocol::codes::response;

/// Bytes brought back at once: messages of a queue that follow one another are in few such pieces of the
/// log.
const PIECE: u64 = 256 * 1024;
/// Pulls that may wait for the device.
const WAITING_MAX: usize = 1024;

/// What is asked for at once; records that follow one another share it.
const BLOCK: u64 = 4096;

/// Looks whether records are in memory, block by block as a pull goes on, and at no block twice in a row.
pub struct Warmth<'a> {
    store: &'a Store,
    /// What lies behind was just written: it is not even asked for.
    hot_from: u64,
    /// Where the last block ends that was found in memory.
    warm_until: u64,
}

impl Warmth<'_> {
    /// Whether the record that `entry` names is to be brought back first.
    pub fn is_cold(&mut self, entry: &QueueEntry) -> bool {
        let (start, end) = (entry.physical.0, entry.physical_end().0);
        if start >= self.hot_from {
            return false;
        }
        // Records of a queue ascend, so what ends behind here starts in a block that was asked for.
        let from = start.max(self.warm_until);
        let cold = from < end && self.store.is_cold(PhysicalOffset(from), end - from);
        if !cold {
            self.warm_until = end.next_multiple_of(BLOCK);
        }
        cold
    }
}

impl Shared {
    /// For one pull, when so much is written.
    pub fn warmth(&self, written: u64) -> Warmth<'_> {
        let hot_from = written.saturating_sub(self.options.hot_bytes);
        Warmth { store: &self.store, hot_from, warm_until: 0 }
    }

    /// Answers a pull once the device has read what is at `at`, which it asks for first.
    pub fn answer_when_read(self: &Arc<Self>, pull: Pull, at: PhysicalOffset) {
        if self.reads.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.reads.fetch_sub(1, Ordering::Relaxed);
            let remark =
                "[OVERLOAD]system busy, too many pulls wait for the disk, start flow control for a while";
            return pull.refuse(Refusal::new(response::SYSTEM_BUSY, remark));
        }
        let shared = Arc::clone(self);
        let answer = move |read: Result<(), ReadError>| {
            shared.reads.fetch_sub(1, Ordering::Relaxed);
            match read {
                Ok(()) => shared.answer_held(pull.fetched()),
                Err(error) => pull.refuse(error.into()),
            }
        };
        self.store.start_read(at, PIECE, Box::new(answer));
    }
}
