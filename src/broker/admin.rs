//! What tools ask: topics, groups, statistics (remoting-protocol §15).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use staticfire_storage::{Boundary, PhysicalOffset, Queue, QueueId, QueueOffset};
use staticfire_transport::{Body, Command, Connection};

use super::consumers::queue_id;
use super::refusal::Refusal;
use super::settling::Need;
use super::shared::{Shared, lock, read, write};
use super::topics::{TopicError, are_short};
use super::turn::{Handled, Reply};
use crate::protocol::body::{
    ClientConnection, ConsumerConnection, ConsumerOffsetTable, DelayOffsetTable, GroupList, KvTable,
    MessageQueue, ProducerConnection, ProducerInfo, ProducerTable, ResetOffsetBody, SubscriptionGroupConfig,
    SubscriptionGroupList, TopicConfig, TopicConfigList, TopicFilterType, TopicList, TopicOffset,
    TopicStatsTable,
};
use crate::protocol::codes::response;
use crate::protocol::header::{self, Header};
use crate::protocol::headers::{
    ConsumerGroupRequest, CreateTopicRequest, DeleteGroupRequest, GroupRequest, ProducerGroupRequest,
    QueryMessageResponse, ResetOffsetRequest, TopicRequest, ViewMessageRequest,
};
use crate::protocol::json;
use crate::protocol::names::GroupName;

impl Shared {
    /// Codes 17 and 18: answered when the topics are on disk and known to the name servers.
    pub fn create_topics(
        self: &Arc<Self>,
        connection: &Connection,
        request: &Command,
        topics: Vec<TopicConfig>,
    ) -> Handled {
        let mut need = Need::default();
        for mut config in topics {
            let known = read(&self.topics).get(&config.topic_name).map(|topic| Arc::clone(&topic.config));
            let known = known.map_or_else(BTreeMap::new, |known| known.attributes.clone());
            config.attributes = changed(known, &config.attributes)?;
            self.raised_mode(&config)?;
            let topic = write(&self.topics).put(config, self.wall_ms())?;
            need = need.and(Need { topics: topic.changed, ..Need::default() });
        }
        Ok(self.when_settled(connection, request, need))
    }

    /// The topic of code 17.
    pub fn topic_of(request: &Command) -> Result<Vec<TopicConfig>, Refusal> {
        let head: CreateTopicRequest = header::read(request)?;
        let multi = head.filter_type.as_deref() == Some(TopicFilterType::MultiTag.name());
        Ok(vec![TopicConfig {
            attributes: attributes(head.attributes.as_deref().unwrap_or("")),
            order: head.order,
            perm: head.permission,
            read_queue_nums: head.read_queues,
            topic_filter_type: if multi { TopicFilterType::MultiTag } else { TopicFilterType::SingleTag },
            topic_name: head.topic,
            topic_sys_flag: head.sys_flag,
            write_queue_nums: head.write_queues,
        }])
    }

    /// The topics of code 18.
    pub fn topics_of(request: &Command) -> Result<Vec<TopicConfig>, Refusal> {
        let list: TopicConfigList = json::from_slice_tolerant(&request.body.to_bytes())?;
        Ok(list.topic_config_list)
    }

    /// Code 215. Configuration first, so that nobody sends to a queue that is being removed.
    pub fn delete_topic(self: &Arc<Self>, connection: &Connection, request: &Command) -> Handled {
        let TopicRequest { topic } = header::read(request)?;
        let name = staticfire_storage::TopicName::new(&topic)?;
        let (known, need) = {
            let mut topics = write(&self.topics);
            let known = topics.remove(&topic, self.wall_ms())?;
            (known, Need { topics: topics.revision(), ..Need::default() })
        };
        lock(&self.offsets).remove_topic(&topic);
        // In a group, every node has to give the same numbers: the queues stay, and retention empties them.
        if self.node.is_none() {
            let removed = self.store.remove_topic(&name);
            removed.map_err(|_| Refusal::system("some files of the topic could not be removed"))?;
        }
        Ok(if known { self.when_settled(connection, request, need) } else { done(request) })
    }

    /// Codes 200 and 225.
    pub fn create_groups(
        self: &Arc<Self>,
        connection: &Connection,
        request: &Command,
        groups: Vec<SubscriptionGroupConfig>,
    ) -> Handled {
        for config in groups {
            let name = GroupName::new(&config.group_name)?;
            if !are_short(&config.attributes) {
                return Err(TopicError::Attributes.into());
            }
            if !write(&self.groups).put(name, config, self.wall_ms()) {
                return Err(Refusal::system("the limit of consumer groups is reached"));
            }
        }
        let need = Need { groups: read(&self.groups).revision(), ..Need::default() };
        Ok(self.when_settled(connection, request, need))
    }

    /// The group of code 200.
    pub fn group_of(request: &Command) -> Result<Vec<SubscriptionGroupConfig>, Refusal> {
        Ok(vec![json::from_slice_tolerant(&request.body.to_bytes())?])
    }

    /// The groups of code 225.
    pub fn groups_of(request: &Command) -> Result<Vec<SubscriptionGroupConfig>, Refusal> {
        let list: SubscriptionGroupList = json::from_slice_tolerant(&request.body.to_bytes())?;
        Ok(list.group_config_list)
    }

    /// Code 207.
    pub fn delete_group(self: &Arc<Self>, connection: &Connection, request: &Command) -> Handled {
        let head: DeleteGroupRequest = header::read(request)?;
        write(&self.groups).remove(&head.group, self.wall_ms());
        if head.clean_offset {
            lock(&self.offsets).remove_group(&head.group);
        }
        let need = Need { groups: read(&self.groups).revision(), ..Need::default() };
        Ok(self.when_settled(connection, request, need))
    }

    fn when_settled(self: &Arc<Self>, connection: &Connection, request: &Command, need: Need) -> Reply {
        if self.settling.is_settled(need) {
            return done(request);
        }
        if request.is_one_way() {
            self.changes.raise();
        } else {
            self.answer_settled(connection, request.answer(response::SUCCESS), need);
        }
        Reply::Later
    }

    /// Code 21.
    pub fn all_topics(&self, request: &Command) -> Handled {
        let table = read(&self.topics).table();
        let count = table.topic_config_table.len();
        Ok(Reply::Now(
            request
                .answer(response::SUCCESS)
                .with_ext("totalTopicNum", count)
                .with_body(json::to_bytes(&table)),
        ))
    }

    /// Code 351.
    pub fn topic_config(&self, request: &Command) -> Handled {
        let TopicRequest { topic } = header::read(request)?;
        let topics = read(&self.topics);
        let found = topics.get(&topic).ok_or_else(|| Refusal::no_topic(&topic))?;
        Ok(body(request, json::to_bytes(&*found.config)))
    }

    /// Code 201.
    pub fn all_groups(&self, request: &Command) -> Handled {
        let table = read(&self.groups).table();
        let count = table.subscription_group_table.len();
        Ok(Reply::Now(
            request
                .answer(response::SUCCESS)
                .with_ext("totalGroupNum", count)
                .with_body(json::to_bytes(&table)),
        ))
    }

    /// Code 352.
    pub fn group_config(&self, request: &Command) -> Handled {
        let GroupRequest { group } = header::read(request)?;
        let groups = read(&self.groups);
        let found = groups.get(&group).ok_or_else(|| Refusal::no_group(&group))?;
        Ok(body(request, json::to_bytes(&**found)))
    }

    /// Code 202.
    pub fn topic_stats(&self, request: &Command) -> Handled {
        let TopicRequest { topic } = header::read(request)?;
        let count = self.queue_count(&topic)?;
        let bounds = |id| (self.queue_name(&topic, id), self.queue_stats(&topic, QueueId(id)));
        let table = TopicStatsTable { offset_table: (0..count).map(bounds).collect(), topic_put_tps: 0.0 };
        Ok(body(request, json::to_bytes_with_queue_keys(&table)))
    }

    fn queue_stats(&self, topic: &str, id: QueueId) -> TopicOffset {
        let Some(queue) = self.store.queue(topic, id) else { return TopicOffset::default() };
        let (min, max) = (queue.min(), queue.max());
        let last = (max > min).then(|| store_ms(&queue, QueueOffset(max.0 - 1))).flatten();
        TopicOffset {
            last_update_timestamp: last.unwrap_or(0),
            max_offset: signed(max),
            min_offset: signed(min),
        }
    }

    /// Code 300.
    pub fn groups_of_topic(&self, request: &Command) -> Handled {
        let TopicRequest { topic } = header::read(request)?;
        let mut groups: BTreeSet<String> =
            lock(&self.members).groups_wanting(&topic).map(ToString::to_string).collect();
        groups.extend(lock(&self.offsets).groups_of(&topic).map(str::to_owned));
        Ok(body(request, json::to_bytes(&GroupList { group_list: groups.into_iter().collect() })))
    }

    /// Code 305.
    pub fn system_topics(&self, request: &Command) -> Handled {
        let topics = read(&self.topics);
        let topic_list =
            topics.iter().map(|topic| topic.name.to_string()).filter(|name| topics.is_system(name)).collect();
        let list = TopicList { broker_addr: Some(self.address.to_string()), topic_list };
        Ok(body(request, json::to_bytes(&list)))
    }

    /// Code 33: one record, as a slice of the log.
    pub fn view_message(&self, request: &Command) -> Handled {
        let head: ViewMessageRequest = header::read(request)?;
        let not_found = || Refusal::system(format!("can not find message by the offset, {}", head.offset));
        let at = u64::try_from(head.offset).map_err(|_| not_found())?;
        let record = self.confirmed_record(PhysicalOffset(at)).map_err(|_| not_found())?;
        Ok(body(request, record.bytes().clone()))
    }

    /// Code 12: there is no key index yet.
    pub fn query_by_key(&self, request: &Command) -> Handled {
        let head = QueryMessageResponse { index_ms: 0, index_offset: 0 };
        let remark = "can not find message: this broker keeps no key index";
        Ok(Reply::Now(head.on(request.answer(response::QUERY_NOT_FOUND)).with_remark(remark)))
    }

    /// Code 203.
    pub fn consumer_connections(&self, request: &Command) -> Handled {
        let ConsumerGroupRequest { consumer_group: group } = header::read(request)?;
        let members = lock(&self.members);
        let found = members.consumers(&group).ok_or_else(|| {
            Refusal::new(response::CONSUMER_NOT_ONLINE, format!("the consumer group[{group}] not online"))
        })?;
        let style = found.style();
        let subscriptions = found.subscriptions().map(|one| (one.data.topic.clone(), one.data.clone()));
        let table = ConsumerConnection {
            connection_set: found.members().map(connection_of).collect(),
            consume_from_where: style.from_where,
            consume_type: style.consume_type,
            message_model: style.model,
            subscription_table: subscriptions.collect(),
        };
        Ok(body(request, json::to_bytes(&table)))
    }

    /// Code 204.
    pub fn producer_connections(&self, request: &Command) -> Handled {
        let ProducerGroupRequest { producer_group: group } = header::read(request)?;
        let connection_set: Vec<_> = lock(&self.members).producers(&group).map(connection_of).collect();
        if connection_set.is_empty() {
            return Err(Refusal::system(format!("the producer group[{group}] not exist")));
        }
        Ok(body(request, json::to_bytes(&ProducerConnection { connection_set })))
    }

    /// Code 328.
    pub fn all_producers(&self, request: &Command) -> Handled {
        let mut table = ProducerTable::default();
        for (group, client, seen) in lock(&self.members).all_producers() {
            let ago = i64::try_from(self.now().since(seen).as_millis()).unwrap_or(i64::MAX);
            table.data.entry(group.as_str().to_owned()).or_default().push(ProducerInfo {
                client_id: client.id.clone(),
                language: client.language.name().to_owned(),
                last_update_timestamp: self.wall_ms().saturating_sub(ago),
                remote_ip: client.peer.to_string(),
                version: client.version,
            });
        }
        Ok(body(request, json::to_bytes(&table)))
    }

    /// Codes 306 and 329: what retention lets go leaves now, and nothing else.
    pub fn clean(&self, request: &Command) -> Handled {
        self.store.retain().map_err(|error| Refusal::system(error.to_string()))?;
        Ok(done(request))
    }

    /// Code 43.
    pub fn all_offsets(&self, request: &Command) -> Handled {
        Ok(body(request, json::to_bytes(&self.offset_table())))
    }

    /// Consumer offsets in RocketMQ's shape.
    pub fn offset_table(&self) -> ConsumerOffsetTable {
        let mut table = ConsumerOffsetTable::default();
        for (group, topic, queue, offset) in lock(&self.offsets).rows() {
            let queues = table.offset_table.entry(format!("{topic}@{group}")).or_default();
            queues.insert(queue.0.cast_signed(), signed(offset));
        }
        table
    }

    /// Code 45.
    pub fn all_delay_offsets(&self, request: &Command) -> Handled {
        Ok(body(request, json::to_bytes(&self.delay_table())))
    }

    /// Progress of the delay queues in RocketMQ's shape.
    pub fn delay_table(&self) -> DelayOffsetTable {
        let progress = lock(&self.delays).progress().map(|(level, next)| (level, signed(next))).collect();
        DelayOffsetTable { offset_table: progress, ..DelayOffsetTable::default() }
    }

    /// Code 222: leaves the new offsets for the consumers' next pulls, the way RocketMQ 5 does.
    pub fn reset_offsets(&self, request: &Command) -> Handled {
        let head: ResetOffsetRequest = header::read(request)?;
        let count = self.queue_count(&head.topic)?;
        if read(&self.groups).get(&head.group).is_none() {
            return Err(Refusal::no_group(&head.group));
        }
        let ids = match head.queue_id {
            -1 => 0..count,
            one => queue_id(one).map(|id| id.0..id.0 + 1)?,
        };
        let mut targets = BTreeMap::new();
        for id in ids {
            targets.insert(id, self.reset_target(&head, id)?);
        }
        let mut offsets = lock(&self.offsets);
        for (id, target) in &targets {
            if !offsets.reset(&head.group, &head.topic, QueueId(*id), *target) {
                return Err(Refusal::system("too many consumer offsets"));
            }
        }
        drop(offsets);
        let named =
            targets.into_iter().map(|(id, target)| (self.queue_name(&head.topic, id), signed(target)));
        Ok(body(request, json::to_bytes_with_queue_keys(&ResetOffsetBody { offset_table: named.collect() })))
    }

    fn reset_target(&self, head: &ResetOffsetRequest, id: u32) -> Result<QueueOffset, Refusal> {
        let Some(queue) = self.store.queue(&head.topic, QueueId(id)) else { return Ok(QueueOffset(0)) };
        let (min, max) = (queue.min(), queue.max());
        match u64::try_from(head.offset) {
            Ok(offset) if (min.0..=max.0).contains(&offset) => Ok(QueueOffset(offset)),
            Ok(offset) => {
                Err(Refusal::system(format!("offset {offset} is outside of the queue: {min} to {max}")))
            }
            Err(_) if head.timestamp_ms < 0 => Ok(max),
            Err(_) => Ok(queue.seek_by_time(head.timestamp_ms, Boundary::Lower)?),
        }
    }

    /// Code 26: what any client may know, and no path, address or secret.
    pub fn broker_config(&self, request: &Command) -> Handled {
        let options = &self.options;
        let text = format!(
            "brokerClusterName={}\nbrokerName={}\nbrokerId={}\nautoCreateTopicEnable={}\nautoCreateSubscriptionGroup={}\nmessageDelayLevel=1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h\nmaxMessageSize={}\nenablePropertyFilter=false\n",
            options.cluster,
            options.name,
            self.standing().0,
            options.topics.auto_created > 0,
            options.auto_create_groups,
            staticfire_storage::message::BODY_LEN_MAX,
        );
        let version = json::to_bytes(&read(&self.topics).version());
        let version = String::from_utf8_lossy(&version).into_owned();
        Ok(Reply::Now(request.answer(response::SUCCESS).with_ext("version", version).with_body(text)))
    }

    /// Code 28: what `clusterList` and `brokerStatus` print.
    pub fn runtime_info(&self, request: &Command) -> Handled {
        let marks = self.store.marks();
        let put = self.counters.put.load(Ordering::Relaxed);
        let got = self.counters.got.load(Ordering::Relaxed);
        let rates = "0.0 0.0 0.0".to_owned();
        let zero = || "0".to_owned();
        let earliest = self.store.record(marks.min).map_or(-1, |record| record.store_ms());
        let rows = [
            ("brokerActive", "true".to_owned()),
            ("brokerVersionDesc", concat!("staticfire ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("brokerVersion", staticfire_transport::command::VERSION.to_string()),
            ("bootTimestamp", self.started_ms.to_string()),
            ("putTps", rates.clone()),
            ("getTransferredTps", rates.clone()),
            ("getTransferedTps", rates.clone()),
            ("getFoundTps", rates.clone()),
            ("getMissTps", rates.clone()),
            ("getTotalTps", rates),
            ("putMessageTimesTotal", put.to_string()),
            ("msgPutTotalYesterdayMorning", zero()),
            ("msgPutTotalTodayMorning", zero()),
            ("msgPutTotalTodayNow", put.to_string()),
            ("msgGetTotalYesterdayMorning", zero()),
            ("msgGetTotalTodayMorning", zero()),
            ("msgGetTotalTodayNow", got.to_string()),
            ("sendThreadPoolQueueSize", zero()),
            ("pullThreadPoolQueueSize", zero()),
            ("ackThreadPoolQueueSize", zero()),
            ("sendThreadPoolQueueHeadWaitTimeMills", zero()),
            ("pullThreadPoolQueueHeadWaitTimeMills", zero()),
            ("ackThreadPoolQueueHeadWaitTimeMills", zero()),
            ("pageCacheLockTimeMills", zero()),
            ("earliestMessageTimeStamp", earliest.to_string()),
            ("commitLogDiskRatio", self.disk_ratio()),
            ("commitLogMinOffset", marks.min.to_string()),
            ("commitLogMaxOffset", marks.appended.to_string()),
            (
                "dispatchBehindBytes",
                (marks.confirmed.0 - marks.dispatched.0.min(marks.confirmed.0)).to_string(),
            ),
            ("timerReadBehind", zero()),
            ("timerOffsetBehind", zero()),
            ("timerCongestNum", zero()),
            ("timerEnqueueTps", "0.0".to_owned()),
            ("timerDequeueTps", "0.0".to_owned()),
        ];
        let table = rows.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Ok(body(request, json::to_bytes(&KvTable { table })))
    }

    #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
    fn disk_ratio(&self) -> String {
        let space = self.store.directory().space();
        space.map_or_else(
            |_| "-1".to_owned(),
            |space| format!("{:.2}", 1.0 - space.free as f64 / space.total.max(1) as f64),
        )
    }

    pub(super) fn queue_count(&self, topic: &str) -> Result<u32, Refusal> {
        read(&self.topics)
            .get(topic)
            .map(super::topics::Topic::queues)
            .ok_or_else(|| Refusal::no_topic(topic))
    }

    pub(super) fn queue_name(&self, topic: &str, id: u32) -> MessageQueue {
        MessageQueue::new(topic, self.options.name.as_str(), id.cast_signed())
    }
}

pub(super) fn done(request: &Command) -> Reply {
    Reply::Now(request.answer(response::SUCCESS))
}

pub(super) fn body(request: &Command, body: impl Into<Body>) -> Reply {
    Reply::Now(request.answer(response::SUCCESS).with_body(body))
}

pub(super) fn signed(offset: QueueOffset) -> i64 {
    i64::try_from(offset.0).unwrap_or(i64::MAX)
}

pub(super) fn store_ms(queue: &Queue, offset: QueueOffset) -> Option<i64> {
    queue.read(offset, 1).ok()?.first().map(staticfire_storage::Record::store_ms)
}

fn connection_of(client: &super::membership::Client) -> ClientConnection {
    ClientConnection {
        client_addr: client.peer.to_string(),
        client_id: client.id.clone(),
        language: client.language.name().to_owned(),
        version: client.version,
    }
}

/// Changes of attributes as tools write them: `+name=value,-name`.
fn attributes(text: &str) -> BTreeMap<String, String> {
    let is_change = |part: &&str| part.starts_with('-') || part.starts_with('+') && part.contains('=');
    let parts = text.split(',').map(str::trim).filter(is_change);
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (name.to_owned(), value.to_owned())
    };
    parts.map(pair).collect()
}

/// Attributes of a topic after changes: `+name` and `name` set one, `-name` takes it away, and all others stay. Kept as
/// they are, except that queues of several messages per entry are refused: this broker does not write them.
fn changed(
    mut known: BTreeMap<String, String>,
    changes: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Refusal> {
    for (name, value) in changes {
        if let Some(name) = name.strip_prefix('-') {
            known.remove(name);
            continue;
        }
        let name = name.strip_prefix('+').unwrap_or(name);
        if name == "queue.type" && value != "SimpleCQ" || name == "cleanup.policy" && value != "DELETE" {
            return Err(Refusal::parameter(format!("{name}={value} is not supported")));
        }
        known.insert(name.to_owned(), value.clone());
    }
    Ok(known)
}
