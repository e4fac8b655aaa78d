//! What a broker group knows besides its messages: topics, groups, and how far consumers and delayed
//! messages are (DESIGN D10). It travels in the log, so that whoever is promoted has it.
//!
//! ```text
//!  state topic, queue 0     0       1       2       3        4       5        6
//!                        change  change  part 1  change   part 2  change   change
//!                                        of 2 ───────────  of 2
//!                                        as of 2
//!
//!  a node that runs:  applies 0, 1, 3, 5, 6, each when it is confirmed
//!  a node that starts, or finds 0 and 1 gone: takes the newest checkpoint that is whole, and then
//!                     applies the changes from 2 on: 3, 5, 6
//! ```
//! Both end with the same state: it is a function of the log up to a position (I42). Changes say what is
//! so from now on, never by how much, so one that is applied twice does no harm.

mod keeping;
pub mod record;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use staticfire_storage::{PhysicalOffset, QueueId, QueueOffset, ReadError, TopicName};

use crate::protocol::body::{SubscriptionGroupConfig, TopicConfig};
use crate::protocol::names::GroupName;
pub use keeping::{Keeping, keep_exported, keep_state};
use record::{FormatError, Part, Row, StateRecord};

/// A checkpoint is due when so many bytes of changes were applied since the last one, and at least as many
/// as it had.
const CHECKPOINT_EVERY: u64 = 1 << 20;

/// The state of a broker group at one position of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicatedState {
    topics: BTreeMap<TopicName, Arc<TopicConfig>>,
    groups: BTreeMap<GroupName, Arc<SubscriptionGroupConfig>>,
    offsets: BTreeMap<(GroupName, TopicName, QueueId), QueueOffset>,
    delays: BTreeMap<u8, QueueOffset>,
    /// Number of the next record of the state queue.
    next: QueueOffset,
    checkpoint: Progress,
}

/// Which checkpoints went by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// The part that has to come next for a checkpoint to be whole.
    awaited: Option<Part>,
    /// Bytes of its parts so far.
    bytes: u64,
    /// The last part of the newest whole one, and its bytes.
    whole: Option<(Part, u64)>,
    /// Bytes of changes since then.
    since: u64,
}

/// Why the state of a group is not known here.
#[derive(Debug)]
pub enum StateError {
    /// A record of the state queue cannot be read.
    Unreadable {
        /// Its number there.
        at: QueueOffset,
        /// What the store said.
        cause: ReadError,
    },
    /// A record of the state queue is not understood.
    Format {
        /// Its number there.
        at: QueueOffset,
        /// What is wrong with it.
        cause: FormatError,
    },
    /// Changes before this one are gone, and no whole checkpoint is there.
    Incomplete {
        /// The oldest record of the state queue.
        first: QueueOffset,
    },
    /// Another record was expected.
    Order {
        /// Its number in the state queue.
        expected: QueueOffset,
        /// What came.
        found: QueueOffset,
    },
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { at, cause } => write!(f, "state record {at} cannot be read: {cause}"),
            Self::Format { at, cause } => write!(f, "state record {at}: {cause}"),
            Self::Incomplete { first } => {
                write!(f, "the state before record {first} is gone, and no whole checkpoint follows")
            }
            Self::Order { expected, found } => {
                write!(f, "state record {found} came where {expected} was expected")
            }
        }
    }
}

impl std::error::Error for StateError {}

/// The next numbers of queues, as a checkpoint has them.
pub type Numbers = Vec<(TopicName, QueueId, QueueOffset)>;

impl ReplicatedState {
    /// The state after the records `first..end` of the state queue, and the numbers in the checkpoint that it
    /// starts from.
    ///
    /// # Errors
    /// [`StateError`]; [`StateError::Incomplete`] when the records before `first` are needed.
    pub fn rebuild(
        first: QueueOffset,
        end: QueueOffset,
        mut read: impl FnMut(QueueOffset) -> Result<Bytes, ReadError>,
    ) -> Result<(Self, Numbers), StateError> {
        let mut body = |at| read(at).map_err(|cause| StateError::Unreadable { at, cause });
        let (mut state, numbers) = match newest_checkpoint(first, end, &mut body)? {
            Some((as_of, rows)) => Self::of_checkpoint(as_of, rows),
            None if first == QueueOffset(0) => Default::default(),
            None => return Err(StateError::Incomplete { first }),
        };
        while state.next < end {
            let at = state.next;
            state.apply(at, &body(at)?)?;
        }
        Ok((state, numbers))
    }

    fn of_checkpoint(as_of: QueueOffset, rows: Vec<Row>) -> (Self, Numbers) {
        let mut state = Self { next: as_of, ..Self::default() };
        let mut numbers = Vec::new();
        for row in rows {
            match row {
                Row::Number(topic, queue, next) => numbers.push((topic, queue, next)),
                row => state.take(&row),
            }
        }
        (state, numbers)
    }

    /// Applies the record number `at` of the state queue; what it says. Of a part of a checkpoint, whoever
    /// runs needs only the numbers of queues that it may not have.
    ///
    /// # Errors
    /// [`StateError::Format`], [`StateError::Order`]; nothing was applied then.
    pub fn apply(&mut self, at: QueueOffset, body: &[u8]) -> Result<Vec<Row>, StateError> {
        if at != self.next {
            return Err(StateError::Order { expected: self.next, found: at });
        }
        let StateRecord { part, mut rows } =
            StateRecord::read(body).map_err(|cause| StateError::Format { at, cause })?;
        self.next = at.after(1);
        match part {
            None => {
                rows.iter().for_each(|row| self.take(row));
                self.checkpoint.since += body.len() as u64;
            }
            Some(part) => {
                self.checkpoint.pass(part, body.len() as u64);
                rows.retain(|row| matches!(row, Row::Number(..)));
            }
        }
        Ok(rows)
    }

    fn take(&mut self, row: &Row) {
        match row {
            Row::Topic(topic, config) => drop(self.topics.insert(topic.clone(), Arc::clone(config))),
            Row::TopicGone(topic) => drop(self.topics.remove(topic)),
            Row::Group(group, config) => drop(self.groups.insert(group.clone(), Arc::clone(config))),
            Row::GroupGone(group) => drop(self.groups.remove(group)),
            Row::Offset(group, topic, queue, offset) => {
                self.offsets.insert((group.clone(), topic.clone(), *queue), *offset);
            }
            Row::TopicForgotten(topic) => self.offsets.retain(|(_, of, _), _| of != topic),
            Row::GroupForgotten(group) => self.offsets.retain(|(of, ..), _| of != group),
            Row::Delay(level, offset) => drop(self.delays.insert(*level, *offset)),
            Row::Number(..) => {}
        }
    }

    /// The bodies of a checkpoint of this state, in the order in which they are to be appended. Everything
    /// before `needed_from` was applied, and `numbers` are not lower than the queues' were there.
    #[must_use]
    pub fn checkpoint(&self, needed_from: PhysicalOffset, numbers: Numbers) -> Vec<Vec<u8>> {
        self.checkpoint_in(needed_from, numbers, record::BODY_BYTES)
    }

    fn checkpoint_in(&self, needed_from: PhysicalOffset, numbers: Numbers, bytes: usize) -> Vec<Vec<u8>> {
        let numbers = numbers.into_iter().map(|(topic, queue, next)| Row::Number(topic, queue, next));
        record::checkpoint(self.next, needed_from, self.rows().chain(numbers), bytes)
    }

    /// Everything in it.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let topics = self.topics.iter().map(|(name, config)| Row::Topic(name.clone(), Arc::clone(config)));
        let groups = self.groups.iter().map(|(name, config)| Row::Group(name.clone(), Arc::clone(config)));
        let offset = |((group, topic, queue), offset): (&(GroupName, TopicName, QueueId), &QueueOffset)| {
            Row::Offset(group.clone(), topic.clone(), *queue, *offset)
        };
        let delays = self.delays.iter().map(|(level, next)| Row::Delay(*level, *next));
        topics.chain(groups).chain(self.offsets.iter().map(offset)).chain(delays)
    }

    /// The topics, without those that every broker has.
    #[must_use]
    pub const fn topics(&self) -> &BTreeMap<TopicName, Arc<TopicConfig>> {
        &self.topics
    }

    /// The consumer groups.
    #[must_use]
    pub const fn groups(&self) -> &BTreeMap<GroupName, Arc<SubscriptionGroupConfig>> {
        &self.groups
    }

    /// Where each group goes on in each queue.
    pub fn offsets(&self) -> impl Iterator<Item = (&GroupName, &TopicName, QueueId, QueueOffset)> {
        self.offsets.iter().map(|((group, topic, queue), offset)| (group, topic, *queue, *offset))
    }

    /// Where delivery of each delay level goes on.
    pub fn delays(&self) -> impl Iterator<Item = (u8, QueueOffset)> {
        self.delays.iter().map(|(level, next)| (*level, *next))
    }

    /// The number of the next record of the state queue: 0 when nothing was ever confirmed.
    #[must_use]
    pub const fn next(&self) -> QueueOffset {
        self.next
    }

    /// Nothing of the log before here is needed to know the state and the numbers of all queues.
    #[must_use]
    pub fn needed_from(&self) -> PhysicalOffset {
        self.checkpoint.whole.map_or(PhysicalOffset(0), |(part, _)| part.needed_from)
    }

    /// True when it is time for the next checkpoint.
    #[must_use]
    pub fn wants_checkpoint(&self) -> bool {
        let Progress { whole, since, .. } = self.checkpoint;
        whole.is_none_or(|(_, bytes)| since >= bytes.max(CHECKPOINT_EVERY))
    }
}

impl Progress {
    fn pass(&mut self, part: Part, bytes: u64) {
        if part.part == 0 {
            (self.awaited, self.bytes) = (Some(part), 0);
        }
        if self.awaited != Some(part) {
            self.awaited = None;
            return;
        }
        self.bytes += bytes;
        self.awaited = part.next();
        if self.awaited.is_none() {
            (self.whole, self.since) = (Some((part, self.bytes)), 0);
        }
    }
}

type Body<'a> = &'a mut dyn FnMut(QueueOffset) -> Result<Bytes, StateError>;

/// The newest whole checkpoint among the records `first..end` whose changes are there as well.
fn newest_checkpoint(
    first: QueueOffset,
    end: QueueOffset,
    body: Body<'_>,
) -> Result<Option<(QueueOffset, Vec<Row>)>, StateError> {
    for at in (first.0..end.0).rev().map(QueueOffset) {
        let part = StateRecord::part_of(&body(at)?).map_err(|cause| StateError::Format { at, cause })?;
        let Some(part) = part.filter(|part| part.next().is_none() && part.as_of >= first) else { continue };
        if let Some(rows) = parts(part, at, body)? {
            return Ok(Some((part.as_of, rows)));
        }
    }
    Ok(None)
}

/// The rows of the checkpoint whose last part is record `end`; `None` when it is not whole.
fn parts(last: Part, end: QueueOffset, body: Body<'_>) -> Result<Option<Vec<Row>>, StateError> {
    let mut awaited = Part { part: 0, ..last };
    let mut rows = Vec::new();
    for at in (last.as_of.0..=end.0).map(QueueOffset) {
        let bytes = body(at)?;
        let format = |cause| StateError::Format { at, cause };
        let Some(part) = StateRecord::part_of(&bytes).map_err(format)? else { continue };
        let starts = Part { part: 0, ..last };
        if part == starts {
            // The leader began it once more.
            rows.clear();
            awaited = starts;
        }
        if part == awaited {
            rows.extend(StateRecord::read(&bytes).map_err(format)?.rows);
            match part.next() {
                Some(next) => awaited = next,
                None => return Ok((at == end).then_some(rows)),
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
