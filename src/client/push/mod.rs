//! Consuming by being called: feels pushed, is pulled underneath.
//!
//! ```text
//!   rebalance: which queues are ours?       at the start, every 20 s, and when the broker says so
//!        │ one puller per queue             long polls; pauses when too much is unfinished
//!        ▼
//!   in flight ──> listener                  concurrent, or one at a time per queue
//!        │            │ later: send back    the broker stores a delayed copy, then it is finished
//!        ▼            ▼
//!   commit offset: the first unfinished     every 5 s, and when a queue is given up
//! ```

mod deliver;
mod in_flight;
mod listener;
mod locks;
mod offsets;
mod puller;
mod rebalance;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use staticfire_transport::Monotonic;

use super::shared::{Client, Member, OffsetReset, Shared};
use super::wait::{Signal, all_of, lock};
use super::{ClientError, KeptOffsets, MemoryOffsets, OffsetStore, Producer, ProducerOptions};
use crate::protocol::body::{
    ConsumeFromWhere, ConsumeType, ConsumerData, MASTER_ID, MessageModel, MessageQueue, ResetOffsetBody,
    SubscriptionData,
};
use crate::protocol::names::{CLIENT_INNER_PRODUCER, GroupName};
use in_flight::InFlight;

pub use in_flight::FlowLimits;
pub use listener::{ConsumeResult, Listener, async_listener, listener};

/// Where a group starts in a queue in which it has no offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// At the end: messages sent before are not delivered. A queue that was never trimmed and is
    /// still young starts at its beginning nevertheless, which is the brokers' decision.
    Latest,
    /// At the beginning.
    Earliest,
    /// At the first message stored then or later, in milliseconds since the Unix epoch.
    Time(i64),
}

/// How a push consumer behaves.
#[derive(Clone, Debug)]
pub struct PushConsumerOptions {
    /// Does every member get all messages (broadcasting), or one of them each (clustering)? Default:
    /// clustering.
    pub model: MessageModel,
    /// Where a broadcasting consumer keeps its offsets, which no broker keeps. Default: in memory, so
    /// that every process begins at `start`; see [`DirectoryOffsets`](super::DirectoryOffsets).
    pub offsets: Arc<dyn OffsetStore>,
    /// Where the group starts. Default: at the end.
    pub start: StartFrom,
    /// One message after the other in each queue, and a queue locked for one member? Default: no.
    pub ordered: bool,
    /// Listener calls at a time. Default: 20.
    pub concurrency: usize,
    /// The most messages of one listener call. Default: 1.
    pub batch: usize,
    /// The most messages of one pull. Default: 32.
    pub messages_max: i32,
    /// How long brokers hold a pull that finds nothing. Default: 15 s.
    pub hold: Duration,
    /// Pause between pulls. Default: none.
    pub pull_pause: Duration,
    /// When pulling pauses, per queue.
    pub flow: FlowLimits,
    /// Deliveries after which a message becomes a dead letter. Default: 16; ordered: without end.
    pub redeliveries_max: Option<i32>,
    /// How often the queues are divided anew without being told. Default: 20 s.
    pub rebalance_interval: Duration,
    /// How often offsets are stored. Default: 5 s.
    pub commit_interval: Duration,
}

impl Default for PushConsumerOptions {
    fn default() -> Self {
        Self {
            model: MessageModel::Clustering,
            offsets: Arc::new(MemoryOffsets::default()),
            start: StartFrom::Latest,
            ordered: false,
            concurrency: 20,
            batch: 1,
            messages_max: 32,
            hold: Duration::from_secs(15),
            pull_pause: Duration::ZERO,
            flow: FlowLimits::default(),
            redeliveries_max: None,
            rebalance_interval: Duration::from_secs(20),
            commit_interval: Duration::from_secs(5),
        }
    }
}

/// A member of a consumer group. Dropping it stops it without goodbye; see [`PushConsumer::close`].
pub struct PushConsumer(Arc<Inner>);

struct Inner {
    client: Arc<Shared>,
    group: GroupName,
    options: PushConsumerOptions,
    subscriptions: BTreeMap<String, SubscriptionData>,
    listener: Arc<dyn Listener>,
    /// Broadcasting: how far we got.
    kept: Mutex<offsets::Kept>,
    queues: Mutex<BTreeMap<MessageQueue, Arc<OwnedQueue>>>,
    /// Raised when the group changed.
    changed: Arc<Signal>,
    closing: AtomicBool,
    work: Mutex<deliver::Work>,
    retries: Producer,
}

/// A queue that is ours for now.
struct OwnedQueue {
    queue: MessageQueue,
    expression: Arc<str>,
    state: Mutex<QueueState>,
    /// Raised when the puller must look again: the queue was given up, or its offset was reset.
    interrupted: Signal,
    /// Raised when a listener call ended.
    consumed: Signal,
}

struct QueueState {
    flight: InFlight,
    /// Counts resets: what was pulled or taken before a reset no longer counts.
    generation: u64,
    /// The member of the broker group to pull from.
    broker_id: i64,
    given_up: bool,
    /// Listener calls under way.
    running: usize,
    /// The offset the broker has, or our own store of a broadcasting group.
    committed: Option<i64>,
    locked_at: Option<Monotonic>,
    /// Ordered consumption: how often the first messages came.
    attempts: i32,
    /// Is the queue in the list of those with work?
    listed: bool,
}

impl PushConsumer {
    /// Joins a group. `subscriptions` are topics with tag expressions (`*`: all messages). All
    /// members of a group must have the same.
    ///
    /// # Errors
    /// A topic's name or an expression is refused, or the offsets of a broadcasting group cannot be
    /// read. Brokers and name servers that do not answer are no error: consumption begins when they do.
    pub async fn start(
        client: &Client,
        group: GroupName,
        options: PushConsumerOptions,
        subscriptions: impl IntoIterator<Item = (&str, &str)>,
        listener: Arc<dyn Listener>,
    ) -> Result<Self, ClientError> {
        let shared = Arc::clone(&client.0);
        let version = shared.runtime.wall_ms();
        let mut wanted = BTreeMap::new();
        for (topic, expression) in subscriptions {
            staticfire_storage::TopicName::new(topic)?;
            wanted.insert(topic.to_owned(), SubscriptionData::tags(topic, expression, version)?);
        }
        if options.model == MessageModel::Clustering {
            let retry = group.retry_topic();
            wanted.insert(retry.as_str().to_owned(), SubscriptionData::tags(retry.as_str(), "*", version)?);
        }
        let kept = match options.model {
            MessageModel::Clustering => KeptOffsets::new(),
            MessageModel::Broadcasting => options.offsets.load(&group).map_err(|error| {
                ClientError::KeptOffsets { group: group.to_string(), message: error.to_string() }
            })?,
        };
        let inner_group = GroupName::new(CLIENT_INNER_PRODUCER)?;
        let inner = Arc::new(Inner {
            retries: Producer::new(client, inner_group, ProducerOptions::default()),
            client: shared,
            group,
            options,
            subscriptions: wanted,
            listener,
            kept: Mutex::new(offsets::Kept::new(kept)),
            queues: Mutex::default(),
            changed: Arc::default(),
            closing: AtomicBool::new(false),
            work: Mutex::default(),
        });
        inner.join().await;
        inner.run();
        Ok(Self(inner))
    }

    /// The queues this member has now.
    #[must_use]
    pub fn queues(&self) -> Vec<MessageQueue> {
        lock(&self.0.queues).keys().cloned().collect()
    }

    /// Stops pulling, waits up to `wait` for listener calls under way, stores the offsets, and leaves
    /// the group.
    pub async fn close(self, wait: Duration) {
        self.0.stop();
        self.0.give_up_all(wait).await;
        self.0.client.leave(None, Some(self.0.group.as_str())).await;
    }
}

impl Drop for PushConsumer {
    fn drop(&mut self) {
        self.0.stop();
        for owned in self.0.owned() {
            owned.give_up();
        }
    }
}

impl fmt::Debug for PushConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushConsumer").field("group", &self.0.group).finish_non_exhaustive()
    }
}

impl Inner {
    /// Learns the routes and tells the brokers that we are here.
    async fn join(self: &Arc<Self>) {
        for topic in self.subscriptions.keys() {
            // A topic without a route, the retry topic at first, is looked for again.
            let _ = self.client.refresh_route(topic).await;
        }
        let reset: Weak<Self> = Arc::downgrade(self);
        let member = Member { data: self.data(), changed: Arc::clone(&self.changed), reset: Some(reset) };
        self.client.put_consumer(self.group.as_str(), member);
        Arc::clone(&self.client).heartbeat().await;
    }

    fn data(&self) -> ConsumerData {
        ConsumerData {
            consume_from_where: match self.options.start {
                StartFrom::Latest => ConsumeFromWhere::LastOffset,
                StartFrom::Earliest => ConsumeFromWhere::FirstOffset,
                StartFrom::Time(_) => ConsumeFromWhere::Timestamp,
            },
            consume_type: ConsumeType::Passively,
            group_name: self.group.as_str().to_owned(),
            message_model: self.options.model,
            subscription_data_set: self.subscriptions.values().cloned().collect(),
            unit_mode: false,
        }
    }

    fn run(self: &Arc<Self>) {
        let runtime = &self.client.runtime;
        runtime.spawn(Box::pin(rebalance::run(Arc::clone(self))));
        runtime.spawn(Box::pin(offsets::run(Arc::clone(self))));
        if self.options.ordered {
            runtime.spawn(Box::pin(locks::run(Arc::clone(self))));
        }
    }

    fn stop(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.changed.raise();
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    fn is_clustering(&self) -> bool {
        self.options.model == MessageModel::Clustering
    }

    fn owned(&self) -> Vec<Arc<OwnedQueue>> {
        lock(&self.queues).values().cloned().collect()
    }

    async fn give_up_all(self: &Arc<Self>, wait: Duration) {
        let queues = std::mem::take(&mut *lock(&self.queues));
        all_of(queues.into_values().map(|owned| self.give_up(owned, wait))).await;
        self.keep();
    }

    /// Stops pulling a queue, waits up to `wait` for its listener calls, stores its offset and
    /// unlocks it.
    async fn give_up(self: &Arc<Self>, owned: Arc<OwnedQueue>, wait: Duration) {
        owned.give_up();
        let deadline = self.client.now() + wait;
        loop {
            let seen = owned.consumed.count();
            let left = deadline.since(self.client.now());
            if lock(&owned.state).running == 0 || left.is_zero() {
                break;
            }
            self.client.sleep_or(left, &owned.consumed, seen).await;
        }
        self.commit(&owned).await;
        if self.options.ordered && self.is_clustering() {
            self.unlock(&owned.queue).await;
        }
    }
}

impl OffsetReset for Inner {
    fn reset(&self, topic: &str, offsets: ResetOffsetBody) {
        for owned in self.owned() {
            if owned.queue.topic == topic
                && let Some(offset) = offsets.offset_table.of(&owned.queue)
            {
                owned.reset(*offset);
            }
        }
    }
}

impl OwnedQueue {
    fn new(queue: MessageQueue, expression: &str) -> Self {
        let state = QueueState {
            flight: InFlight::default(),
            generation: 0,
            broker_id: MASTER_ID,
            given_up: false,
            running: 0,
            committed: None,
            locked_at: None,
            attempts: 0,
            listed: false,
        };
        Self {
            queue,
            expression: expression.into(),
            state: Mutex::new(state),
            interrupted: Signal::default(),
            consumed: Signal::default(),
        }
    }

    fn start_at(&self, offset: i64, committed: Option<i64>) {
        let mut state = lock(&self.state);
        state.flight = InFlight::starting_at(offset);
        state.committed = committed;
    }

    fn give_up(&self) {
        lock(&self.state).given_up = true;
        self.interrupted.raise();
    }

    /// Goes on at another offset; what is in flight no longer counts.
    fn reset(&self, offset: i64) {
        {
            let mut state = lock(&self.state);
            state.flight = InFlight::starting_at(offset);
            state.generation += 1;
            state.attempts = 0;
        }
        self.interrupted.raise();
    }
}
