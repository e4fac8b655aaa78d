//! What the table tells: routes, clusters, lists of names.

use std::collections::BTreeMap;
use std::time::Duration;

use staticfire_transport::Monotonic;

use super::table::{BrokerKey, Registration, RouteTable};
use crate::protocol::body::{
    BrokerMemberGroup, ClusterInfo, DataVersion, MASTER_ID, QueueData, TopicRouteData,
};
use crate::protocol::names::ORDER_TOPIC_NAMESPACE;

/// One registered broker, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerEntry {
    /// The cluster.
    pub cluster: String,
    /// Name of the broker group.
    pub broker_name: String,
    /// Its number in the group; 0 is the master.
    pub broker_id: i64,
    /// `ip:port` for clients.
    pub address: String,
    /// Version of its topics.
    pub version: DataVersion,
    /// Time since its last sign of life.
    pub age: Duration,
}

/// Topics by their unit flags (codes 311 to 313).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitTopics {
    /// With the unit flag.
    Unit,
    /// With the unit-subscription flag.
    Subscribed,
    /// With the unit-subscription flag and without the unit flag.
    SubscribedOnly,
}

impl RouteTable {
    /// Where a topic lives (code 105); `None` when no registered broker has it. `order` adds the
    /// topic's order setting, `acting_master` lets the lowest slave of a group without master
    /// appear as its master where the queues are read-only.
    #[must_use]
    pub fn route(&self, topic: &str, order: bool, acting_master: bool) -> Option<TopicRouteData> {
        let queues = self.topics.get(topic)?;
        let mut route = TopicRouteData::default();
        for (name, queue) in queues {
            let Some(group) = self.groups.get(name) else { continue };
            let mut group = group.clone();
            let stands_in = acting_master && group.enable_acting_master && !queue.writable();
            if stands_in && group.master().is_none() {
                let lowest = group.broker_addrs.pop_first();
                group.broker_addrs.extend(lowest.map(|(_, address)| (MASTER_ID, address)));
            }
            route.broker_datas.push(group);
            route.queue_datas.push(queue.clone());
        }
        if order {
            route.order_topic_conf = self.settings.value(ORDER_TOPIC_NAMESPACE, topic).map(str::to_owned);
        }
        (!route.broker_datas.is_empty()).then_some(route)
    }

    /// All broker groups and clusters (code 106).
    #[must_use]
    pub fn cluster_info(&self) -> ClusterInfo {
        ClusterInfo { broker_addr_table: self.groups.clone(), cluster_addr_table: self.clusters.clone() }
    }

    /// The members of a broker group (code 901).
    #[must_use]
    pub fn members(&self, cluster: &str, broker_name: &str) -> Option<BrokerMemberGroup> {
        let group = self.groups.get(broker_name).filter(|group| group.cluster == cluster)?;
        Some(BrokerMemberGroup {
            broker_addrs: group.broker_addrs.clone(),
            broker_name: broker_name.to_owned(),
            cluster: cluster.to_owned(),
        })
    }

    /// All topic names (code 206).
    #[must_use]
    pub fn topics(&self) -> Vec<String> {
        self.topics.keys().cloned().collect()
    }

    /// The topics of a cluster (code 224).
    #[must_use]
    pub fn topics_of_cluster(&self, cluster: &str) -> Vec<String> {
        let Some(names) = self.clusters.get(cluster) else { return Vec::new() };
        self.topics_where(|queues| queues.keys().any(|broker| names.contains(broker)))
    }

    /// The topics with these unit flags.
    #[must_use]
    pub fn unit_topics(&self, which: UnitTopics) -> Vec<String> {
        const UNIT: i32 = 1;
        const SUBSCRIBED: i32 = 2;
        self.topics_where(|queues| {
            let flags = queues.values().next().map_or(0, |queue| queue.topic_sys_flag);
            match which {
                UnitTopics::Unit => flags & UNIT != 0,
                UnitTopics::Subscribed => flags & SUBSCRIBED != 0,
                UnitTopics::SubscribedOnly => flags & (UNIT | SUBSCRIBED) == SUBSCRIBED,
            }
        })
    }

    fn topics_where(&self, keep: impl Fn(&BTreeMap<String, QueueData>) -> bool) -> Vec<String> {
        self.topics.iter().filter(|(_, queues)| keep(queues)).map(|(name, _)| name.clone()).collect()
    }

    /// Names of clusters and broker groups, and some broker's address (code 304).
    #[must_use]
    pub fn system_topics(&self) -> (Vec<String>, Option<String>) {
        let names = self.clusters.keys().chain(self.groups.keys()).cloned().collect();
        let address = self.groups.values().flat_map(|group| group.broker_addrs.values()).next().cloned();
        (names, address)
    }

    /// Every registered broker.
    #[must_use]
    pub fn brokers(&self, now: Monotonic) -> Vec<BrokerEntry> {
        let entry = |(key, known): (&BrokerKey, &Registration)| BrokerEntry {
            cluster: key.cluster.clone(),
            broker_name: known.broker_name.clone(),
            broker_id: known.broker_id,
            address: key.address.clone(),
            version: known.version,
            age: now.since(known.last_seen),
        };
        self.live.iter().map(entry).collect()
    }
}
