//! What stands in a record of the state topic: changes, or a part of a checkpoint.
//!
//! ```text
//! 0         1      2
//! +---------+------+- - - - - - - - - - - - - - - - - - - - - - - - -+- - - - - - -
//! | version | kind | a checkpoint's head                             | rows ...
//! +---------+------+- - - - - - - - - - - - - - - - - - - - - - - - -+- - - - - - -
//!
//! kind 0: changes, rows follow at once. kind 1: a part of a checkpoint, whose head is
//! +------------------+---------------------+-----------+-----------+
//! | as of        u64 | needed from     u64 | part  u32 | parts u32 |
//! +------------------+---------------------+-----------+-----------+
//!
//! a row
//! +---+----------------------------------------------+
//! | 1 | len u32, JSON of the topic                   |  a topic, new or changed
//! | 2 | topic                                        |  it is deleted
//! | 3 | len u32, JSON of the group                   |  a group, new or changed
//! | 4 | group                                        |  it is deleted
//! | 5 | group | topic | queue u32 | offset u64       |  the group goes on there
//! | 6 | topic                                        |  its consumer offsets are forgotten
//! | 7 | group                                        |  its consumer offsets are forgotten
//! | 8 | level u8 | offset u64                        |  delivery of that delay goes on there
//! | 9 | topic | queue u32 | number u64               |  the queue's next message (checkpoints only)
//! +---+----------------------------------------------+
//! ```
//! All numbers are big-endian. A name is its length in one byte and its text. The JSON is that of
//! `topics.json` and `subscriptionGroup.json`. The version is 1; a record of another one is not
//! understood, and who reads it says so rather than going on without it.
//!
//! *As of* is the number, in the state queue, of the first change that the checkpoint does not contain:
//! whoever starts from it applies the changes from there on. *Needed from* is a position of the log:
//! nothing before it is needed by whoever has the checkpoint. A checkpoint counts once its last part
//! is there; parts may have changes between them.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use staticfire_storage::{PhysicalOffset, QueueId, QueueOffset, TopicName};

use crate::protocol::body::{SubscriptionGroupConfig, TopicConfig};
use crate::protocol::json;
use crate::protocol::names::GroupName;

const VERSION: u8 = 1;
const CHANGES: u8 = 0;
const CHECKPOINT: u8 = 1;
/// Rows of one record, about, in bytes.
pub(super) const BODY_BYTES: usize = 32 << 10;

/// A record of the state topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRecord {
    /// Of which checkpoint it is a part; `None`: it holds changes.
    pub part: Option<Part>,
    /// The rows, in order.
    pub rows: Vec<Row>,
}

/// A part of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Number of the first change that is not in it, in the state queue.
    pub as_of: QueueOffset,
    /// Nothing of the log before here is needed by who has the checkpoint.
    pub needed_from: PhysicalOffset,
    /// Which part this is, from 0.
    pub part: u32,
    /// How many there are, 1 or more.
    pub parts: u32,
}

impl Part {
    /// The part behind it in the same checkpoint, if any.
    pub(super) fn next(self) -> Option<Self> {
        let part = self.part + 1;
        (part < self.parts).then_some(Self { part, ..self })
    }
}

/// One thing that is so from here on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// A topic, new or changed.
    Topic(TopicName, Arc<TopicConfig>),
    /// The topic is deleted.
    TopicGone(TopicName),
    /// A group, new or changed.
    Group(GroupName, Arc<SubscriptionGroupConfig>),
    /// The group is deleted.
    GroupGone(GroupName),
    /// A group goes on at this message of a queue.
    Offset(GroupName, TopicName, QueueId, QueueOffset),
    /// The consumer offsets of the topic are forgotten.
    TopicForgotten(TopicName),
    /// The consumer offsets of the group are forgotten.
    GroupForgotten(GroupName),
    /// Delivery of this delay level goes on at this message.
    Delay(u8, QueueOffset),
    /// The next message of this queue gets this number.
    Number(TopicName, QueueId, QueueOffset),
}

/// Why bytes are no record of the state topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// A version or kind that this program does not know: a newer one wrote it.
    Unknown(u8),
    /// A row of a kind that this program does not know.
    UnknownRow(u8),
    /// It ends too early.
    Short,
    /// Part so-and-so of so many.
    Part(u32, u32),
    /// A name that breaks the rules for names.
    Name,
    /// The JSON of a topic or group cannot be read.
    Json(String),
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(found) => write!(f, "version or kind {found} is of a newer program; use that one"),
            Self::UnknownRow(found) => {
                write!(f, "a row of kind {found} is of a newer program; use that one")
            }
            Self::Short => f.write_str("it ends in the middle of something"),
            Self::Part(part, parts) => write!(f, "part {part} of {parts}"),
            Self::Name => f.write_str("a name breaks the rules for names"),
            Self::Json(why) => write!(f, "a topic or group cannot be read: {why}"),
        }
    }
}

impl std::error::Error for FormatError {}

impl StateRecord {
    /// Reads the body of a record.
    ///
    /// # Errors
    /// [`FormatError`]
    pub fn read(body: &[u8]) -> Result<Self, FormatError> {
        let mut bytes = Bytes(body);
        let part = bytes.part()?;
        let mut rows = Vec::new();
        while !bytes.0.is_empty() {
            rows.push(bytes.row()?);
        }
        Ok(Self { part, rows })
    }

    /// Which part of a checkpoint a body is, without reading its rows.
    ///
    /// # Errors
    /// [`FormatError`]
    pub fn part_of(body: &[u8]) -> Result<Option<Part>, FormatError> {
        Bytes(body).part()
    }

    /// The body of the record.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let mut body = head(self.part);
        self.rows.iter().for_each(|row| row.write(&mut body));
        body
    }
}

/// The bodies of the records that hold these changes, in order.
#[must_use]
pub fn changes(rows: &[Row]) -> Vec<Vec<u8>> {
    with_rows(rows, BODY_BYTES).into_iter().map(|rows| [head(None), rows].concat()).collect()
}

/// The bodies of the records of a checkpoint, in order.
pub(super) fn checkpoint(
    as_of: QueueOffset,
    needed_from: PhysicalOffset,
    rows: impl IntoIterator<Item = Row>,
    bytes: usize,
) -> Vec<Vec<u8>> {
    let mut all = with_rows(rows, bytes);
    if all.is_empty() {
        all.push(Vec::new());
    }
    let parts = u32::try_from(all.len()).expect("fewer parts than rows fit into memory");
    let part = |part| head(Some(Part { as_of, needed_from, part, parts }));
    (0..parts).zip(all).map(|(number, rows)| [part(number), rows].concat()).collect()
}

/// The rows, put together up to so many bytes at a time; a larger row stands alone.
fn with_rows<R: Borrow<Row>>(rows: impl IntoIterator<Item = R>, bytes: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut now = Vec::new();
    for row in rows {
        let before = now.len();
        row.borrow().write(&mut now);
        if now.len() > bytes && before > 0 {
            let row = now.split_off(before);
            all.push(std::mem::replace(&mut now, row));
        }
    }
    if !now.is_empty() {
        all.push(now);
    }
    all
}

fn head(part: Option<Part>) -> Vec<u8> {
    let Some(Part { as_of, needed_from, part, parts }) = part else { return vec![VERSION, CHANGES] };
    let mut head = vec![VERSION, CHECKPOINT];
    head.extend([as_of.0, needed_from.0].into_iter().flat_map(u64::to_be_bytes));
    head.extend([part, parts].into_iter().flat_map(u32::to_be_bytes));
    head
}

impl Row {
    fn write(&self, body: &mut Vec<u8>) {
        match self {
            Self::Topic(_, config) => long(body, 1, &json::to_bytes(&**config)),
            Self::TopicGone(topic) => name(kind(body, 2), topic.as_str()),
            Self::Group(_, config) => long(body, 3, &json::to_bytes(&**config)),
            Self::GroupGone(group) => name(kind(body, 4), group.as_str()),
            Self::Offset(group, topic, queue, offset) => {
                name(kind(body, 5), group.as_str());
                in_queue(body, topic, *queue, *offset);
            }
            Self::TopicForgotten(topic) => name(kind(body, 6), topic.as_str()),
            Self::GroupForgotten(group) => name(kind(body, 7), group.as_str()),
            Self::Delay(level, offset) => {
                kind(body, 8).push(*level);
                body.extend(offset.0.to_be_bytes());
            }
            Self::Number(topic, queue, offset) => in_queue(kind(body, 9), topic, *queue, *offset),
        }
    }
}

fn kind(body: &mut Vec<u8>, kind: u8) -> &mut Vec<u8> {
    body.push(kind);
    body
}

fn long(body: &mut Vec<u8>, of_kind: u8, text: &[u8]) {
    let len = u32::try_from(text.len()).expect("no configuration is that long");
    kind(body, of_kind).extend(len.to_be_bytes());
    body.extend(text);
}

fn name(body: &mut Vec<u8>, name: &str) {
    body.push(u8::try_from(name.len()).expect("names are shorter"));
    body.extend(name.as_bytes());
}

fn in_queue(body: &mut Vec<u8>, topic: &TopicName, queue: QueueId, offset: QueueOffset) {
    name(body, topic.as_str());
    body.extend(queue.0.to_be_bytes());
    body.extend(offset.0.to_be_bytes());
}

/// What is left to be read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn part(&mut self) -> Result<Option<Part>, FormatError> {
        match (self.u8()?, self.u8()?) {
            (VERSION, CHANGES) => Ok(None),
            (VERSION, CHECKPOINT) => {
                let (as_of, needed_from) = (QueueOffset(self.u64()?), PhysicalOffset(self.u64()?));
                let (part, parts) = (self.u32()?, self.u32()?);
                if part >= parts {
                    return Err(FormatError::Part(part, parts));
                }
                Ok(Some(Part { as_of, needed_from, part, parts }))
            }
            (VERSION, other) | (other, _) => Err(FormatError::Unknown(other)),
        }
    }

    fn row(&mut self) -> Result<Row, FormatError> {
        Ok(match self.u8()? {
            1 => {
                let config: TopicConfig = self.json()?;
                let topic = TopicName::new(&config.topic_name).map_err(|_| FormatError::Name)?;
                Row::Topic(topic, Arc::new(config))
            }
            2 => Row::TopicGone(self.topic()?),
            3 => {
                let config: SubscriptionGroupConfig = self.json()?;
                let group = GroupName::new(&config.group_name).map_err(|_| FormatError::Name)?;
                Row::Group(group, Arc::new(config))
            }
            4 => Row::GroupGone(self.group()?),
            5 => Row::Offset(self.group()?, self.topic()?, self.queue()?, self.offset()?),
            6 => Row::TopicForgotten(self.topic()?),
            7 => Row::GroupForgotten(self.group()?),
            8 => Row::Delay(self.u8()?, self.offset()?),
            9 => Row::Number(self.topic()?, self.queue()?, self.offset()?),
            other => return Err(FormatError::UnknownRow(other)),
        })
    }

    fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, FormatError> {
        let len = self.u32()?;
        let text = self.take(usize::try_from(len).map_err(|_| FormatError::Short)?)?;
        json::from_slice_tolerant(text).map_err(|error| FormatError::Json(error.to_string()))
    }

    fn topic(&mut self) -> Result<TopicName, FormatError> {
        TopicName::new(self.name()?).map_err(|_| FormatError::Name)
    }

    fn group(&mut self) -> Result<GroupName, FormatError> {
        GroupName::new(self.name()?).map_err(|_| FormatError::Name)
    }

    fn name(&mut self) -> Result<&'a str, FormatError> {
        let len = self.u8()?;
        std::str::from_utf8(self.take(len.into())?).map_err(|_| FormatError::Name)
    }

    fn queue(&mut self) -> Result<QueueId, FormatError> {
        self.u32().map(QueueId)
    }

    fn offset(&mut self) -> Result<QueueOffset, FormatError> {
        self.u64().map(QueueOffset)
    }

    fn u8(&mut self) -> Result<u8, FormatError> {
        self.array().map(u8::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_be_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (found, rest) = self.0.split_first_chunk().ok_or(FormatError::Short)?;
        self.0 = rest;
        Ok(*found)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let (found, rest) = self.0.split_at_checked(len).ok_or(FormatError::Short)?;
        self.0 = rest;
        Ok(found)
    }
}
