//! What becomes a message of a send request, and what refuses it (remoting-protocol §7.2).

use std::borrow::Cow;
use std::sync::LazyLock;

use staticfire_replication::Mode;
use staticfire_storage::message::{BODY_LEN_MAX, sys_flag};
use staticfire_storage::properties::{self, Properties};
use staticfire_storage::{Message, QueueId, TopicName, batch};
use staticfire_transport::{Command, Connection, ExtFields};

use super::delay::queue_of;
use super::raising::REACHED;
use super::refusal::Refusal;
use super::settling::Need;
use super::shared::{Shared, lock, read, write};
use super::topics::Topic;
use crate::protocol::body::{TopicFilterType, permission};
use crate::protocol::codes::response;
use crate::protocol::delay;
use crate::protocol::headers::SendRequest;
use crate::protocol::names::{self, RETRY_PREFIX, SCHEDULE_TOPIC};

/// The region every message is stamped with.
const REGION: &str = "DefaultRegion";
/// Bytes of all header fields of an answer to a send, names included.
const ANSWER_BYTES: usize = 192;
/// Bytes of a property with a key that the broker made, separators included.
const UNIQUE_KEY_BYTES: usize = 42;
/// Clients from this version on may say how often they want to try (V3_4_9).
pub const VERSION_WITH_MAX_RECONSUME: i32 = 121;
/// What a client decides of the system flag: compression, and several tags.
const CLIENT_SYS_FLAGS: i32 = sys_flag::COMPRESSED | sys_flag::MULTI_TAGS | sys_flag::COMPRESSION;

static SCHEDULE: LazyLock<TopicName> =
    LazyLock::new(|| TopicName::new(SCHEDULE_TOPIC).expect("the name is made of letters and underscores"));

/// A send that passed all checks.
pub struct Prepared {
    /// What to append.
    pub content: Content,
    /// The answer, but for where the messages went.
    pub answer: Command,
    /// What has to be settled before it is answered: the creation of its topic.
    pub need: Need,
    /// What it waits for, when that is more than the broker's mode.
    pub mode: Option<Mode>,
}

/// What a send holds.
pub enum Content {
    /// One message.
    Single(Message),
    /// Messages that stay together.
    Batch(Vec<Message>),
}

/// Where a message goes.
struct Place {
    topic: Topic,
    queue: QueueId,
    /// It was tried too often; its delay does not count any more.
    dead: bool,
}

impl Shared {
    /// Checks a send and makes its messages.
    pub fn prepare_send(&self, connection: &Connection, request: &Command) -> Result<Prepared, Refusal> {
        let head = SendRequest::read(request.code, &request.ext)?;
        let place = self.place(&head, request.version)?;
        let mode = self.raised_mode(&place.topic.config)?;
        mode.map_or(Ok(()), |mode| self.enough_in_sync(mode))?;
        if request.body.len() > BODY_LEN_MAX {
            let len = request.body.len();
            return Err(illegal(format!("the body has {len} bytes, at most {BODY_LEN_MAX} are allowed")));
        }
        if head.sys_flag & sys_flag::TRANSACTION != 0 && head.reconsume_times == 0 {
            return Err(no_transactions());
        }
        let multi_tags = place.topic.config.topic_filter_type == TopicFilterType::MultiTag;
        let topic_flags = if multi_tags { sys_flag::MULTI_TAGS } else { 0 };
        let message = Message {
            flag: head.flag,
            sys_flag: (head.sys_flag & CLIENT_SYS_FLAGS) | topic_flags,
            reconsume_times: head.reconsume_times,
            ..Message::new(place.topic.name.clone(), place.queue, request.body.to_bytes())
        };
        let message = message.born(head.born_ms, connection.peer());
        let need = Need { topics: place.topic.changed, ..Need::default() };
        let mut answer = request.answer(response::SUCCESS);
        answer.ext = ExtFields::with_capacity(6, ANSWER_BYTES);
        let mut answer = with_region(answer);
        answer.ext.push("queueId", place.queue);
        if let Some(mode) = mode {
            answer.ext.push(REACHED, mode);
        }
        if head.batch {
            return Ok(Prepared { content: Content::Batch(batch_parts(&message)?), answer, need, mode });
        }
        let stamp = Stamp::read(head.properties, &self.own_properties, || self.unique_key())?;
        if stamp.is_transaction && !(head.reconsume_times > 0 && stamp.delay_level > 0) {
            return Err(no_transactions());
        }
        answer.ext.set("transactionId", &stamp.unique_key);
        let level = if place.dead { 0 } else { stamp.delay_level };
        let message = delayed(Message { properties: stamp.properties.into(), ..message }, level);
        Ok(Prepared { content: Content::Single(message), answer, need, mode })
    }

    /// The topic and queue of a send; the topic is created when that is allowed.
    fn place(&self, head: &SendRequest<'_>, version: i32) -> Result<Place, Refusal> {
        if names::is_closed_to_senders(head.topic) {
            let remark = format!("Sending message to topic[{}] is forbidden.", head.topic);
            return Err(Refusal::new(response::NO_PERMISSION, remark));
        }
        let topic = self.topic_for(head)?;
        if topic.config.perm & permission::WRITE == 0 {
            let remark = format!("the topic[{}] is not writable", head.topic);
            return Err(Refusal::new(response::NO_PERMISSION, remark));
        }
        let queue = match u32::try_from(head.queue_id) {
            Ok(queue) => queue,
            Err(_) => self.random_below(u32::try_from(topic.config.write_queue_nums).unwrap_or(0)),
        };
        if queue >= topic.queues() {
            let remark = format!("request queueId[{queue}] is illegal, the topic has {}", topic.queues());
            return Err(Refusal::parameter(remark));
        }
        if let Some(group) = names::group_of_retry_topic(head.topic) {
            if head.batch {
                return Err(illegal("a batch cannot be sent to a retry topic"));
            }
            if let Some(topic) = self.given_up(group, head, version)? {
                return Ok(Place { topic, queue: QueueId(0), dead: true });
            }
        }
        Ok(Place { topic, queue: QueueId(queue), dead: false })
    }

    fn topic_for(&self, head: &SendRequest<'_>) -> Result<Topic, Refusal> {
        if let Some(topic) = read(&self.topics).get(head.topic) {
            return Ok(topic.clone());
        }
        let name = TopicName::new(head.topic)
            .map_err(|error| Refusal::parameter(format!("the specified topic is illegal: {error}")))?;
        let now_ms = self.wall_ms();
        let mut topics = write(&self.topics);
        let made = topics.create_from(head.default_topic, &name, head.default_topic_queues, now_ms);
        let made = match made {
            Err(_) if head.topic.starts_with(RETRY_PREFIX) => topics.ensure(&name, 1, now_ms),
            made => made,
        };
        drop(topics);
        self.changes.raise();
        made.map_err(|error| {
            let remark = format!("topic[{name}] not exist, apply first please! {error}");
            Refusal::new(response::TOPIC_NOT_EXIST, remark)
        })
    }

    /// The dead-letter topic, when a consumer that sends back by itself has tried too often, or
    /// consumes in order and therefore gave up for good.
    fn given_up(&self, group: &str, head: &SendRequest<'_>, version: i32) -> Result<Option<Topic>, Refusal> {
        let (group, config) = self.group(group)?;
        let wanted = head.reconsume_times_max.filter(|_| version >= VERSION_WITH_MAX_RECONSUME);
        let max = wanted.unwrap_or(config.retry_max_times);
        if head.reconsume_times <= max && !lock(&self.locks).is_ordered(self.now(), group.as_str()) {
            return Ok(None);
        }
        Ok(Some(write(&self.topics).ensure(&group.dead_letter_topic(), 1, self.wall_ms())?))
    }

    fn unique_key(&self) -> String {
        format!("{:016X}{:016X}", self.runtime.random(), self.runtime.random())
    }
}

/// The fields that clients look for on every answer to a send, refusals included.
pub fn with_region(mut answer: Command) -> Command {
    answer.ext.set("MSG_REGION", REGION);
    answer.ext.set("TRACE_ON", "true");
    answer
}

fn illegal(remark: impl Into<String>) -> Refusal {
    Refusal::new(response::MESSAGE_ILLEGAL, remark)
}

fn no_transactions() -> Refusal {
    Refusal::new(response::NO_PERMISSION, "this broker does not support transactional messages")
}

/// A client's properties, made ready to be stored.
struct Stamp<'a> {
    properties: Vec<u8>,
    unique_key: Cow<'a, str>,
    delay_level: i32,
    is_transaction: bool,
}

impl<'a> Stamp<'a> {
    /// Takes over what the client may say and adds `own`, what the broker says.
    fn read(raw: &'a str, own: &[u8], make_key: impl FnOnce() -> String) -> Result<Self, Refusal> {
        let mut unique_key = None;
        let (mut delay_level, mut is_transaction) = (0, false);
        let mut out = Vec::with_capacity(raw.len() + own.len() + UNIQUE_KEY_BYTES);
        for (name, value) in Properties::new(raw.as_bytes()).pairs() {
            match name {
                b"MSG_REGION" | b"TRACE_ON" | b"CLUSTER" | b"POP_CK" | b"REAL_TOPIC" | b"REAL_QID" => {
                    continue;
                }
                b"DELAY" => {
                    delay_level =
                        std::str::from_utf8(value).ok().and_then(|level| level.parse().ok()).unwrap_or(0);
                    continue;
                }
                b"TIMER_DELAY_SEC" | b"TIMER_DELAY_MS" | b"TIMER_DELIVER_MS" => {
                    let remark = "accurate timer message is not enabled, timerWheelEnable is false";
                    return Err(Refusal::system(remark));
                }
                b"TRAN_MSG" => is_transaction = value == b"true",
                b"UNIQ_KEY" => unique_key = std::str::from_utf8(value).ok(),
                _ if name.starts_with(b"__RMQ.TRANSIENT.") => continue,
                _ => {}
            }
            out.extend_from_slice(name);
            out.push(properties::NAME_END);
            out.extend_from_slice(value);
            out.push(properties::PAIR_END);
        }
        let unique_key = match unique_key {
            Some(key) => Cow::Borrowed(key),
            None => {
                let key = make_key();
                add(&mut out, "UNIQ_KEY", &key);
                Cow::Owned(key)
            }
        };
        out.extend_from_slice(own);
        Ok(Self { properties: out, unique_key, delay_level, is_transaction })
    }
}

/// The properties that a broker of this cluster gives to every message.
pub fn own_properties(cluster: &str) -> Vec<u8> {
    let mut out = Vec::new();
    add(&mut out, "MSG_REGION", REGION);
    add(&mut out, "TRACE_ON", "true");
    add(&mut out, "CLUSTER", cluster);
    out
}

fn add(out: &mut Vec<u8>, name: &str, value: &str) {
    properties::append(out, name, value)
        .expect("the broker's own values are not empty and hold no separator");
}

/// Parks a message until its delay has passed; as it is for level 0 and below.
pub fn delayed(message: Message, level: i32) -> Message {
    if level <= 0 {
        return message;
    }
    let level = level.min(delay::LEVEL_MAX);
    let mut properties = message.properties.to_vec();
    add(&mut properties, properties::REAL_TOPIC, message.topic.as_str());
    add(&mut properties, properties::REAL_QUEUE_ID, &message.queue.to_string());
    add(&mut properties, properties::DELAY, &level.to_string());
    Message { topic: SCHEDULE.clone(), queue: queue_of(level), properties: properties.into(), ..message }
}

/// The messages of a batch: each is like `whole` but for its own flag, body and properties.
fn batch_parts(whole: &Message) -> Result<Vec<Message>, Refusal> {
    let parts = batch::decode(&whole.body).map_err(|error| illegal(error.to_string()))?;
    let check = |part: &batch::BatchPart| {
        let properties = Properties::new(&part.properties);
        let level = properties.get(properties::DELAY).and_then(|level| level.parse::<i32>().ok());
        if level.is_some_and(|level| level > 0) {
            return Err(illegal("batches cannot be delayed"));
        }
        if properties.get(properties::TRANSACTION_PREPARED) == Some("true") {
            return Err(illegal("batches cannot be transactional"));
        }
        Ok(())
    };
    parts.iter().try_for_each(check)?;
    let message = |part: batch::BatchPart| Message {
        flag: part.flag,
        body: part.body,
        properties: part.properties,
        ..whole.clone()
    };
    Ok(parts.into_iter().map(message).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(raw: &[u8]) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Properties::new(raw).pairs().map(|(name, value)| (text(name), text(value))).collect()
    }

    fn stamp(raw: &str) -> Stamp<'_> {
        Stamp::read(raw, &own_properties("cluster"), || "MADE".to_owned()).unwrap()
    }

    /// proves: B35
    #[test]
    fn the_broker_says_region_cluster_and_delay_itself() {
        let raw = "TAGS\u{1}a\u{2}CLUSTER\u{1}liar\u{2}POP_CK\u{1}x\u{2}REAL_TOPIC\u{1}t\u{2}__RMQ.TRANSIENT.x\u{1}1\u{2}UNIQ_KEY\u{1}K";
        let stamp = stamp(raw);
        let want = [
            ("TAGS", "a"),
            ("UNIQ_KEY", "K"),
            ("MSG_REGION", REGION),
            ("TRACE_ON", "true"),
            ("CLUSTER", "cluster"),
        ];
        assert_eq!(pairs(&stamp.properties), want.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert_eq!(stamp.unique_key, "K");
    }

    #[test]
    fn a_message_without_unique_key_gets_one() {
        assert_eq!(stamp("").unique_key, "MADE");
        assert_eq!(pairs(&stamp("").properties)[0], ("UNIQ_KEY".to_owned(), "MADE".to_owned()));
    }

    /// proves: B37
    #[test]
    fn delay_levels_are_capped_and_nonsense_is_no_delay() {
        for (text, level) in [("3", 3), ("-1", -1), ("x", 0), ("99999999999999", 0)] {
            assert_eq!(stamp(&format!("DELAY\u{1}{text}\u{2}")).delay_level, level);
        }
        let message = Message::new(TopicName::new("t").unwrap(), QueueId(2), "body");
        assert_eq!(delayed(message.clone(), -1), message);
        let parked = delayed(message, 99);
        assert_eq!((parked.topic.as_str(), parked.queue), (SCHEDULE_TOPIC, QueueId(17)));
        assert_eq!(parked.property("DELAY"), Some("18"));
        assert_eq!(parked.property("REAL_TOPIC"), Some("t"));
        assert_eq!(parked.property("REAL_QID"), Some("2"));
    }

    #[test]
    fn what_would_be_delivered_early_is_refused_in_words() {
        assert!(Stamp::read("TIMER_DELAY_SEC\u{1}5\u{2}", b"", String::new).is_err());
    }

    /// proves: B36
    #[test]
    fn a_batch_with_a_delayed_or_transactional_part_is_refused_as_a_whole() {
        let body = |properties: &'static str| {
            let mut out = Vec::new();
            for properties in ["KEYS\u{1}k\u{2}", properties] {
                let part = batch::BatchPart { flag: 1, body: "b".into(), properties: properties.into() };
                batch::append(&mut out, &part).unwrap();
            }
            Message::new(TopicName::new("t").unwrap(), QueueId(0), out)
        };
        assert_eq!(batch_parts(&body("")).unwrap().len(), 2);
        for bad in ["DELAY\u{1}1\u{2}", "TRAN_MSG\u{1}true\u{2}"] {
            assert_eq!(batch_parts(&body(bad)).unwrap_err().code, response::MESSAGE_ILLEGAL);
        }
        let nothing = Message::new(TopicName::new("t").unwrap(), QueueId(0), "");
        assert_eq!(batch_parts(&nothing).unwrap_err().code, response::MESSAGE_ILLEGAL);
    }
}
