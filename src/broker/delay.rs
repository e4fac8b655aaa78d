//! When delayed messages are due, and how far each delay queue has got.
//!
//! A delayed message lies in queue `level - 1` of the schedule topic; its queue entry carries the
//! wall time of its delivery (store time + delay) in place of a tag code. The queue is therefore
//! ordered by due time, and only its head has to be looked at.
//!
//! Delivery is at least once: a queue's progress moves past an entry when the delivered copy is
//! stored as durably as a send would be, and progress is written to disk now and then.

use std::collections::BTreeMap;
use std::time::Duration;

use staticfire_storage::{QueueId, QueueOffset};
use staticfire_transport::Monotonic;

use crate::protocol::delay;

/// Progress of the delay queues.
#[derive(Debug)]
pub struct DelayQueues {
    levels: BTreeMap<i32, Level>,
}

#[derive(Debug)]
struct Level {
    delay: Duration,
    next: QueueOffset,
    set_back: Option<SetBack>,
}

/// The wall clock went back: entries before `before` were stored under the old time and are due
/// at `until` at the latest.
#[derive(Debug)]
struct SetBack {
    before: QueueOffset,
    until: Monotonic,
}

/// The two clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// The wall clock, in milliseconds since the Unix epoch.
    pub wall_ms: i64,
    /// The monotonic clock.
    pub now: Monotonic,
}

/// When the head of a delay queue is to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Now.
    Now,
    /// Not before this time has passed.
    In(Duration),
}

impl Default for DelayQueues {
    fn default() -> Self {
        let level = |level| {
            let delay = delay::of_level(level).expect("1 to the highest level have a delay");
            (level, Level { delay, next: QueueOffset(0), set_back: None })
        };
        Self { levels: (1..=delay::LEVEL_MAX).map(level).collect() }
    }
}

/// The queue of the schedule topic that holds messages of `level`.
#[must_use]
pub fn queue_of(level: i32) -> QueueId {
    QueueId(u32::try_from(level.clamp(1, delay::LEVEL_MAX) - 1).expect("clamped to 0..=17"))
}

impl DelayQueues {
    /// The levels, 1 first.
    pub fn levels(&self) -> impl Iterator<Item = i32> + use<> {
        1..=delay::LEVEL_MAX
    }

    /// Next entry of `level` to be delivered.
    #[must_use]
    pub fn next(&self, level: i32) -> QueueOffset {
        self.levels.get(&level).map_or(QueueOffset(0), |level| level.next)
    }

    /// Sets the progress of `level`: after a delivery, or as read from disk.
    pub fn set_next(&mut self, level: i32, next: QueueOffset) {
        if let Some(level) = self.levels.get_mut(&level) {
            level.next = next;
        }
    }

    /// Every level with its progress.
    pub fn progress(&self) -> impl Iterator<Item = (i32, QueueOffset)> {
        self.levels.iter().map(|(level, queue)| (*level, queue.next))
    }

    /// When the entry `at` of `level` is due; `deliver_ms` is the wall time in the entry, `max`
    /// the end of the queue.
    ///
    /// An entry cannot be further away than its delay unless the wall clock went back after it was
    /// stored. It is then delivered once the delay has passed on the monotonic clock, counted
    /// from the first look: neither early nor in a flood, nor hours late.
    pub fn due(
        &mut self,
        level: i32,
        at: QueueOffset,
        deliver_ms: i64,
        max: QueueOffset,
        clocks: Clocks,
    ) -> Due {
        let Some(queue) = self.levels.get_mut(&level) else { return Due::Now };
        let wait_ms = deliver_ms.saturating_sub(clocks.wall_ms);
        let Ok(wait_ms @ 1..) = u64::try_from(wait_ms) else { return Due::Now };
        let wait = Duration::from_millis(wait_ms);
        if wait <= queue.delay {
            return Due::In(wait);
        }
        let set_back = match &mut queue.set_back {
            Some(known) if at < known.before => known,
            slot => slot.insert(SetBack { before: max, until: clocks.now + queue.delay }),
        };
        match set_back.until.since(clocks.now) {
            Duration::ZERO => Due::Now,
            rest => Due::In(rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn clocks(wall_ms: i64, seconds: u64) -> Clocks {
        Clocks { wall_ms, now: Monotonic::new(Duration::from_secs(seconds)) }
    }

    fn due(queues: &mut DelayQueues, at: u64, deliver_ms: i64, max: u64, clocks: Clocks) -> Due {
        queues.due(1, QueueOffset(at), deliver_ms, QueueOffset(max), clocks)
    }

    /// proves: I68
    #[test]
    fn a_message_is_due_at_its_time_and_not_before() {
        let mut queues = DelayQueues::default();
        assert_eq!(due(&mut queues, 0, 2000, 1, clocks(1000, 0)), Due::In(Duration::from_secs(1)));
        assert_eq!(due(&mut queues, 0, 2000, 1, clocks(1999, 1)), Due::In(Duration::from_millis(1)));
        assert_eq!(due(&mut queues, 0, 2000, 1, clocks(2000, 1)), Due::Now);
        assert_eq!(due(&mut queues, 0, 2000, 1, clocks(HOUR_MS, 1)), Due::Now, "the clock went ahead");
    }

    /// proves: I68
    #[test]
    fn a_clock_set_back_delays_by_one_more_delay_at_most_and_does_not_flood() {
        let mut queues = DelayQueues::default();
        let deliver = 2 * HOUR_MS + 1000;
        // an hour back, two messages wait
        assert_eq!(due(&mut queues, 0, deliver, 2, clocks(HOUR_MS, 10)), Due::In(Duration::from_secs(1)));
        assert_eq!(due(&mut queues, 0, deliver, 2, clocks(HOUR_MS, 11)), Due::Now);
        assert_eq!(due(&mut queues, 1, deliver, 3, clocks(HOUR_MS, 11)), Due::Now, "waited as long");
        assert_eq!(
            due(&mut queues, 2, deliver, 3, clocks(HOUR_MS, 11)),
            Due::In(Duration::from_secs(1)),
            "came later"
        );
    }

    /// proves: B37
    #[test]
    fn senseless_times_are_due() {
        let mut queues = DelayQueues::default();
        assert_eq!(due(&mut queues, 0, i64::MIN, 1, clocks(1000, 0)), Due::Now);
        assert_eq!(due(&mut queues, 0, i64::MAX, 1, clocks(i64::MIN, 0)), Due::In(Duration::from_secs(1)));
        assert_eq!(
            queues.due(99, QueueOffset(0), i64::MAX, QueueOffset(1), clocks(0, 0)),
            Due::Now,
            "no such level"
        );
        assert_eq!((queue_of(-1), queue_of(1), queue_of(99)), (QueueId(0), QueueId(0), QueueId(17)));
    }
}
