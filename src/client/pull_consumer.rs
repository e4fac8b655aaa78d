//! Consuming by asking: the application decides when, and from where.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use staticfire_transport::BoxFuture;

use super::message::ReceivedMessage;
use super::pull::{self, Pull, Pulled};
use super::shared::{Client, Member, Shared};
use super::wait::within;
use super::{ClientError, route};
use crate::protocol::body::{
    ConsumeFromWhere, ConsumeType, ConsumerData, MASTER_ID, MessageModel, MessageQueue, SubscriptionData,
};
use crate::protocol::names::GroupName;

/// How a pull consumer behaves.
#[derive(Clone, Debug)]
pub struct PullConsumerOptions {
    /// Which tags are wanted. Default: `*`, all.
    pub expression: String,
    /// The most messages of one pull. Default: 32.
    pub messages_max: i32,
    /// How long brokers hold a pull that finds nothing. Default: 15 s.
    pub hold: Duration,
}

impl Default for PullConsumerOptions {
    fn default() -> Self {
        Self { expression: "*".to_owned(), messages_max: 32, hold: Duration::from_secs(15) }
    }
}

/// A consumer that asks: for single pulls ([`PullConsumer::pull`]), or for whatever arrives in the
/// queues it was assigned ([`PullConsumer::poll`]). Its group shares no queues among members: which
/// queues a consumer reads is the application's decision.
pub struct PullConsumer {
    client: Arc<Shared>,
    group: GroupName,
    options: PullConsumerOptions,
    subscription_version: i64,
    assigned: BTreeMap<MessageQueue, Position>,
}

struct Position {
    offset: i64,
    broker_id: i64,
    /// In a mutex, which nobody has to lock, so that a consumer may be shared and its tasks spawned.
    pulling: Option<Mutex<BoxFuture<'static, Result<Pulled, ClientError>>>>,
}

impl PullConsumer {
    /// Makes a consumer.
    ///
    /// # Errors
    /// The expression is refused.
    pub fn new(client: &Client, group: GroupName, options: PullConsumerOptions) -> Result<Self, ClientError> {
        crate::protocol::filter::TagFilter::parse(&options.expression)?;
        let client = Arc::clone(&client.0);
        let subscription_version = client.runtime.wall_ms();
        Ok(Self { client, group, options, subscription_version, assigned: BTreeMap::new() })
    }

    /// The queues of a topic.
    ///
    /// # Errors
    /// The topic has no route.
    pub async fn queues(&self, topic: &str) -> Result<Vec<MessageQueue>, ClientError> {
        Ok(route::readable_queues(topic, &*self.client.route(topic).await?))
    }

    /// Pulls once, from the master. Returns at once when there is nothing and `hold` is zero.
    ///
    /// # Errors
    /// The broker does not answer, or refuses.
    pub async fn pull(
        &self,
        queue: &MessageQueue,
        offset: i64,
        messages_max: i32,
        hold: Duration,
    ) -> Result<Pulled, ClientError> {
        let request = Pull { messages_max, hold, ..self.request(queue, offset, MASTER_ID) };
        pull::pull(&self.client, self.group.as_str(), &request).await
    }

    /// Reads these queues from now on, each from the group's offset, or from its oldest message when
    /// the group has none. Queues read already keep their position; others are given up.
    ///
    /// # Errors
    /// An offset cannot be learned; nothing was changed.
    pub async fn assign(
        &mut self,
        queues: impl IntoIterator<Item = MessageQueue>,
    ) -> Result<(), ClientError> {
        let mut assigned = BTreeMap::new();
        let mut start = Vec::new();
        for queue in queues {
            if !self.assigned.contains_key(&queue) {
                let offset = match self.committed(&queue).await? {
                    Some(offset) => offset,
                    None => self.min_offset(&queue).await?,
                };
                start.push((queue.clone(), offset));
            }
            assigned.insert(queue, ());
        }
        self.assigned.retain(|queue, _| assigned.contains_key(queue));
        let position = |offset| Position { offset, broker_id: MASTER_ID, pulling: None };
        self.assigned.extend(start.into_iter().map(|(queue, offset)| (queue, position(offset))));
        self.join().await;
        Ok(())
    }

    /// Messages of the assigned queues, as soon as there are any; none after `wait`. The positions
    /// move on behind them.
    ///
    /// # Errors
    /// A broker does not answer, or refuses. The next call tries again.
    pub async fn poll(&mut self, wait: Duration) -> Result<Vec<ReceivedMessage>, ClientError> {
        let client = Arc::clone(&self.client);
        within(&*client.runtime, wait, self.next_messages()).await.unwrap_or_else(|| Ok(Vec::new()))
    }

    async fn next_messages(&mut self) -> Result<Vec<ReceivedMessage>, ClientError> {
        loop {
            self.start_pulls();
            let (queue, pulled) = self.first_answer().await;
            let position = self.assigned.get_mut(&queue).expect("only assigned queues are pulled");
            match pulled {
                Ok(pulled) => {
                    (position.offset, position.broker_id) = (pulled.next_offset, pulled.advised_broker);
                    if !pulled.messages.is_empty() {
                        return Ok(pulled.messages);
                    }
                }
                Err(error) => {
                    position.broker_id = MASTER_ID;
                    return Err(error);
                }
            }
        }
    }

    fn start_pulls(&mut self) {
        let idle: Vec<_> = self.assigned.iter().filter(|(_, position)| position.pulling.is_none()).collect();
        let requests: Vec<_> =
            idle.into_iter().map(|(queue, at)| self.request(queue, at.offset, at.broker_id)).collect();
        for request in requests {
            let (client, group) = (Arc::clone(&self.client), self.group.clone());
            let queue = request.queue.clone();
            let pulling = async move { pull::pull(&client, group.as_str(), &request).await };
            self.assigned.get_mut(&queue).expect("listed above").pulling =
                Some(Mutex::new(Box::pin(pulling)));
        }
    }

    /// Waits for any of the pulls. Without a queue it waits for ever.
    async fn first_answer(&mut self) -> (MessageQueue, Result<Pulled, ClientError>) {
        poll_fn(|cx| {
            for (queue, position) in &mut self.assigned {
                let Some(pulling) = &mut position.pulling else { continue };
                let pulling = pulling.get_mut().unwrap_or_else(PoisonError::into_inner);
                if let Poll::Ready(pulled) = pulling.as_mut().poll(cx) {
                    position.pulling = None;
                    return Poll::Ready((queue.clone(), pulled));
                }
            }
            Poll::Pending
        })
        .await
    }

    fn request(&self, queue: &MessageQueue, offset: i64, broker_id: i64) -> Pull {
        Pull {
            queue: queue.clone(),
            offset,
            messages_max: self.options.messages_max,
            hold: self.options.hold,
            expression: self.options.expression.as_str().into(),
            subscription_version: self.subscription_version,
            broker_id,
        }
    }

    /// The offset of the next message of an assigned queue.
    #[must_use]
    pub fn position(&self, queue: &MessageQueue) -> Option<i64> {
        self.assigned.get(queue).map(|position| position.offset)
    }

    /// Goes on at an offset of an assigned queue. False when the queue is not assigned.
    pub fn seek(&mut self, queue: &MessageQueue, offset: i64) -> bool {
        let Some(position) = self.assigned.get_mut(queue) else { return false };
        *position = Position { offset, broker_id: MASTER_ID, pulling: None };
        true
    }

    /// Goes on at the first message of an assigned queue stored at or after a time, in milliseconds
    /// since the Unix epoch. Returns the offset.
    ///
    /// # Errors
    /// The broker does not answer, or refuses.
    pub async fn seek_to_time(&mut self, queue: &MessageQueue, ms: i64) -> Result<i64, ClientError> {
        let offset = pull::offset_at(&self.client, queue, ms).await?;
        self.seek(queue, offset);
        Ok(offset)
    }

    /// The oldest offset of a queue.
    ///
    /// # Errors
    /// The broker does not answer, or refuses.
    pub async fn min_offset(&self, queue: &MessageQueue) -> Result<i64, ClientError> {
        pull::min_offset(&self.client, queue).await
    }

    /// The next offset of a queue to be written.
    ///
    /// # Errors
    /// The broker does not answer, or refuses.
    pub async fn max_offset(&self, queue: &MessageQueue) -> Result<i64, ClientError> {
        pull::max_offset(&self.client, queue).await
    }

    /// The group's offset in a queue; `None` when it has none.
    ///
    /// # Errors
    /// The broker does not answer, or refuses.
    pub async fn committed(&self, queue: &MessageQueue) -> Result<Option<i64>, ClientError> {
        pull::committed_offset(&self.client, self.group.as_str(), queue).await
    }

    /// Stores the positions of all assigned queues as the group's offsets.
    ///
    /// # Errors
    /// A broker does not answer, or refuses; other queues may be stored.
    pub async fn commit(&self) -> Result<(), ClientError> {
        for (queue, position) in &self.assigned {
            pull::commit_offset(&self.client, self.group.as_str(), queue, position.offset).await?;
        }
        Ok(())
    }

    /// Tells the brokers that this group is here, and what it reads: they keep offsets only of
    /// groups they know.
    async fn join(&self) {
        let topics: std::collections::BTreeSet<&str> =
            self.assigned.keys().map(|queue| queue.topic.as_str()).collect();
        let subscription = |topic| {
            SubscriptionData::tags(topic, &self.options.expression, self.subscription_version)
                .expect("the expression was checked")
        };
        let data = ConsumerData {
            consume_from_where: ConsumeFromWhere::LastOffset,
            consume_type: ConsumeType::Actively,
            group_name: self.group.as_str().to_owned(),
            message_model: MessageModel::Clustering,
            subscription_data_set: topics.into_iter().map(subscription).collect(),
            unit_mode: false,
        };
        self.client.put_consumer(self.group.as_str(), Member { data, changed: Arc::default(), reset: None });
        Arc::clone(&self.client).heartbeat().await;
    }

    /// Leaves the group. Positions that were not committed are forgotten.
    pub async fn close(mut self) {
        self.assigned.clear();
        self.client.leave(None, Some(self.group.as_str())).await;
    }
}

impl fmt::Debug for PullConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let positions = self.assigned.iter().map(|(queue, position)| (queue, position.offset));
        f.debug_map().entries(positions).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task that uses a consumer may be spawned, whichever of its methods it waits for.
    #[test]
    fn its_futures_may_go_to_another_thread() {
        fn goes<T: Send>(_: fn(&'static PullConsumer) -> T) {}
        fn is_shared<T: Sync>() {}
        is_shared::<PullConsumer>();
        goes(PullConsumer::commit);
    }
}
