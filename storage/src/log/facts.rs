//! What the dispatcher needs to know of freshly written records, so that it need not read them.
//!
//! The writer leaves the facts of every range it wrote, in the order of the log. A dispatcher that
//! stands where the oldest range starts takes them; one that stands elsewhere (after recovery, on
//! a follower, or after so many records that they were dropped) walks the log instead.

use std::collections::VecDeque;

use crate::PhysicalOffset;
use crate::dispatch::DispatchFact;

/// Facts kept at most; beyond that the dispatcher walks the log.
const FACTS_MAX: usize = 1 << 16;

/// The facts of one written range.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) start: PhysicalOffset,
    pub(crate) end: PhysicalOffset,
    pub(crate) facts: Vec<DispatchFact>,
}

/// The facts of what was written and not dispatched.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    ranges: VecDeque<Written>,
    count: usize,
}

impl Facts {
    pub(crate) fn push(&mut self, written: Written) {
        self.count += written.facts.len();
        self.ranges.push_back(written);
        if self.count > FACTS_MAX {
            self.clear();
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes the ranges from `at` on that end at or before `upto`, until they hold `budget` facts.
    pub(crate) fn take(&mut self, at: PhysicalOffset, upto: PhysicalOffset, budget: usize) -> Vec<Written> {
        while self.ranges.front().is_some_and(|range| range.start < at) {
            self.pop();
        }
        let (mut at, mut taken, mut held) = (at, Vec::new(), 0);
        while held < budget && self.ranges.front().is_some_and(|it| it.start == at && it.end <= upto) {
            if let Some(range) = self.pop() {
                at = range.end;
                held += range.facts.len();
                taken.push(range);
            }
        }
        taken
    }

    /// Where the oldest range starts: a walk need not go further.
    pub(crate) fn start(&self) -> Option<PhysicalOffset> {
        self.ranges.front().map(|range| range.start)
    }

    fn pop(&mut self) -> Option<Written> {
        let range = self.ranges.pop_front()?;
        self.count -= range.facts.len();
        Some(range)
    }
}
