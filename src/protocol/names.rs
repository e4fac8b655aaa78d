//! Names of groups, clients and the topics that brokers keep for themselves.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use staticfire_replication::CONTROL_TOPIC;
use staticfire_storage::name::{self, NameError, TopicName};

/// The longest group name, in bytes.
pub const GROUP_LEN_MAX: usize = 120;
/// The longest client id, in bytes. Official ids have below 100.
pub const CLIENT_ID_LEN_MAX: usize = 512;

/// The template topic whose presence lets producers create topics by sending to them.
pub const AUTO_CREATE_TOPIC: &str = "TBW102";
/// Where messages wait for their delay; queue `level - 1`.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
/// Prefix of a group's retry topic.
pub const RETRY_PREFIX: &str = "%RETRY%";
/// Prefix of a group's dead-letter topic.
pub const DEAD_LETTER_PREFIX: &str = "%DLQ%";
/// Where brokers of a group keep what they know besides messages.
pub const STATE_TOPIC: &str = "STATICFIRE_SYS_STATE";
/// The namespace of order settings in the name server.
pub const ORDER_TOPIC_NAMESPACE: &str = "ORDER_TOPIC_CONFIG";
/// The producer group every official client process also registers.
pub const CLIENT_INNER_PRODUCER: &str = "CLIENT_INNER_PRODUCER";

/// Topics with these names are the broker's own, as is everything that starts with `rmq_sys_`.
const SYSTEM_TOPICS: [&str; 11] = [
    AUTO_CREATE_TOPIC,
    SCHEDULE_TOPIC,
    "BenchmarkTest",
    "CHECKPOINT_TOPIC",
    "OFFSET_MOVED_EVENT",
    "RMQ_SYS_TRACE_TOPIC",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "SELF_TEST_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "rmq_sys_wheel_timer",
];

/// Topics no client may send to.
const NO_SEND_TOPICS: [&str; 6] = [
    SCHEDULE_TOPIC,
    "OFFSET_MOVED_EVENT",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "SELF_TEST_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
];

/// True for a topic that clients may neither create, change nor delete.
#[must_use]
pub fn is_system_topic(topic: &str) -> bool {
    is_own(topic) || SYSTEM_TOPICS.contains(&topic)
}

/// True for a topic that takes no message from a client.
#[must_use]
pub fn is_closed_to_senders(topic: &str) -> bool {
    is_own(topic) || NO_SEND_TOPICS.contains(&topic)
}

fn is_own(topic: &str) -> bool {
    topic.starts_with("rmq_sys_") || topic == CONTROL_TOPIC || topic == STATE_TOPIC
}

/// The name of a producer or consumer group: 1 to 120 bytes of `[%|A-Za-z0-9_-]`. Cloning shares
/// the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(Arc<str>);

impl GroupName {
    /// Checks `name` and takes it.
    ///
    /// # Errors
    /// [`NameError`] says which rule the name breaks.
    pub fn new(name: &str) -> Result<Self, NameError> {
        name::check(name, GROUP_LEN_MAX)?;
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `%RETRY%group`: where messages go that the group wants again.
    #[must_use]
    pub fn retry_topic(&self) -> TopicName {
        self.derived(RETRY_PREFIX)
    }

    /// `%DLQ%group`: where messages go that the group could not consume.
    #[must_use]
    pub fn dead_letter_topic(&self) -> TopicName {
        self.derived(DEAD_LETTER_PREFIX)
    }

    fn derived(&self, prefix: &str) -> TopicName {
        TopicName::new(&format!("{prefix}{self}")).expect("a prefix and 120 bytes of the alphabet fit 255")
    }
}

impl fmt::Debug for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Borrow<str> for GroupName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for GroupName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// The group whose retry topic this is.
#[must_use]
pub fn group_of_retry_topic(topic: &str) -> Option<&str> {
    topic.strip_prefix(RETRY_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// proves: B30
    #[test]
    fn group_names_follow_the_rules_of_topics_and_are_shorter() {
        assert!(GroupName::new(&"g".repeat(120)).is_ok());
        assert_eq!(GroupName::new(&"g".repeat(121)), Err(NameError::TooLong { len: 121, max: 120 }));
        for bad in ["", ".", "../g", "a b", "a\0"] {
            assert!(GroupName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn derived_topics_name_their_group() {
        let group = GroupName::new(&"g".repeat(120)).unwrap();
        assert_eq!(group_of_retry_topic(group.retry_topic().as_str()), Some(group.as_str()));
        assert!(group.dead_letter_topic().as_str().starts_with("%DLQ%g"));
    }

    /// proves: B32
    #[test]
    fn system_topics_are_known() {
        assert!(is_system_topic("TBW102") && is_system_topic("rmq_sys_anything"));
        assert!(!is_system_topic("orders"));
        assert!(is_closed_to_senders("SCHEDULE_TOPIC_XXXX") && !is_closed_to_senders("TBW102"));
    }
}
