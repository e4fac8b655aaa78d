//! Pulling: who may, what is found, and holding a pull that finds nothing (remoting-protocol §8).

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use staticfire_storage::{
    Arrival, Observer, PhysicalOffset, Queue, QueueEntry, QueueId, QueueOffset, ReadError, TopicName,
};
use staticfire_transport::{Command, Connection, ExtFields};

use super::offsets::CommitSource;
use super::polls::{Poll, PollsFull};
use super::refusal::Refusal;
use super::shared::{Shared, lock, read};
use super::turn::{Handled, Reply};
use crate::protocol::body::{MessageModel, SubscriptionGroupConfig, TAG_EXPRESSION, permission};
use crate::protocol::codes::response;
use crate::protocol::filter::TagFilter;
use crate::protocol::header;
use crate::protocol::headers::{PullRequest, pull_flag};
use crate::protocol::names::{GroupName, STATE_TOPIC};

/// The longest time a pull is held, whatever the client asks.
const HOLD_MAX: Duration = Duration::from_secs(60);
/// The longest time a pull is held by who does not lead: soon there may be a leader to ask.
const SLAVE_HOLD_MAX: Duration = Duration::from_secs(1);
/// Queue entries looked at for one pull: as RocketMQ's 16,000 bytes of queue.
const SCAN_MAX: u64 = 800;
/// Messages and bytes of one answer, from the recent part of the log and from the rest of it
/// (store-format §16.1). The first message is always sent.
const RECENT: Batch = Batch { messages: 32, bytes: 256 * 1024 };
const OLD: Batch = Batch { messages: 8, bytes: 64 * 1024 };

#[derive(Clone, Copy)]
struct Batch {
    messages: usize,
    bytes: usize,
}

/// A pull that passed all checks.
#[derive(Debug)]
pub struct Pull {
    /// The answer, still without content.
    answer: Command,
    connection: Connection,
    topic: TopicName,
    queue: QueueId,
    offset: i64,
    messages_max: usize,
    bytes_max: usize,
    filter: Arc<TagFilter>,
    /// Its first message was brought back from the device; it is looked at in any case now.
    fetched: bool,
}

/// What a look into the queue found.
struct Found {
    code: i32,
    status: &'static str,
    next: u64,
    min: QueueOffset,
    max: QueueOffset,
    records: Vec<Bytes>,
    /// Nothing was looked at: the first message is on the device.
    cold: Option<PhysicalOffset>,
}

impl Shared {
    /// Answers a pull, or holds it.
    pub fn pull(self: &Arc<Self>, connection: &Connection, request: &Command) -> Handled {
        let head: PullRequest = header::read(request)?;
        let (group, config) = self.group(&head.consumer_group)?;
        let (topic, queue) = self.readable(&config, &head)?;
        let filter = self.filter(&group, &config, &head)?;
        if head.sys_flag & pull_flag::COMMIT != 0 && self.writes() {
            let max = self.store.queue(topic.as_str(), queue).map_or(QueueOffset(0), |queue| queue.max());
            let row = (group.as_str(), topic.as_str(), queue);
            lock(&self.offsets).commit(row, head.commit_offset, max, CommitSource::Pull);
        }
        let pull = Pull {
            answer: request.answer(response::SUCCESS),
            connection: connection.clone(),
            topic,
            queue,
            offset: head.queue_offset,
            messages_max: usize::try_from(head.messages_max).unwrap_or(0).max(1),
            bytes_max: head.bytes_max.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX),
            filter,
            fetched: false,
        };
        let serves = self.serves();
        let reset = if serves {
            lock(&self.offsets).take_reset(group.as_str(), pull.topic.as_str(), queue)
        } else {
            None
        };
        if let Some(next) = reset {
            let (min, max) = self.bounds(&pull.topic, queue);
            let (code, status) = (response::PULL_OFFSET_MOVED, "OFFSET_RESET");
            let found = Found { code, status, next: next.0, min, max, records: Vec::new(), cold: None };
            return Ok(Reply::Now(self.pull_answer(pull, found)));
        }
        let found = self.look(&pull)?;
        if let Some(at) = found.cold {
            self.answer_when_read(pull, at);
            return Ok(Reply::Later);
        }
        let hold = Duration::from_millis(u64::try_from(head.suspend_ms).unwrap_or(0)).min(HOLD_MAX);
        let may_hold =
            head.sys_flag & pull_flag::SUSPEND != 0 && hold > Duration::ZERO && !self.is_stopping();
        match found.code {
            response::PULL_OFFSET_MOVED if serves && self.node.is_some() => {
                self.look_as_leader(pull);
                return Ok(Reply::Later);
            }
            response::PULL_OFFSET_MOVED if !serves && may_hold => {
                return self.hold(pull, hold.min(SLAVE_HOLD_MAX));
            }
            response::PULL_NOT_FOUND if may_hold => {
                return self.hold(pull, if serves { hold } else { hold.min(SLAVE_HOLD_MAX) });
            }
            _ => {}
        }
        Ok(Reply::Now(self.pull_answer(pull, found)))
    }

    /// Checks that the group may read this queue.
    fn readable(
        &self,
        group: &SubscriptionGroupConfig,
        head: &PullRequest,
    ) -> Result<(TopicName, QueueId), Refusal> {
        if !group.consume_enable {
            let remark = format!("subscription group no permission, {}", group.group_name);
            return Err(Refusal::new(response::NO_PERMISSION, remark));
        }
        let topics = read(&self.topics);
        let topic = topics.get(&head.topic).ok_or_else(|| Refusal::no_topic(&head.topic))?;
        if topic.config.perm & permission::READ == 0 {
            let remark = format!("the topic[{}] pulling message is forbidden", head.topic);
            return Err(Refusal::new(response::NO_PERMISSION, remark));
        }
        let queues = u32::try_from(topic.config.read_queue_nums).unwrap_or(0);
        match u32::try_from(head.queue_id) {
            Ok(queue) if queue < queues => Ok((topic.name.clone(), QueueId(queue))),
            _ => Err(Refusal::parameter(format!(
                "queueId[{}] is illegal, topic:[{}] topicConfig.readQueueNums:[{queues}]",
                head.queue_id, head.topic
            ))),
        }
    }

    /// The subscription in the request, or the one of the group's heartbeats.
    fn filter(
        &self,
        group: &GroupName,
        config: &SubscriptionGroupConfig,
        head: &PullRequest,
    ) -> Result<Arc<TagFilter>, Refusal> {
        let (expression_type, filter) = if head.sys_flag & pull_flag::SUBSCRIPTION != 0 {
            let expression_type = head.expression_type.clone().unwrap_or_default();
            let expression = head.subscription.as_deref().unwrap_or("");
            let filter =
                if is_tag(&expression_type) { TagFilter::parse(expression) } else { Ok(TagFilter::All) };
            let refused = |error: crate::protocol::filter::FilterError| {
                Refusal::new(
                    response::SUBSCRIPTION_PARSE_FAILED,
                    format!("parse the consumer's subscription failed: {error}"),
                )
            };
            (expression_type, Arc::new(filter.map_err(refused)?))
        } else {
            self.subscribed(group, config, head)?
        };
        if is_tag(&expression_type) {
            return Ok(filter);
        }
        Err(Refusal::system(format!(
            "The broker does not support consumer to filter message by {expression_type}"
        )))
    }

    fn subscribed(
        &self,
        group: &GroupName,
        config: &SubscriptionGroupConfig,
        head: &PullRequest,
    ) -> Result<(String, Arc<TagFilter>), Refusal> {
        let unknown = |remark: &str| Refusal::new(response::SUBSCRIPTION_NOT_EXIST, remark);
        let members = lock(&self.members);
        let consumers = members.consumers(group.as_str());
        let consumers = consumers.ok_or_else(|| unknown("the consumer's group info not exist"))?;
        if !config.consume_broadcast_enable && consumers.style().model == MessageModel::Broadcasting {
            let remark = format!("the consumer group[{group}] can not consume by broadcast way");
            return Err(Refusal::new(response::NO_PERMISSION, remark));
        }
        let subscription = consumers.subscription(&head.topic);
        let subscription = subscription.ok_or_else(|| unknown("the consumer's subscription not exist"))?;
        if subscription.data.sub_version < head.subscription_version {
            return Err(Refusal::new(
                response::SUBSCRIPTION_NOT_LATEST,
                "the consumer's subscription not latest",
            ));
        }
        Ok((subscription.data.expression_type.clone(), Arc::clone(&subscription.filter)))
    }

    /// Sends a consumer away from its offset only when it is certain that this node leads: another one
    /// may have confirmed, and handed out, more.
    fn look_as_leader(self: &Arc<Self>, pull: Pull) {
        let shared = Arc::clone(self);
        self.spawn(async move {
            let leads = shared.leads_now().await;
            let connection = pull.connection.clone();
            let found = match shared.look(&pull) {
                Ok(Found { cold: Some(at), .. }) => return shared.answer_when_read(pull, at),
                Ok(found) if leads => found,
                Ok(found) => found.at_slave(pull.offset),
                Err(refusal) => return pull.refuse(refusal),
            };
            let _ = connection.send(shared.pull_answer(pull, found));
        });
    }

    /// Parks the pull and looks once more: a message that came in between would wake nobody.
    fn hold(self: &Arc<Self>, pull: Pull, hold: Duration) -> Handled {
        let Ok(offset) = u64::try_from(pull.offset) else {
            let found = self.look(&pull)?;
            return Ok(Reply::Now(self.pull_answer(pull, found)));
        };
        let poll = Poll {
            connection: pull.connection.id(),
            topic: pull.topic.clone(),
            queue: pull.queue,
            offset: QueueOffset(offset),
            filter: Arc::clone(&pull.filter),
            deadline: self.now() + hold,
            request: pull,
        };
        let (topic, queue) = (poll.topic.clone(), poll.queue);
        let parked = lock(&self.polls).park(poll);
        let id = match parked {
            Ok(id) => id,
            Err(PollsFull(_)) => {
                let remark = "[OVERLOAD]system busy, too many pulls are held, start flow control for a while";
                return Err(Refusal::new(response::SYSTEM_BUSY, remark));
            }
        };
        if self.bounds(&topic, queue).1.0 > offset {
            let missed = lock(&self.polls).take(id);
            if let Some(poll) = missed {
                self.answer_held(poll.request);
            }
        }
        Ok(Reply::Later)
    }

    /// Answers a pull that was held, whatever there is now.
    pub fn answer_held(self: &Arc<Self>, pull: Pull) {
        match self.look(&pull) {
            Ok(Found { cold: Some(at), .. }) => self.answer_when_read(pull, at),
            Ok(found) => {
                let connection = pull.connection.clone();
                // A peer that is gone needs no answer.
                let _ = connection.send(self.pull_answer(pull, found));
            }
            Err(refusal) => pull.refuse(refusal),
        }
    }

    /// Answers held pulls whose time is up.
    pub fn expire_polls(self: &Arc<Self>) {
        let expired = lock(&self.polls).expired(self.now());
        expired.into_iter().for_each(|poll| self.answer_held(poll.request));
    }

    /// Answers held pulls whose queue has moved on without a message for them, so that the
    /// consumer's offset moves on too.
    pub fn sweep_polls(self: &Arc<Self>) {
        let store = &self.store;
        let moved = |poll: &Poll<Pull>| {
            store.queue(poll.topic.as_str(), poll.queue).is_some_and(|queue| queue.max() > poll.offset)
        };
        let moved = lock(&self.polls).take_where(moved);
        moved.into_iter().for_each(|poll| self.answer_held(poll.request));
    }

    fn bounds(&self, topic: &TopicName, queue: QueueId) -> (QueueOffset, QueueOffset) {
        let queue = self.store.queue(topic.as_str(), queue);
        queue.map_or((QueueOffset(0), QueueOffset(0)), |queue| (queue.min(), queue.max()))
    }

    /// Looks into the queue (remoting-protocol §8.4).
    fn look(&self, pull: &Pull) -> Result<Found, Refusal> {
        let nowhere = |code, status, next, (min, max)| Found {
            code,
            status,
            next,
            min,
            max,
            records: Vec::new(),
            cold: None,
        };
        let at_start = if pull.offset == 0 { response::PULL_NOT_FOUND } else { response::PULL_OFFSET_MOVED };
        let Some(queue) = self.store.queue(pull.topic.as_str(), pull.queue) else {
            return Ok(nowhere(at_start, "NO_MATCHED_LOGIC_QUEUE", 0, Default::default()));
        };
        let bounds @ (min, max) = (queue.min(), queue.max());
        let moved = response::PULL_OFFSET_MOVED;
        let offset = match u64::try_from(pull.offset) {
            _ if max.0 == 0 => return Ok(nowhere(at_start, "NO_MESSAGE_IN_QUEUE", 0, bounds)),
            Ok(offset) if offset >= min.0 => offset,
            _ => return Ok(nowhere(moved, "OFFSET_TOO_SMALL", min.0, bounds)),
        };
        if offset > max.0 {
            return Ok(nowhere(moved, "OFFSET_OVERFLOW_BADLY", max.0, bounds));
        }
        if offset == max.0 {
            return Ok(nowhere(response::PULL_NOT_FOUND, "OFFSET_OVERFLOW_ONE", offset, bounds));
        }
        self.scan(pull, &queue, offset, bounds)
    }

    /// Collects what the filter lets through, from `offset` on, until the answer is full.
    fn scan(
        &self,
        pull: &Pull,
        queue: &Queue,
        offset: u64,
        (min, max): (QueueOffset, QueueOffset),
    ) -> Result<Found, Refusal> {
        let written = self.store.marks().written.0;
        let recent_from = written.saturating_sub(self.options.recent_bytes);
        let mut warmth = self.warmth(written);
        let end = max.0.min(offset.saturating_add(SCAN_MAX.max(pull.messages_max as u64)));
        let (mut next, mut bytes, mut removed) = (offset, 0, false);
        let (mut records, mut cold) = (Vec::new(), None);
        'scan: while next < end {
            let count = (end - next).min(RECENT.messages as u64);
            let entries =
                queue.entries(QueueOffset(next), usize::try_from(count).unwrap_or(RECENT.messages))?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                let limit = if entry.physical.0 >= recent_from { RECENT } else { OLD };
                if is_full(pull, limit, records.len(), bytes, &entry) {
                    break 'scan;
                }
                next = entry.next().0;
                if entry.is_padding() || !pull.filter.matches_code(entry.tags_code) {
                    continue;
                }
                let looked_at_anyway = pull.fetched && records.is_empty();
                if !looked_at_anyway && warmth.is_cold(&entry) {
                    cold = Some(entry.physical).filter(|_| records.is_empty());
                    next = entry.offset.0;
                    break 'scan;
                }
                match queue.record(&entry) {
                    Ok(record) => {
                        bytes += record.bytes().len();
                        records.push(record.bytes().clone());
                    }
                    Err(ReadError::OutOfRange { .. }) => removed = true,
                    // What was collected is whole; the next pull meets the damage first.
                    Err(_) if !records.is_empty() => {
                        next = entry.offset.0;
                        break 'scan;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let (code, status) = match (records.is_empty(), removed) {
            (false, _) => (response::SUCCESS, "FOUND"),
            (true, false) => (response::PULL_RETRY_IMMEDIATELY, "NO_MATCHED_MESSAGE"),
            (true, true) => (response::PULL_RETRY_IMMEDIATELY, "MESSAGE_WAS_REMOVING"),
        };
        Ok(Found { code, status, next, min, max, records, cold })
    }

    /// The answer; its body is the slices of the log, not a copy.
    fn pull_answer(&self, pull: Pull, found: Found) -> Command {
        let found = if self.serves() { found } else { found.at_slave(pull.offset) };
        self.counters.got.fetch_add(found.records.len() as u64, Ordering::Relaxed);
        let mut answer = pull.answer;
        answer.ext = ExtFields::with_capacity(4, 128);
        answer.code = found.code;
        answer.remark = Some(found.status.to_owned());
        let bytes = found.records.iter().map(Bytes::len).sum::<usize>() as u64;
        self.advise(&mut answer, (&pull.topic, pull.queue), found.next, bytes);
        answer.ext.push("nextBeginOffset", found.next);
        answer.ext.push("minOffset", found.min);
        answer.ext.push("maxOffset", found.max);
        answer.body = found.records.into();
        answer
    }
}

impl Pull {
    /// Its first message was brought back from the device.
    pub fn fetched(self) -> Self {
        Self { fetched: true, ..self }
    }

    /// Answers it with a refusal.
    pub fn refuse(self, refusal: Refusal) {
        let answer = Command { code: refusal.code, remark: Some(refusal.remark), ..self.answer };
        // A peer that is gone needs no answer.
        let _ = self.connection.send(answer);
    }
}

impl Found {
    /// What a node says that does not lead: that it has nothing at this offset says nothing about the
    /// offset (DESIGN §7 rule 11).
    fn at_slave(self, offset: i64) -> Self {
        if !matches!(self.code, response::PULL_NOT_FOUND | response::PULL_OFFSET_MOVED) {
            return self;
        }
        let next = u64::try_from(offset).unwrap_or(0);
        Self { code: response::PULL_RETRY_IMMEDIATELY, status: "RETRY_AT_MASTER", next, ..self }
    }
}

fn is_tag(expression_type: &str) -> bool {
    expression_type.is_empty() || expression_type == TAG_EXPRESSION
}

fn is_full(pull: &Pull, limit: Batch, messages: usize, bytes: usize, entry: &QueueEntry) -> bool {
    let bytes = bytes + entry.size as usize;
    messages > 0
        && (messages >= pull.messages_max.min(limit.messages) || bytes > pull.bytes_max.min(limit.bytes))
}

/// Tells held pulls of what arrives; called by the store's dispatcher.
#[derive(Default)]
pub struct Arrivals(pub OnceLock<Weak<Shared>>);

impl Observer for Arrivals {
    fn dispatched(&self, arrivals: &[Arrival]) {
        let Some(shared) = self.0.get().and_then(Weak::upgrade) else { return };
        if shared.node.is_some() && arrivals.iter().any(|arrival| arrival.topic.as_str() == STATE_TOPIC) {
            shared.follow_state();
        }
        let mut woken = Vec::new();
        {
            let mut polls = lock(&shared.polls);
            if polls.is_empty() {
                return;
            }
            for arrival in arrivals {
                let last = arrival.offset.0 + u64::from(arrival.messages.max(1)) - 1;
                polls.arrived(
                    arrival.topic.as_str(),
                    arrival.queue,
                    QueueOffset(last),
                    arrival.tags_code,
                    &mut woken,
                );
            }
        }
        woken.into_iter().for_each(|poll| shared.answer_held(poll.request));
    }
}
