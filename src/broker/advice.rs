//! Tells consumers whom to ask next (M27): the member of the group that `suggestWhichBrokerId` names.
//!
//! A master is busy when it hands out more bytes in a second than its options say; what slaves show
//! already is theirs to serve then. A slave keeps whom it serves until they have caught up with it, and
//! sends them back to the master.

use std::sync::Mutex;
use std::time::Duration;

use staticfire_replication::{Advice, Load, LoadGauge, NodeId, suggest};
use staticfire_storage::{PhysicalOffset, QueueId, QueueOffset, TopicName};
use staticfire_transport::{Command, Monotonic};

use super::shared::{Shared, lock};
use crate::protocol::body::MASTER_ID;

/// Bytes are counted for so long before they say how busy the broker is.
const WINDOW: Duration = Duration::from_secs(1);

/// How much consumers take from this broker.
#[derive(Debug)]
pub struct ReadLoad(Mutex<Window>);

#[derive(Debug)]
struct Window {
    gauge: LoadGauge,
    since: Option<Monotonic>,
    bytes: u64,
}

impl ReadLoad {
    /// Busy as the options say, in bytes in a second.
    pub const fn new(calm_to_busy: std::ops::RangeInclusive<u64>) -> Self {
        Self(Mutex::new(Window { gauge: LoadGauge::new(calm_to_busy), since: None, bytes: 0 }))
    }

    /// How busy the broker was when that was last looked at.
    pub fn load(&self) -> Load {
        lock(&self.0).gauge.load()
    }

    /// So many bytes are handed out now.
    fn take(&self, now: Monotonic, bytes: u64) -> Load {
        let mut window = lock(&self.0);
        window.bytes += bytes;
        let passed = now.since(*window.since.get_or_insert(now));
        if passed >= WINDOW {
            let per_second = u128::from(window.bytes) * 1000 / passed.as_millis();
            window.gauge.read(u64::try_from(per_second).unwrap_or(u64::MAX));
            (window.since, window.bytes) = (Some(now), 0);
        }
        window.gauge.load()
    }
}

impl Shared {
    /// Adds to the answer of a pull, which hands out `bytes`, whom to ask for the message `next`. When
    /// the master is busy the answer says also by which numbers that was decided.
    pub fn advise(&self, answer: &mut Command, (topic, queue): (&TopicName, QueueId), next: u64, bytes: u64) {
        let load = self.read_load.take(self.now(), bytes);
        let id = match &self.node {
            Some(node) if self.serves() && load == Load::Busy => {
                let wanted = self.position(topic, queue, QueueOffset(next));
                let master_end = self.store.marks().dispatched;
                let slaves = node.member().map(|member| member.visible_ends()).unwrap_or_default();
                let furthest = slaves.iter().map(|(_, end)| *end).max().unwrap_or_default();
                answer.ext.push("adviceWanted", wanted);
                answer.ext.push("adviceMasterEnd", master_end);
                answer.ext.push("adviceSlaveEnd", furthest);
                match suggest(load, master_end, slaves, wanted) {
                    Advice::Slave(NodeId(slave)) => i64::from(slave),
                    Advice::Master => MASTER_ID,
                }
            }
            Some(_) if !self.serves() => {
                let behind = self.position(topic, queue, QueueOffset(next)) < self.store.marks().dispatched;
                if behind { self.standing().0 } else { MASTER_ID }
            }
            _ => MASTER_ID,
        };
        if id != MASTER_ID {
            *lock(&self.counters.advised_slaves).entry(id).or_default() += 1;
        }
        answer.ext.push("suggestWhichBrokerId", id);
    }

    /// Where a message of a queue starts; the end of everything when it is not there yet.
    fn position(&self, topic: &TopicName, queue: QueueId, offset: QueueOffset) -> PhysicalOffset {
        let queue = self.store.queue(topic.as_str(), queue);
        let entries = queue.and_then(|queue| queue.entries(offset, 1).ok());
        entries.and_then(|entries| entries.first().map(|it| it.physical)).unwrap_or(PhysicalOffset(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// proves: M27: the load is what was handed out in the last second
    #[test]
    fn the_load_follows_what_is_handed_out() {
        let load = ReadLoad::new(500..=1000);
        let at = |ms| Monotonic::new(Duration::from_millis(ms));
        assert_eq!(load.take(at(0), 400), Load::Calm);
        assert_eq!(load.take(at(500), 700), Load::Calm, "the second is not over");
        assert_eq!(load.take(at(1000), 100), Load::Busy, "1200 bytes");
        assert_eq!(load.take(at(2000), 700), Load::Busy, "between the bounds it stays");
        assert_eq!(load.take(at(3000), 400), Load::Calm);
        assert_eq!(ReadLoad::new(0..=0).take(at(0), 0), Load::Busy, "always");
    }
}
