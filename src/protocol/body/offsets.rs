//! Tables of offsets and how far groups are behind (remoting-protocol §15).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DataVersion, QueueTable, SubscriptionData, lenient};

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
    pub message_queue_table: QueueTable<i64>,
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
