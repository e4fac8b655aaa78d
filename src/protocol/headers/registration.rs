//! Brokers and routes at the name server (nameserver.md §1 and §3).

use crate::header;

header! {
    /// A broker registers itself (code 103); the body holds its topics.
    pub struct RegisterBrokerRequest {
        /// Name of the broker group, unique over all clusters.
        "brokerName" broker_name: String,
        /// `ip:port` that clients dial.
        "brokerAddr" broker_address: String,
        /// The cluster.
        "clusterName" cluster_name: String,
        /// `ip:port` of the replication listener.
        "haServerAddr" ha_address: String,
        /// 0 is the master.
        "brokerId" broker_id: i64,
        /// The broker counts as dead after so many milliseconds without a sign of life.
        "heartbeatTimeoutMillis" heartbeat_timeout_ms: Option<i64>,
        /// May a slave stand in for a missing master? Absent: a broker too old to know.
        "enableActingMaster" acting_master: Option<bool>,
        /// The body is compressed.
        "compressed" compressed: bool = false,
        /// CRC-32 of the body as sent, without its top bit; 0: not checked.
        "bodyCrc32" body_crc: i32 = 0,
        /// The zone.
        "__ZONE_NAME" zone: Option<String>,
    }
}

header! {
    /// What a slave learns when it registers.
    pub struct RegisterBrokerResponse {
        /// The master's address.
        "masterAddr" master_address: Option<String>,
        /// The master's replication address.
        "haServerAddr" ha_address: Option<String>,
    }
}

header! {
    /// Names one broker (codes 104 and 322).
    pub struct BrokerRequest {
        /// Name of the broker group.
        "brokerName" broker_name: String,
        /// Its address.
        "brokerAddr" broker_address: String,
        /// The cluster.
        "clusterName" cluster_name: String,
        /// Its number in the group.
        "brokerId" broker_id: i64,
    }
}

header! {
    /// Is a registration out of date?
    pub struct QueryDataVersionResponse {
        /// True when the name server does not know the broker or knows another version.
        "changed" changed: bool,
    }
}

header! {
    /// A broker is alive (code 904).
    pub struct BrokerHeartbeatRequest {
        /// The cluster.
        "clusterName" cluster_name: String,
        /// Its address.
        "brokerAddr" broker_address: String,
        /// Name of the broker group.
        "brokerName" broker_name: String,
        /// Its number in the group.
        "brokerId" broker_id: Option<i64>,
        /// As on registration.
        "heartbeatTimeoutMills" heartbeat_timeout_ms: Option<i64>,
    }
}

header! {
    /// Asks for the members of a broker group (code 901).
    pub struct MemberGroupRequest {
        /// The cluster.
        "clusterName" cluster_name: String,
        /// Name of the broker group.
        "brokerName" broker_name: String,
    }
}

header! {
    /// Names a broker group (codes 205 and 327).
    pub struct BrokerNameRequest {
        /// Name of the broker group.
        "brokerName" broker_name: String,
    }
}

header! {
    /// How many topics lost the write permission.
    pub struct WipeWriteResponse {
        /// Topics visited.
        "wipeTopicCount" topics: i32,
    }
}

header! {
    /// How many topics got the write permission.
    pub struct AddWriteResponse {
        /// Topics visited.
        "addTopicCount" topics: i32,
    }
}

header! {
    /// Asks where a topic lives (code 105).
    pub struct RouteRequest {
        /// The topic.
        "topic" topic: String,
        /// The client wants quoted keys; it gets them anyway.
        "acceptStandardJsonOnly" standard_json: bool = false,
    }
}

header! {
    /// Forgets a topic (code 216), or registers its queues (code 217).
    pub struct NameServerTopicRequest {
        /// The topic.
        "topic" topic: String,
        /// Only at the brokers of this cluster.
        "clusterName" cluster_name: Option<String>,
    }
}

header! {
    /// Asks for the topics of a cluster (code 224).
    pub struct ClusterRequest {
        /// The cluster.
        "cluster" cluster: String,
    }
}
