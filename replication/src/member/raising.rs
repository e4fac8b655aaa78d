//! Waiting for more than what the mode of the group asks for.

use std::collections::BTreeMap;

use staticfire_storage::{Outcome, Position, Waiter};

use super::{Inner, State};
use crate::Mode;

/// One who waits until enough nodes have everything up to a position.
pub(crate) struct Raised {
    pub(crate) mode: Mode,
    pub(crate) position: Position,
    pub(crate) waiter: Waiter,
}

impl Inner {
    /// Tells those whose mode is reached, and those whose epoch is over that nobody knows.
    pub(super) fn settle_raised(&self, state: &mut State) {
        if state.raised.is_empty() {
            return;
        }
        let replica = &state.replica;
        let leads = replica.leads().then(|| replica.epoch());
        let mut reached = BTreeMap::new();
        let mut waiting = Vec::new();
        for raised in std::mem::take(&mut state.raised) {
            let end = *reached.entry(raised.mode).or_insert_with(|| replica.reached(raised.mode));
            match () {
                () if leads != Some(raised.position.epoch) => (raised.waiter)(Outcome::Unknown),
                () if end >= raised.position.end => (raised.waiter)(Outcome::Reached),
                () => waiting.push(raised),
            }
        }
        state.raised = waiting;
    }
}
