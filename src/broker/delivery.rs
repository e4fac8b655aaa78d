//! Moves delayed messages to their topics when they are due.
//!
//! One task looks at the heads of all delay queues, appends copies of what is due, waits until the
//! copies are as safe as any acknowledged message, and only then moves the progress on: a crash in
//! between delivers again, never loses. It sleeps until the next head is due, but never longer
//! than the shortest delay, so that it cannot miss what is stored meanwhile. In a group, the leader
//! delivers.

use std::sync::Arc;
use std::time::Duration;

use staticfire_storage::properties::{REAL_QUEUE_ID, REAL_TOPIC};
use staticfire_storage::{
    AppendError, Durability, Message, Outcome, Position, QueueEntry, QueueId, QueueOffset, ReadError, Record,
    TopicName,
};

use super::delay::{Clocks, Due, queue_of};
use super::registration::wait;
use super::shared::{Shared, lock, read, write};
use super::signal::oneshot;
use crate::protocol::names::{RETRY_PREFIX, SCHEDULE_TOPIC};

/// Messages delivered in one go, of all levels together.
const BATCH_MAX: usize = 256;
/// The longest sleep: the shortest delay.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Sleep after the store refused.
const RETRY: Duration = Duration::from_millis(100);

/// A slave looks again after this time, or when its role changes.
const WITHOUT_ROLE: Duration = Duration::from_secs(60);

/// What one look at the queues found.
#[derive(Default)]
struct Round {
    messages: Vec<Message>,
    /// New progress of each level looked at.
    progress: Vec<(i32, QueueOffset)>,
    /// Until the next head is due.
    next: Option<Duration>,
}

/// Delivers until the broker stops.
pub async fn deliver_delayed(shared: Arc<Shared>) {
    let mut delivers = false;
    while !shared.is_stopping() {
        if !shared.writes() {
            delivers = false;
            let long = shared.now() + WITHOUT_ROLE;
            wait(&shared, long, |shared| shared.is_stopping() || shared.writes()).await;
            continue;
        }
        if !std::mem::replace(&mut delivers, true) {
            clamp_progress(&shared);
        }
        let round = shared.due_messages();
        let sleep = match shared.deliver(&round).await {
            Ok(()) if round.messages.len() >= BATCH_MAX => Duration::ZERO,
            Ok(()) => round.next.unwrap_or(SLEEP_MAX).min(SLEEP_MAX),
            Err(_) => RETRY,
        };
        let until = shared.now() + sleep;
        wait(&shared, until, |shared| shared.is_stopping()).await;
    }
}

/// Progress read from disk may be outside of what the log kept.
fn clamp_progress(shared: &Shared) {
    let mut delays = lock(&shared.delays);
    for level in delays.levels() {
        let next = delays.next(level);
        let queue = shared.store.queue(SCHEDULE_TOPIC, queue_of(level));
        let (min, max) = queue.map_or((QueueOffset(0), QueueOffset(0)), |queue| (queue.min(), queue.max()));
        delays.set_next(level, next.clamp(min, max));
    }
}

impl Shared {
    fn due_messages(&self) -> Round {
        let mut round = Round::default();
        let clocks = Clocks { wall_ms: self.wall_ms(), now: self.now() };
        let levels = lock(&self.delays).levels();
        for level in levels {
            self.look_at_level(level, clocks, &mut round);
        }
        round
    }

    fn look_at_level(&self, level: i32, clocks: Clocks, round: &mut Round) {
        let Some(queue) = self.store.queue(SCHEDULE_TOPIC, queue_of(level)) else { return };
        let (min, max) = (queue.min(), queue.max());
        let start = lock(&self.delays).next(level).max(min);
        let mut next = start;
        'queue: while next < max && round.messages.len() < BATCH_MAX {
            let Ok(entries) = queue.entries(next, BATCH_MAX - round.messages.len()) else { break };
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                let due = lock(&self.delays).due(level, entry.offset, entry.tags_code, max, clocks);
                if let Due::In(time) = due {
                    round.next = Some(round.next.map_or(time, |next| next.min(time)));
                    break 'queue;
                }
                // A record that cannot be read is neither served nor skipped: somebody has to look
                // at the disk.
                let Ok(message) = self.delivered(&queue, &entry) else { break 'queue };
                round.messages.extend(message);
                next = entry.next();
            }
        }
        if next > start {
            round.progress.push((level, next));
        }
    }

    /// What an entry of a delay queue becomes; nothing when its record was removed by retention,
    /// or when its topic is gone.
    fn delivered(
        &self,
        queue: &staticfire_storage::Queue,
        entry: &QueueEntry,
    ) -> Result<Option<Message>, ReadError> {
        if entry.is_padding() {
            return Ok(None);
        }
        match queue.record(entry) {
            Ok(record) => Ok(self.released(&record)),
            Err(ReadError::OutOfRange { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn released(&self, record: &Record) -> Option<Message> {
        let topic = TopicName::new(record.property(REAL_TOPIC)?).ok()?;
        let queue = record.property(REAL_QUEUE_ID)?.parse().ok()?;
        if topic.as_str() == SCHEDULE_TOPIC || topic.as_str().starts_with("RMQ_SYS_") {
            return None;
        }
        let known = read(&self.topics).get(topic.as_str()).is_some();
        if !known {
            // A retry topic is part of its group; another topic was deleted meanwhile.
            topic.as_str().strip_prefix(RETRY_PREFIX)?;
            write(&self.topics).ensure(&topic, 1, self.wall_ms()).ok()?;
            self.changes.raise();
        }
        let mut message = record.to_message().ok()?;
        for name in [REAL_TOPIC, REAL_QUEUE_ID, "DELAY"] {
            message.remove_property(name);
        }
        Some(Message { topic, queue: QueueId(queue), ..message })
    }

    /// Stores the copies and moves the progress on once they are safe.
    async fn deliver(&self, round: &Round) -> Result<(), NotDelivered> {
        if !round.messages.is_empty() {
            let results = self.store.append_each(&round.messages);
            let mut last = None;
            for result in results {
                match result {
                    Ok(receipt) => last = Some(receipt.position()),
                    // It was stored once, so it fits; whatever refuses it now is temporary.
                    Err(error) => return Err(NotDelivered::from(error)),
                }
            }
            if let Some(position) = last {
                self.safe(position).await?;
            }
        }
        let mut delays = lock(&self.delays);
        for (level, next) in &round.progress {
            delays.set_next(*level, *next);
        }
        drop(delays);
        self.log_soon();
        Ok(())
    }

    async fn safe(&self, position: Position) -> Result<(), NotDelivered> {
        let (done, outcome) = oneshot();
        self.store.when(Durability::Confirmed, position, Box::new(move |outcome| done.set(outcome)));
        if outcome.await == Outcome::Reached { Ok(()) } else { Err(NotDelivered) }
    }
}

/// The store refused; to be tried again.
struct NotDelivered;

impl From<AppendError> for NotDelivered {
    fn from(_: AppendError) -> Self {
        Self
    }
}
