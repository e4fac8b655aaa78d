//! The table of brokers and routes: a pure state machine, `now` is an argument.
//!
//! ```text
//!   clusters   cluster    -> broker names
//!   groups     broker name -> cluster, id -> address            (BrokerData of the protocol)
//!   topics     topic      -> broker name -> QueueData
//!   live       cluster, address -> connection, last seen, time-out, data version
//! ```
//!
//! A registration belongs to the connection it arrived on, its *incarnation*. Whatever ends a
//! registration (the connection closes, it was silent too long, the broker says so) names the
//! incarnation it was decided for, so a late decision about an old connection never removes what a
//! newer one registered.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use staticfire_storage::TopicName;
use staticfire_transport::{ConnectionId, Monotonic};

use super::Settings;
use crate::protocol::body::{
    BrokerData, DataVersion, MASTER_ID, QueueData, TopicConfig, TopicTable, permission,
};
use crate::protocol::headers::{BrokerHeartbeatRequest, BrokerRequest, RegisterBrokerRequest};

/// A broker that names no time-out is dropped after so much silence.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(120);
/// Time-outs named by brokers are clamped to this range.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
const TIMEOUT_MAX: Duration = TIMEOUT_DEFAULT;
/// The longest name or address, in bytes.
const TEXT_LEN_MAX: usize = 255;
/// Topics with more queues are not taken: clients make an object for each.
const QUEUES_MAX: i32 = 65_536;

/// The most that is kept.
#[derive(Clone, Copy, Debug)]
pub struct TableLimits {
    /// Registered brokers.
    pub brokers: usize,
    /// Topics.
    pub topics: usize,
}

impl Default for TableLimits {
    fn default() -> Self {
        Self { brokers: 4096, topics: 200_000 }
    }
}

/// Which brokers live and which topics they have. A table without clock or socket: time is an argument.
#[derive(Debug, Default)]
pub struct RouteTable {
    limits: TableLimits,
    pub(super) clusters: BTreeMap<String, BTreeSet<String>>,
    pub(super) groups: BTreeMap<String, BrokerData>,
    pub(super) topics: BTreeMap<String, BTreeMap<String, QueueData>>,
    pub(super) live: BTreeMap<BrokerKey, Registration>,
    /// Key-value settings.
    pub settings: Settings,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BrokerKey {
    pub(super) cluster: String,
    pub(super) address: String,
}

#[derive(Clone, Debug)]
pub(super) struct Registration {
    pub(super) broker_name: String,
    pub(super) broker_id: i64,
    ha_address: String,
    connection: ConnectionId,
    pub(super) last_seen: Monotonic,
    timeout: Duration,
    pub(super) version: DataVersion,
}

/// What a registration was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// For a slave: the master's address and its replication address.
    pub master: Option<(String, String)>,
    /// Another address is registered under this name and id with newer data; nothing was changed.
    pub outdated: bool,
    /// Topics left out: bad name, bad queue count, or the table is full.
    pub topics_skipped: usize,
}

/// Why a registration is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// A name, address or id is not acceptable.
    Field {
        /// Its wire name.
        field: &'static str,
    },
    /// The broker name belongs to a group of another cluster.
    OtherCluster {
        /// That cluster.
        cluster: String,
    },
    /// A broker's first registration has exactly one topic: it must be an increment.
    IncrementFirst,
    /// The table is full.
    Full {
        /// The limit on brokers.
        brokers: usize,
    },
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field { field } => {
                write!(f, "register broker failed: the field `{field}` is not acceptable")
            }
            Self::OtherCluster { cluster } => {
                write!(f, "register broker failed: the broker name belongs to cluster {cluster}")
            }
            Self::IncrementFirst => {
                f.write_str("register broker failed: the first registration must list all topics")
            }
            Self::Full { brokers } => write!(f, "register broker failed: {brokers} brokers are registered"),
        }
    }
}

impl std::error::Error for RegisterError {}

/// The broker is not registered, or another connection registered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRegistered {
    /// There is no such broker.
    Unknown,
    /// It was registered over another connection.
    OtherConnection,
}

/// A decision to drop a broker that was silent too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    key: BrokerKey,
    last_seen: Monotonic,
    /// The connection it registered on.
    pub connection: ConnectionId,
}

impl RouteTable {
    /// An empty table.
    #[must_use]
    pub fn new(limits: TableLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// A broker registers, or registers again (nameserver.md §3.4).
    ///
    /// # Errors
    /// [`RegisterError`]; nothing was changed.
    pub fn register(
        &mut self,
        now: Monotonic,
        connection: ConnectionId,
        request: &RegisterBrokerRequest,
        topics: TopicTable,
    ) -> Result<Registered, RegisterError> {
        let first = self.admit(request, &topics)?;
        let key = BrokerKey::new(&request.cluster_name, &request.broker_address);
        let previous = self.address_of(&request.broker_name, request.broker_id);
        if let Some(other) = previous.filter(|address| *address != request.broker_address) {
            if self.has_newer(&request.cluster_name, &other, topics.data_version) {
                return Ok(Registered { outdated: true, ..Registered::default() });
            }
            self.live.remove(&BrokerKey::new(&request.cluster_name, &other));
        }
        if self.live.get(&key).is_some_and(|known| known.broker_name != request.broker_name) {
            self.remove(&key);
        }
        self.join(request);
        let changed = first || self.live.get(&key).is_none_or(|known| known.version != topics.data_version);
        let version = topics.data_version;
        let topics_skipped = self.apply_topics(request, topics, changed);
        self.live.insert(
            key,
            Registration {
                broker_name: request.broker_name.clone(),
                broker_id: request.broker_id,
                ha_address: request.ha_address.clone(),
                connection,
                last_seen: now,
                timeout: timeout(request.heartbeat_timeout_ms),
                version,
            },
        );
        Ok(Registered { master: self.master_for(request), outdated: false, topics_skipped })
    }

    /// Checks a registration; true when it is this broker's first.
    fn admit(&self, request: &RegisterBrokerRequest, topics: &TopicTable) -> Result<bool, RegisterError> {
        let texts = [
            ("brokerName", request.broker_name.as_str()),
            ("clusterName", &request.cluster_name),
            ("brokerAddr", &request.broker_address),
        ];
        if let Some((field, _)) = texts.into_iter().find(|(_, text)| !acceptable(text)) {
            return Err(RegisterError::Field { field });
        }
        if request.broker_id < MASTER_ID {
            return Err(RegisterError::Field { field: "brokerId" });
        }
        if request.ha_address.len() > TEXT_LEN_MAX {
            return Err(RegisterError::Field { field: "haServerAddr" });
        }
        let group = self.groups.get(&request.broker_name);
        if let Some(group) = group.filter(|group| group.cluster != request.cluster_name) {
            return Err(RegisterError::OtherCluster { cluster: group.cluster.clone() });
        }
        let first = group.is_none_or(|group| !group.broker_addrs.contains_key(&request.broker_id));
        if first && topics.topic_config_table.len() == 1 {
            return Err(RegisterError::IncrementFirst);
        }
        if first && self.live.len() >= self.limits.brokers {
            return Err(RegisterError::Full { brokers: self.limits.brokers });
        }
        Ok(first)
    }

    fn address_of(&self, broker_name: &str, broker_id: i64) -> Option<String> {
        self.groups.get(broker_name)?.broker_addrs.get(&broker_id).cloned()
    }

    /// Is the broker at this address registered with newer data? A newer leadership period wins,
    /// then the count of changes.
    fn has_newer(&self, cluster: &str, address: &str, than: DataVersion) -> bool {
        let age = |version: DataVersion| (version.state_version, version.counter);
        self.live.get(&BrokerKey::new(cluster, address)).is_some_and(|known| age(known.version) > age(than))
    }

    /// Puts the broker into its group, and takes its address from any other id: a slave that was
    /// promoted comes back under another number.
    fn join(&mut self, request: &RegisterBrokerRequest) {
        self.clusters.entry(request.cluster_name.clone()).or_default().insert(request.broker_name.clone());
        let group = self.groups.entry(request.broker_name.clone()).or_insert_with(|| BrokerData {
            broker_name: request.broker_name.clone(),
            cluster: request.cluster_name.clone(),
            ..BrokerData::default()
        });
        group.enable_acting_master = request.acting_master.unwrap_or(false);
        group.zone_name.clone_from(&request.zone);
        group.broker_addrs.retain(|_, address| *address != request.broker_address);
        group.broker_addrs.insert(request.broker_id, request.broker_address.clone());
    }

    /// Takes over the topics of a master, or of the lowest slave of a group that lets it stand in.
    fn apply_topics(&mut self, request: &RegisterBrokerRequest, topics: TopicTable, changed: bool) -> usize {
        let lowest =
            self.groups.get(&request.broker_name).and_then(|group| group.broker_addrs.keys().next().copied());
        let stands_in = request.acting_master.is_some() && lowest == Some(request.broker_id);
        if request.broker_id != MASTER_ID && !stands_in {
            return 0;
        }
        let read_only = request.broker_id != MASTER_ID && request.acting_master == Some(true);
        let mut skipped = 0;
        for (name, mut config) in topics.topic_config_table {
            if read_only {
                config.perm &= !permission::WRITE;
            }
            if !self.put_topic(&name, &request.broker_name, &config, changed) {
                skipped += 1;
            }
        }
        skipped
    }

    /// False when the topic is not taken.
    fn put_topic(&mut self, name: &str, broker: &str, config: &TopicConfig, changed: bool) -> bool {
        let queues = 0..=QUEUES_MAX;
        if !queues.contains(&config.read_queue_nums) || !queues.contains(&config.write_queue_nums) {
            return false;
        }
        if !self.topics.contains_key(name) {
            if self.topics.len() >= self.limits.topics || TopicName::new(name).is_err() {
                return false;
            }
            self.topics.insert(name.to_owned(), BTreeMap::new());
        }
        let queues_by_broker = self.topics.get_mut(name).expect("inserted above");
        if changed || !queues_by_broker.contains_key(broker) {
            queues_by_broker.insert(
                broker.to_owned(),
                QueueData {
                    broker_name: broker.to_owned(),
                    perm: config.perm,
                    read_queue_nums: config.read_queue_nums,
                    topic_sys_flag: config.topic_sys_flag,
                    write_queue_nums: config.write_queue_nums,
                },
            );
        }
        true
    }

    fn master_for(&self, request: &RegisterBrokerRequest) -> Option<(String, String)> {
        if request.broker_id == MASTER_ID {
            return None;
        }
        let address = self.groups.get(&request.broker_name)?.master()?;
        let master = self.live.get(&BrokerKey::new(&request.cluster_name, address))?;
        Some((address.to_owned(), master.ha_address.clone()))
    }

    /// A broker leaves (code 104). Doing it twice is fine.
    ///
    /// # Errors
    /// The broker was registered over another connection, and stays.
    pub fn unregister(
        &mut self,
        connection: ConnectionId,
        request: &BrokerRequest,
    ) -> Result<(), NotRegistered> {
        let key = BrokerKey::new(&request.cluster_name, &request.broker_address);
        match self.live.get(&key) {
            None => Ok(()),
            Some(known) if known.connection != connection => Err(NotRegistered::OtherConnection),
            Some(_) => {
                self.remove(&key);
                Ok(())
            }
        }
    }

    /// A connection is gone: so are the brokers registered over it. Returns how many.
    pub fn closed(&mut self, connection: ConnectionId) -> usize {
        let gone: Vec<_> = self
            .live
            .iter()
            .filter(|(_, known)| known.connection == connection)
            .map(|(key, _)| key.clone())
            .collect();
        gone.iter().for_each(|key| self.remove(key));
        gone.len()
    }

    /// A broker is alive (code 904).
    ///
    /// # Errors
    /// It is not registered over this connection; nothing was changed.
    pub fn heartbeat(
        &mut self,
        now: Monotonic,
        connection: ConnectionId,
        request: &BrokerHeartbeatRequest,
    ) -> Result<(), NotRegistered> {
        let key = BrokerKey::new(&request.cluster_name, &request.broker_address);
        let known = self.refresh(now, connection, &key)?;
        if request.heartbeat_timeout_ms.is_some() {
            known.timeout = timeout(request.heartbeat_timeout_ms);
        }
        Ok(())
    }

    /// A broker asks whether `version` is what is known here (code 322), and is thereby alive.
    /// Returns whether it is another one, and the known one.
    pub fn query_version(
        &mut self,
        now: Monotonic,
        connection: ConnectionId,
        request: &BrokerRequest,
        version: DataVersion,
    ) -> (bool, Option<DataVersion>) {
        let key = BrokerKey::new(&request.cluster_name, &request.broker_address);
        match self.refresh(now, connection, &key) {
            Ok(known) => (known.version != version, Some(known.version)),
            Err(_) => (true, None),
        }
    }

    fn refresh(
        &mut self,
        now: Monotonic,
        connection: ConnectionId,
        key: &BrokerKey,
    ) -> Result<&mut Registration, NotRegistered> {
        let known = self.live.get_mut(key).ok_or(NotRegistered::Unknown)?;
        if known.connection != connection {
            return Err(NotRegistered::OtherConnection);
        }
        known.last_seen = known.last_seen.max(now);
        Ok(known)
    }

    /// Drops every broker that was silent for *more* than its time-out. The caller closes their
    /// connections.
    pub fn scan(&mut self, now: Monotonic) -> Vec<Eviction> {
        let mut evictions = self.overdue(now);
        evictions.retain(|eviction| self.evict(eviction));
        evictions
    }

    /// The brokers that were silent for more than their time-out.
    #[must_use]
    pub fn overdue(&self, now: Monotonic) -> Vec<Eviction> {
        let overdue = self.live.iter().filter(|(_, known)| now.since(known.last_seen) > known.timeout);
        overdue
            .map(|(key, known)| Eviction {
                key: key.clone(),
                last_seen: known.last_seen,
                connection: known.connection,
            })
            .collect()
    }

    /// Carries out a decision, unless the broker gave a sign of life since. True when it is gone.
    pub fn evict(&mut self, eviction: &Eviction) -> bool {
        let current = self.live.get(&eviction.key).is_some_and(|known| {
            known.connection == eviction.connection && known.last_seen == eviction.last_seen
        });
        if current {
            self.remove(&eviction.key);
        }
        current
    }

    /// Removes a registration; with a group's last member go the group and its queues (§2.2).
    fn remove(&mut self, key: &BrokerKey) {
        let Some(gone) = self.live.remove(key) else { return };
        let Some(group) = self.groups.get_mut(&gone.broker_name) else { return };
        group.broker_addrs.retain(|_, address| *address != key.address);
        if group.broker_addrs.is_empty() {
            self.remove_group(&gone.broker_name);
        } else if group.enable_acting_master && group.master().is_none() {
            self.change_permission(&gone.broker_name, |perm| perm & !permission::WRITE);
        }
    }

    fn remove_group(&mut self, broker_name: &str) {
        let Some(group) = self.groups.remove(broker_name) else { return };
        if let Some(names) = self.clusters.get_mut(&group.cluster) {
            names.remove(broker_name);
            if names.is_empty() {
                self.clusters.remove(&group.cluster);
            }
        }
        self.topics.retain(|_, queues| {
            queues.remove(broker_name);
            !queues.is_empty()
        });
    }

    /// Gives all topics of a broker group the write permission or takes it (codes 327 and 205).
    /// Returns how many topics it has. Holds until the broker's next changed registration.
    pub fn set_writable(&mut self, broker_name: &str, writable: bool) -> usize {
        self.change_permission(broker_name, |perm| {
            if writable { permission::READ_WRITE } else { perm & !permission::WRITE }
        })
    }

    fn change_permission(&mut self, broker_name: &str, change: impl Fn(i32) -> i32) -> usize {
        let mut visited = 0;
        for queues in self.topics.values_mut().filter_map(|queues| queues.get_mut(broker_name)) {
            queues.perm = change(queues.perm);
            visited += 1;
        }
        visited
    }

    /// Forgets a topic (code 216), at the brokers of one cluster or everywhere.
    pub fn delete_topic(&mut self, topic: &str, cluster: Option<&str>) {
        let Some(queues) = self.topics.get_mut(topic) else { return };
        match cluster {
            None => queues.clear(),
            Some(cluster) => {
                let names = self.clusters.get(cluster);
                queues.retain(|broker, _| !names.is_some_and(|names| names.contains(broker)));
            }
        }
        if queues.is_empty() {
            self.topics.remove(topic);
        }
    }

    /// Registers the queues of one topic (code 217). Queues of unknown brokers are left out.
    pub fn register_topic(&mut self, topic: &str, queues: &[QueueData]) {
        for queue in queues
            .iter()
            .filter(|queue| self.groups.contains_key(&queue.broker_name))
            .cloned()
            .collect::<Vec<_>>()
        {
            let config = TopicConfig {
                perm: queue.perm,
                read_queue_nums: queue.read_queue_nums,
                write_queue_nums: queue.write_queue_nums,
                topic_sys_flag: queue.topic_sys_flag,
                ..TopicConfig::default()
            };
            self.put_topic(topic, &queue.broker_name, &config, true);
        }
    }

    /// Checks what must hold between the tables.
    ///
    /// # Panics
    /// When it does not: a bug here, never a peer's doing.
    pub fn check_invariants(&self) {
        for (name, group) in &self.groups {
            assert!(!group.broker_addrs.is_empty(), "group {name} has no member");
            let listed = self.clusters.get(&group.cluster).is_some_and(|names| names.contains(name));
            assert!(listed, "group {name} is missing from cluster {}", group.cluster);
            for (id, address) in &group.broker_addrs {
                let known = self.live.get(&BrokerKey::new(&group.cluster, address));
                assert!(
                    known.is_some_and(|known| known.broker_id == *id),
                    "{name} {id} at {address} is not live"
                );
            }
        }
        for (key, known) in &self.live {
            let address = self.address_of(&known.broker_name, known.broker_id);
            assert_eq!(address.as_ref(), Some(&key.address), "a live broker is in no group");
        }
        for (topic, queues) in &self.topics {
            assert!(!queues.is_empty(), "topic {topic} has no queue");
            assert!(
                queues.keys().all(|name| self.groups.contains_key(name)),
                "topic {topic} at an unknown broker"
            );
        }
        assert!(self.live.len() <= self.limits.brokers && self.topics.len() <= self.limits.topics);
    }
}

impl BrokerKey {
    fn new(cluster: &str, address: &str) -> Self {
        Self { cluster: cluster.to_owned(), address: address.to_owned() }
    }
}

fn timeout(named_ms: Option<i64>) -> Duration {
    let Some(ms) = named_ms else { return TIMEOUT_DEFAULT };
    Duration::from_millis(u64::try_from(ms).unwrap_or(0)).clamp(TIMEOUT_MIN, TIMEOUT_MAX)
}

fn acceptable(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= TEXT_LEN_MAX
        && !text.contains(|c: char| c.is_control() || c.is_whitespace())
}
