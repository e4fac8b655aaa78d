//! What a broker is called, where it listens, and its limits.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use staticfire_transport::Endpoint;

use super::node::GroupOptions;
use super::polls::PollLimits;
use super::topics::TopicLimits;

/// Settings of a broker. Start from the default and change what you need.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// The cluster it belongs to.
    pub cluster: String,
    /// Its name: what clients call it in every request.
    pub name: String,
    /// Its number among the brokers of that name; 0 is the master.
    pub id: i64,
    /// Where it listens. Port 0: a free one.
    pub listen: SocketAddr,
    /// The address clients dial, when it is not the one listened on.
    pub advertised: Option<SocketAddr>,
    /// The name servers, each of which gets a connection.
    pub name_servers: Vec<Endpoint>,
    /// Time between two registrations (10 to 60 s; RocketMQ's default: 30 s).
    pub registration_period: Duration,
    /// How long a send waits for its flush before it is answered "stored, but not flushed".
    /// RocketMQ's default: 5 s.
    pub flush_wait: Duration,
    /// Bytes at the end of the log that count as being in memory: they are served 32 messages at a
    /// time instead of 8, and a queue that begins among them is young (remoting-protocol §9.6).
    pub recent_bytes: u64,
    /// Bytes at the end of the log that pulls look at without asking whether they are in memory: they were
    /// just written. What is older, and left the memory since, is read on a thread of the disk first.
    pub hot_bytes: u64,
    /// How many topics there may be.
    pub topics: TopicLimits,
    /// Consumer groups come to be when a client names them.
    pub auto_create_groups: bool,
    /// How many pulls may be held.
    pub polls: PollLimits,
    /// Bytes handed to consumers in a second from which on this broker is busy, and below which it is
    /// no more: a busy leader sends consumers to slaves for what these have. 32 to 64 MiB.
    pub busy_reading: RangeInclusive<u64>,
    /// Its part in a group of brokers of that name, which copy and may elect; `id` counts for nothing
    /// then. `None`: it is alone.
    pub replication: Option<GroupOptions>,
}

impl Default for BrokerOptions {
    /// `broker-a` of `DefaultCluster`, on the loopback address, without a name server.
    fn default() -> Self {
        Self {
            cluster: "DefaultCluster".to_owned(),
            name: "broker-a".to_owned(),
            id: 0,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 10911)),
            advertised: None,
            name_servers: Vec::new(),
            registration_period: Duration::from_secs(30),
            flush_wait: Duration::from_secs(5),
            recent_bytes: 8 << 30,
            hot_bytes: 64 << 20,
            topics: TopicLimits::default(),
            auto_create_groups: true,
            polls: PollLimits::default(),
            busy_reading: 32 << 20..=64 << 20,
            replication: None,
        }
    }
}
