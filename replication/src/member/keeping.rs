//! Brings the promise to stable storage: one replacement of its file at a time, the newest promise
//! last, and again when there was no room or the sync failed.
//!
//! Until it is there nothing leaves that depends on it: the replica holds that back (I36). A node
//! whose promise could not be written answers nobody and begins nothing until it could.

use super::{Event, Inner, State};
use crate::{Input, Millis, Promise, notes};

/// How far the newest promise has got.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    /// Not given to the disk yet.
    wanted: Option<Promise>,
    under_way: bool,
    /// It failed, and is tried again then.
    again_ms: Option<Millis>,
}

impl Keeping {
    /// The last attempt failed.
    pub(super) const fn has_failed(&self) -> bool {
        self.again_ms.is_some()
    }
}

impl State {
    /// When something is to be done if nothing happens.
    pub(super) fn due(&self) -> Millis {
        let begin_ms = self.begin_again.map(|(_, again_ms)| again_ms);
        match self.keeping.again_ms {
            Some(again_ms) => again_ms,
            None => begin_ms.map_or(Millis::MAX, |begin_ms| begin_ms).min(self.replica.deadline()),
        }
    }
}

impl Inner {
    pub(super) fn keep(&self, state: &mut State, promise: Promise) {
        state.keeping.wanted = Some(promise);
        self.start_keeping(state);
    }

    fn start_keeping(&self, state: &mut State) {
        if state.keeping.under_way {
            return;
        }
        let Some(promise) = state.keeping.wanted.take() else { return };
        state.keeping.under_way = true;
        let (inner, kept) = (self.weak(), promise.clone());
        let done = Box::new(move |result| {
            if let Some(inner) = inner.upgrade() {
                inner.push(Event::Kept(kept, result));
            }
        });
        notes::start_promise(self.store.directory(), state.replica.disk(), &promise, done);
    }

    pub(super) fn kept(&self, state: &mut State, promise: Promise, result: std::io::Result<()>) {
        state.keeping.under_way = false;
        match result {
            Ok(()) => {
                state.keeping.again_ms = None;
                self.step(state, Input::Saved(promise));
                self.start_keeping(state);
            }
            Err(error) => {
                // A newer one takes its place.
                state.keeping.wanted.get_or_insert(promise);
                let retry_ms = state.replica.settings().timing.retry_ms.max(1);
                if state.keeping.again_ms.replace(self.now() + retry_ms).is_none() {
                    self.observer.failed(&format!("staticfire/promise: {error}; trying again"));
                }
            }
        }
    }

    /// Time passed.
    pub(super) fn tick_event(&self, state: &mut State) {
        let now = self.now();
        if let Some(again_ms) = state.keeping.again_ms {
            if now >= again_ms {
                self.start_keeping(state);
            }
            return;
        }
        if let Some((epoch, _)) = state.begin_again.take_if(|(_, again_ms)| now >= *again_ms)
            && state.replica.leads()
            && state.replica.epoch() == epoch
        {
            self.lead(state, epoch);
        }
        self.step(state, Input::Tick);
    }
}
