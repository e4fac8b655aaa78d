//! Tables of offsets and how far groups are behind (remoting-protocol §15).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DataVersion, MessageQueue, QueueTable, SubscriptionData, lenient};

/// All consumer offsets of a broker (code 43): by `topic@group` and queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerOffsetTable {
    /// Version of the table.
    #[serde(deserialize_with = "lenient::or_default")]
    pub data_version: DataVersion,
    /// The offsets.
    #[serde(deserialize_with = "lenient::or_default")]
    pub offset_table: BTreeMap<String, BTreeMap<i32, i64>>,
}

/// The offsets of the delay queues (code 45): by level.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DelayOffsetTable {
    /// Version of the table.
    #[serde(deserialize_with = "lenient::or_default")]
    pub data_version: DataVersion,
    /// The offsets.
    #[serde(deserialize_with = "lenient::or_default")]
    pub offset_table: BTreeMap<i32, i64>,
}

/// How far a group is in one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OffsetWrapper {
    /// The queue's next offset to be written.
    #[serde(deserialize_with = "lenient::number")]
    pub broker_offset: i64,
    /// The group's next offset to consume.
    #[serde(deserialize_with = "lenient::number")]
    pub consumer_offset: i64,
    /// Store time of the last message consumed, in milliseconds since the Unix epoch.
    #[serde(deserialize_with = "lenient::number")]
    pub last_timestamp: i64,
    /// The group's next offset to pull.
    #[serde(deserialize_with = "lenient::number")]
    pub pull_offset: i64,
}

/// How far a group is (code 208).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumeStats {
    /// Messages a second.
    pub consume_tps: f64,
    /// Offsets by queue.
    pub offset_table: QueueTable<OffsetWrapper>,
}

/// New offsets of a group (codes 222 and 220).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResetOffsetBody {
    /// Offsets by queue.
    pub offset_table: QueueTable<i64>,
}

/// The offsets a consumer has (code 221).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerStatusBody {
    /// Offsets by queue.
    #[serde(deserialize_with = "lenient::or_default")]
    pub message_queue_table: QueueTable<i64>,
}

/// The offsets that the members of a group have (code 223).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupStatusBody {
    /// Offsets by queue, by client id.
    #[serde(deserialize_with = "lenient::or_default")]
    pub consumer_table: BTreeMap<String, QueueTable<i64>>,
}

/// What a group wants of a topic (code 345).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupSubscription {
    /// The group.
    pub group: String,
    /// Its subscription; absent when it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_data: Option<SubscriptionData>,
    /// The topic.
    pub topic: String,
}

/// How far all groups of a broker are (code 317).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerConsumeStats {
    /// The broker, as `ip:port`.
    pub broker_addr: String,
    /// For each group, its progress in each of its topics.
    pub consume_stats_list: Vec<BTreeMap<String, Vec<ConsumeStats>>>,
    /// Messages that wait, over all groups.
    #[serde(deserialize_with = "lenient::number")]
    pub total_diff: i64,
    /// Messages pulled and not yet consumed; this broker does not know of any.
    #[serde(deserialize_with = "lenient::number")]
    pub total_inflight_diff: i64,
}

/// When the messages of a queue were stored (code 303); times in milliseconds since the Unix epoch, -1
/// for none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueTimeSpan {
    /// The last message that the group consumed; of a group that consumed none, the first one.
    #[serde(deserialize_with = "lenient::number")]
    pub consume_time_stamp: i64,
    /// For how long the group's next message has waited, in milliseconds.
    #[serde(deserialize_with = "lenient::number")]
    pub delay_time: i64,
    /// The last message.
    #[serde(deserialize_with = "lenient::number")]
    pub max_time_stamp: i64,
    /// The queue.
    pub message_queue: MessageQueue,
    /// The first message.
    #[serde(deserialize_with = "lenient::number")]
    pub min_time_stamp: i64,
}

/// When the messages of a topic's queues were stored (code 303).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueTimeSpans {
    /// A row for each queue.
    pub consume_time_span_set: Vec<QueueTimeSpan>,
}

/// One entry of a consume queue (code 321).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueEntryData {
    /// Always false: whether an expression matches is not decided here.
    pub eval: bool,
    /// Where the record starts in the commit log.
    #[serde(deserialize_with = "lenient::number")]
    pub physic_offset: i64,
    /// Bytes of the record.
    #[serde(deserialize_with = "lenient::number")]
    pub physic_size: u32,
    /// Hash of the tags.
    #[serde(deserialize_with = "lenient::number")]
    pub tags_code: i64,
}

/// Entries of a consume queue (code 321).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueEntries {
    /// Says that the group is not there, when it was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_data: Option<String>,
    /// The next offset to be written.
    #[serde(deserialize_with = "lenient::number")]
    pub max_queue_index: i64,
    /// The oldest offset.
    #[serde(deserialize_with = "lenient::number")]
    pub min_queue_index: i64,
    /// The entries.
    pub queue_data: Vec<QueueEntryData>,
    /// What the named group wants of the topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_data: Option<SubscriptionData>,
}
