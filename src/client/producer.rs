//! Sending: synchronously as a future, with callbacks, one-way, in batches.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use staticfire_storage::batch::{self, BatchPart};
use staticfire_storage::properties::{self, Properties};
use staticfire_transport::{Body, Command, Monotonic};

use super::message::Message;
use super::packing::{ZLIB_FLAGS, pack};
use super::peers::Limits;
use super::shared::{Client, Shared, not_understood, refused};
use super::unique_key::UniqueKeys;
use super::wait::{lock, within};
use super::{ClientError, MessageFault, route};
use crate::protocol::body::{MessageQueue, TopicRouteData};
use crate::protocol::codes::{request, response};
use crate::protocol::header;
use crate::protocol::headers::{SendRequest, SendResponse};
use crate::protocol::names::{AUTO_CREATE_TOPIC, GroupName, group_of_retry_topic};

/// A broker that failed is avoided this long: until routes are fresh.
const AVOIDED_FOR: Duration = Duration::from_secs(30);
/// Time between two attempts while a broker group has no leader.
const LEADER_PAUSE: Duration = Duration::from_millis(25);

/// How a producer behaves.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// The longest time for one send with all its attempts. Default: 3 s.
    pub timeout: Duration,
    /// Further attempts after the first, on another broker or queue where there is one. Default: 2.
    pub retries: u32,
    /// Bodies of this many bytes and more are packed with zlib, when that makes them smaller.
    /// Default: never. Official clients do it from 4096 on.
    pub pack_from: Option<usize>,
    /// The most bytes of a body or batch. Default: 4 MiB, the brokers' limit.
    pub body_bytes_max: usize,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(3), retries: 2, pack_from: None, body_bytes_max: 4 << 20 }
    }
}

/// How well a message was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendStatus {
    /// As well as the broker promises.
    Ok,
    /// Stored, but the flush did not finish in time.
    FlushTimedOut,
    /// Stored, but the slaves did not confirm in time.
    SlaveTimedOut,
    /// Stored, but no slave took part.
    SlaveMissing,
}

impl SendStatus {
    const fn of(code: i32) -> Option<Self> {
        match code {
            response::SUCCESS => Some(Self::Ok),
            response::FLUSH_DISK_TIMEOUT => Some(Self::FlushTimedOut),
            response::FLUSH_SLAVE_TIMEOUT => Some(Self::SlaveTimedOut),
            response::SLAVE_NOT_AVAILABLE => Some(Self::SlaveMissing),
            _ => None,
        }
    }
}

/// Where a message went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendResult {
    /// How well it was stored.
    pub status: SendStatus,
    /// The queue.
    pub queue: MessageQueue,
    /// Its offset there; of a batch, the first one's.
    pub queue_offset: i64,
    /// The key its producer made; of a batch, all of them joined by `,`.
    pub unique_key: String,
    /// The id that says where it is stored; of a batch, all of them joined by `,`.
    pub offset_id: String,
}

/// Sends messages on behalf of a group. Cloning shares it.
///
/// All methods may be called from any number of tasks at once.
#[derive(Clone)]
pub struct Producer(Arc<Inner>);

struct Inner {
    client: Arc<Shared>,
    group: GroupName,
    options: ProducerOptions,
    keys: UniqueKeys,
    turn: AtomicUsize,
    closed: AtomicBool,
    /// Brokers that failed, and until when they are avoided.
    avoided: Mutex<BTreeMap<String, Monotonic>>,
    /// The queues of each topic's route.
    queues: Mutex<BTreeMap<String, QueuesOfRoute>>,
}

/// A route and the queues that may be written by it.
type QueuesOfRoute = (Arc<TopicRouteData>, Arc<[MessageQueue]>);

/// What goes into one request, whatever the attempt.
struct Parcel {
    topic: String,
    code: i32,
    batch: bool,
    sys_flag: i32,
    flag: i32,
    born_ms: i64,
    properties: String,
    unique_key: String,
    reconsume_times: i32,
    reconsume_times_max: Option<i32>,
    body: Bytes,
}

impl Producer {
    /// Makes a producer. Brokers hear of it with its first connection.
    #[must_use]
    pub fn new(client: &Client, group: GroupName, options: ProducerOptions) -> Self {
        let shared = Arc::clone(&client.0);
        shared.add_producer(group.as_str());
        let keys = UniqueKeys::new([shared.runtime.random(), shared.runtime.random()]);
        let turn = usize::try_from(shared.runtime.random() >> 33).unwrap_or_default();
        Self(Arc::new(Inner {
            client: shared,
            group,
            options,
            keys,
            turn: AtomicUsize::new(turn),
            closed: AtomicBool::new(false),
            avoided: Mutex::default(),
            queues: Mutex::default(),
        }))
    }

    /// Sends a message to some queue of its topic and waits for the broker's answer.
    ///
    /// # Errors
    /// After all attempts failed, the last one's failure. [`ClientError::is_outcome_unknown`] tells
    /// whether the message may be stored nevertheless; attempts that came to nothing in this way may
    /// also have stored it twice.
    pub async fn send(&self, message: Message) -> Result<SendResult, ClientError> {
        let parcel = self.0.parcel(message)?;
        self.0.deliver(&parcel, None).await
    }

    /// Sends a message to one queue. There is no other to try.
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub async fn send_to(&self, message: Message, queue: &MessageQueue) -> Result<SendResult, ClientError> {
        let parcel = self.0.parcel(message)?;
        self.0.deliver(&parcel, Some(queue)).await
    }

    /// Sends several messages of one topic in one request: all are stored, next to each other in
    /// one queue, or none.
    ///
    /// # Errors
    /// As [`Producer::send`]; also when the messages cannot be one batch.
    pub async fn send_batch(&self, messages: Vec<Message>) -> Result<SendResult, ClientError> {
        let parcel = self.0.batch_parcel(messages)?;
        self.0.deliver(&parcel, None).await
    }

    /// Sends a message and calls exactly one of the two, exactly once: also when the runtime stops.
    pub fn send_with(
        &self,
        message: Message,
        on_success: impl FnOnce(SendResult) + Send + 'static,
        on_failure: impl FnOnce(ClientError) + Send + 'static,
    ) {
        let producer = self.clone();
        let mut callbacks = Callbacks(Some((on_success, on_failure)));
        self.0.client.runtime.spawn(Box::pin(async move {
            let outcome = producer.send(message).await;
            callbacks.call(outcome);
        }));
    }

    /// Hands a message over and goes on: no answer is awaited, and nobody learns of a failure.
    ///
    /// # Errors
    /// The message is not acceptable, or the producer closed.
    pub fn send_one_way(&self, message: Message) -> Result<(), ClientError> {
        let parcel = self.0.parcel(message)?;
        let inner = Arc::clone(&self.0);
        // The usual case: route and connection are there, and the frame leaves now.
        if let Some(known) = inner.client.cached_route(&parcel.topic)
            && let Ok((queue, broker)) = inner.choose(&parcel.topic, &known)
            && let Some(connection) = inner.client.open_connection(broker)
        {
            let _ = connection.send(inner.request(&parcel, &queue, true));
            return Ok(());
        }
        self.0.client.runtime.spawn(Box::pin(async move {
            let Ok(route) = inner.client.route_to_send(&parcel.topic).await else { return };
            let Ok((queue, broker)) = inner.choose(&parcel.topic, &route) else { return };
            if let Ok(connection) = inner.client.connection(broker).await {
                let _ = connection.send(inner.request(&parcel, &queue, true));
            }
        }));
        Ok(())
    }

    /// The queues of a topic that may be written now.
    ///
    /// # Errors
    /// The topic has no route.
    pub async fn queues(&self, topic: &str) -> Result<Vec<MessageQueue>, ClientError> {
        let route = self.0.client.route_to_send(topic).await?;
        Ok(route::writable_queues(topic, &route))
    }

    /// Leaves the group. Sends from now on fail; those in flight go on.
    pub async fn close(&self) {
        if !self.0.closed.swap(true, Ordering::Relaxed) {
            self.0.client.leave(Some(self.0.group.as_str()), None).await;
        }
    }

    /// Sends a message that could not be sent back, to the group's retry topic.
    pub(super) async fn send_retry(
        &self,
        message: Message,
        reconsume_times: i32,
        reconsume_times_max: i32,
    ) -> Result<SendResult, ClientError> {
        let mut parcel = self.0.parcel(message)?;
        parcel.reconsume_times = reconsume_times;
        parcel.reconsume_times_max = Some(reconsume_times_max);
        self.0.deliver(&parcel, None).await
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("group", &self.0.group).finish_non_exhaustive()
    }
}

/// Two callbacks of which one is called, at the latest when this is dropped.
struct Callbacks<S, F>(Option<(S, F)>)
where
    S: FnOnce(SendResult),
    F: FnOnce(ClientError);

impl<S: FnOnce(SendResult), F: FnOnce(ClientError)> Callbacks<S, F> {
    fn call(&mut self, outcome: Result<SendResult, ClientError>) {
        let Some((on_success, on_failure)) = self.0.take() else { return };
        match outcome {
            Ok(result) => on_success(result),
            Err(error) => on_failure(error),
        }
    }
}

impl<S: FnOnce(SendResult), F: FnOnce(ClientError)> Drop for Callbacks<S, F> {
    fn drop(&mut self) {
        self.call(Err(ClientError::Closed));
    }
}

impl Inner {
    fn parcel(&self, message: Message) -> Result<Parcel, ClientError> {
        self.check(&message)?;
        let (message, unique_key) = self.with_key(message)?;
        let large = self.options.pack_from.is_some_and(|from| message.body.len() >= from);
        let body = if large && message.sys_flag == 0 { pack(&message.body) } else { None };
        Ok(Parcel {
            topic: message.topic.as_str().to_owned(),
            code: request::SEND_MESSAGE_V2,
            batch: false,
            sys_flag: if body.is_some() { ZLIB_FLAGS } else { message.sys_flag },
            flag: message.flag,
            born_ms: self.client.runtime.wall_ms(),
            properties: text(message.properties)?,
            unique_key,
            reconsume_times: 0,
            reconsume_times_max: None,
            body: body.unwrap_or(message.body),
        })
    }

    fn batch_parcel(&self, messages: Vec<Message>) -> Result<Parcel, ClientError> {
        let topic = messages.first().ok_or(MessageFault::Batch)?.topic.clone();
        let (mut body, mut keys) = (Vec::new(), Vec::with_capacity(messages.len()));
        for message in messages {
            self.check(&message)?;
            let delayed = message.property_value(properties::DELAY).is_some();
            if message.topic != topic || delayed || group_of_retry_topic(topic.as_str()).is_some() {
                return Err(MessageFault::Batch.into());
            }
            let (message, key) = self.with_key(message)?;
            let part =
                BatchPart { flag: message.flag, body: message.body, properties: message.properties.into() };
            batch::append(&mut body, &part).map_err(|_| MessageFault::Batch)?;
            keys.push(key);
        }
        let (len, max) = (body.len(), self.options.body_bytes_max);
        if len > max {
            return Err(MessageFault::TooLarge { len, max }.into());
        }
        Ok(Parcel {
            topic: topic.as_str().to_owned(),
            code: request::SEND_BATCH_MESSAGE,
            batch: true,
            sys_flag: 0,
            flag: 0,
            born_ms: self.client.runtime.wall_ms(),
            properties: String::new(),
            unique_key: keys.join(","),
            reconsume_times: 0,
            reconsume_times_max: None,
            body: body.into(),
        })
    }

    fn check(&self, message: &Message) -> Result<(), ClientError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(ClientError::Closed);
        }
        Ok(message.check(self.options.body_bytes_max)?)
    }

    /// The message with a unique key, unless it has one.
    fn with_key(&self, message: Message) -> Result<(Message, String), ClientError> {
        if let Some(key) = Properties::new(&message.properties).get(properties::UNIQ_KEY) {
            let key = key.to_owned();
            return Ok((message, key));
        }
        let key = self.keys.next(self.client.runtime.wall_ms());
        let mut message = message;
        properties::append(&mut message.properties, properties::UNIQ_KEY, &key)
            .map_err(MessageFault::from)?;
        Ok((message, key))
    }

    /// Tries until it is stored, refused for good, out of attempts, or out of time.
    async fn deliver(
        self: &Arc<Self>,
        parcel: &Parcel,
        to: Option<&MessageQueue>,
    ) -> Result<SendResult, ClientError> {
        let deadline = self.client.now() + self.options.timeout;
        let mut failure = ClientError::TimedOut;
        let mut attempts_left = self.options.retries.saturating_add(1);
        while attempts_left > 0 {
            let left = deadline.since(self.client.now());
            if left.is_zero() {
                break;
            }
            // A host that is gone must leave time for another one; an answer may take all there is.
            let limits = Limits { connecting: left / attempts_left, answer: left };
            match within(&*self.client.runtime, left, self.attempt(parcel, to, limits)).await {
                Some(Err(error)) if is_worth_another_attempt(&error) => failure = error,
                Some(Err(error)) if self.awaits_leader(parcel, to, &error) => failure = error,
                Some(outcome) => {
                    outcome.as_ref().err().inspect(|error| self.client.doubt(&parcel.topic, error));
                    return outcome;
                }
                None => {
                    self.client.doubt(&parcel.topic, &ClientError::TimedOut);
                    break;
                }
            }
            self.client.doubt(&parcel.topic, &failure);
            if self.awaits_leader(parcel, to, &failure) {
                let left = deadline.since(self.client.now());
                self.client.runtime.sleep(LEADER_PAUSE.min(left)).await;
            } else {
                attempts_left -= 1;
            }
        }
        Err(failure)
    }

    /// True when this attempt certainly stored nothing and there is no other broker to ask: a group that
    /// elects has a leader soon, and until then attempts are not counted, but paced.
    fn awaits_leader(&self, parcel: &Parcel, to: Option<&MessageQueue>, failure: &ClientError) -> bool {
        let Some(route) = self.client.cached_route(&parcel.topic).filter(|_| self.options.retries > 0) else {
            return false;
        };
        match failure {
            ClientError::NoQueue { .. } => route.broker_datas.iter().any(|broker| broker.master().is_none()),
            ClientError::Refused { code: response::SERVICE_NOT_AVAILABLE, .. }
            | ClientError::Unreachable { .. } => {
                let (avoided, now) = (lock(&self.avoided), self.client.now());
                let is_avoided =
                    |queue: &MessageQueue| avoided.get(&queue.broker_name).is_some_and(|until| *until > now);
                to.is_some() || route::writable_queues(&parcel.topic, &route).iter().all(is_avoided)
            }
            _ => false,
        }
    }

    async fn attempt(
        self: &Arc<Self>,
        parcel: &Parcel,
        to: Option<&MessageQueue>,
        limits: Limits,
    ) -> Result<SendResult, ClientError> {
        let route = self.client.route_to_send(&parcel.topic).await?;
        let (queue, broker) = match to {
            Some(queue) => (queue.clone(), route::master(&route, &queue.broker_name)?),
            None => self.choose(&parcel.topic, &route)?,
        };
        let request = self.request(parcel, &queue, false);
        let answer = self.client.call(broker, request, limits).await;
        let outcome = answer.and_then(|answer| result_of(parcel, queue.clone(), broker, answer));
        self.remember(&queue.broker_name, &outcome);
        outcome
    }

    /// A broker that failed is avoided for a while, unless there is no other.
    fn remember(&self, broker_name: &str, outcome: &Result<SendResult, ClientError>) {
        let mut avoided = lock(&self.avoided);
        match outcome {
            Err(error) if is_worth_another_attempt(error) => {
                avoided.insert(broker_name.to_owned(), self.client.now() + AVOIDED_FOR);
            }
            _ => drop(avoided.remove(broker_name)),
        }
    }

    /// The next queue in turn, of a broker that did not fail lately if there is one.
    fn choose(
        &self,
        topic: &str,
        route: &Arc<TopicRouteData>,
    ) -> Result<(MessageQueue, SocketAddr), ClientError> {
        let queues = self.writable_queues(topic, route);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let queue = {
            let (avoided, now) = (lock(&self.avoided), self.client.now());
            next_queue(&queues, turn, |broker| avoided.get(broker).is_some_and(|until| *until > now))
        };
        let queue = queue.ok_or_else(|| ClientError::NoQueue { topic: topic.to_owned() })?;
        Ok((queue.clone(), route::master(route, &queue.broker_name)?))
    }

    /// The queues of a route, computed once for each route.
    fn writable_queues(&self, topic: &str, route: &Arc<TopicRouteData>) -> Arc<[MessageQueue]> {
        let mut known = lock(&self.queues);
        if let Some((of, queues)) = known.get(topic)
            && Arc::ptr_eq(of, route)
        {
            return Arc::clone(queues);
        }
        let queues: Arc<[MessageQueue]> = route::writable_queues(topic, route).into();
        known.insert(topic.to_owned(), (Arc::clone(route), Arc::clone(&queues)));
        queues
    }

    fn request(&self, parcel: &Parcel, queue: &MessageQueue, one_way: bool) -> Command {
        let mut command = if one_way { Command::one_way(parcel.code) } else { Command::request(parcel.code) };
        let send = SendRequest {
            producer_group: self.group.as_str(),
            topic: &parcel.topic,
            default_topic: AUTO_CREATE_TOPIC,
            default_topic_queues: route::NEW_TOPIC_QUEUES,
            queue_id: queue.queue_id,
            sys_flag: parcel.sys_flag,
            born_ms: parcel.born_ms,
            flag: parcel.flag,
            properties: &parcel.properties,
            reconsume_times: parcel.reconsume_times,
            unit_mode: false,
            reconsume_times_max: parcel.reconsume_times_max,
            batch: parcel.batch,
            broker_name: Some(&queue.broker_name),
        };
        send.write(parcel.code, &mut command.ext);
        command.body = Body::from(parcel.body.clone());
        command
    }
}

/// The queue whose turn it is, skipping those of avoided brokers while there are others.
fn next_queue(
    queues: &[MessageQueue],
    turn: usize,
    is_avoided: impl Fn(&str) -> bool,
) -> Option<&MessageQueue> {
    let in_turn = || (0..queues.len()).map(|step| &queues[(turn % queues.len() + step) % queues.len()]);
    in_turn().find(|queue| !is_avoided(&queue.broker_name)).or_else(|| in_turn().next())
}

fn text(properties: Vec<u8>) -> Result<String, ClientError> {
    String::from_utf8(properties).map_err(|_| MessageFault::Batch.into())
}

fn result_of(
    parcel: &Parcel,
    queue: MessageQueue,
    broker: SocketAddr,
    answer: Command,
) -> Result<SendResult, ClientError> {
    let Some(status) = SendStatus::of(answer.code) else { return Err(refused(broker, answer)) };
    let stored: SendResponse = header::read(&answer).map_err(|error| not_understood(broker, error))?;
    Ok(SendResult {
        status,
        queue: MessageQueue { queue_id: stored.queue_id, ..queue },
        queue_offset: stored.queue_offset,
        unique_key: parcel.unique_key.clone(),
        offset_id: stored.message_id,
    })
}

/// Failures that another broker, or the same a moment later, may not have.
fn is_worth_another_attempt(error: &ClientError) -> bool {
    match error {
        ClientError::Refused { code, .. } => matches!(
            *code,
            response::SYSTEM_ERROR
                | response::SYSTEM_BUSY
                | response::SERVICE_NOT_AVAILABLE
                | response::NO_PERMISSION
                | response::TOPIC_NOT_EXIST
                | response::NO_BUYER_ID
                | response::NOT_IN_CURRENT_UNIT
                | response::GO_AWAY
        ),
        ClientError::Unreachable { .. } | ClientError::NoAnswer { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_take_turns_and_a_failed_broker_is_avoided_while_there_is_another() {
        let queues: Vec<_> =
            [("a", 0), ("a", 1), ("b", 0)].map(|(broker, id)| MessageQueue::new("t", broker, id)).into();
        let chosen = |turn, failed| {
            next_queue(&queues, turn, |broker| failed == Some(broker))
                .map(|q| (q.broker_name.as_str(), q.queue_id))
        };
        assert_eq!(chosen(0, None), Some(("a", 0)));
        assert_eq!(chosen(4, None), Some(("a", 1)));
        assert_eq!(chosen(usize::MAX, None), Some(("a", 0)));
        assert_eq!(chosen(0, Some("a")), Some(("b", 0)));
        assert_eq!(chosen(2, Some("b")), Some(("a", 0)));
        assert_eq!(next_queue(&queues[..2], 1, |_| true).map(|q| q.queue_id), Some(1), "the only broker");
        assert_eq!(next_queue(&[], 1, |_| false), None);
    }

    #[test]
    fn refusals_that_another_broker_would_repeat_are_final() {
        let refused =
            |code| ClientError::Refused { peer: "10.0.0.1:1".parse().unwrap(), code, remark: String::new() };
        for code in [1, 2, 14, 16, 17, 204, 205, 1500] {
            assert!(is_worth_another_attempt(&refused(code)), "{code}");
        }
        for code in [3, 13, 26, 29, 604] {
            assert!(!is_worth_another_attempt(&refused(code)), "{code}");
        }
    }
}
