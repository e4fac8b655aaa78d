//! How far each group has consumed each queue, and what to answer when nobody knows.
//!
//! An offset is the next one to consume. Commits are bounded by the queue's end; an explicit
//! commit (code 15) may go back, because a consumer that seeks and `mqadmin resetOffset` do just
//! that, while the commit bit of a pull, which may come late from a former owner, only moves
//! forward (I64).

use std::collections::{BTreeMap, BTreeSet};

use staticfire_storage::{QueueId, QueueOffset, TopicName};

use super::state::record::Row;
use crate::protocol::names::GroupName;

/// Rows (topic, group, queue) kept at most; commits that would add one more are refused.
pub const ROWS_MAX: usize = 1_000_000;

type Queues = BTreeMap<QueueId, QueueOffset>;

/// Consumer offsets of all groups, and resets that wait for the consumer.
#[derive(Debug, Default)]
pub struct ConsumerOffsets {
    groups: BTreeMap<String, BTreeMap<String, Queues>>,
    resets: BTreeMap<String, BTreeMap<String, Queues>>,
    rows: usize,
    changes: u64,
    /// What is not yet in the log of the broker group; `None`: nobody takes it there.
    unlogged: Option<Unlogged>,
}

/// Names of what changed.
#[derive(Debug, Default)]
struct Unlogged {
    topics: BTreeSet<String>,
    groups: BTreeSet<String>,
    /// Group, topic and queue.
    rows: BTreeSet<(String, String, QueueId)>,
}

/// Where a commit comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitSource {
    /// The consumer says so (code 15): may go back.
    Explicit,
    /// The commit bit of a pull: only forward.
    Pull,
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Stored, possibly clamped to the end of the queue.
    Stored(QueueOffset),
    /// Not stored, which is no error: negative, older than what is known, or a reset is pending.
    Ignored,
    /// Not stored: the table is full.
    Full,
}

/// What the store knows of a queue when its offset is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueAge {
    /// Oldest entry kept.
    pub min: QueueOffset,
    /// Next entry to be written.
    pub max: QueueOffset,
    /// The record of entry 0 is among the recent bytes of the log.
    pub start_is_recent: bool,
}

/// Answer to "where did this group stop".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Known, or decided for a new group on a young queue.
    At(QueueOffset),
    /// Unknown: the consumer decides by its own setting (code 22).
    Unknown,
}

impl ConsumerOffsets {
    /// Stores `offset` as the next one to consume, clamped to `max`, the end of the queue.
    pub fn commit(
        &mut self,
        (group, topic, queue): (&str, &str, QueueId),
        offset: i64,
        max: QueueOffset,
        source: CommitSource,
    ) -> Commit {
        let Ok(offset) = u64::try_from(offset) else { return Commit::Ignored };
        if self.reset_pending(group, topic, queue).is_some() {
            return Commit::Ignored;
        }
        let offset = QueueOffset(offset.min(max.0));
        match self.known(group, topic, queue) {
            Some(known) if known == offset => return Commit::Stored(offset),
            Some(known) if source == CommitSource::Pull && offset < known => return Commit::Ignored,
            _ => {}
        }
        if self.put(group, topic, queue, offset) { Commit::Stored(offset) } else { Commit::Full }
    }

    /// Where `group` continues. `at_start_if_unknown` is the request's `setZeroIfNotFound`.
    ///
    /// A group nobody has seen starts at 0 on a queue that never lost an entry and is either
    /// empty or still in memory. RocketMQ leaves the empty queue to the consumer, which then asks
    /// for the end: a message stored in between is never consumed.
    /// A known offset is answered within the queue: after retention passed it, the oldest message
    /// kept is the next one, and a pull below it would only be told so (after 10 s of waiting, in
    /// older clients).
    #[must_use]
    pub fn position(
        &self,
        (group, topic, queue): (&str, &str, QueueId),
        age: QueueAge,
        at_start_if_unknown: bool,
    ) -> Position {
        if let Some(reset) = self.reset_pending(group, topic, queue) {
            return Position::At(reset);
        }
        match self.known(group, topic, queue) {
            Some(known) => Position::At(known.max(age.min).min(age.max)),
            None if !at_start_if_unknown => Position::Unknown,
            None if age.max.0 == 0 => Position::At(QueueOffset(0)),
            None if age.min.0 == 0 && age.start_is_recent => Position::At(QueueOffset(0)),
            None => Position::Unknown,
        }
    }

    /// The committed offset.
    #[must_use]
    pub fn known(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.groups.get(group)?.get(topic)?.get(&queue).copied()
    }

    /// The group continues at `to`. Whoever consumes the queue now is told so at its next pull, and
    /// what it commits before counts for nothing; should the broker end before, the offset is stored
    /// like any other. False when the table is full.
    pub fn reset(&mut self, group: &str, topic: &str, queue: QueueId, to: QueueOffset) -> bool {
        let stored = self.put(group, topic, queue, to);
        if stored {
            insert(&mut self.resets, group, topic, queue, to);
        }
        stored
    }

    /// Copies the offsets of a topic from one group to another. False when the table is full; some may
    /// have been copied.
    pub fn copy(&mut self, from: &str, to: &str, topic: &str) -> bool {
        let queues = self.groups.get(from).and_then(|topics| topics.get(topic)).cloned().unwrap_or_default();
        queues.into_iter().all(|(queue, offset)| self.put(to, topic, queue, offset))
    }

    fn put(&mut self, group: &str, topic: &str, queue: QueueId, offset: QueueOffset) -> bool {
        if self.known(group, topic, queue).is_none() {
            if self.rows >= ROWS_MAX {
                return false;
            }
            self.rows += 1;
        }
        insert(&mut self.groups, group, topic, queue, offset);
        self.changes += 1;
        self.log_row_later(group, topic, queue);
        true
    }

    fn log_row_later(&mut self, group: &str, topic: &str, queue: QueueId) {
        let row = || (group.to_owned(), topic.to_owned(), queue);
        self.unlogged.as_mut().map(|unlogged| unlogged.rows.insert(row()));
    }

    /// From here on changes are kept for [`ConsumerOffsets::take_changes`], with `all` every row there is.
    pub fn log_changes(&mut self, all: bool) {
        let rows = self.rows().filter(|_| all);
        let rows = rows.map(|(group, topic, queue, _)| (group.to_owned(), topic.to_owned(), queue)).collect();
        self.unlogged = Some(Unlogged { rows, ..Unlogged::default() });
    }

    /// From here on they are not.
    pub fn stop_logging(&mut self) {
        self.unlogged = None;
    }

    /// What changed since this was last asked, as it is now. Rows of names that no topic or group can have
    /// are left out.
    pub fn take_changes(&mut self) -> Vec<Row> {
        let Unlogged { topics, groups, rows } =
            self.unlogged.as_mut().map(std::mem::take).unwrap_or_default();
        let topics = topics.iter().filter_map(|name| Some(Row::TopicForgotten(TopicName::new(name).ok()?)));
        let groups = groups.iter().filter_map(|name| Some(Row::GroupForgotten(GroupName::new(name).ok()?)));
        let row = |(group, topic, queue): &(String, String, QueueId)| {
            let offset = self.known(group, topic, *queue)?;
            Some(Row::Offset(GroupName::new(group).ok()?, TopicName::new(topic).ok()?, *queue, offset))
        };
        topics.chain(groups).chain(rows.iter().filter_map(row)).collect()
    }

    /// What was taken did not get into the log.
    pub fn log_later(&mut self, row: &Row) {
        match (row, &mut self.unlogged) {
            (Row::Offset(group, topic, queue, _), _) => {
                self.log_row_later(group.as_str(), topic.as_str(), *queue);
            }
            (Row::TopicForgotten(topic), Some(unlogged)) => {
                unlogged.topics.insert(topic.to_string());
            }
            (Row::GroupForgotten(group), Some(unlogged)) => {
                unlogged.groups.insert(group.to_string());
            }
            _ => {}
        }
    }

    /// Takes over a row that the log of the broker group says.
    pub fn follow(&mut self, group: &GroupName, topic: &TopicName, queue: QueueId, offset: QueueOffset) {
        self.load(group.as_str(), topic.as_str(), queue, offset);
        self.changes += 1;
    }

    /// Forgets everything, before it is said anew.
    pub fn clear(&mut self) {
        *self = Self { changes: self.changes + 1, ..Self::default() };
    }

    /// Takes the pending reset: the consumer knows of it now.
    pub fn take_reset(&mut self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        let topics = self.resets.get_mut(group)?;
        let queues = topics.get_mut(topic)?;
        let to = queues.remove(&queue)?;
        if queues.is_empty() {
            topics.remove(topic);
        }
        if topics.is_empty() {
            self.resets.remove(group);
        }
        Some(to)
    }

    /// The reset the consumer has not yet picked up.
    #[must_use]
    pub fn reset_pending(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.resets.get(group)?.get(topic)?.get(&queue).copied()
    }

    /// Topics for which `group` has committed offsets.
    pub fn topics_of<'a>(&'a self, group: &str) -> impl Iterator<Item = &'a str> {
        self.groups.get(group).into_iter().flat_map(|topics| topics.keys().map(String::as_str))
    }

    /// Groups that have committed offsets for `topic`.
    pub fn groups_of<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a str> {
        self.groups
            .iter()
            .filter(move |(_, topics)| topics.contains_key(topic))
            .map(|(group, _)| group.as_str())
    }

    /// Forgets a deleted topic.
    pub fn remove_topic(&mut self, topic: &str) {
        self.unlogged.as_mut().map(|unlogged| unlogged.topics.insert(topic.to_owned()));
        for table in [&mut self.groups, &mut self.resets] {
            table.retain(|_, topics| {
                topics.remove(topic);
                !topics.is_empty()
            });
        }
        self.recount();
    }

    /// Forgets a deleted group.
    pub fn remove_group(&mut self, group: &str) {
        self.unlogged.as_mut().map(|unlogged| unlogged.groups.insert(group.to_owned()));
        self.groups.remove(group);
        self.resets.remove(group);
        self.recount();
    }

    /// Every row, ordered by group, topic and queue.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &str, QueueId, QueueOffset)> {
        self.groups.iter().flat_map(|(group, topics)| {
            topics.iter().flat_map(move |(topic, queues)| {
                queues.iter().map(move |(queue, offset)| (group.as_str(), topic.as_str(), *queue, *offset))
            })
        })
    }

    /// Takes over a row read from disk.
    pub fn load(&mut self, group: &str, topic: &str, queue: QueueId, offset: QueueOffset) {
        if self.rows < ROWS_MAX && insert(&mut self.groups, group, topic, queue, offset) {
            self.rows += 1;
        }
    }

    /// A number that grows with every change: equal numbers mean equal tables.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    fn recount(&mut self) {
        self.rows = self.groups.values().flat_map(BTreeMap::values).map(BTreeMap::len).sum();
        self.changes += 1;
    }
}

/// Puts a row; true when it is new.
fn insert(
    table: &mut BTreeMap<String, BTreeMap<String, Queues>>,
    group: &str,
    topic: &str,
    queue: QueueId,
    offset: QueueOffset,
) -> bool {
    if let Some(old) = table
        .get_mut(group)
        .and_then(|topics| topics.get_mut(topic))
        .and_then(|queues| queues.get_mut(&queue))
    {
        *old = offset;
        return false;
    }
    let topics = table.entry(group.to_owned()).or_default();
    topics.entry(topic.to_owned()).or_default().insert(queue, offset).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: (&str, &str, QueueId) = ("g", "t", QueueId(0));

    fn age(min: u64, max: u64, start_is_recent: bool) -> QueueAge {
        QueueAge { min: QueueOffset(min), max: QueueOffset(max), start_is_recent }
    }

    fn at(offset: u64) -> Position {
        Position::At(QueueOffset(offset))
    }

    fn commit(offsets: &mut ConsumerOffsets, offset: i64, source: CommitSource) -> Commit {
        offsets.commit(ROW, offset, QueueOffset(10), source)
    }

    /// proves: I64, B34, B42
    #[test]
    fn commits_stay_within_the_queue() {
        let mut offsets = ConsumerOffsets::default();
        assert_eq!(commit(&mut offsets, -1, CommitSource::Explicit), Commit::Ignored);
        assert_eq!(commit(&mut offsets, 7, CommitSource::Explicit), Commit::Stored(QueueOffset(7)));
        assert_eq!(commit(&mut offsets, i64::MAX, CommitSource::Explicit), Commit::Stored(QueueOffset(10)));
        assert_eq!(offsets.known("g", "t", QueueId(0)), Some(QueueOffset(10)));
    }

    /// proves: I64
    #[test]
    fn only_an_explicit_commit_goes_back() {
        let mut offsets = ConsumerOffsets::default();
        commit(&mut offsets, 7, CommitSource::Explicit);
        assert_eq!(commit(&mut offsets, 5, CommitSource::Pull), Commit::Ignored);
        assert_eq!(commit(&mut offsets, 8, CommitSource::Pull), Commit::Stored(QueueOffset(8)));
        assert_eq!(commit(&mut offsets, 5, CommitSource::Explicit), Commit::Stored(QueueOffset(5)));
    }

    #[test]
    fn a_new_group_starts_at_zero_only_on_a_young_queue() {
        let offsets = ConsumerOffsets::default();
        assert_eq!(offsets.position(ROW, age(0, 0, false), true), at(0), "never held a message");
        assert_eq!(offsets.position(ROW, age(0, 9, true), true), at(0), "all of it is in memory");
        assert_eq!(offsets.position(ROW, age(0, 9, false), true), Position::Unknown, "its start is cold");
        assert_eq!(offsets.position(ROW, age(3, 9, true), true), Position::Unknown, "it was trimmed");
        assert_eq!(offsets.position(ROW, age(3, 3, false), true), Position::Unknown, "trimmed empty");
        assert_eq!(
            offsets.position(ROW, age(0, 0, true), false),
            Position::Unknown,
            "the caller wants to know"
        );
    }

    /// proves: I64, I65
    #[test]
    fn a_known_offset_is_answered_within_the_queue() {
        let mut offsets = ConsumerOffsets::default();
        commit(&mut offsets, 9, CommitSource::Explicit);
        assert_eq!(offsets.position(ROW, age(0, 9, true), true), at(9));
        assert_eq!(offsets.position(ROW, age(0, 4, true), true), at(4), "the log lost its tail");
        assert_eq!(offsets.position(ROW, age(12, 20, true), true), at(12), "retention passed it");
    }

    #[test]
    fn a_reset_holds_until_the_consumer_picks_it_up() {
        let mut offsets = ConsumerOffsets::default();
        commit(&mut offsets, 9, CommitSource::Explicit);
        offsets.reset("g", "t", QueueId(0), QueueOffset(2));
        assert_eq!(commit(&mut offsets, 10, CommitSource::Explicit), Commit::Ignored);
        assert_eq!(offsets.position(ROW, age(0, 10, true), true), at(2));
        assert_eq!(offsets.take_reset("g", "t", QueueId(0)), Some(QueueOffset(2)));
        assert_eq!(offsets.take_reset("g", "t", QueueId(0)), None);
        assert_eq!(offsets.known("g", "t", QueueId(0)), Some(QueueOffset(2)));
        assert!(offsets.resets.is_empty());
    }

    #[test]
    fn deleting_a_topic_or_group_forgets_its_rows() {
        let mut offsets = ConsumerOffsets::default();
        for (group, topic) in [("g", "t"), ("g", "u"), ("h", "t")] {
            offsets.load(group, topic, QueueId(1), QueueOffset(3));
        }
        assert_eq!(offsets.topics_of("g").collect::<Vec<_>>(), ["t", "u"]);
        assert_eq!(offsets.groups_of("t").collect::<Vec<_>>(), ["g", "h"]);
        offsets.remove_topic("t");
        assert_eq!(offsets.rows().collect::<Vec<_>>(), [("g", "u", QueueId(1), QueueOffset(3))]);
        offsets.remove_group("g");
        assert_eq!((offsets.rows().count(), offsets.rows), (0, 0));
    }
}
