//! Locks on queues for ordered consumption: one member of a group at a time.
//!
//! A lock lives 60 s after its last renewal (remoting-protocol §9.8); the holder renews it every
//! 20 s and stops trusting it after 30 s, so a new holder never overlaps with the old one. Locks
//! live in memory only: a client whose broker restarted takes them anew.

use std::collections::BTreeMap;
use std::time::Duration;

use staticfire_storage::QueueId;
use staticfire_transport::Monotonic;

/// How long a lock outlives its last renewal.
pub const LOCK_EXPIRY: Duration = Duration::from_secs(60);
/// Locks kept at most; further ones are not granted. 100,000 queues are 10 MiB of table.
pub const LOCKS_MAX: usize = 100_000;

/// Who holds which queue, per consumer group.
#[derive(Debug, Default)]
pub struct QueueLocks {
    held: BTreeMap<String, BTreeMap<(String, QueueId), Holder>>,
    count: usize,
}

#[derive(Debug)]
struct Holder {
    client: String,
    renewed: Monotonic,
}

impl Holder {
    fn is_live(&self, now: Monotonic) -> bool {
        now.since(self.renewed) < LOCK_EXPIRY
    }
}

impl QueueLocks {
    /// Takes or renews the lock on one queue for `client`. False when another member holds it,
    /// or when the table is full.
    pub fn lock(&mut self, now: Monotonic, group: &str, client: &str, topic: &str, queue: QueueId) -> bool {
        let holder = || Holder { client: client.to_owned(), renewed: now };
        let key = (topic.to_owned(), queue);
        match self.held.get_mut(group).and_then(|queues| queues.get_mut(&key)) {
            Some(held) if held.client == client || !held.is_live(now) => {
                *held = holder();
                true
            }
            Some(_) => false,
            None if self.count >= LOCKS_MAX => false,
            None => {
                self.held.entry(group.to_owned()).or_default().insert(key, holder());
                self.count += 1;
                true
            }
        }
    }

    /// Gives a lock back. Ignored when `client` does not hold it.
    pub fn unlock(&mut self, group: &str, client: &str, topic: &str, queue: QueueId) {
        let Some(queues) = self.held.get_mut(group) else { return };
        let key = (topic.to_owned(), queue);
        if queues.get(&key).is_some_and(|held| held.client == client) {
            queues.remove(&key);
            self.count -= 1;
        }
        if queues.is_empty() {
            self.held.remove(group);
        }
    }

    /// True while any member of the group holds a live lock: the group consumes in order.
    #[must_use]
    pub fn is_ordered(&self, now: Monotonic, group: &str) -> bool {
        self.held.get(group).is_some_and(|queues| queues.values().any(|held| held.is_live(now)))
    }

    /// Forgets expired locks. Call it now and then; correctness does not depend on it.
    pub fn forget_expired(&mut self, now: Monotonic) {
        self.held.retain(|_, queues| {
            queues.retain(|_, held| held.is_live(now));
            !queues.is_empty()
        });
        self.count = self.held.values().map(BTreeMap::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: QueueId = QueueId(0);

    fn at(seconds: u64) -> Monotonic {
        Monotonic::new(Duration::from_secs(seconds))
    }

    /// proves: I66, B41
    #[test]
    fn one_member_of_a_group_holds_a_queue_at_a_time() {
        let mut locks = QueueLocks::default();
        assert!(locks.lock(at(0), "g", "a", "t", Q));
        assert!(!locks.lock(at(1), "g", "b", "t", Q), "held by a");
        assert!(locks.lock(at(1), "g", "b", "t", QueueId(1)), "another queue");
        assert!(locks.lock(at(1), "h", "b", "t", Q), "another group");

        locks.unlock("g", "b", "t", Q);
        assert!(!locks.lock(at(2), "g", "b", "t", Q), "b cannot give back what a holds");
        locks.unlock("g", "a", "t", Q);
        assert!(locks.lock(at(2), "g", "b", "t", Q));
    }

    /// proves: I66
    #[test]
    fn a_lock_lives_sixty_seconds_after_its_last_renewal() {
        let mut locks = QueueLocks::default();
        assert!(locks.lock(at(0), "g", "a", "t", Q));
        assert!(locks.lock(at(40), "g", "a", "t", Q), "renewed");
        assert!(!locks.lock(at(99), "g", "b", "t", Q));
        assert!(locks.is_ordered(at(99), "g"));
        assert!(!locks.is_ordered(at(100), "g"));
        assert!(locks.lock(at(100), "g", "b", "t", Q));
        assert!(!locks.lock(at(101), "g", "a", "t", Q), "the former holder lost it");
    }

    /// proves: I73
    #[test]
    fn the_table_is_bounded_and_forgets() {
        let mut locks = QueueLocks::default();
        for queue in 0..u32::try_from(LOCKS_MAX).unwrap() {
            assert!(locks.lock(at(0), "g", "a", "t", QueueId(queue)));
        }
        assert!(!locks.lock(at(0), "g", "a", "u", Q), "full");
        locks.forget_expired(at(60));
        assert!(locks.lock(at(60), "g", "a", "u", Q));
        assert_eq!(locks.count, 1);
    }
}
