//! The requests every consumer makes: pull, offsets, bounds, send back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use staticfire_storage::Record;
use staticfire_transport::Command;

use super::message::ReceivedMessage;
use super::peers::Limits;
use super::shared::{Shared, not_understood, refused};
use super::{ClientError, route};
use crate::protocol::body::{MASTER_ID, MessageQueue, TAG_EXPRESSION};
use crate::protocol::codes::{request, response};
use crate::protocol::filter::TagFilter;
use crate::protocol::header::{self, Header};
use crate::protocol::headers::{
    OffsetResponse, PullRequest, PullResponse, QueryOffsetRequest, QueueRequest, SearchOffsetRequest,
    SendBackRequest, UpdateOffsetRequest, pull_flag,
};

/// The answer to a held pull may take this much longer than the holding.
const ANSWER_SLACK: Duration = Duration::from_secs(5);

/// What to pull.
#[derive(Clone, Debug)]
pub(super) struct Pull {
    pub(super) queue: MessageQueue,
    pub(super) offset: i64,
    pub(super) messages_max: i32,
    /// How long the broker may hold the request; zero: not at all.
    pub(super) hold: Duration,
    pub(super) expression: Arc<str>,
    pub(super) subscription_version: i64,
    /// The member of the broker group that was advised.
    pub(super) broker_id: i64,
}

/// What a pull found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullStatus {
    /// Messages.
    Found,
    /// No message at this offset yet.
    NoNewMessage,
    /// Messages, but none that the expression wants.
    NoMatch,
    /// The offset is outside the queue.
    OffsetOutside,
}

/// The answer to a pull.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// What was found.
    pub status: PullStatus,
    /// The messages wanted. May be empty although some were found: brokers filter by a hash.
    pub messages: Vec<ReceivedMessage>,
    /// The offset to pull next.
    pub next_offset: i64,
    /// The oldest offset of the queue.
    pub min_offset: i64,
    /// The next offset to be written.
    pub max_offset: i64,
    /// The member of the broker group to pull from next; 0 is the master.
    pub advised_broker: i64,
}

/// Pulls once from the advised broker, or the one that is there instead.
pub(super) async fn pull(shared: &Arc<Shared>, group: &str, pull: &Pull) -> Result<Pulled, ClientError> {
    let route = shared.route(&pull.queue.topic).await?;
    let (_, broker) = route::member(&route, &pull.queue.broker_name, pull.broker_id)?;
    let held = !pull.hold.is_zero();
    let header = PullRequest {
        consumer_group: group.to_owned(),
        topic: pull.queue.topic.clone(),
        queue_id: pull.queue.queue_id,
        queue_offset: pull.offset,
        messages_max: pull.messages_max,
        sys_flag: pull_flag::SUBSCRIPTION | if held { pull_flag::SUSPEND } else { 0 },
        commit_offset: 0,
        suspend_ms: i64::try_from(pull.hold.as_millis()).unwrap_or(i64::MAX),
        subscription: Some(pull.expression.to_string()),
        subscription_version: pull.subscription_version,
        expression_type: Some(TAG_EXPRESSION.to_owned()),
        bytes_max: None,
    };
    let connecting = shared.options.call_limit;
    let limits = Limits { connecting, answer: if held { pull.hold + ANSWER_SLACK } else { connecting } };
    let answer = shared.call(broker, header.on(Command::request(request::PULL_MESSAGE)), limits).await;
    let answer = answer.inspect_err(|error| shared.doubt(&pull.queue.topic, error))?;
    let status = match answer.code {
        response::SUCCESS => PullStatus::Found,
        response::PULL_NOT_FOUND => PullStatus::NoNewMessage,
        response::PULL_RETRY_IMMEDIATELY => PullStatus::NoMatch,
        response::PULL_OFFSET_MOVED => PullStatus::OffsetOutside,
        _ => return Err(refused(broker, answer)),
    };
    let offsets: PullResponse = header::read(&answer).map_err(|error| not_understood(broker, error))?;
    let messages = match status {
        PullStatus::Found => decode(answer.body.to_bytes(), &pull.queue.broker_name)
            .map_err(|error| not_understood(broker, error))?,
        _ => Vec::new(),
    };
    Ok(Pulled {
        status,
        messages: wanted(messages, &pull.expression)?,
        next_offset: offsets.next_offset,
        min_offset: offsets.min_offset,
        max_offset: offsets.max_offset,
        advised_broker: offsets.suggested_broker,
    })
}

fn decode(
    mut body: Bytes,
    broker_name: &str,
) -> Result<Vec<ReceivedMessage>, staticfire_storage::RecordError> {
    let mut messages = Vec::new();
    while !body.is_empty() {
        let record = Record::unverified(body.clone())?;
        body = body.slice(record.bytes().len()..);
        messages.push(ReceivedMessage::new(record, broker_name));
    }
    Ok(messages)
}

/// Brokers compare hashes of tags; this removes what merely collided. Retried messages were chosen
/// when they came the first time.
fn wanted(mut messages: Vec<ReceivedMessage>, expression: &str) -> Result<Vec<ReceivedMessage>, ClientError> {
    let filter = TagFilter::parse(expression)?;
    messages.retain(|message| filter.matches_tag(message.tag()));
    Ok(messages)
}

/// Asks a broker that the route of a topic named.
async fn ask(
    shared: &Arc<Shared>,
    topic: &str,
    broker: std::net::SocketAddr,
    request: Command,
) -> Result<Command, ClientError> {
    shared.ask(broker, request).await.inspect_err(|error| shared.doubt(topic, error))
}

/// Asks the master of a queue, or who is there instead, for one offset.
async fn ask_offset(
    shared: &Arc<Shared>,
    queue: &MessageQueue,
    request: Command,
) -> Result<i64, ClientError> {
    let route = shared.route(&queue.topic).await?;
    let (_, broker) = route::member(&route, &queue.broker_name, MASTER_ID)?;
    let answer = ask(shared, &queue.topic, broker, request).await?;
    let found: OffsetResponse = header::read(&answer).map_err(|error| not_understood(broker, error))?;
    Ok(found.offset)
}

fn on_queue(queue: &MessageQueue, code: i32) -> Command {
    QueueRequest { topic: queue.topic.clone(), queue_id: queue.queue_id }.on(Command::request(code))
}

/// The next offset to be written.
pub(super) async fn max_offset(shared: &Arc<Shared>, queue: &MessageQueue) -> Result<i64, ClientError> {
    ask_offset(shared, queue, on_queue(queue, request::GET_MAX_OFFSET)).await
}

/// The oldest offset kept.
pub(super) async fn min_offset(shared: &Arc<Shared>, queue: &MessageQueue) -> Result<i64, ClientError> {
    ask_offset(shared, queue, on_queue(queue, request::GET_MIN_OFFSET)).await
}

/// The first offset stored at or after a time, in milliseconds since the Unix epoch.
pub(super) async fn offset_at(
    shared: &Arc<Shared>,
    queue: &MessageQueue,
    ms: i64,
) -> Result<i64, ClientError> {
    let header = SearchOffsetRequest {
        topic: queue.topic.clone(),
        queue_id: queue.queue_id,
        timestamp_ms: ms,
        boundary: None,
    };
    ask_offset(shared, queue, header.on(Command::request(request::SEARCH_OFFSET_BY_TIMESTAMP))).await
}

/// The group's offset; `None` when it has none.
pub(super) async fn committed_offset(
    shared: &Arc<Shared>,
    group: &str,
    queue: &MessageQueue,
) -> Result<Option<i64>, ClientError> {
    let header = QueryOffsetRequest {
        consumer_group: group.to_owned(),
        topic: queue.topic.clone(),
        queue_id: queue.queue_id,
        zero_if_not_found: true,
    };
    match ask_offset(shared, queue, header.on(Command::request(request::QUERY_CONSUMER_OFFSET))).await {
        Ok(offset) => Ok(Some(offset)),
        Err(error) if error.refused_code() == Some(response::QUERY_NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Stores the group's offset.
pub(super) async fn commit_offset(
    shared: &Arc<Shared>,
    group: &str,
    queue: &MessageQueue,
    offset: i64,
) -> Result<(), ClientError> {
    let route = shared.route(&queue.topic).await?;
    let (_, broker) = route::member(&route, &queue.broker_name, MASTER_ID)?;
    let header = UpdateOffsetRequest {
        consumer_group: group.to_owned(),
        topic: queue.topic.clone(),
        queue_id: queue.queue_id,
        commit_offset: offset,
    };
    ask(shared, &queue.topic, broker, header.on(Command::request(request::UPDATE_CONSUMER_OFFSET)))
        .await
        .map(drop)
}

/// Asks the broker that has a message to deliver it to the group again.
pub(super) async fn send_back(
    shared: &Arc<Shared>,
    group: &str,
    message: &ReceivedMessage,
    delay_level: i32,
    reconsume_times_max: i32,
) -> Result<(), ClientError> {
    let stored_in = message.record().topic();
    let route = shared.route(stored_in).await?;
    let broker = route::master(&route, message.broker_name())?;
    let header = SendBackRequest {
        offset: message.record().physical().0.cast_signed(),
        group: group.to_owned(),
        delay_level,
        origin_message_id: Some(message.offset_id()),
        origin_topic: Some(stored_in.to_owned()),
        unit_mode: false,
        reconsume_times_max: Some(reconsume_times_max),
    };
    ask(shared, stored_in, broker, header.on(Command::request(request::CONSUMER_SEND_MSG_BACK)))
        .await
        .map(drop)
}
