//! Pulls one queue for as long as it is ours.

use std::sync::Arc;
use std::time::Duration;

use super::{Inner, OwnedQueue};
use crate::client::ClientError;
use crate::client::pull::{self, Pull, PullStatus, Pulled};
use crate::client::wait::{First, first_of, lock};
use crate::protocol::body::MASTER_ID;
use crate::protocol::codes::response;

/// Wait after a failed pull.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Wait when the broker asks for a slower pace.
const AFTER_FLOW_CONTROL: Duration = Duration::from_millis(20);
/// Pause when too much is unfinished, unless something is finished before.
const WHILE_FULL: Duration = Duration::from_millis(50);
/// A broker that answers "nothing new" sooner than this does not hold pulls: ask it less often.
const HELD_AT_LEAST: Duration = Duration::from_millis(20);
/// Pause before a queue is asked to be locked again.
const BETWEEN_LOCKS: Duration = Duration::from_secs(3);

/// What to do next.
enum Next {
    Stop,
    Wait,
    Lock,
    Pull(Pull, u64),
}

/// Runs until the queue is given up.
pub(super) async fn run(inner: Arc<Inner>, owned: Arc<OwnedQueue>) {
    loop {
        let (interrupted, consumed) = (owned.interrupted.count(), owned.consumed.count());
        let pause = match inner.next_step(&owned) {
            Next::Stop => return,
            Next::Wait => {
                inner.client.sleep_or(WHILE_FULL, &owned.consumed, consumed).await;
                continue;
            }
            Next::Lock if inner.lock(std::slice::from_ref(&owned)).await => continue,
            Next::Lock => BETWEEN_LOCKS,
            Next::Pull(pull, generation) => {
                let began = inner.client.now();
                let pulling = pull::pull(&inner.client, inner.group.as_str(), &pull);
                let First::Left(pulled) = first_of(pulling, owned.interrupted.after(interrupted)).await
                else {
                    continue;
                };
                let quick = inner.client.now().since(began) < HELD_AT_LEAST;
                inner.pulled(&owned, generation, pulled, quick)
            }
        };
        if !pause.is_zero() {
            inner.client.sleep_or(pause, &owned.interrupted, interrupted).await;
        }
    }
}

impl Inner {
    fn next_step(&self, owned: &OwnedQueue) -> Next {
        let state = lock(&owned.state);
        if state.given_up {
            return Next::Stop;
        }
        if self.needs_lock() && !self.is_locked(&state) {
            return Next::Lock;
        }
        if state.flight.is_full(self.options.flow) {
            return Next::Wait;
        }
        let pull = Pull {
            queue: owned.queue.clone(),
            offset: state.flight.next(),
            messages_max: self.options.messages_max,
            hold: self.options.hold,
            expression: Arc::clone(&owned.expression),
            subscription_version: self
                .subscriptions
                .get(&owned.queue.topic)
                .map_or(0, |data| data.sub_version),
            broker_id: state.broker_id,
        };
        Next::Pull(pull, state.generation)
    }

    /// Takes what a pull brought; returns how long to wait before the next.
    fn pulled(
        self: &Arc<Self>,
        owned: &Arc<OwnedQueue>,
        generation: u64,
        pulled: Result<Pulled, ClientError>,
        quick: bool,
    ) -> Duration {
        let mut state = lock(&owned.state);
        if state.generation != generation || state.given_up {
            return Duration::ZERO;
        }
        match pulled {
            Ok(Pulled { status: PullStatus::OffsetOutside, next_offset, .. }) => {
                if state.flight.next() == next_offset {
                    return AFTER_FAILURE;
                }
                drop(state);
                // The broker has nothing at our offset: go on where it says, and tell it so.
                owned.reset(next_offset);
                Duration::ZERO
            }
            Ok(pulled) => {
                state.broker_id = pulled.advised_broker;
                state.flight.put(pulled.messages, pulled.next_offset);
                let waiting = state.flight.waiting();
                drop(state);
                if waiting > 0 {
                    self.deliver(owned);
                }
                match pulled.status {
                    PullStatus::NoNewMessage if quick => HELD_AT_LEAST,
                    _ => self.options.pull_pause,
                }
            }
            Err(error) => {
                state.broker_id = MASTER_ID;
                match error.refused_code() {
                    Some(response::FLOW_CONTROL) => AFTER_FLOW_CONTROL,
                    _ => AFTER_FAILURE,
                }
            }
        }
    }
}
