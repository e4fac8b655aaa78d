//! Queues locked for an ordered consumer (remoting-protocol §9.8). A broker gives a lock to another
//! client after 60 s; we renew ours every 20 s and trust it for 30 s.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use staticfire_transport::Command;

use super::{Inner, OwnedQueue, QueueState};
use crate::client::wait::{all_of, lock};
use crate::client::{ClientError, route};
use crate::protocol::body::{LockRequest, LockResponse, MessageQueue};
use crate::protocol::codes::request;
use crate::protocol::json;

const RENEW: Duration = Duration::from_secs(20);
const TRUST: Duration = Duration::from_secs(30);

/// Renews all locks every 20 s, until the consumer closes.
pub(super) async fn run(inner: Arc<Inner>) {
    while !inner.is_closing() {
        inner.client.runtime.sleep(RENEW).await;
        inner.lock(&inner.owned()).await;
    }
}

impl Inner {
    pub(super) fn needs_lock(&self) -> bool {
        self.options.ordered && self.is_clustering()
    }

    pub(super) fn is_locked(&self, state: &QueueState) -> bool {
        state.locked_at.is_some_and(|at| self.client.now().since(at) < TRUST)
    }

    pub(super) fn may_consume(&self, state: &QueueState) -> bool {
        !self.needs_lock() || self.is_locked(state)
    }

    /// Locks queues or renews their locks; true when all are ours. Where no answer came the old lock
    /// counts until it ages.
    pub(super) async fn lock(self: &Arc<Self>, queues: &[Arc<OwnedQueue>]) -> bool {
        if !self.needs_lock() {
            return true;
        }
        let mut by_broker: BTreeMap<&str, Vec<&Arc<OwnedQueue>>> = BTreeMap::new();
        for owned in queues.iter().filter(|owned| !lock(&owned.state).given_up) {
            by_broker.entry(&owned.queue.broker_name).or_default().push(owned);
        }
        let asked = by_broker.into_values().map(|queues| self.lock_at_broker(queues));
        all_of(asked).await.into_iter().all(|all| all)
    }

    async fn lock_at_broker(self: &Arc<Self>, queues: Vec<&Arc<OwnedQueue>>) -> bool {
        let asked_at = self.client.now();
        let names = queues.iter().map(|owned| owned.queue.clone()).collect();
        let Ok(locked) = self.ask(request::LOCK_BATCH_MQ, names).await else { return false };
        let mut all = true;
        for owned in queues {
            let granted = locked.contains(&owned.queue);
            all &= granted;
            lock(&owned.state).locked_at = granted.then_some(asked_at);
            if granted {
                self.deliver(owned);
            }
        }
        all
    }

    pub(super) async fn unlock(&self, queue: &MessageQueue) {
        // A lock that cannot be given back ages.
        let _ = self.ask(request::UNLOCK_BATCH_MQ, vec![queue.clone()]).await;
    }

    /// Locks or unlocks queues of one broker; returns those locked.
    async fn ask(&self, code: i32, queues: Vec<MessageQueue>) -> Result<Vec<MessageQueue>, ClientError> {
        let Some(first) = queues.first() else { return Ok(Vec::new()) };
        let route = self.client.route(&first.topic).await?;
        let broker = route::master(&route, &first.broker_name)?;
        let body = LockRequest {
            client_id: self.client.id.clone(),
            consumer_group: self.group.as_str().to_owned(),
            mq_set: queues,
            only_this_broker: false,
        };
        let answer = self.client.ask(broker, Command::request(code).with_body(json::to_bytes(&body))).await?;
        let locked = json::from_slice_or_default::<LockResponse>(&answer.body.to_bytes());
        locked.map(|body| body.locked).map_err(|error| crate::client::shared::not_understood(broker, error))
    }
}
