//! What happens later.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::pipe::Way;
use super::world::World;
use crate::Monotonic;

/// Events in the order in which they are due, then in which they were set.
#[derive(Default)]
pub(super) struct Timers {
    due: BTreeMap<Key, Due>,
    set: u64,
}

pub(super) type Key = (Monotonic, u64);

pub(super) enum Due {
    /// A sleeper wakes.
    Wake(Waker),
    /// The next segment of a pipe arrives, or is sent again.
    Deliver(Way),
    /// The news that its peer is gone reaches the sending end of a pipe.
    Reset(Way),
}

impl Timers {
    pub(super) fn set(&mut self, at: Monotonic, due: Due) -> Key {
        self.set += 1;
        self.due.insert((at, self.set), due);
        (at, self.set)
    }

    pub(super) fn first(&self) -> Option<Monotonic> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn pop_due(&mut self, now: Monotonic) -> Option<Due> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    pub(super) fn clear(&mut self) -> Vec<Due> {
        std::mem::take(&mut self.due).into_values().collect()
    }
}

pub(super) struct Sleep {
    pub(super) world: Arc<World>,
    pub(super) at: Monotonic,
    pub(super) key: Option<Key>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.world.now() >= self.at {
            return Poll::Ready(());
        }
        let mut state = self.world.lock();
        match self.key.and_then(|key| state.timers.due.get_mut(&key)) {
            Some(due) => *due = Due::Wake(cx.waker().clone()),
            None => {
                let key = state.timers.set(self.at, Due::Wake(cx.waker().clone()));
                drop(state);
                self.key = Some(key);
            }
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let due = self.world.lock().timers.due.remove(&key);
            drop(due);
        }
    }
}
