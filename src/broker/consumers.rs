//! What clients ask about groups: heartbeats, members, offsets, locks (remoting-protocol §9).

use std::sync::Arc;

use staticfire_storage::{Boundary, QueueId, QueueOffset};
use staticfire_transport::{Command, Connection};

use super::membership::{Client, ConsumeStyle, Subscription, TooManyGroups};
use super::offsets::{Commit, CommitSource, Position, QueueAge};
use super::refusal::Refusal;
use super::settling::Need;
use super::shared::{Shared, lock, read, write};
use super::turn::{Handled, Reply};
use crate::protocol::body::{
    ConsumerData, ConsumerIdList, HeartbeatData, LockRequest, LockResponse, MessageQueue,
};
use crate::protocol::codes::response;
use crate::protocol::filter::TagFilter;
use crate::protocol::header::{self, Header};
use crate::protocol::headers::{
    ConsumerGroupRequest, OffsetResponse, QueryOffsetRequest, QueueRequest, SearchOffsetRequest,
    TimestampResponse, UnregisterClientRequest, UpdateOffsetRequest,
};
use crate::protocol::json;
use crate::protocol::names::{CLIENT_ID_LEN_MAX, GroupName};

/// Groups one heartbeat may name.
const HEARTBEAT_GROUPS_MAX: usize = 1024;

impl Shared {
    /// Code 34.
    pub fn heartbeat(self: &Arc<Self>, connection: &Connection, request: &Command) -> Handled {
        let beat: HeartbeatData = json::from_slice_tolerant(&request.body.to_bytes())?;
        if beat.client_id.is_empty() || beat.client_id.len() > CLIENT_ID_LEN_MAX {
            return Err(Refusal::parameter(format!("a client id has 1 to {CLIENT_ID_LEN_MAX} bytes")));
        }
        if beat.consumers.len() + beat.producers.len() > HEARTBEAT_GROUPS_MAX {
            return Err(Refusal::parameter(format!(
                "a heartbeat names at most {HEARTBEAT_GROUPS_MAX} groups"
            )));
        }
        let client = Client {
            connection: connection.id(),
            id: beat.client_id,
            language: request.language,
            version: request.version,
            peer: connection.peer(),
        };
        for producer in &beat.producers {
            let group = GroupName::new(&producer.group_name)?;
            lock(&self.members).producer_beat(self.now(), &client, &group)?;
        }
        let mut need = Need::default();
        let mut changed = Vec::new();
        for consumer in beat.consumers {
            let (group, topic) = self.retry_topic(&consumer.group_name)?;
            need = need.and(topic);
            let style = ConsumeStyle {
                consume_type: consumer.consume_type,
                model: consumer.message_model,
                from_where: consumer.consume_from_where,
            };
            let subscriptions = subscriptions(consumer)?;
            if lock(&self.members).consumer_beat(self.now(), &client, &group, style, subscriptions)? {
                changed.push(group);
            }
        }
        let answer = request.answer(response::SUCCESS);
        if self.settling.is_settled(need) {
            changed.iter().for_each(|group| self.tell_members(group));
            return Ok(Reply::Now(answer));
        }
        // Whoever is told asks the name server for the retry topic at once: it has to be there.
        let (shared, connection) = (Arc::clone(self), connection.clone());
        let one_way = request.is_one_way();
        self.spawn(async move {
            // A member counts even if its retry topic is late; it finds it within its poll period.
            let _ = shared.settle(need).await;
            changed.iter().for_each(|group| shared.tell_members(group));
            if !one_way {
                let _ = connection.send(answer);
            }
        });
        Ok(Reply::Later)
    }

    /// The group of a heartbeat with its retry topic, both created when missing.
    fn retry_topic(&self, group: &str) -> Result<(GroupName, Need), Refusal> {
        let (group, config) = self.group(group)?;
        let name = group.retry_topic();
        let known = read(&self.topics).get(name.as_str()).map(|topic| topic.changed);
        let changed = match known {
            Some(changed) => changed,
            // The leader creates it.
            None if !self.writes() => return Ok((group, Need::default())),
            None => {
                write(&self.topics)
                    .ensure(&name, config.retry_queue_nums.clamp(1, 64), self.wall_ms())?
                    .changed
            }
        };
        Ok((group, Need { topics: changed, ..Need::default() }))
    }

    /// Code 35.
    pub fn unregister_client(&self, connection: &Connection, request: &Command) -> Handled {
        let head: UnregisterClientRequest = header::read(request)?;
        let id = connection.id();
        let named = |group: &Option<String>| group.clone().filter(|group| !group.is_empty());
        if let Some(group) = named(&head.producer_group) {
            lock(&self.members).leave_producer(id, &group);
        }
        if let Some(group) = named(&head.consumer_group) {
            let tell = lock(&self.members).leave_consumer(id, &group);
            if let (true, Ok(group)) = (tell, GroupName::new(&group)) {
                self.tell_members(&group);
            }
        }
        Ok(Reply::Now(request.answer(response::SUCCESS)))
    }

    /// Code 38.
    pub fn consumer_list(&self, request: &Command) -> Handled {
        let ConsumerGroupRequest { consumer_group: group } = header::read(request)?;
        let members = lock(&self.members);
        let ids = members.consumers(&group).map(|g| g.members().map(|client| client.id.clone()).collect());
        let consumer_id_list: Vec<String> = ids.unwrap_or_default();
        if consumer_id_list.is_empty() {
            return Err(Refusal::system(format!("no consumer for this group, {group}")));
        }
        let body = json::to_bytes(&ConsumerIdList { consumer_id_list });
        Ok(Reply::Now(request.answer(response::SUCCESS).with_body(body)))
    }

    /// Code 14.
    pub fn query_offset(&self, request: &Command) -> Handled {
        let head: QueryOffsetRequest = header::read(request)?;
        let queue = queue_id(head.queue_id)?;
        let age = self.age(&head.topic, queue);
        let row = (head.consumer_group.as_str(), head.topic.as_str(), queue);
        let position = lock(&self.offsets).position(row, age, head.zero_if_not_found);
        match position {
            Position::At(offset) => Ok(offset_answer(request, offset)),
            Position::Unknown => Err(Refusal::new(
                response::QUERY_NOT_FOUND,
                "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first",
            )),
        }
    }

    fn age(&self, topic: &str, queue: QueueId) -> QueueAge {
        let Some(queue) = self.store.queue(topic, queue) else {
            return QueueAge { min: QueueOffset(0), max: QueueOffset(0), start_is_recent: true };
        };
        let recent_from = self.store.marks().written.0.saturating_sub(self.options.recent_bytes);
        let first = queue.entries(QueueOffset(0), 1).ok().and_then(|entries| entries.first().copied());
        let start_is_recent = first.is_some_and(|entry| entry.physical.0 >= recent_from);
        QueueAge { min: queue.min(), max: queue.max(), start_is_recent }
    }

    /// Code 15.
    pub fn update_offset(&self, request: &Command) -> Handled {
        let head: UpdateOffsetRequest = header::read(request)?;
        let queue = queue_id(head.queue_id)?;
        if read(&self.groups).get(&head.consumer_group).is_none() {
            return Err(Refusal::no_group(&head.consumer_group));
        }
        if read(&self.topics).get(&head.topic).is_none() {
            return Err(Refusal::no_topic(&head.topic));
        }
        if !self.has_queue(&head.topic, queue) {
            return Err(Refusal::parameter(format!("topic {} has no queue {}", head.topic, queue.0)));
        }
        let max = self.store.queue(&head.topic, queue).map_or(QueueOffset(0), |queue| queue.max());
        let row = (head.consumer_group.as_str(), head.topic.as_str(), queue);
        let commit = lock(&self.offsets).commit(row, head.commit_offset, max, CommitSource::Explicit);
        match commit {
            Commit::Stored(_) | Commit::Ignored => Ok(Reply::Now(request.answer(response::SUCCESS))),
            Commit::Full => Err(Refusal::system("too many consumer offsets")),
        }
    }

    /// A topic that was narrowed still has the queues that hold something.
    fn has_queue(&self, topic: &str, queue: QueueId) -> bool {
        self.queue_count(topic).is_ok_and(|count| queue.0 < count)
            || self.store.queue(topic, queue).is_some_and(|queue| queue.max() > QueueOffset(0))
    }

    /// Codes 30 and 31.
    pub fn queue_bound(
        &self,
        request: &Command,
        bound: fn(&staticfire_storage::Queue) -> QueueOffset,
    ) -> Handled {
        let head: QueueRequest = header::read(request)?;
        let queue = self.store.queue(&head.topic, queue_id(head.queue_id)?);
        Ok(offset_answer(request, queue.as_ref().map_or(QueueOffset(0), bound)))
    }

    /// Code 29.
    pub fn search_offset(&self, request: &Command) -> Handled {
        let head: SearchOffsetRequest = header::read(request)?;
        let upper = head.boundary.as_deref().is_some_and(|boundary| boundary.eq_ignore_ascii_case("upper"));
        let boundary = if upper { Boundary::Upper } else { Boundary::Lower };
        let offset = match self.store.queue(&head.topic, queue_id(head.queue_id)?) {
            Some(queue) => queue.seek_by_time(head.timestamp_ms, boundary)?,
            None => QueueOffset(0),
        };
        Ok(offset_answer(request, offset))
    }

    /// Code 32: the store time of the queue's first message, -1 without one.
    pub fn earliest_time(&self, request: &Command) -> Handled {
        let head: QueueRequest = header::read(request)?;
        let queue = self.store.queue(&head.topic, queue_id(head.queue_id)?);
        let first = queue
            .and_then(|queue| queue.read(queue.min(), 1).ok())
            .and_then(|records| records.into_iter().next());
        let timestamp_ms = first.map_or(-1, |record| record.store_ms());
        Ok(Reply::Now(TimestampResponse { timestamp_ms }.on(request.answer(response::SUCCESS))))
    }

    /// Code 41. What is no queue is not granted.
    pub fn lock_queues(&self, request: &Command) -> Handled {
        let mut wanted = lock_request(request)?;
        wanted.mq_set.retain(|queue| {
            u32::try_from(queue.queue_id).is_ok_and(|id| self.has_queue(&queue.topic, QueueId(id)))
        });
        let now = self.now();
        let mut locks = lock(&self.locks);
        let mut grant = |queue: &MessageQueue| {
            let id = u32::try_from(queue.queue_id).ok()?;
            let (group, client) = (&wanted.consumer_group, &wanted.client_id);
            locks.lock(now, group, client, &queue.topic, QueueId(id)).then(|| queue.clone())
        };
        let locked = wanted.mq_set.iter().filter_map(&mut grant).collect();
        let body = json::to_bytes(&LockResponse { locked });
        Ok(Reply::Now(request.answer(response::SUCCESS).with_body(body)))
    }

    /// Code 42.
    pub fn unlock_queues(&self, request: &Command) -> Handled {
        let wanted = lock_request(request)?;
        let mut locks = lock(&self.locks);
        for queue in &wanted.mq_set {
            if let Ok(id) = u32::try_from(queue.queue_id) {
                locks.unlock(&wanted.consumer_group, &wanted.client_id, &queue.topic, QueueId(id));
            }
        }
        Ok(Reply::Now(request.answer(response::SUCCESS)))
    }
}

impl From<TooManyGroups> for Refusal {
    fn from(_: TooManyGroups) -> Self {
        Self::parameter("this connection is a member of too many groups")
    }
}

/// A queue number of a request; negative ones name no queue.
pub fn queue_id(found: i32) -> Result<QueueId, Refusal> {
    u32::try_from(found).map(QueueId).map_err(|_| Refusal::parameter(format!("there is no queue {found}")))
}

fn offset_answer(request: &Command, offset: QueueOffset) -> Reply {
    let offset = i64::try_from(offset.0).unwrap_or(i64::MAX);
    Reply::Now(OffsetResponse { offset }.on(request.answer(response::SUCCESS)))
}

/// The subscriptions of a heartbeat, compiled. Expressions of other kinds than tags are kept and
/// refused when somebody pulls with them.
fn subscriptions(consumer: ConsumerData) -> Result<Vec<Subscription>, Refusal> {
    let compile = |data: crate::protocol::body::SubscriptionData| {
        let filter = if data.is_tag_expression() { data.filter() } else { Ok(TagFilter::All) };
        let filter =
            filter.map_err(|error| Refusal::new(response::SUBSCRIPTION_PARSE_FAILED, error.to_string()))?;
        Ok(Subscription { data, filter: Arc::new(filter) })
    };
    consumer.subscription_data_set.into_iter().map(compile).collect()
}

fn lock_request(request: &Command) -> Result<LockRequest, Refusal> {
    let wanted: LockRequest = json::from_slice_tolerant(&request.body.to_bytes())?;
    GroupName::new(&wanted.consumer_group)?;
    if wanted.client_id.is_empty() || wanted.client_id.len() > CLIENT_ID_LEN_MAX {
        return Err(Refusal::parameter(format!("a client id has 1 to {CLIENT_ID_LEN_MAX} bytes")));
    }
    Ok(wanted)
}
