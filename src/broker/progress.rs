//! How far groups are, as tools ask for it (remoting-protocol §15).

use std::collections::{BTreeMap, BTreeSet};

use staticfire_storage::{Queue, QueueId, QueueOffset};
use staticfire_transport::Command;

use super::admin::{body, done, signed, store_ms};
use super::consumers::queue_id;
use super::refusal::Refusal;
use super::shared::{Shared, lock, read};
use super::turn::Handled;
use crate::protocol::body::{
    BrokerConsumeStats, ConsumeStats, GroupSubscription, MessageQueue, OffsetWrapper, QueueEntries,
    QueueEntryData, QueueTable, QueueTimeSpan, QueueTimeSpans, SubscriptionData, TopicList,
};
use crate::protocol::header;
use crate::protocol::headers::{
    BrokerConsumeStatsRequest, CloneOffsetRequest, ConsumeStatsRequest, GroupRequest, GroupTopicRequest,
    QueueEntriesRequest,
};
use crate::protocol::json;

/// Queue entries shown at most in one answer.
const ENTRIES_MAX: i32 = 1000;
/// Rows of progress in one answer; they have to fit a frame.
const ROWS_MAX: usize = 40_000;

impl Shared {
    /// Code 208. Topics the group is online for but does not subscribe to are left out.
    pub fn consume_stats(&self, request: &Command) -> Handled {
        let head: ConsumeStatsRequest = header::read(request)?;
        let group = head.consumer_group;
        let one = head.topic.filter(|topic| !topic.is_empty());
        let listed = head.topics.unwrap_or_default();
        let listed: Vec<String> = listed.split(';').filter(|t| !t.is_empty()).map(str::to_owned).collect();
        let topics: Vec<String> = match (one, listed.is_empty()) {
            (Some(topic), _) => vec![topic],
            (None, false) => listed,
            (None, true) => lock(&self.offsets).topics_of(&group).map(str::to_owned).collect(),
        };
        let mut table = BTreeMap::new();
        for topic in topics.iter().filter(|topic| self.may_want(&group, topic)) {
            table.extend(self.progress_in(&group, topic));
        }
        let stats = ConsumeStats { consume_tps: 0.0, offset_table: QueueTable(table) };
        Ok(body(request, json::to_bytes_with_queue_keys(&stats)))
    }

    /// Code 317: every group's progress in every topic it has offsets for.
    pub fn broker_consume_stats(&self, request: &Command) -> Handled {
        let BrokerConsumeStatsRequest { ordered } = header::read(request)?;
        let groups: Vec<String> = read(&self.groups).table().subscription_group_table.into_keys().collect();
        let is_wanted = |group: &str, topic: &str| {
            let order = read(&self.topics).get(topic).is_some_and(|topic| topic.config.order);
            (order || !ordered) && self.may_want(group, topic)
        };
        let mut rows_left = ROWS_MAX;
        let mut stats = BrokerConsumeStats { broker_addr: self.address.to_string(), ..Default::default() };
        for group in groups {
            let topics: Vec<String> = lock(&self.offsets).topics_of(&group).map(str::to_owned).collect();
            let progress = topics.iter().filter(|topic| is_wanted(&group, topic)).map(|topic| {
                let offset_table = QueueTable(self.progress_in(&group, topic));
                ConsumeStats { consume_tps: 0.0, offset_table }
            });
            let progress: Vec<_> = progress.filter(|stats| !stats.offset_table.0.is_empty()).collect();
            let rows = || progress.iter().flat_map(|stats| stats.offset_table.0.values());
            stats.total_diff += rows().map(|row| row.broker_offset - row.consumer_offset).sum::<i64>();
            rows_left = rows_left.checked_sub(rows().count()).ok_or_else(|| {
                Refusal::system("too many queues have offsets for one answer: ask for one group at a time")
            })?;
            stats.consume_stats_list.push([(group, progress)].into());
        }
        Ok(body(request, json::to_bytes_with_queue_keys(&stats)))
    }

    /// Can this group be reading the topic? Not if its members are there and read others.
    fn may_want(&self, group: &str, topic: &str) -> bool {
        let members = lock(&self.members);
        members
            .consumers(group)
            .is_none_or(|group| group.subscriptions().count() == 0 || group.subscription(topic).is_some())
    }

    /// A group's progress in each queue of a topic; nothing for a topic that does not exist.
    fn progress_in(&self, group: &str, topic: &str) -> BTreeMap<MessageQueue, OffsetWrapper> {
        let ids = 0..self.queue_count(topic).unwrap_or(0);
        ids.map(|id| (self.queue_name(topic, id), self.progress(group, topic, QueueId(id)))).collect()
    }

    fn progress(&self, group: &str, topic: &str, id: QueueId) -> OffsetWrapper {
        let queue = self.store.queue(topic, id);
        let max = queue.as_ref().map_or(QueueOffset(0), Queue::max);
        let known = lock(&self.offsets).known(group, topic, id);
        let last = known.filter(|offset| offset.0 > 0).map(|offset| QueueOffset(offset.0 - 1));
        let last_ms = queue.and_then(|queue| store_ms(&queue, last?));
        let consumer_offset = signed(known.unwrap_or_default());
        OffsetWrapper {
            broker_offset: signed(max),
            consumer_offset,
            last_timestamp: last_ms.unwrap_or(0),
            pull_offset: consumer_offset,
        }
    }

    /// Code 303: when the messages were stored that a group consumes now.
    pub fn consume_time_span(&self, request: &Command) -> Handled {
        let head: GroupTopicRequest = header::read(request)?;
        let topic = head.topic.unwrap_or_default();
        let count = self.queue_count(&topic)?;
        let spans = (0..count).map(|id| self.time_span(&head.group, &topic, id)).collect();
        Ok(body(request, json::to_bytes(&QueueTimeSpans { consume_time_span_set: spans })))
    }

    fn time_span(&self, group: &str, topic: &str, id: u32) -> QueueTimeSpan {
        let known = lock(&self.offsets).known(group, topic, QueueId(id)).unwrap_or_default();
        let queue = self.store.queue(topic, QueueId(id));
        let max = queue.as_ref().map_or(QueueOffset(0), Queue::max);
        let time = |offset: Option<QueueOffset>| {
            queue.as_ref().zip(offset).and_then(|(queue, at)| store_ms(queue, at))
        };
        let before = |offset: QueueOffset| offset.0.checked_sub(1).map(QueueOffset);
        let min_ms = time(queue.as_ref().map(Queue::min)).unwrap_or(-1);
        let waiting_since = time(Some(known)).filter(|_| known < max);
        QueueTimeSpan {
            consume_time_stamp: time(before(known)).unwrap_or(min_ms),
            delay_time: waiting_since.map_or(0, |since| self.wall_ms() - since),
            max_time_stamp: time(before(max)).unwrap_or(-1),
            message_queue: self.queue_name(topic, id),
            min_time_stamp: min_ms,
        }
    }

    /// Code 314. The target comes to be as if a member had named it. Without a topic, all that the source has
    /// offsets for.
    pub fn clone_offsets(&self, request: &Command) -> Handled {
        let head: CloneOffsetRequest = header::read(request)?;
        self.group(&head.target_group)?;
        let topics: BTreeSet<String> = match head.topic.filter(|topic| !topic.is_empty()) {
            Some(topic) => [topic].into(),
            None => lock(&self.offsets).topics_of(&head.source_group).map(str::to_owned).collect(),
        };
        let may_want = |topic: &&String| head.offline || self.may_want(&head.source_group, topic);
        for topic in topics.iter().filter(may_want) {
            if !lock(&self.offsets).copy(&head.source_group, &head.target_group, topic) {
                return Err(Refusal::system("too many consumer offsets"));
            }
        }
        Ok(done(request))
    }

    /// Code 321: the entries of a queue as they stand in its files.
    pub fn queue_entries(&self, request: &Command) -> Handled {
        let head: QueueEntriesRequest = header::read(request)?;
        let queue = self
            .store
            .queue(&head.topic, queue_id(head.queue_id)?)
            .ok_or_else(|| Refusal::system(format!("{}@{} is not exist!", head.queue_id, head.topic)))?;
        let count = usize::try_from(head.count.clamp(0, ENTRIES_MAX)).unwrap_or(0);
        let (min, max) = (queue.min(), queue.max());
        let from = u64::try_from(head.index).map(QueueOffset).ok().filter(|from| (min..=max).contains(from));
        let entries = match from {
            Some(from) => queue.entries(from, count)?,
            None => Vec::new(),
        };
        let subscription_data =
            head.consumer_group.as_deref().and_then(|group| self.subscription(group, &head.topic));
        let offline = head.consumer_group.filter(|_| subscription_data.is_none());
        let shown = entries.iter().map(|entry| QueueEntryData {
            physic_offset: entry.physical.0.cast_signed(),
            physic_size: entry.size,
            tags_code: entry.tags_code,
            ..QueueEntryData::default()
        });
        let shown = QueueEntries {
            filter_data: offline.map(|group| format!("{group}@{} is not online!", head.topic)),
            max_queue_index: signed(max),
            min_queue_index: signed(min),
            queue_data: shown.collect(),
            subscription_data,
        };
        Ok(body(request, json::to_bytes(&shown)))
    }

    fn subscription(&self, group: &str, topic: &str) -> Option<SubscriptionData> {
        let members = lock(&self.members);
        members.consumers(group)?.subscription(topic).map(|subscription| subscription.data.clone())
    }

    /// Code 343.
    pub fn topics_of_group(&self, request: &Command) -> Handled {
        let GroupRequest { group } = header::read(request)?;
        let topic_list = lock(&self.offsets).topics_of(&group).map(str::to_owned).collect();
        let list = TopicList { broker_addr: Some(self.address.to_string()), topic_list };
        Ok(body(request, json::to_bytes(&list)))
    }

    /// Code 345.
    pub fn subscription_of_group(&self, request: &Command) -> Handled {
        let head: GroupTopicRequest = header::read(request)?;
        let topic = head.topic.unwrap_or_default();
        let subscription_data = self.subscription(&head.group, &topic);
        let found = GroupSubscription { group: head.group, subscription_data, topic };
        Ok(body(request, json::to_bytes(&found)))
    }
}
