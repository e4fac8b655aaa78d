//! One worker at a time, and no work left behind.

use std::sync::atomic::{AtomicU8, Ordering};

const IDLE: u8 = 0;
const BUSY: u8 = 1;
const BUSY_AND_MORE: u8 = 2;
const HALTED: u8 = 3;

/// Lets whoever finds work undone do all of it, and everybody else go on at once: a caller that
/// finds the worker busy leaves a note, and the worker looks once more before it goes idle.
#[derive(Debug, Default)]
pub(crate) struct Combiner(AtomicU8);

impl Combiner {
    /// Calls `once` until it says that nothing was left to do, unless somebody else is at it.
    pub(crate) fn run(&self, mut once: impl FnMut() -> bool) {
        let claim = |state| match state {
            IDLE => Some(BUSY),
            HALTED => None,
            _ => Some(BUSY_AND_MORE),
        };
        if self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, claim) != Ok(IDLE) {
            return;
        }
        loop {
            while once() {}
            if self.0.compare_exchange(BUSY, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return;
            }
            self.0.store(BUSY, Ordering::Release);
        }
    }

    /// Waits for the one at work, does what is left with `once`, and lets nobody work again.
    pub(crate) fn halt(&self, mut once: impl FnMut() -> bool) {
        while let Err(state) = self.0.compare_exchange(IDLE, HALTED, Ordering::AcqRel, Ordering::Acquire) {
            if state == HALTED {
                return;
            }
            // At the end of a store, for as long as a write takes.
            std::thread::yield_now();
        }
        while once() {}
    }
}
