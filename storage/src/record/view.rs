//! Reads a record: a view over its bytes, checked once.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;

use super::{
    BODY_CRC, BORN_HOST, BORN_MS, FLAG, MAGIC, MAGIC_V1, MAGIC_V2, Moving, PHYSICAL, QUEUE_ID, QUEUE_OFFSET,
    RECORD_LEN_MIN, SYS_FLAG, TOTAL, host_at, i32_at, i64_at,
};
use crate::checksum::{self, SUFFIX_LEN, crc31};
use crate::message::{Message, Transaction, sys_flag};
use crate::message_id::MessageId;
use crate::name::{NameError, TopicName};
use crate::position::{PhysicalOffset, QueueId, QueueOffset};
use crate::properties::{Properties, TAGS};

/// One stored record: a slice of the log whose structure was checked when the view was made.
/// Cloning copies a pointer; the bytes are shared with the log.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    bytes: Bytes,
    shape: Shape,
}

/// Whether a record must carry the record CRC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordCrc {
    /// It must: the record was written here. A record without one is damaged.
    Required,
    /// It is checked when present: the record may be RocketMQ's, which protects the body alone.
    IfPresent,
}

/// Where the parts of variable length are. Checked against the length of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    body: u32,
    body_end: u32,
    topic: u32,
    topic_end: u32,
    end: u32,
}

impl Record {
    /// Checks the record that starts at the first of `bytes`, which is at `at` in the log. More
    /// bytes may follow it.
    ///
    /// Checked are all lengths against each other and against `bytes`, magic, ranges, both CRCs,
    /// and that the record says it is at `at`.
    ///
    /// # Errors
    /// [`RecordError`]: the first thing found wrong.
    pub fn parse(bytes: Bytes, at: PhysicalOffset, crc: RecordCrc) -> Result<Self, RecordError> {
        let record = Self::unverified(bytes)?;
        record.check(at, crc)?;
        Ok(record)
    }

    /// As [`Record::parse`], but without the body CRC when there is a right record CRC: that covers the
    /// body and the field of the body CRC, so both are what was sealed. Whether those two agree was
    /// looked at where the record came from (it was made here, or recovered or copied through
    /// [`Record::parse`]) and cannot change since; `verify` looks again. RocketMQ computes one of
    /// the two as well.
    ///
    /// # Errors
    /// As [`Record::parse`].
    pub(crate) fn parse_again(bytes: Bytes, at: PhysicalOffset, crc: RecordCrc) -> Result<Self, RecordError> {
        let record = Self::unverified(bytes)?;
        if record.physical() == at && record.record_crc() == Some(record.computed_crc()) {
            return Ok(record);
        }
        // Says what is wrong, unless it is a record without a record CRC.
        record.check(at, crc)?;
        Ok(record)
    }

    /// Looks at the record that starts at the first of `bytes`, in a range that was checked
    /// before (or will be by whoever gets it). Lengths, magic and ranges are checked, so that no
    /// accessor can fail; checksums and position are not.
    ///
    /// # Errors
    /// [`RecordError`]: the first thing found wrong.
    pub fn unverified(bytes: Bytes) -> Result<Self, RecordError> {
        let shape = Shape::of(&bytes)?;
        let end = shape.end as usize;
        let bytes = if bytes.len() == end { bytes } else { bytes.slice(..end) };
        Ok(Self { bytes, shape })
    }

    /// Everything that [`Record::parse`] checks and [`Record::unverified`] does not.
    pub(crate) fn check(&self, at: PhysicalOffset, crc: RecordCrc) -> Result<(), RecordError> {
        // First, because it costs nothing: whoever looks for the next record behind damage tries
        // many places.
        if self.physical() != at {
            return Err(RecordError::Position { found: self.physical(), expected: at });
        }
        let (found, expected) = (self.body_crc(), crc31(&self.bytes[self.shape.body()]));
        if found != expected {
            return Err(RecordError::BodyCrc { found, expected });
        }
        match self.record_crc() {
            Some(found) => {
                let expected = self.computed_crc();
                if found != expected {
                    return Err(RecordError::RecordCrc { found, expected });
                }
            }
            None if crc == RecordCrc::Required => return Err(RecordError::RecordCrcMissing),
            // RocketMQ takes a record whose last page did not reach the disk for whole when the
            // page held only properties. No writer ends a property string with a zero byte.
            None if self.properties().as_bytes().last() == Some(&0) => {
                return Err(RecordError::PropertiesTorn);
            }
            None => {}
        }
        Ok(())
    }

    /// What the record CRC should be.
    fn computed_crc(&self) -> u32 {
        crc31(&self.bytes[..self.bytes.len() - SUFFIX_LEN])
    }

    /// The record as stored: a slice of the log.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Length in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "no record is empty")]
    pub fn len(&self) -> u32 {
        self.shape.end
    }

    /// [`MAGIC_V1`] or [`MAGIC_V2`].
    #[must_use]
    pub fn magic(&self) -> u32 {
        i32_at(&self.bytes, MAGIC.start).cast_unsigned()
    }

    /// The stored CRC of the body.
    #[must_use]
    pub fn body_crc(&self) -> u32 {
        i32_at(&self.bytes, BODY_CRC.start).cast_unsigned()
    }

    /// The stored CRC of the record, when it has one.
    #[must_use]
    pub fn record_crc(&self) -> Option<u32> {
        checksum::read_suffix(self.properties().as_bytes())
    }

    /// The queue it belongs to.
    #[must_use]
    pub fn queue(&self) -> QueueId {
        QueueId(i32_at(&self.bytes, QUEUE_ID.start).unsigned_abs())
    }

    /// The sender's own number.
    #[must_use]
    pub fn flag(&self) -> i32 {
        i32_at(&self.bytes, FLAG.start)
    }

    /// Its number in the queue; 0 and without meaning for a message that is not queued
    /// ([`Transaction::is_queued`]).
    #[must_use]
    pub fn queue_offset(&self) -> QueueOffset {
        QueueOffset(i64_at(&self.bytes, QUEUE_OFFSET.start).unsigned_abs())
    }

    /// Where in the log it says it starts.
    #[must_use]
    pub fn physical(&self) -> PhysicalOffset {
        PhysicalOffset(i64_at(&self.bytes, PHYSICAL.start).unsigned_abs())
    }

    /// [`sys_flag`] bits.
    #[must_use]
    pub fn sys_flag(&self) -> i32 {
        i32_at(&self.bytes, SYS_FLAG.start)
    }

    /// When the sender made it, in milliseconds since the Unix epoch, by the sender's clock.
    #[must_use]
    pub fn born_ms(&self) -> i64 {
        i64_at(&self.bytes, BORN_MS.start)
    }

    /// The sender's address.
    #[must_use]
    pub fn born_host(&self) -> SocketAddr {
        let v6 = self.sys_flag() & sys_flag::BORN_HOST_V6 != 0;
        host_at(&self.bytes, BORN_HOST, v6).expect("the port was checked")
    }

    /// When it was stored, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn store_ms(&self) -> i64 {
        i64_at(&self.bytes, self.fields().store_ms)
    }

    /// The address of the broker that stored it.
    #[must_use]
    pub fn store_host(&self) -> SocketAddr {
        let v6 = self.sys_flag() & sys_flag::STORE_HOST_V6 != 0;
        host_at(&self.bytes, self.fields().store_host, v6).expect("the port was checked")
    }

    /// How often consumers have failed on it.
    #[must_use]
    pub fn reconsume_times(&self) -> i32 {
        i32_at(&self.bytes, self.fields().reconsume_times)
    }

    /// Position of the half message a committed one was made of.
    #[must_use]
    pub fn prepared_offset(&self) -> i64 {
        i64_at(&self.bytes, self.fields().prepared_offset)
    }

    /// The body, a slice of the log.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.bytes.slice(self.shape.body())
    }

    /// The topic. Records by others may hold names that [`TopicName`] refuses.
    #[must_use]
    pub fn topic(&self) -> &str {
        let topic = &self.bytes[self.shape.topic as usize..self.shape.topic_end as usize];
        std::str::from_utf8(topic).expect("the topic was checked")
    }

    /// The properties, the record CRC among them.
    #[must_use]
    pub fn properties(&self) -> Properties<'_> {
        Properties::new(&self.bytes[self.shape.properties()])
    }

    /// The value of a property; `None` also when it is not UTF-8.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties().get(name)
    }

    /// The `TAGS` property.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.property(TAGS)
    }

    /// What part of a transaction it is.
    #[must_use]
    pub fn transaction(&self) -> Transaction {
        Transaction::of(self.sys_flag())
    }

    /// The id that names it: store host and position.
    #[must_use]
    pub fn message_id(&self) -> MessageId {
        MessageId { host: self.store_host(), physical: self.physical() }
    }

    /// What would have to be appended to store it again. Shares the bytes.
    ///
    /// # Errors
    /// [`NameError`] when others gave it a topic that cannot be written here.
    pub fn to_message(&self) -> Result<Message, NameError> {
        Ok(Message {
            topic: TopicName::new(self.topic())?,
            queue: self.queue(),
            flag: self.flag(),
            sys_flag: self.sys_flag(),
            born_ms: self.born_ms(),
            born_host: self.born_host(),
            reconsume_times: self.reconsume_times(),
            prepared_offset: self.prepared_offset(),
            body: self.body(),
            properties: self.bytes.slice(self.shape.properties()),
        })
    }

    fn fields(&self) -> Moving {
        Moving::of(self.sys_flag())
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("physical", &self.physical())
            .field("len", &self.len())
            .field("topic", &self.topic())
            .field("queue", &self.queue())
            .field("queue_offset", &self.queue_offset())
            .field("properties", &self.properties())
            .finish_non_exhaustive()
    }
}

impl Shape {
    fn body(self) -> Range<usize> {
        self.body as usize..self.body_end as usize
    }

    fn properties(self) -> Range<usize> {
        self.topic_end as usize + 2..self.end as usize
    }

    /// Finds the parts of the record at the first of `bytes`.
    fn of(bytes: &[u8]) -> Result<Self, RecordError> {
        let (len, magic) = head(bytes)?;
        let record = &bytes[..len as usize];
        let fields = Moving::of(i32_at(record, SYS_FLAG.start));
        let mut parts = Parts { record, at: fields.body_len };
        let body = parts.take("body", 4)?;
        let topic = parts.take("topic", if magic == MAGIC_V1 { 1 } else { 2 })?;
        let properties = parts.take("properties", 2)?;
        if properties.end != record.len() {
            return Err(RecordError::Lengths { total: len, sum: properties.end as u32 });
        }
        // Most often it is ASCII, which is told at a glance.
        let name = &record[topic.clone()];
        if !name.is_ascii() && std::str::from_utf8(name).is_err() {
            return Err(RecordError::TopicNotText);
        }
        check_ranges(record, fields)?;
        Ok(Self {
            body: body.start as u32,
            body_end: body.end as u32,
            topic: topic.start as u32,
            topic_end: topic.end as u32,
            end: len,
        })
    }
}

/// Total size and magic at the first of `bytes`, which hold at least the total size.
pub(super) fn head(bytes: &[u8]) -> Result<(u32, u32), RecordError> {
    let available = bytes.len() as u64;
    let truncated = |needed: u64| RecordError::Truncated { needed, available };
    if bytes.len() < MAGIC.end {
        return Err(truncated(MAGIC.end as u64));
    }
    let total = i32_at(bytes, TOTAL.start);
    let magic = i32_at(bytes, MAGIC.start).cast_unsigned();
    if magic != MAGIC_V1 && magic != MAGIC_V2 {
        return Err(RecordError::Magic { found: magic });
    }
    match u32::try_from(total) {
        Ok(len) if (len as usize) < RECORD_LEN_MIN => Err(RecordError::TotalSize { found: total }),
        Ok(len) if u64::from(len) > available => Err(truncated(len.into())),
        Ok(len) => Ok((len, magic)),
        Err(_) => Err(RecordError::TotalSize { found: total }),
    }
}

/// Walks over the parts that start with their length.
struct Parts<'a> {
    record: &'a [u8],
    at: usize,
}

impl Parts<'_> {
    /// The next part; its length is a signed number of `width` bytes.
    fn take(&mut self, part: &'static str, width: usize) -> Result<Range<usize>, RecordError> {
        let start = self.at + width;
        let Some(field) = self.record.get(self.at..start) else {
            return Err(RecordError::Part { part, len: None });
        };
        let found = field[1..].iter().fold(i64::from(field[0].cast_signed()), |n, b| n << 8 | i64::from(*b));
        let end = usize::try_from(found).ok().and_then(|len| start.checked_add(len));
        match end {
            Some(end) if end <= self.record.len() => {
                self.at = end;
                Ok(start..end)
            }
            _ => Err(RecordError::Part { part, len: Some(found) }),
        }
    }
}

fn check_ranges(record: &[u8], fields: Moving) -> Result<(), RecordError> {
    let flags = i32_at(record, SYS_FLAG.start);
    let not_negative = |field, found: i64| match found {
        0.. => Ok(()),
        _ => Err(RecordError::OutOfRange { field, found }),
    };
    let port = |field, at, bit: i32| match host_at(record, at, flags & bit != 0) {
        Ok(_) => Ok(()),
        Err(port) => Err(RecordError::OutOfRange { field, found: port.into() }),
    };
    not_negative("queue id", i32_at(record, QUEUE_ID.start).into())?;
    not_negative("queue offset", i64_at(record, QUEUE_OFFSET.start))?;
    not_negative("physical offset", i64_at(record, PHYSICAL.start))?;
    port("born port", BORN_HOST, sys_flag::BORN_HOST_V6)?;
    port("store port", fields.store_host, sys_flag::STORE_HOST_V6)
}

/// What is wrong with the bytes where a record should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The bytes end before the record does.
    Truncated {
        /// Bytes the record takes.
        needed: u64,
        /// Bytes that are there.
        available: u64,
    },
    /// The total size is smaller than any record.
    TotalSize {
        /// The number stored.
        found: i32,
    },
    /// Neither of the magic numbers.
    Magic {
        /// The number stored.
        found: u32,
    },
    /// A part of variable length is negative or passes the end of the record.
    Part {
        /// Body, topic or properties.
        part: &'static str,
        /// The length stored; `None` when even that lies behind the end.
        len: Option<i64>,
    },
    /// The parts do not add up to the total size.
    Lengths {
        /// The total size stored.
        total: u32,
        /// What the parts add up to.
        sum: u32,
    },
    /// A number that no writer stores.
    OutOfRange {
        /// Which field.
        field: &'static str,
        /// The number stored.
        found: i64,
    },
    /// The topic is not UTF-8.
    TopicNotText,
    /// The body is not what was written.
    BodyCrc {
        /// The CRC stored.
        found: u32,
        /// The CRC of the body as it is.
        expected: u32,
    },
    /// The record is not what was written.
    RecordCrc {
        /// The CRC stored.
        found: u32,
        /// The CRC of the record as it is.
        expected: u32,
    },
    /// The record carries no record CRC where every record must.
    RecordCrcMissing,
    /// The properties of a record without record CRC end in zeros: they did not reach the disk.
    PropertiesTorn,
    /// A record of another position: stale, or copied.
    Position {
        /// Where it says it is.
        found: PhysicalOffset,
        /// Where it is.
        expected: PhysicalOffset,
    },
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { needed, available } => {
                write!(f, "the record takes {needed} bytes, only {available} are there")
            }
            Self::TotalSize { found } => {
                write!(f, "total size is {found}, the shortest record has {RECORD_LEN_MIN} bytes")
            }
            Self::Magic { found } => {
                write!(f, "magic is {found:08x}, should be {MAGIC_V1:08x} or {MAGIC_V2:08x}")
            }
            Self::Part { part, len: Some(len) } => {
                write!(f, "{part} length is {len}, which passes the record")
            }
            Self::Part { part, len: None } => write!(f, "the {part} starts behind the end of the record"),
            Self::Lengths { total, sum } => write!(f, "total size is {total}, the parts add up to {sum}"),
            Self::OutOfRange { field, found } => write!(f, "{field} is {found}"),
            Self::TopicNotText => f.write_str("the topic is not UTF-8"),
            Self::BodyCrc { found, expected } => {
                write!(f, "body CRC is {found:08x}, should be {expected:08x}")
            }
            Self::RecordCrc { found, expected } => {
                write!(f, "record CRC is {found:08x}, should be {expected:08x}")
            }
            Self::RecordCrcMissing => f.write_str("the record CRC is missing"),
            Self::PropertiesTorn => f.write_str("the properties end in zeros: they were not written out"),
            Self::Position { found, expected } => {
                write!(f, "the record says it is at {found}, but is at {expected}")
            }
        }
    }
}

impl std::error::Error for RecordError {}
