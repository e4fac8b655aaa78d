//! From the log into the queues: every confirmed record gets its entry, then observers hear of it.
//!
//! The dispatcher is a step function without a thread. Whoever moved the confirmed mark runs it,
//! either with the facts of the records as they were appended ([`Dispatcher::step_facts`], which
//! reads nothing) or by walking the log ([`Dispatcher::step`]), which is how it catches up.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::message::sys_flag;
use crate::properties::{DELAY, INNER_NUM, Properties, TAGS};
use crate::queue::{ConsumeQueue, Pushed, QueueEntry, QueueError, QueueTable};
use crate::{PhysicalOffset, QueueId, QueueOffset, Record, TopicName, tag};

/// The topic in which delayed messages wait; queue n holds delay level n + 1.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
/// Delay of a level that no table knows, in milliseconds.
const UNKNOWN_LEVEL_MS: i64 = 1000;

/// Hears of records whose queue entries just became readable.
pub trait Observer: Send + Sync {
    /// Called in the order of the log, on the thread that dispatched: be quick and do not block.
    fn dispatched(&self, arrivals: &[Arrival]);
}

/// A record whose queue entry became readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its topic.
    pub topic: TopicName,
    /// Its queue.
    pub queue: QueueId,
    /// Number of its first message in the queue.
    pub offset: QueueOffset,
    /// Messages in it: 1, or more for an inner batch.
    pub messages: u16,
    /// Hash of its tags, or the delivery time in milliseconds in the schedule topic.
    pub tags_code: i64,
    /// Where it starts in the log.
    pub physical: PhysicalOffset,
    /// Its length in bytes.
    pub size: u32,
    /// Its store time in milliseconds since the Unix epoch.
    pub store_ms: i64,
}

/// What dispatching one record needs to know, from whoever appended it.
#[derive(Clone, Debug)]
pub struct DispatchFact {
    /// The queue that the record belongs to.
    pub queue: Arc<ConsumeQueue>,
    /// Its entry there.
    pub entry: QueueEntry,
    /// Its store time in milliseconds since the Unix epoch.
    pub store_ms: i64,
}

/// The delays of the levels 1, 2, …, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayLevels(Vec<i64>);

impl DelayLevels {
    /// The table with these delays; level 1 is the first.
    #[must_use]
    pub fn new(delays_ms: Vec<i64>) -> Self {
        Self(delays_ms)
    }

    /// The highest level; 0 for an empty table.
    #[must_use]
    pub fn highest(&self) -> usize {
        self.0.len()
    }

    /// The delay of `level` in milliseconds; levels above the highest count as the highest, and with
    /// an empty table every level is one second.
    #[must_use]
    pub fn delay_ms(&self, level: usize) -> i64 {
        let level = level.min(self.highest());
        level.checked_sub(1).map_or(UNKNOWN_LEVEL_MS, |index| self.0[index])
    }
}

impl Default for DelayLevels {
    /// RocketMQ's 18 levels, from 1 s to 2 h (store-format §15.1).
    fn default() -> Self {
        const SECONDS: [i64; 18] =
            [1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200];
        Self(SECONDS.map(|seconds| seconds * 1000).to_vec())
    }
}

/// The third field of a queue entry, before the store time is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagsCode {
    /// The hash of the tags; 0 without tags.
    Hash(i64),
    /// In the schedule topic: the delivery time, as milliseconds after the store time.
    DeliverAfter(i64),
}

impl TagsCode {
    /// The code of a message of `topic` with these properties (store-format §5.1).
    #[must_use]
    pub fn of(topic: &str, properties: Properties<'_>, levels: &DelayLevels) -> Self {
        if topic == SCHEDULE_TOPIC
            && let Some(level) = properties.get(DELAY).and_then(|level| level.parse::<i32>().ok())
            && let Some(level) = usize::try_from(level).ok().filter(|level| *level > 0)
        {
            return Self::DeliverAfter(levels.delay_ms(level));
        }
        let tags = properties.value(TAGS);
        Self::Hash(tags.map_or(0, |tags| tag::code_of(&String::from_utf8_lossy(tags))))
    }

    /// The value in the entry of a record stored at `store_ms`.
    #[must_use]
    pub fn at(self, store_ms: i64) -> i64 {
        match self {
            Self::Hash(code) => code,
            Self::DeliverAfter(delay) => store_ms.saturating_add(delay),
        }
    }
}

/// Messages in a record with this system flag and these properties: more than 1 for an inner batch.
#[must_use]
pub fn messages_in(sys_flag: i32, properties: Properties<'_>) -> u16 {
    if sys_flag & sys_flag::INNER_BATCH == 0 {
        return 1;
    }
    let count = properties.get(INNER_NUM).and_then(|count| count.parse::<i16>().ok());
    count.and_then(|count| u16::try_from(count).ok()).unwrap_or(1).max(1)
}

/// The queue entry of `record`; `None` for a prepared or rolled-back transaction, which has none.
#[must_use]
pub fn entry_of(record: &Record, levels: &DelayLevels) -> Option<QueueEntry> {
    let properties = record.properties();
    record.transaction().is_queued().then(|| QueueEntry {
        physical: record.physical(),
        size: record.len(),
        tags_code: TagsCode::of(record.topic(), properties, levels).at(record.store_ms()),
        offset: record.queue_offset(),
        messages: messages_in(record.sys_flag(), properties),
    })
}

/// What stands at a position of the log.
#[derive(Clone, Debug)]
pub enum LogItem {
    /// A whole, checked record; the next item stands behind it.
    Record(Record),
    /// Nothing to dispatch up to this position: a blank at the end of a segment, or a range that is
    /// known to be unreadable and was reported.
    SkipTo(PhysicalOffset),
    /// The end of what can be read.
    End,
}

/// Reads the log record by record.
pub trait LogRecords {
    /// What stands at `at`.
    ///
    /// # Errors
    /// Whatever keeps the log from reading there.
    fn item(&self, at: PhysicalOffset) -> Result<LogItem, Box<dyn Error + Send + Sync>>;
}

/// Why the dispatcher stopped. It stands before the record named and can be stepped again.
#[derive(Debug)]
pub enum DispatchError {
    /// The log cannot be read there.
    Log {
        /// The position.
        at: PhysicalOffset,
        /// What the log said.
        error: Box<dyn Error + Send + Sync>,
    },
    /// The queue does not take the entry of the record.
    Queue {
        /// The record.
        at: PhysicalOffset,
        /// The topic of the queue.
        topic: TopicName,
        /// Its number.
        queue: QueueId,
        /// What the queue said.
        error: QueueError,
    },
}

impl fmt::Display for DispatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log { at, error } => write!(f, "dispatching stopped at {at}: {error}"),
            Self::Queue { at, topic, queue, error } => {
                write!(f, "dispatching stopped at {at}: queue {queue} of {topic}: {error}")
            }
        }
    }
}

impl Error for DispatchError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Log { error, .. } => Some(&**error),
            Self::Queue { error, .. } => Some(error),
        }
    }
}

/// What the dispatcher follows beside the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DispatchRules {
    /// The delays of the schedule topic.
    pub delay_levels: DelayLevels,
    /// The topic of control records, which get no entries.
    pub system_topic: Option<TopicName>,
}

impl DispatchRules {
    /// True for the topic of control records.
    #[must_use]
    pub fn is_system(&self, topic: &str) -> bool {
        self.system_topic.as_ref().is_some_and(|system| system.as_str() == topic)
    }
}

/// Builds the queues from the log.
pub struct Dispatcher {
    table: Arc<QueueTable>,
    rules: DispatchRules,
    observers: Vec<Arc<dyn Observer>>,
    dispatched: PhysicalOffset,
    arrivals: Vec<Arrival>,
    /// Room for those who collect facts: empty, and kept so that dispatching takes no memory.
    pub(crate) facts: VecDeque<DispatchFact>,
}

impl Dispatcher {
    /// A dispatcher that goes on at `dispatched`.
    #[must_use]
    pub fn new(
        table: Arc<QueueTable>,
        rules: DispatchRules,
        observers: Vec<Arc<dyn Observer>>,
        dispatched: PhysicalOffset,
    ) -> Self {
        Self { table, rules, observers, dispatched, arrivals: Vec::new(), facts: VecDeque::new() }
    }

    /// All records before this position have their entries.
    #[must_use]
    pub fn dispatched(&self) -> PhysicalOffset {
        self.dispatched
    }

    /// Stands at `to` from here on: after the log and the queues were cut there.
    pub fn truncated(&mut self, to: PhysicalOffset) {
        self.dispatched = self.dispatched.min(to);
    }

    /// Stands at `base` from here on: the log was emptied and begins there.
    pub(crate) fn begin_at(&mut self, base: PhysicalOffset) {
        self.dispatched = base;
    }

    /// Dispatches the records from `dispatched` up to `upto` as the log has them, at most `budget`
    /// of them, and returns how far it got. `upto` is the end of a record or of a segment.
    ///
    /// # Errors
    /// [`DispatchError`]; the records before the one named were dispatched and announced.
    pub fn step(
        &mut self,
        log: &dyn LogRecords,
        upto: PhysicalOffset,
        budget: usize,
    ) -> Result<PhysicalOffset, DispatchError> {
        let result = self.walk(log, upto, budget);
        self.announce();
        result.map(|()| self.dispatched)
    }

    fn walk(
        &mut self,
        log: &dyn LogRecords,
        upto: PhysicalOffset,
        budget: usize,
    ) -> Result<(), DispatchError> {
        for _ in 0..budget {
            if self.dispatched >= upto {
                return Ok(());
            }
            let at = self.dispatched;
            match log.item(at).map_err(|error| DispatchError::Log { at, error })? {
                LogItem::Record(record) => {
                    if let Some(fact) = fact_of(&record, &self.table, &self.rules) {
                        self.push(&fact)?;
                    }
                    self.dispatched = at.after(u64::from(record.len()));
                }
                LogItem::SkipTo(next) => self.dispatched = next.max(at),
                LogItem::End => return Ok(()),
            }
        }
        Ok(())
    }

    /// Dispatches `facts`: those of all records in `dispatched..upto` that have entries, in the order
    /// of the log. Returns `upto`.
    ///
    /// # Errors
    /// [`DispatchError::Queue`]; the records before the one named were dispatched and announced, so
    /// go on with [`Dispatcher::step`].
    pub fn step_facts(
        &mut self,
        facts: &[DispatchFact],
        upto: PhysicalOffset,
    ) -> Result<PhysicalOffset, DispatchError> {
        let result = facts.iter().try_for_each(|fact| {
            self.push(fact)?;
            self.dispatched = fact.entry.physical_end();
            Ok(())
        });
        if result.is_ok() {
            self.dispatched = self.dispatched.max(upto);
        }
        self.announce();
        result.map(|()| self.dispatched)
    }

    fn push(&mut self, fact: &DispatchFact) -> Result<(), DispatchError> {
        let DispatchFact { queue, entry, store_ms } = fact;
        let pushed = queue.push(entry, *store_ms).map_err(|error| DispatchError::Queue {
            at: entry.physical,
            topic: queue.topic().clone(),
            queue: queue.id(),
            error,
        })?;
        if pushed == Pushed::Appended && !self.observers.is_empty() {
            self.arrivals.push(Arrival {
                topic: queue.topic().clone(),
                queue: queue.id(),
                offset: entry.offset,
                messages: entry.messages,
                tags_code: entry.tags_code,
                physical: entry.physical,
                size: entry.size,
                store_ms: *store_ms,
            });
        }
        Ok(())
    }

    fn announce(&mut self) {
        if !self.arrivals.is_empty() {
            self.observers.iter().for_each(|observer| observer.dispatched(&self.arrivals));
            self.arrivals.clear();
        }
    }
}

/// The fact of a record that gets an entry; its queue is made when it is the first one there.
///
/// `None` for control records, undecided or rolled-back transactions, and names that no path can be
/// built from, which no append lets through.
pub(crate) fn fact_of(record: &Record, table: &QueueTable, rules: &DispatchRules) -> Option<DispatchFact> {
    let entry = entry_of(record, &rules.delay_levels)?;
    let topic = record.topic();
    if rules.is_system(topic) {
        return None;
    }
    let queue = match table.find(topic, record.queue()) {
        Some(queue) => queue,
        None => table.find_or_create(&TopicName::new(topic).ok()?, record.queue()),
    };
    Some(DispatchFact { queue, entry, store_ms: record.store_ms() })
}

/// Raises the numbering of each queue over the records in `from..to`, which have numbers and no
/// entries yet (DESIGN §7.10).
///
/// # Errors
/// [`DispatchError::Log`]; some queues were raised.
pub fn number_undispatched(
    log: &dyn LogRecords,
    table: &QueueTable,
    rules: &DispatchRules,
    from: PhysicalOffset,
    to: PhysicalOffset,
) -> Result<(), DispatchError> {
    let mut at = from;
    while at < to {
        match log.item(at).map_err(|error| DispatchError::Log { at, error })? {
            LogItem::Record(record) => {
                if let Some(fact) = fact_of(&record, table, rules) {
                    let next = fact.entry.next().max(fact.queue.numbering());
                    fact.queue.set_numbering(next);
                }
                at = at.after(u64::from(record.len()));
            }
            LogItem::SkipTo(next) => at = next,
            LogItem::End => break,
        }
    }
    Ok(())
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher")
            .field("dispatched", &self.dispatched)
            .field("rules", &self.rules)
            .field("observers", &self.observers.len())
            .finish_non_exhaustive()
    }
}
