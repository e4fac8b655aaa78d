//! Which clients are in which groups, by incarnation of their connection.
//!
//! A member is a connection, not a client id: a client that reconnects is another member, and the
//! close of its old connection cannot remove the new one. Subscriptions are kept per member and a
//! group subscribes to what any member does. (RocketMQ keeps them per group, so that two members
//! with different topics throw each other's out at every heartbeat, and a pull consumer that joins
//! a push group silences it.)

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use staticfire_transport::{ConnectionId, Language, Monotonic};

use crate::protocol::body::{ConsumeFromWhere, ConsumeType, MessageModel, SubscriptionData};
use crate::protocol::filter::TagFilter;
use crate::protocol::names::GroupName;

/// A member that sent no heartbeat for this long is gone (remoting-protocol §9.2).
pub const MEMBER_EXPIRY: Duration = Duration::from_secs(120);
/// Groups one connection may be a member of, producer and consumer groups together.
pub const GROUPS_PER_CONNECTION_MAX: usize = 1024;
/// Subscriptions one member may have in one group.
pub const SUBSCRIPTIONS_MAX: usize = 1024;

/// The client at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its connection.
    pub connection: ConnectionId,
    /// Its id: the name other members and tools know it by.
    pub id: String,
    /// The language it says it is written in.
    pub language: Language,
    /// The version it states.
    pub version: i32,
    /// Its address.
    pub peer: SocketAddr,
}

/// One topic a consumer wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// What the heartbeat said.
    pub data: SubscriptionData,
    /// Its expression, compiled.
    pub filter: Arc<TagFilter>,
}

/// How a consumer group consumes, as its last heartbeat said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumeStyle {
    /// Who asks for messages.
    pub consume_type: ConsumeType,
    /// Who gets a message.
    pub model: MessageModel,
    /// Where a new group starts.
    pub from_where: ConsumeFromWhere,
}

impl ConsumeStyle {
    /// Every member gets every message, so no queues are divided.
    #[must_use]
    pub fn is_broadcasting(self) -> bool {
        self.model == MessageModel::Broadcasting
    }
}

#[derive(Debug)]
struct Member {
    client: Client,
    seen: Monotonic,
    subscriptions: BTreeMap<String, Subscription>,
}

/// The live members of one consumer group.
#[derive(Debug)]
pub struct ConsumerGroup {
    style: ConsumeStyle,
    members: BTreeMap<ConnectionId, Member>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Producer,
    Consumer,
}

/// All groups of a broker.
#[derive(Debug, Default)]
pub struct Membership {
    producers: BTreeMap<GroupName, BTreeMap<ConnectionId, (Client, Monotonic)>>,
    consumers: BTreeMap<GroupName, ConsumerGroup>,
    by_connection: BTreeMap<ConnectionId, BTreeSet<(Role, GroupName)>>,
}

/// The connection is in [`GROUPS_PER_CONNECTION_MAX`] groups already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyGroups;

impl Membership {
    /// A heartbeat of a producer.
    ///
    /// # Errors
    /// [`TooManyGroups`]
    pub fn producer_beat(
        &mut self,
        now: Monotonic,
        client: &Client,
        group: &GroupName,
    ) -> Result<(), TooManyGroups> {
        self.enlist(client.connection, Role::Producer, group)?;
        let members = self.producers.entry(group.clone()).or_default();
        members.insert(client.connection, (client.clone(), now));
        Ok(())
    }

    /// A heartbeat of a consumer. True when the group's members have to be told: the member is
    /// new, or the set of topics the group subscribes to changed, and queues are divided at all.
    ///
    /// # Errors
    /// [`TooManyGroups`]
    pub fn consumer_beat(
        &mut self,
        now: Monotonic,
        client: &Client,
        group: &GroupName,
        style: ConsumeStyle,
        subscriptions: Vec<Subscription>,
    ) -> Result<bool, TooManyGroups> {
        self.enlist(client.connection, Role::Consumer, group)?;
        let entry = self
            .consumers
            .entry(group.clone())
            .or_insert_with(|| ConsumerGroup { style, members: BTreeMap::new() });
        let before: BTreeSet<String> = entry.topics().into_iter().map(str::to_owned).collect();
        entry.style = style;
        let member = Member { client: client.clone(), seen: now, subscriptions: BTreeMap::new() };
        let old = entry.members.insert(client.connection, member);
        let is_new = old.is_none();
        let merged = merge(old.map(|member| member.subscriptions).unwrap_or_default(), subscriptions);
        if let Some(member) = entry.members.get_mut(&client.connection) {
            member.subscriptions = merged;
        }
        let changed = is_new || !before.iter().map(String::as_str).eq(entry.topics());
        Ok(changed && !entry.style.is_broadcasting())
    }

    /// The connection leaves a producer group.
    pub fn leave_producer(&mut self, connection: ConnectionId, group: &str) {
        if let Some(members) = self.producers.get_mut(group) {
            members.remove(&connection);
            if members.is_empty() {
                self.producers.remove(group);
            }
        }
        self.strike(connection, Role::Producer, group);
    }

    /// The connection leaves a consumer group. True when the remaining members have to be told.
    pub fn leave_consumer(&mut self, connection: ConnectionId, group: &str) -> bool {
        self.strike(connection, Role::Consumer, group);
        let Some(entry) = self.consumers.get_mut(group) else { return false };
        let left = entry.members.remove(&connection).is_some();
        let tell = left && !entry.members.is_empty() && !entry.style.is_broadcasting();
        if entry.members.is_empty() {
            self.consumers.remove(group);
        }
        tell
    }

    /// The connection is gone: it leaves all groups. Returns the consumer groups whose remaining
    /// members have to be told.
    pub fn closed(&mut self, connection: ConnectionId) -> Vec<GroupName> {
        let mut told = Vec::new();
        for (role, group) in self.by_connection.get(&connection).cloned().unwrap_or_default() {
            match role {
                Role::Producer => self.leave_producer(connection, group.as_str()),
                Role::Consumer if self.leave_consumer(connection, group.as_str()) => told.push(group),
                Role::Consumer => {}
            }
        }
        told
    }

    /// Removes members whose last heartbeat is [`MEMBER_EXPIRY`] old. Returns the consumer groups
    /// whose remaining members have to be told.
    pub fn expire(&mut self, now: Monotonic) -> Vec<GroupName> {
        let is_old = |seen: Monotonic| now.since(seen) >= MEMBER_EXPIRY;
        let mut gone = Vec::new();
        for (group, members) in &self.producers {
            gone.extend(
                members
                    .iter()
                    .filter(|(_, (_, seen))| is_old(*seen))
                    .map(|(id, _)| (*id, None, group.clone())),
            );
        }
        for (group, entry) in &self.consumers {
            let old = entry.members.iter().filter(|(_, member)| is_old(member.seen));
            gone.extend(old.map(|(id, _)| (*id, Some(()), group.clone())));
        }
        let mut told = BTreeSet::new();
        for (connection, consumer, group) in gone {
            if consumer.is_none() {
                self.leave_producer(connection, group.as_str());
            } else if self.leave_consumer(connection, group.as_str()) {
                told.insert(group);
            }
        }
        told.into_iter().filter(|group| self.consumers.contains_key(group)).collect()
    }

    /// The live members of a consumer group.
    #[must_use]
    pub fn consumers(&self, group: &str) -> Option<&ConsumerGroup> {
        self.consumers.get(group)
    }

    /// Consumer groups with a live member that wants `topic`.
    pub fn groups_wanting<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a GroupName> {
        let wants =
            move |entry: &ConsumerGroup| entry.members.values().any(|m| m.subscriptions.contains_key(topic));
        self.consumers.iter().filter(move |(_, entry)| wants(entry)).map(|(group, _)| group)
    }

    /// The live members of a producer group.
    pub fn producers<'a>(&'a self, group: &str) -> impl Iterator<Item = &'a Client> {
        self.producers.get(group).into_iter().flat_map(|members| members.values().map(|(client, _)| client))
    }

    /// All live producers: group, client, last heartbeat.
    pub fn all_producers(&self) -> impl Iterator<Item = (&GroupName, &Client, Monotonic)> {
        let of = |(group, members)| {
            let members: &BTreeMap<ConnectionId, (Client, Monotonic)> = members;
            members.values().map(move |(client, seen)| (group, client, *seen))
        };
        self.producers.iter().flat_map(of)
    }

    fn enlist(
        &mut self,
        connection: ConnectionId,
        role: Role,
        group: &GroupName,
    ) -> Result<(), TooManyGroups> {
        let groups = self.by_connection.entry(connection).or_default();
        let entry = (role, group.clone());
        if groups.len() >= GROUPS_PER_CONNECTION_MAX && !groups.contains(&entry) {
            return Err(TooManyGroups);
        }
        groups.insert(entry);
        Ok(())
    }

    fn strike(&mut self, connection: ConnectionId, role: Role, group: &str) {
        let Some(groups) = self.by_connection.get_mut(&connection) else { return };
        groups.retain(|(r, g)| !(*r == role && g.as_str() == group));
        if groups.is_empty() {
            self.by_connection.remove(&connection);
        }
    }
}

impl ConsumerGroup {
    /// How the group consumes.
    #[must_use]
    pub const fn style(&self) -> ConsumeStyle {
        self.style
    }

    /// The members, oldest connection first.
    pub fn members(&self) -> impl Iterator<Item = &Client> {
        self.members.values().map(|member| &member.client)
    }

    /// What the group wants of `topic`: the newest version any member states.
    #[must_use]
    pub fn subscription(&self, topic: &str) -> Option<&Subscription> {
        let all = self.members.values().filter_map(|member| member.subscriptions.get(topic));
        all.max_by_key(|subscription| subscription.data.sub_version)
    }

    /// Everything the group wants, ordered by topic.
    pub fn subscriptions(&self) -> impl Iterator<Item = &Subscription> {
        self.topics().into_iter().filter_map(|topic| self.subscription(topic)).collect::<Vec<_>>().into_iter()
    }

    fn topics(&self) -> BTreeSet<&str> {
        self.members.values().flat_map(|member| member.subscriptions.keys().map(String::as_str)).collect()
    }
}

/// What a member subscribes to after a heartbeat: its topics, each with the newer of the two
/// versions known.
fn merge(mut old: BTreeMap<String, Subscription>, new: Vec<Subscription>) -> BTreeMap<String, Subscription> {
    let mut merged = BTreeMap::new();
    for subscription in new.into_iter().take(SUBSCRIPTIONS_MAX) {
        let kept = match old.remove(&subscription.data.topic) {
            Some(known) if known.data.sub_version >= subscription.data.sub_version => known,
            _ => subscription,
        };
        merged.insert(kept.data.topic.clone(), kept);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic::new(Duration::from_secs(seconds))
    }

    fn group(name: &str) -> GroupName {
        GroupName::new(name).unwrap()
    }

    fn client(connection: u64) -> Client {
        Client {
            connection: ConnectionId(connection),
            id: format!("client{connection}"),
            language: Language::Java,
            version: 493,
            peer: "127.0.0.1:4000".parse().unwrap(),
        }
    }

    fn wants(topics: &[(&str, i64)]) -> Vec<Subscription> {
        let one = |&(topic, version): &(&str, i64)| {
            let data = SubscriptionData::tags(topic, &version.to_string(), version).unwrap();
            Subscription { filter: Arc::new(data.filter().unwrap()), data }
        };
        topics.iter().map(one).collect()
    }

    fn style(model: MessageModel) -> ConsumeStyle {
        ConsumeStyle { consume_type: ConsumeType::Passively, model, from_where: ConsumeFromWhere::LastOffset }
    }

    fn beat(members: &mut Membership, now: u64, connection: u64, topics: &[(&str, i64)]) -> bool {
        members
            .consumer_beat(
                at(now),
                &client(connection),
                &group("g"),
                style(MessageModel::Clustering),
                wants(topics),
            )
            .unwrap()
    }

    fn ids(members: &Membership) -> Vec<&str> {
        members.consumers("g").map(|g| g.members().map(|c| c.id.as_str()).collect()).unwrap_or_default()
    }

    #[test]
    fn joining_and_changing_topics_is_told_and_a_mere_heartbeat_is_not() {
        let mut members = Membership::default();
        assert!(beat(&mut members, 0, 1, &[("t", 1)]), "the newcomer itself has to be told");
        assert!(!beat(&mut members, 1, 1, &[("t", 1)]));
        assert!(!beat(&mut members, 2, 1, &[("t", 2)]), "a newer expression divides no queue anew");
        assert!(beat(&mut members, 3, 1, &[("t", 2), ("u", 1)]));
        assert!(beat(&mut members, 4, 1, &[("u", 1)]));
        assert!(beat(&mut members, 5, 2, &[("u", 1)]));
        assert_eq!(ids(&members), ["client1", "client2"]);
    }

    #[test]
    fn broadcasting_groups_are_not_told() {
        let mut members = Membership::default();
        let told = members
            .consumer_beat(
                at(0),
                &client(1),
                &group("g"),
                style(MessageModel::Broadcasting),
                wants(&[("t", 1)]),
            )
            .unwrap();
        assert!(!told);
        beat(&mut members, 0, 2, &[]);
    }

    #[test]
    fn the_newest_version_of_an_expression_counts() {
        let mut members = Membership::default();
        beat(&mut members, 0, 1, &[("t", 5)]);
        beat(&mut members, 0, 1, &[("t", 4)]);
        beat(&mut members, 0, 2, &[("t", 3)]);
        let group = members.consumers("g").unwrap();
        assert_eq!(group.subscription("t").unwrap().data.sub_string, "5");
        assert_eq!(group.subscriptions().count(), 1);
        assert!(group.subscription("u").is_none());
    }

    /// A pull consumer without subscriptions joins: the push members keep theirs.
    #[test]
    fn members_do_not_throw_each_others_topics_out() {
        let mut members = Membership::default();
        beat(&mut members, 0, 1, &[("t", 1)]);
        beat(&mut members, 0, 2, &[]);
        assert!(members.consumers("g").unwrap().subscription("t").is_some());
        assert_eq!(members.groups_wanting("t").collect::<Vec<_>>(), [&group("g")]);
    }

    #[test]
    fn the_close_of_an_old_connection_does_not_remove_the_new_one() {
        let mut members = Membership::default();
        beat(&mut members, 0, 1, &[("t", 1)]);
        beat(&mut members, 0, 2, &[("t", 1)]);
        assert_eq!(members.closed(ConnectionId(1)), [group("g")]);
        assert_eq!(ids(&members), ["client2"]);
        assert_eq!(members.closed(ConnectionId(2)), [], "nobody is left to be told");
        assert_eq!(members.closed(ConnectionId(2)), []);
        assert!(members.consumers.is_empty() && members.by_connection.is_empty());
    }

    #[test]
    fn members_without_heartbeat_expire() {
        let mut members = Membership::default();
        beat(&mut members, 0, 1, &[("t", 1)]);
        beat(&mut members, 60, 2, &[("t", 1)]);
        members.producer_beat(at(0), &client(1), &group("p")).unwrap();
        assert_eq!(members.expire(at(119)), []);
        assert_eq!(members.expire(at(120)), [group("g")]);
        assert_eq!(ids(&members), ["client2"]);
        assert_eq!(members.producers("p").count(), 0);
        assert!(!members.by_connection.contains_key(&ConnectionId(1)));
    }

    #[test]
    fn leaving_is_told_to_those_who_stay() {
        let mut members = Membership::default();
        beat(&mut members, 0, 1, &[("t", 1)]);
        beat(&mut members, 0, 2, &[("t", 1)]);
        assert!(members.leave_consumer(ConnectionId(1), "g"));
        assert!(!members.leave_consumer(ConnectionId(1), "g"), "once");
        assert!(!members.leave_consumer(ConnectionId(2), "g"));
        assert!(!members.leave_consumer(ConnectionId(2), "unknown"));
    }

    /// proves: B40
    #[test]
    fn a_connection_is_in_a_bounded_number_of_groups() {
        let mut members = Membership::default();
        for i in 0..GROUPS_PER_CONNECTION_MAX {
            members.producer_beat(at(0), &client(1), &group(&format!("p{i}"))).unwrap();
        }
        assert_eq!(members.producer_beat(at(0), &client(1), &group("one_more")), Err(TooManyGroups));
        assert_eq!(members.producer_beat(at(0), &client(1), &group("p0")), Ok(()));
        let topics: Vec<String> = (0..5000).map(|i| i.to_string()).collect();
        let topics: Vec<(&str, i64)> = topics.iter().map(|t| (t.as_str(), 1)).collect();
        beat(&mut members, 0, 2, &topics);
        assert_eq!(members.consumers("g").unwrap().subscriptions().count(), SUBSCRIPTIONS_MAX);
    }
}
