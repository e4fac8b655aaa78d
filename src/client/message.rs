//! Messages as applications see them: to be sent, and received.

use std::fmt;

use bytes::Bytes;
use staticfire_storage::message::sys_flag;
use staticfire_storage::properties::{self, Properties, PropertyError};
use staticfire_storage::{Record, TopicName};

use super::MessageFault;
use super::packing::{PACKING, unpack};
use crate::protocol::body::MessageQueue;

/// A message to be sent. Cloning shares the body.
///
/// ```
/// use staticfire::client::Message;
///
/// let message = Message::new("orders", "paid")?.tag("eu").key("order-7").property("amount", "12");
/// # Ok::<(), staticfire::storage::NameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub(super) topic: TopicName,
    pub(super) body: Bytes,
    pub(super) flag: i32,
    /// Says how the body is packed, if it is.
    pub(super) sys_flag: i32,
    pub(super) properties: Vec<u8>,
    pub(super) fault: Option<PropertyError>,
}

impl Message {
    /// A message without properties.
    ///
    /// # Errors
    /// The topic's name is not acceptable.
    pub fn new(topic: &str, body: impl Into<Bytes>) -> Result<Self, staticfire_storage::NameError> {
        Ok(Self::to(TopicName::new(topic)?, body))
    }

    /// A message to a topic whose name was checked.
    #[must_use]
    pub fn to(topic: TopicName, body: impl Into<Bytes>) -> Self {
        Self { topic, body: body.into(), flag: 0, sys_flag: 0, properties: Vec::new(), fault: None }
    }

    /// The same with a tag, by which subscriptions choose.
    #[must_use]
    pub fn tag(self, tag: &str) -> Self {
        self.property(properties::TAGS, tag)
    }

    /// The same with business keys, separated by one space.
    #[must_use]
    pub fn key(self, keys: &str) -> Self {
        self.property(properties::KEYS, keys)
    }

    /// The same, to be delivered after the delay of a level
    /// ([`delay::of_level`](crate::protocol::delay::of_level)).
    #[must_use]
    pub fn delay_level(self, level: i32) -> Self {
        self.property(properties::DELAY, &level.to_string())
    }

    /// The same with a property, replacing one of that name. A name or value that cannot be encoded
    /// (empty, or with U+0001 or U+0002 inside) makes the send fail.
    #[must_use]
    pub fn property(mut self, name: &str, value: &str) -> Self {
        let mut encoded = Vec::with_capacity(self.properties.len() + name.len() + value.len() + 3);
        properties::append_without(&mut encoded, &self.properties, name);
        match properties::append(&mut encoded, name, value) {
            Ok(()) => self.properties = encoded,
            Err(fault) => self.fault = Some(fault),
        }
        self
    }

    /// The same with the application's own number.
    #[must_use]
    pub const fn flag(mut self, flag: i32) -> Self {
        self.flag = flag;
        self
    }

    /// The same without a property.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        let mut kept = Vec::with_capacity(self.properties.len());
        properties::append_without(&mut kept, &self.properties, name);
        self.properties = kept;
        self
    }

    /// The value of a property.
    #[must_use]
    pub fn property_value(&self, name: &str) -> Option<&str> {
        Properties::new(&self.properties).get(name)
    }

    /// A copy of a received message, as stored, for a group's retry topic.
    pub(super) fn copy_for_retry(message: &ReceivedMessage, retry_topic: TopicName) -> Self {
        Self::copy_of(&message.record, retry_topic)
    }

    /// A copy of a stored record, with all its properties and its body as it is packed, to be sent to
    /// `topic`.
    #[must_use]
    pub fn copy_of(record: &Record, topic: TopicName) -> Self {
        let mut kept = Vec::new();
        properties::append_without(&mut kept, record.properties().as_bytes(), properties::CRC32);
        let mut copy = Self::to(topic, record.body()).flag(record.flag());
        (copy.properties, copy.sys_flag) = (kept, record.sys_flag() & PACKING);
        copy
    }

    /// Checks what every broker would refuse.
    pub(super) fn check(&self, body_bytes_max: usize) -> Result<(), MessageFault> {
        if let Some(fault) = self.fault {
            return Err(fault.into());
        }
        if self.body.is_empty() {
            return Err(MessageFault::EmptyBody);
        }
        if self.body.len() > body_bytes_max {
            return Err(MessageFault::TooLarge { len: self.body.len(), max: body_bytes_max });
        }
        Ok(())
    }
}

/// A message from a broker. Cloning shares its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct ReceivedMessage {
    record: Record,
    queue: MessageQueue,
    body: Bytes,
    packed: bool,
}

impl ReceivedMessage {
    /// Wraps a record that came from `broker_name`, unpacking its body. Pulls and pushes do it; here for
    /// who has records from elsewhere, a store for example.
    #[must_use]
    pub fn new(record: Record, broker_name: &str) -> Self {
        let queue_id = i32::try_from(record.queue().0).unwrap_or(i32::MAX);
        let topic = record.property(properties::RETRY_TOPIC).filter(|_| is_retry(record.topic()));
        let queue = MessageQueue::new(topic.unwrap_or(record.topic()), broker_name, queue_id);
        let (stored, flags) = (record.body(), record.sys_flag());
        let compressed = flags & sys_flag::COMPRESSED != 0;
        let unpacked = if compressed { unpack(&stored, flags) } else { None };
        let packed = compressed && unpacked.is_none();
        Self { body: unpacked.unwrap_or(stored), packed, queue, record }
    }

    /// The topic it was sent to, also when it comes from the group's retry topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.queue.topic
    }

    /// The broker group it comes from.
    #[must_use]
    pub fn broker_name(&self) -> &str {
        &self.queue.broker_name
    }

    /// The queue, of the topic it was stored in: for a retried message, of the retry topic.
    #[must_use]
    pub const fn queue_id(&self) -> i32 {
        self.queue.queue_id
    }

    /// Its offset in that queue.
    #[must_use]
    pub fn queue_offset(&self) -> i64 {
        self.record.queue_offset().0.cast_signed()
    }

    /// The body, unpacked.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// True when the body is compressed and could not be unpacked, so that [`Self::body`] is as sent: it
    /// is damaged, packed in a way not known here, or larger than
    /// [`UNPACKED_MAX`](super::UNPACKED_MAX) when unpacked.
    #[must_use]
    pub const fn is_packed(&self) -> bool {
        self.packed
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.record.tag()
    }

    /// The business keys, separated by one space.
    #[must_use]
    pub fn keys(&self) -> Option<&str> {
        self.record.property(properties::KEYS)
    }

    /// The value of a property.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.record.property(name)
    }

    /// The key its producer made, or else the offset message id.
    #[must_use]
    pub fn id(&self) -> String {
        self.record.property(properties::UNIQ_KEY).map_or_else(|| self.offset_id(), str::to_owned)
    }

    /// The id that says where it is stored.
    #[must_use]
    pub fn offset_id(&self) -> String {
        self.record.message_id().to_string()
    }

    /// How often consumers have failed on it.
    #[must_use]
    pub fn reconsume_times(&self) -> i32 {
        self.record.reconsume_times()
    }

    /// When it was made, in milliseconds since the Unix epoch, by the sender's clock.
    #[must_use]
    pub fn born_ms(&self) -> i64 {
        self.record.born_ms()
    }

    /// When it was stored, in milliseconds since the Unix epoch, by the broker's clock.
    #[must_use]
    pub fn store_ms(&self) -> i64 {
        self.record.store_ms()
    }

    /// The record as the broker stored it.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }
}

fn is_retry(topic: &str) -> bool {
    crate::protocol::names::group_of_retry_topic(topic).is_some()
}

impl fmt::Debug for ReceivedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MessageQueue { topic, broker_name, queue_id } = &self.queue;
        write!(f, "{topic}@{broker_name}:{queue_id}[{}] {}", self.queue_offset(), self.id())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use staticfire_storage::record::{encode, seal};
    use staticfire_storage::{PhysicalOffset, QueueId, QueueOffset};

    use super::*;

    fn record(message: &staticfire_storage::Message, offset: i64) -> Record {
        let mut bytes = Vec::new();
        let encoded = encode(message, "127.0.0.1:10911".parse().expect("an address"), &mut bytes);
        let offset = QueueOffset(offset.unsigned_abs());
        seal(&mut bytes, encoded.expect("a small message"), offset, PhysicalOffset(0), 0);
        Record::unverified(bytes.into()).expect("a record that was just made")
    }

    /// A message as it would come from `broker-a`.
    pub(in crate::client) fn received(topic: &str, offset: i64, body: &str) -> ReceivedMessage {
        let topic = TopicName::new(topic).expect("a topic's name");
        let message = staticfire_storage::Message::new(topic, QueueId(0), body.to_owned());
        ReceivedMessage::new(record(&message, offset), "broker-a")
    }

    #[test]
    fn a_retried_message_shows_the_topic_it_was_sent_to() {
        let topic = TopicName::new("%RETRY%group").unwrap();
        let message = staticfire_storage::Message::new(topic, QueueId(0), "x")
            .with_property(properties::RETRY_TOPIC, "orders");
        let received = ReceivedMessage::new(record(&message, 3), "broker-a");
        assert_eq!((received.topic(), received.queue_offset()), ("orders", 3));
        let copy = Message::copy_for_retry(&received, TopicName::new("%RETRY%group").unwrap());
        assert_eq!(copy.property_value(properties::RETRY_TOPIC), Some("orders"));
        assert_eq!(copy.property_value(properties::CRC32), None);
    }

    #[test]
    fn a_property_that_cannot_be_encoded_is_an_error_of_the_send() {
        let bad = Message::new("orders", "x").unwrap().property("a", "1\u{2}TAGS\u{1}b");
        assert!(matches!(bad.check(1 << 20), Err(MessageFault::Property(_))));
        let good = Message::new("orders", "x").unwrap().tag("a").tag("b");
        assert_eq!((good.check(1), good.property_value("TAGS")), (Ok(()), Some("b")));
        assert_eq!(good.check(0), Err(MessageFault::TooLarge { len: 1, max: 0 }));
        assert_eq!(Message::new("orders", "").unwrap().check(1), Err(MessageFault::EmptyBody));
    }
}
