//! Pulls of messages that only the device holds: they wait for it on threads of the disk, and nobody else
//! waits with them. Looked at through the mapping of the log they would stop all connections of a
//! network thread, and what the device cannot read would end the process (DESIGN D5).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use staticfire_storage::{PhysicalOffset, QueueEntry, ReadError};

use super::pull::Pull;
use super::refusal::Refusal;
use super::shared::Shared;
use crate::protocol::codes::response;

/// Bytes brought back at once: messages of a queue that follow one another are in few such pieces of the
/// log.
const PIECE: u64 = 256 * 1024;
/// Pulls that may wait for the device.
const WAITING_MAX: usize = 1024;

impl Shared {
    /// Whether the record that `entry` names is to be brought back first; of what was just written that is
    /// not even asked.
    pub fn is_cold(&self, entry: &QueueEntry, written: u64) -> bool {
        entry.physical.0 + self.options.hot_bytes < written
            && self.store.is_cold(entry.physical, entry.size.into())
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
