//! Divides the queues of the subscribed topics among the members of the group.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use staticfire_transport::Command;

use super::{Inner, OwnedQueue, puller};
use crate::client::allocate;
use crate::client::wait::{all_of, lock};
use crate::client::{ClientError, route};
use crate::protocol::body::{ConsumerIdList, MASTER_ID, MessageQueue, TopicRouteData};
use crate::protocol::codes::request;
use crate::protocol::header::Header;
use crate::protocol::headers::ConsumerGroupRequest;
use crate::protocol::json;
use crate::protocol::names::group_of_retry_topic;

/// While something is missing (a lock, the retry topic, an answer) we try again after this, at most
/// so many times in a row.
const WHILE_INCOMPLETE: Duration = Duration::from_secs(1);
const INCOMPLETE_MAX: u32 = 30;
/// How long a queue that goes to another member may keep its listener.
const LAST_CALLS: Duration = Duration::from_secs(1);
const LAST_CALLS_ORDERED: Duration = Duration::from_secs(10);

/// Divides at the start, every 20 s, and when the group changed; until the consumer closes.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut incomplete = 0;
    while !inner.is_closing() {
        let seen = inner.changed.count();
        let complete = inner.rebalance().await;
        incomplete = if complete { 0 } else { incomplete + 1 };
        let pause = match incomplete {
            1..=INCOMPLETE_MAX => WHILE_INCOMPLETE.min(inner.options.rebalance_interval),
            _ => inner.options.rebalance_interval,
        };
        inner.client.sleep_or(pause, &inner.changed, seen).await;
    }
}

impl Inner {
    /// One division of all topics; false when something is missing.
    async fn rebalance(self: &Arc<Self>) -> bool {
        let mut complete = true;
        for topic in self.subscriptions.keys() {
            match self.share_of(topic).await {
                Ok(Some(share)) => complete &= self.take_share(topic, share).await,
                // A retry topic appears soon after the group; other topics when somebody creates them.
                Ok(None) => complete &= group_of_retry_topic(topic).is_none(),
                Err(_) => complete = false,
            }
        }
        complete
    }

    /// Our queues of a topic; `None` when the topic does not exist.
    async fn share_of(&self, topic: &str) -> Result<Option<BTreeSet<MessageQueue>>, ClientError> {
        let route = match self.client.route(topic).await {
            Err(ClientError::NoRoute { .. }) => return Ok(None),
            route => route?,
        };
        let queues = route::readable_queues(topic, &route);
        if !self.is_clustering() {
            return Ok(Some(queues.into_iter().collect()));
        }
        let mut members = self.members(&route).await?;
        if !members.contains(&self.client.id) {
            // The broker does not know us (it may be new): tell it, and ask again.
            Arc::clone(&self.client).heartbeat().await;
            members = self.members(&route).await?;
        }
        Ok(Some(allocate::average(&queues, &members, &self.client.id).into_iter().collect()))
    }

    /// The members of the group, from any broker of the topic.
    async fn members(&self, route: &TopicRouteData) -> Result<Vec<String>, ClientError> {
        let mut failure = ClientError::NoRoute { topic: self.group.as_str().to_owned() };
        for group in &route.broker_datas {
            let Ok((_, broker)) = route::member(route, &group.broker_name, MASTER_ID) else { continue };
            let header = ConsumerGroupRequest { consumer_group: self.group.as_str().to_owned() };
            let asked = header.on(Command::request(request::GET_CONSUMER_LIST_BY_GROUP));
            match self.client.ask(broker, asked).await {
                Ok(answer) => {
                    let list = json::from_slice_tolerant::<ConsumerIdList>(&answer.body.to_bytes());
                    return list
                        .map(|list| list.consumer_id_list)
                        .map_err(|error| crate::client::shared::not_understood(broker, error));
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Gives up what is no longer ours, then takes what is new. False when some of it could not be
    /// taken yet.
    async fn take_share(self: &Arc<Self>, topic: &str, share: BTreeSet<MessageQueue>) -> bool {
        let lost: Vec<_> = {
            let mut queues = lock(&self.queues);
            let lost = queues.extract_if(.., |queue, _| queue.topic == topic && !share.contains(queue));
            lost.map(|(_, owned)| owned).collect()
        };
        let wait = if self.options.ordered { LAST_CALLS_ORDERED } else { LAST_CALLS };
        all_of(lost.into_iter().map(|owned| self.give_up(owned, wait))).await;
        let new: Vec<_> = {
            let queues = lock(&self.queues);
            share.into_iter().filter(|queue| !queues.contains_key(queue)).collect()
        };
        all_of(new.into_iter().map(|queue| self.take(queue))).await.into_iter().all(|taken| taken)
    }

    /// Takes one queue: locks it if need be, learns its offset, and starts pulling.
    async fn take(self: &Arc<Self>, queue: MessageQueue) -> bool {
        let Some(subscription) = self.subscriptions.get(&queue.topic) else { return true };
        let owned = Arc::new(OwnedQueue::new(queue, &subscription.sub_string));
        if !self.lock(std::slice::from_ref(&owned)).await {
            return false;
        }
        let Ok((start, committed)) = self.start_offset(&owned.queue).await else { return false };
        owned.start_at(start, committed);
        {
            let mut queues = lock(&self.queues);
            if self.is_closing() {
                return true;
            }
            queues.insert(owned.queue.clone(), Arc::clone(&owned));
        }
        self.client.runtime.spawn(Box::pin(puller::run(Arc::clone(self), owned)));
        true
    }
}
