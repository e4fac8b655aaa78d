//! Where topics live (nameserver.md §5 and §6).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::lenient;

/// The id of a broker group's master.
pub const MASTER_ID: i64 = 0;

/// Permission bits of a topic.
pub mod permission {
    /// Its queues may be created from it as a template.
    pub const INHERIT: i32 = 1;
    /// Producers may write.
    pub const WRITE: i32 = 2;
    /// Consumers may read.
    pub const READ: i32 = 4;
    /// Reading and writing.
    pub const READ_WRITE: i32 = READ | WRITE;
}

/// One broker group: its cluster and the addresses of its members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerData {
    /// `ip:port` by broker id; 0 is the master.
    #[serde(deserialize_with = "lenient::or_default")]
    pub broker_addrs: BTreeMap<i64, String>,
    /// Name of the group.
    pub broker_name: String,
    /// Its cluster.
    pub cluster: String,
    /// May a slave stand in for a missing master?
    #[serde(deserialize_with = "lenient::boolean")]
    pub enable_acting_master: bool,
    /// Its zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_name: Option<String>,
}

impl BrokerData {
    /// The master's address.
    #[must_use]
    pub fn master(&self) -> Option<&str> {
        self.broker_addrs.get(&MASTER_ID).map(String::as_str)
    }
}

/// The queues of a topic at one broker group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueData {
    /// Name of the group.
    pub broker_name: String,
    /// See [`permission`].
    #[serde(deserialize_with = "lenient::number")]
    pub perm: i32,
    /// Queues consumers read.
    #[serde(deserialize_with = "lenient::number")]
    pub read_queue_nums: i32,
    /// The topic's system flag.
    #[serde(deserialize_with = "lenient::number")]
    pub topic_sys_flag: i32,
    /// Queues producers write.
    #[serde(deserialize_with = "lenient::number")]
    pub write_queue_nums: i32,
}

impl QueueData {
    /// May consumers read?
    #[must_use]
    pub const fn readable(&self) -> bool {
        self.perm & permission::READ != 0
    }

    /// May producers write?
    #[must_use]
    pub const fn writable(&self) -> bool {
        self.perm & permission::WRITE != 0
    }
}

/// Where a topic lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicRouteData {
    /// The broker groups that hold it.
    #[serde(deserialize_with = "lenient::or_default")]
    pub broker_datas: Vec<BrokerData>,
    /// Always empty; clients want to see it.
    #[serde(deserialize_with = "lenient::or_default")]
    pub filter_server_table: BTreeMap<String, Vec<String>>,
    /// `broker-a:4;broker-b:4`, for order topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_topic_conf: Option<String>,
    /// Its queues there.
    #[serde(deserialize_with = "lenient::or_default")]
    pub queue_datas: Vec<QueueData>,
}

impl TopicRouteData {
    /// The group of this name.
    #[must_use]
    pub fn broker(&self, name: &str) -> Option<&BrokerData> {
        self.broker_datas.iter().find(|broker| broker.broker_name == name)
    }
}

/// All broker groups and clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterInfo {
    /// Broker groups by name.
    #[serde(deserialize_with = "lenient::or_default")]
    pub broker_addr_table: BTreeMap<String, BrokerData>,
    /// Names of the broker groups of each cluster.
    #[serde(deserialize_with = "lenient::or_default")]
    pub cluster_addr_table: BTreeMap<String, BTreeSet<String>>,
}

/// The members of one broker group (code 901).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerMemberGroup {
    /// `ip:port` by broker id.
    #[serde(deserialize_with = "lenient::or_default")]
    pub broker_addrs: BTreeMap<i64, String>,
    /// Name of the group.
    pub broker_name: String,
    /// Its cluster.
    pub cluster: String,
}

/// The body of the answer to code 901.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemberGroupBody {
    /// Absent when the group is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_member_group: Option<BrokerMemberGroup>,
}
