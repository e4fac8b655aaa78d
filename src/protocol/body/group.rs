//! Groups: configuration, members, locks, assignments (remoting-protocol §9 and §15.3).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    ConsumeFromWhere, ConsumeType, DataVersion, MessageModel, MessageQueue, SubscriptionData, lenient,
};

/// The configuration of a consumer group at one broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionGroupConfig {
    /// Attributes by name.
    #[serde(deserialize_with = "lenient::or_default")]
    pub attributes: BTreeMap<String, String>,
    /// Obsolete; 0.
    #[serde(deserialize_with = "lenient::number")]
    pub broker_id: i64,
    /// May the group consume by broadcast?
    #[serde(deserialize_with = "lenient::boolean")]
    pub consume_broadcast_enable: bool,
    /// May the group consume?
    #[serde(deserialize_with = "lenient::boolean")]
    pub consume_enable: bool,
    /// Obsolete.
    #[serde(deserialize_with = "lenient::boolean")]
    pub consume_from_min_enable: bool,
    /// Does the group consume in order?
    #[serde(deserialize_with = "lenient::boolean")]
    pub consume_message_orderly: bool,
    /// Minutes after which a listener counts as hanging.
    #[serde(deserialize_with = "lenient::number")]
    pub consume_timeout_minute: i32,
    /// Its name.
    pub group_name: String,
    /// The group's system flag.
    #[serde(deserialize_with = "lenient::number")]
    pub group_sys_flag: i32,
    /// Are members told when the group changes?
    #[serde(deserialize_with = "lenient::boolean")]
    pub notify_consumer_ids_changed_enable: bool,
    /// Redeliveries before a message becomes a dead letter.
    #[serde(deserialize_with = "lenient::number")]
    pub retry_max_times: i32,
    /// Queues of the retry topic.
    #[serde(deserialize_with = "lenient::number")]
    pub retry_queue_nums: i32,
    /// Obsolete; the slave to read from.
    #[serde(deserialize_with = "lenient::number")]
    pub which_broker_when_consume_slowly: i64,
}

impl Default for SubscriptionGroupConfig {
    /// RocketMQ's defaults: everything allowed, 16 redeliveries.
    fn default() -> Self {
        Self {
            attributes: BTreeMap::new(),
            broker_id: 0,
            consume_broadcast_enable: true,
            consume_enable: true,
            consume_from_min_enable: true,
            consume_message_orderly: false,
            consume_timeout_minute: 15,
            group_name: String::new(),
            group_sys_flag: 0,
            notify_consumer_ids_changed_enable: true,
            retry_max_times: 16,
            retry_queue_nums: 1,
            which_broker_when_consume_slowly: 1,
        }
    }
}

impl SubscriptionGroupConfig {
    /// A group with the defaults.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { group_name: name.into(), ..Self::default() }
    }
}

/// All groups of a broker (code 201).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionGroupTable {
    /// Version of the table.
    #[serde(deserialize_with = "lenient::or_default")]
    pub data_version: DataVersion,
    /// Forbidden topics by group; always empty.
    #[serde(deserialize_with = "lenient::or_default")]
    pub forbidden_table: BTreeMap<String, BTreeMap<String, i32>>,
    /// The groups by name.
    #[serde(deserialize_with = "lenient::or_default")]
    pub subscription_group_table: BTreeMap<String, SubscriptionGroupConfig>,
}

/// Several groups to create or change (code 225).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionGroupList {
    /// The groups.
    #[serde(deserialize_with = "lenient::or_default")]
    pub group_config_list: Vec<SubscriptionGroupConfig>,
}

/// Names of groups (code 300).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupList {
    /// The names.
    #[serde(deserialize_with = "lenient::or_default")]
    pub group_list: Vec<String>,
}

/// The members of a group (code 38).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerIdList {
    /// Client ids; one may stand there twice.
    #[serde(deserialize_with = "lenient::or_default")]
    pub consumer_id_list: Vec<String>,
}

/// Queues to lock or unlock (codes 41 and 42).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LockRequest {
    /// The client.
    pub client_id: String,
    /// The consumer group.
    pub consumer_group: String,
    /// The queues.
    #[serde(deserialize_with = "lenient::or_default")]
    pub mq_set: Vec<MessageQueue>,
    /// Not at replicas.
    #[serde(deserialize_with = "lenient::boolean")]
    pub only_this_broker: bool,
}

/// Queues that were locked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LockResponse {
    /// The queues.
    #[serde(rename = "lockOKMQSet", deserialize_with = "lenient::or_default")]
    pub locked: Vec<MessageQueue>,
}

/// One connection of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConnection {
    /// `ip:port`.
    pub client_addr: String,
    /// The client's id.
    pub client_id: String,
    /// Its language.
    pub language: String,
    /// Its version.
    #[serde(deserialize_with = "lenient::number")]
    pub version: i32,
}

/// The connections of a consumer group (code 203).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerConnection {
    /// The connections.
    #[serde(deserialize_with = "lenient::or_default")]
    pub connection_set: Vec<ClientConnection>,
    /// Where it starts.
    pub consume_from_where: ConsumeFromWhere,
    /// How it takes messages.
    pub consume_type: ConsumeType,
    /// Who gets a message.
    pub message_model: MessageModel,
    /// What it wants, by topic.
    #[serde(deserialize_with = "lenient::or_default")]
    pub subscription_table: BTreeMap<String, SubscriptionData>,
}

/// The connections of a producer group (code 204).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerConnection {
    /// The connections.
    #[serde(deserialize_with = "lenient::or_default")]
    pub connection_set: Vec<ClientConnection>,
}

/// One producer (code 328).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerInfo {
    /// The client's id.
    pub client_id: String,
    /// Its language.
    pub language: String,
    /// Its last heartbeat, in milliseconds since the Unix epoch.
    #[serde(deserialize_with = "lenient::number")]
    pub last_update_timestamp: i64,
    /// Its address.
    #[serde(rename = "remoteIP")]
    pub remote_ip: String,
    /// Its version.
    #[serde(deserialize_with = "lenient::number")]
    pub version: i32,
}

/// All producers of a broker by group (code 328).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProducerTable {
    /// Producers by group.
    #[serde(deserialize_with = "lenient::or_default")]
    pub data: BTreeMap<String, Vec<ProducerInfo>>,
}

/// Asks the broker to divide a topic's queues (code 400).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AssignmentRequest {
    /// The client.
    pub client_id: String,
    /// The consumer group.
    pub consumer_group: String,
    /// Who gets a message.
    pub message_model: MessageModel,
    /// `AVG` and others.
    #[serde(deserialize_with = "lenient::or_default")]
    pub strategy_name: String,
    /// The topic.
    pub topic: String,
}

/// One queue of a client (code 400).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueAssignment {
    /// The queue.
    pub message_queue: MessageQueue,
    /// `PULL` or `POP`.
    pub mode: String,
}

/// The queues of a client (code 400).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AssignmentResponse {
    /// The queues.
    #[serde(deserialize_with = "lenient::or_default")]
    pub message_queue_assignments: Vec<QueueAssignment>,
}
