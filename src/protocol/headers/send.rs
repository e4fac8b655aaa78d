//! Sending (remoting-protocol §7): one request whatever the spelling of its fields.

use staticfire_transport::ExtFields;

use crate::header;
use crate::protocol::codes::request;
use crate::protocol::header::{Field, HeaderError, excerpt};

/// What a send says about its message. The body of the command is the message's body, or a batch.
///
/// The texts are borrowed from the command: a broker reads one of these for every message. Codes
/// 310, 320 and 325 use one-letter names, codes 10 and 324 long ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendRequest<'a> {
    /// `a` or `producerGroup`.
    pub producer_group: &'a str,
    /// `b` or `topic`.
    pub topic: &'a str,
    /// `c` or `defaultTopic`: the template when the topic must be created, normally `TBW102`.
    pub default_topic: &'a str,
    /// `d` or `defaultTopicQueueNums`: queues wanted when the topic must be created.
    pub default_topic_queues: i32,
    /// `e` or `queueId`: below 0, the broker chooses.
    pub queue_id: i32,
    /// `f` or `sysFlag`: compression and transaction bits, remoting-protocol §6.3.
    pub sys_flag: i32,
    /// `g` or `bornTimestamp`: when the message was made, in milliseconds since the Unix epoch.
    pub born_ms: i64,
    /// `h` or `flag`: the application's own number.
    pub flag: i32,
    /// `i` or `properties`: the encoded properties; empty when absent.
    pub properties: &'a str,
    /// `j` or `reconsumeTimes`: how often the message was consumed without success; 0 when absent.
    pub reconsume_times: i32,
    /// `k` or `unitMode`.
    pub unit_mode: bool,
    /// `l` or `maxReconsumeTimes`: only on sends to a retry topic.
    pub reconsume_times_max: Option<i32>,
    /// `m` or `batch`: the body is a batch. Decides, not the request code.
    pub batch: bool,
    /// `n` or `bname`: the broker name the client thinks it is talking to.
    pub broker_name: Option<&'a str>,
}

/// Wire names of the fields in the order of [`SendRequest`].
const SHORT: [&str; 14] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n"];
const LONG: [&str; 14] = [
    "producerGroup",
    "topic",
    "defaultTopic",
    "defaultTopicQueueNums",
    "queueId",
    "sysFlag",
    "bornTimestamp",
    "flag",
    "properties",
    "reconsumeTimes",
    "unitMode",
    "maxReconsumeTimes",
    "batch",
    "bname",
];

/// The names used by requests of this code.
fn names(code: i32) -> &'static [&'static str; 14] {
    if matches!(code, request::SEND_MESSAGE | request::SEND_REPLY_MESSAGE) { &LONG } else { &SHORT }
}

impl<'a> SendRequest<'a> {
    /// Reads the fields of a request with this code, in one pass.
    ///
    /// # Errors
    /// [`HeaderError`] names the field that is missing or not understood.
    pub fn read(code: i32, fields: &'a ExtFields) -> Result<Self, HeaderError> {
        let names = names(code);
        let mut found: [Option<&'a str>; 14] = [None; 14];
        for (name, value) in fields.iter() {
            if let Some(index) = index_of(names, name) {
                found[index] = Some(value);
            }
        }
        let text = |index: usize| found[index].ok_or(HeaderError::Missing { field: names[index] });
        Ok(Self {
            producer_group: text(0)?,
            topic: text(1)?,
            default_topic: text(2)?,
            default_topic_queues: required(names[3], found[3])?,
            queue_id: required(names[4], found[4])?,
            sys_flag: required(names[5], found[5])?,
            born_ms: required(names[6], found[6])?,
            flag: required(names[7], found[7])?,
            properties: found[8].unwrap_or(""),
            reconsume_times: value(names[9], found[9])?.unwrap_or(0),
            unit_mode: value(names[10], found[10])?.unwrap_or(false),
            reconsume_times_max: value(names[11], found[11])?,
            batch: value(names[12], found[12])?.unwrap_or(false),
            broker_name: found[13],
        })
    }

    /// Adds the fields as requests of this code spell them.
    pub fn write(&self, code: i32, fields: &mut ExtFields) {
        let names = names(code);
        fields.push(names[0], self.producer_group);
        fields.push(names[1], self.topic);
        fields.push(names[2], self.default_topic);
        self.default_topic_queues.push(names[3], fields);
        self.queue_id.push(names[4], fields);
        self.sys_flag.push(names[5], fields);
        self.born_ms.push(names[6], fields);
        self.flag.push(names[7], fields);
        fields.push(names[8], self.properties);
        self.reconsume_times.push(names[9], fields);
        self.unit_mode.push(names[10], fields);
        if let Some(max) = self.reconsume_times_max {
            max.push(names[11], fields);
        }
        self.batch.push(names[12], fields);
        if let Some(broker) = self.broker_name {
            fields.push(names[13], broker);
        }
    }
}

fn index_of(names: &[&str; 14], name: &str) -> Option<usize> {
    if std::ptr::eq(names, &SHORT) {
        let &[letter @ b'a'..=b'n'] = name.as_bytes() else { return None };
        return Some(usize::from(letter - b'a'));
    }
    names.iter().position(|known| *known == name)
}

fn value<T: Field>(field: &'static str, text: Option<&str>) -> Result<Option<T>, HeaderError> {
    let Some(text) = text else { return Ok(None) };
    let error = || HeaderError::NotUnderstood { field, found: excerpt(text), expected: T::EXPECTED };
    T::parse(text).map(Some).ok_or_else(error)
}

fn required<T: Field>(field: &'static str, text: Option<&str>) -> Result<T, HeaderError> {
    value(field, text)?.ok_or(HeaderError::Missing { field })
}

header! {
    /// Where a message went. Must be complete on 0, 10, 11 and 12.
    pub struct SendResponse {
        /// Offset message id: address and physical offset in hexadecimal; several joined by `,`.
        "msgId" message_id: String,
        /// The queue.
        "queueId" queue_id: i32,
        /// Offset in the queue; of a batch, the first.
        "queueOffset" queue_offset: i64,
        /// The message's unique key.
        "transactionId" transaction_id: Option<String>,
        /// Region stamped on messages.
        "MSG_REGION" region: Option<String>,
        /// Do clients trace messages? Clients take absence for yes.
        "TRACE_ON" trace_on: Option<String>,
    }
}

header! {
    /// Asks to store a message again for later consumption (code 36).
    pub struct SendBackRequest {
        /// Physical offset of the message.
        "offset" offset: i64,
        /// The consumer group.
        "group" group: String,
        /// Delay level; 0: the broker chooses; below 0: straight to the dead letters.
        "delayLevel" delay_level: i32,
        /// Offset message id of the message.
        "originMsgId" origin_message_id: Option<String>,
        /// Topic of the message.
        "originTopic" origin_topic: Option<String>,
        /// Unused.
        "unitMode" unit_mode: bool = false,
        /// Attempts after which the message becomes a dead letter.
        "maxReconsumeTimes" reconsume_times_max: Option<i32>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> SendRequest<'static> {
        SendRequest {
            producer_group: "PG",
            topic: "TopicTest",
            default_topic: "TBW102",
            default_topic_queues: 4,
            queue_id: 2,
            sys_flag: 0,
            born_ms: 1_700_000_000_000,
            flag: 0,
            properties: "WAIT\u{1}true\u{2}",
            reconsume_times: 0,
            unit_mode: false,
            reconsume_times_max: None,
            batch: false,
            broker_name: Some("broker-a"),
        }
    }

    /// One request, two spellings: remoting-protocol §7.1.
    #[test]
    fn both_spellings_read_back_as_the_same_request() {
        for code in [request::SEND_MESSAGE, request::SEND_MESSAGE_V2, request::SEND_BATCH_MESSAGE] {
            let mut fields = ExtFields::default();
            request().write(code, &mut fields);
            assert_eq!(SendRequest::read(code, &fields).unwrap(), request());
        }
    }

    /// The C++ client writes `0` and `1` for false and true and leaves fields out (§17).
    #[test]
    fn a_request_of_the_cpp_client_is_understood() {
        let mut fields = ExtFields::default();
        for (name, value) in [
            ("producerGroup", "PG"),
            ("topic", "T"),
            ("defaultTopic", "TBW102"),
            ("defaultTopicQueueNums", "4"),
            ("queueId", "0"),
            ("sysFlag", "0"),
            ("bornTimestamp", "1700000000000"),
            ("flag", "0"),
            ("unitMode", "0"),
            ("batch", "1"),
        ] {
            fields.push(name, value);
        }
        let read = SendRequest::read(request::SEND_MESSAGE, &fields).unwrap();
        assert!(read.batch && !read.unit_mode && read.properties.is_empty() && read.broker_name.is_none());
    }

    #[test]
    fn errors_name_the_field_as_the_peer_spelled_it() {
        let mut fields = ExtFields::default();
        request().write(request::SEND_MESSAGE_V2, &mut fields);
        assert_eq!(
            SendRequest::read(request::SEND_MESSAGE, &fields),
            Err(HeaderError::Missing { field: "producerGroup" })
        );
        fields.push("e", "two");
        assert_eq!(
            SendRequest::read(request::SEND_MESSAGE_V2, &fields),
            Err(HeaderError::NotUnderstood { field: "e", found: "two".into(), expected: "a 32-bit integer" })
        );
    }
}
