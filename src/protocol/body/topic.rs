//! Topics and their configuration (remoting-protocol §3 and §15.1).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{QueueTable, lenient, permission};

lenient::enumeration! {
    /// How many tags a message of a topic has.
    pub enum TopicFilterType {
        /// One.
        #[default]
        SingleTag = "SINGLE_TAG",
        /// Several.
        MultiTag = "MULTI_TAG",
    }
}

/// The configuration of a topic at one broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfig {
    /// Attributes by name.
    #[serde(deserialize_with = "lenient::or_default")]
    pub attributes: BTreeMap<String, String>,
    /// Is it an order topic?
    #[serde(deserialize_with = "lenient::boolean")]
    pub order: bool,
    /// See [`permission`].
    #[serde(deserialize_with = "lenient::number")]
    pub perm: i32,
    /// Queues consumers read.
    #[serde(deserialize_with = "lenient::number")]
    pub read_queue_nums: i32,
    /// Tags per message.
    pub topic_filter_type: TopicFilterType,
    /// The topic's name.
    pub topic_name: String,
    /// The topic's system flag.
    #[serde(deserialize_with = "lenient::number")]
    pub topic_sys_flag: i32,
    /// Queues producers write.
    #[serde(deserialize_with = "lenient::number")]
    pub write_queue_nums: i32,
}

impl Default for TopicConfig {
    /// RocketMQ's defaults: 16 queues, readable and writable.
    fn default() -> Self {
        Self {
            attributes: BTreeMap::new(),
            order: false,
            perm: permission::READ_WRITE,
            read_queue_nums: 16,
            topic_filter_type: TopicFilterType::SingleTag,
            topic_name: String::new(),
            topic_sys_flag: 0,
            write_queue_nums: 16,
        }
    }
}

impl TopicConfig {
    /// A topic with `queues` queues and these permissions.
    #[must_use]
    pub fn new(name: impl Into<String>, queues: i32, perm: i32) -> Self {
        Self {
            topic_name: name.into(),
            read_queue_nums: queues,
            write_queue_nums: queues,
            perm,
            ..Self::default()
        }
    }
}

/// Names the state of a broker's configuration; any difference means it changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataVersion {
    /// Counts changes.
    #[serde(deserialize_with = "lenient::number")]
    pub counter: i64,
    /// The leadership period in which the state was changed.
    #[serde(deserialize_with = "lenient::number")]
    pub state_version: i64,
    /// When it was changed, in milliseconds since the Unix epoch.
    #[serde(deserialize_with = "lenient::number")]
    pub timestamp: i64,
}

impl DataVersion {
    /// The version after a change at `now_ms`, in milliseconds since the Unix epoch.
    #[must_use]
    pub const fn next(self, now_ms: i64) -> Self {
        Self { counter: self.counter.wrapping_add(1), timestamp: now_ms, ..self }
    }
}

/// All topics of a broker: inside a registration, and the answer to code 21.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicTable {
    /// Version of the table.
    #[serde(deserialize_with = "lenient::or_default")]
    pub data_version: DataVersion,
    /// Version of the static-topic mappings, which we do not have; strict readers want to see it.
    #[serde(deserialize_with = "lenient::or_default")]
    pub mapping_data_version: DataVersion,
    /// The topics by name.
    #[serde(deserialize_with = "lenient::or_default")]
    pub topic_config_table: BTreeMap<String, TopicConfig>,
    /// As above: always empty, and ignored when read.
    #[serde(deserialize_with = "ignored")]
    pub topic_queue_mapping_detail_map: BTreeMap<String, String>,
    /// As above.
    #[serde(deserialize_with = "ignored")]
    pub topic_queue_mapping_info_map: BTreeMap<String, String>,
}

fn ignored<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer).map(|_| BTreeMap::new())
}

/// Several topics to create or change (code 18).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfigList {
    /// The topics.
    #[serde(deserialize_with = "lenient::or_default")]
    pub topic_config_list: Vec<TopicConfig>,
}

/// Names of topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicList {
    /// The address of some broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_addr: Option<String>,
    /// The names.
    #[serde(deserialize_with = "lenient::or_default")]
    pub topic_list: Vec<String>,
}

/// The bounds of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicOffset {
    /// Store time of the last message, in milliseconds since the Unix epoch; 0: none.
    #[serde(deserialize_with = "lenient::number")]
    pub last_update_timestamp: i64,
    /// The next offset to be written.
    #[serde(deserialize_with = "lenient::number")]
    pub max_offset: i64,
    /// The oldest offset kept.
    #[serde(deserialize_with = "lenient::number")]
    pub min_offset: i64,
}

/// The bounds of all queues of a topic (code 202).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicStatsTable {
    /// Bounds by queue.
    pub offset_table: QueueTable<TopicOffset>,
    /// Messages a second.
    pub topic_put_tps: f64,
}

/// A table of texts: settings and broker numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KvTable {
    /// The texts by key.
    #[serde(deserialize_with = "lenient::or_default")]
    pub table: BTreeMap<String, String>,
}
