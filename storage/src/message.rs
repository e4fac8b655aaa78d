//! A message to be appended, and the limits it must keep.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;

use crate::name::TopicName;
use crate::position::QueueId;
use crate::properties::{self, Properties, PropertyError};

/// The longest body, in bytes.
pub const BODY_LEN_MAX: usize = 4 << 20;

/// Bits of [`Message::sys_flag`] (store-format 3.2).
pub mod sys_flag {
    /// The body is compressed.
    pub const COMPRESSED: i32 = 0x1;
    /// The subscription filters by several tags.
    pub const MULTI_TAGS: i32 = 0x2;
    /// Where the [`Transaction`](super::Transaction) is.
    pub const TRANSACTION: i32 = 0xC;
    /// The born host is an IPv6 address.
    pub const BORN_HOST_V6: i32 = 0x10;
    /// The store host is an IPv6 address.
    pub const STORE_HOST_V6: i32 = 0x20;
    /// The body holds several messages.
    pub const NEEDS_UNWRAP: i32 = 0x40;
    /// The record is an inner batch.
    pub const INNER_BATCH: i32 = 0x80;
    /// How the body is compressed: 0 or 0x300 zlib, 0x100 LZ4 frame, 0x200 Zstandard.
    pub const COMPRESSION: i32 = 0x700;
}

/// What part of a transaction a message is, from [`sys_flag::TRANSACTION`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// Not part of one.
    None,
    /// Not decided yet.
    Prepared,
    /// Committed.
    Commit,
    /// Rolled back.
    Rollback,
}

impl Transaction {
    /// Reads the bits of a system flag.
    #[must_use]
    pub fn of(sys_flag: i32) -> Self {
        match sys_flag & sys_flag::TRANSACTION {
            0x0 => Self::None,
            0x4 => Self::Prepared,
            0x8 => Self::Commit,
            _ => Self::Rollback,
        }
    }

    /// Whether such a message gets a number and an entry in its queue. The others are stored
    /// with queue offset 0.
    #[must_use]
    pub fn is_queued(self) -> bool {
        matches!(self, Self::None | Self::Commit)
    }
}

/// What is appended: everything of a record that the sender decides. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The topic it is sent to.
    pub topic: TopicName,
    /// The queue of that topic.
    pub queue: QueueId,
    /// The sender's own number; the store never looks at it.
    pub flag: i32,
    /// [`sys_flag`] bits. Those for IPv6 are set by the encoder.
    pub sys_flag: i32,
    /// When the sender made it, in milliseconds since the Unix epoch, by the sender's clock.
    pub born_ms: i64,
    /// The sender's address. An IPv4 address mapped into IPv6 is stored as IPv4.
    pub born_host: SocketAddr,
    /// How often consumers have failed on it.
    pub reconsume_times: i32,
    /// Position of the half message a committed one was made of, else 0.
    pub prepared_offset: i64,
    /// The body as stored, compressed or not, at most [`BODY_LEN_MAX`] bytes.
    pub body: Bytes,
    /// The encoded property string, see [`properties`].
    pub properties: Bytes,
}

impl Message {
    /// A message without properties, born at time 0 at `0.0.0.0:0`.
    #[must_use]
    pub fn new(topic: TopicName, queue: QueueId, body: impl Into<Bytes>) -> Self {
        Self {
            topic,
            queue,
            flag: 0,
            sys_flag: 0,
            born_ms: 0,
            born_host: (Ipv4Addr::UNSPECIFIED, 0).into(),
            reconsume_times: 0,
            prepared_offset: 0,
            body: body.into(),
            properties: Bytes::new(),
        }
    }

    /// The same message with a property, replacing one of that name.
    ///
    /// # Panics
    /// When the pair cannot be encoded: an empty name or value, or U+0001 or U+0002 inside. For
    /// values that come from elsewhere use [`Message::set_property`].
    #[must_use]
    pub fn with_property(mut self, name: &str, value: &str) -> Self {
        if let Err(error) = self.set_property(name, value) {
            panic!("property {name:?} = {value:?}: {error}");
        }
        self
    }

    /// The same message, born at `born_ms` at `born_host`.
    #[must_use]
    pub fn born(mut self, born_ms: i64, born_host: SocketAddr) -> Self {
        (self.born_ms, self.born_host) = (born_ms, born_host);
        self
    }

    /// Sets a property, replacing one of that name. Copies the property string.
    ///
    /// # Errors
    /// [`PropertyError`] when the pair cannot be encoded; the message is unchanged then.
    pub fn set_property(&mut self, name: &str, value: &str) -> Result<(), PropertyError> {
        let mut encoded = Vec::with_capacity(self.properties.len() + name.len() + value.len() + 3);
        properties::append_without(&mut encoded, &self.properties, name);
        properties::append(&mut encoded, name, value)?;
        self.properties = encoded.into();
        Ok(())
    }

    /// Removes a property. Copies the property string.
    pub fn remove_property(&mut self, name: &str) {
        let mut encoded = Vec::with_capacity(self.properties.len());
        properties::append_without(&mut encoded, &self.properties, name);
        self.properties = encoded.into();
    }

    /// The value of a property.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties().get(name)
    }

    /// The properties, decoded as they are looked at.
    #[must_use]
    pub fn properties(&self) -> Properties<'_> {
        Properties::new(&self.properties)
    }

    /// What part of a transaction this is.
    #[must_use]
    pub fn transaction(&self) -> Transaction {
        Transaction::of(self.sys_flag)
    }
}

/// Why a message cannot become a record. Nothing was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// The body is longer than [`BODY_LEN_MAX`].
    BodyTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The property string, with the record CRC that the store adds, is longer than
    /// [`PROPERTIES_LEN_MAX`](properties::PROPERTIES_LEN_MAX).
    PropertiesTooLong {
        /// Its length in bytes, CRC included.
        len: usize,
    },
    /// The queue id does not fit the record's signed field.
    QueueId {
        /// The id.
        found: QueueId,
    },
    /// The message says that it is an inner batch, and its queue has an entry for each message.
    InnerBatch {
        /// Messages in it.
        messages: u16,
    },
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BodyTooLong { len } => {
                write!(f, "the body has {len} bytes, at most {BODY_LEN_MAX} are allowed")
            }
            Self::PropertiesTooLong { len } => write!(
                f,
                "the properties take {len} bytes with their checksum, at most {} are allowed",
                properties::PROPERTIES_LEN_MAX
            ),
            Self::QueueId { found } => write!(f, "queue id {found} is above {}", QueueId::MAX),
            Self::InnerBatch { messages } => {
                write!(
                    f,
                    "an inner batch of {messages} messages goes to batch queues only; send them as a batch"
                )
            }
        }
    }
}

impl std::error::Error for MessageError {}
