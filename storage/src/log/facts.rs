//! What the dispatcher needs to know of freshly appended records, so that it need not read them.
//!
//! ```text
//!   dispatched          complete_from                                end of the head
//!   ----+--------------------+------------------------------------------+
//!       |  walked            |  a fact for every record with an entry   |
//! ```
//! The head leaves a fact for every record it numbers, in the order of the log. A dispatcher that
//! stands at or behind `complete_from` takes them; one that stands before (after recovery, on a
//! follower, or after so many records that the facts were dropped) walks the log up to there.

use std::collections::VecDeque;

use crate::PhysicalOffset;
use crate::dispatch::DispatchFact;

/// Facts kept at most; beyond that the dispatcher walks the log.
const FACTS_MAX: usize = 1 << 16;

/// The facts of what was numbered and not dispatched.
#[derive(Debug)]
pub(crate) struct Facts {
    complete_from: PhysicalOffset,
    facts: VecDeque<DispatchFact>,
}

impl Facts {
    /// No facts; all those of records from `end` on will be pushed.
    pub(crate) fn from(end: PhysicalOffset) -> Self {
        Self { complete_from: end, facts: VecDeque::new() }
    }

    #[inline]
    pub(crate) fn push(&mut self, fact: DispatchFact) {
        if self.facts.len() == FACTS_MAX {
            *self = Self::from(fact.entry.physical);
        }
        self.facts.push_back(fact);
    }

    /// Moves the facts of the records in `at..upto`, at most `budget` of them, to `taken`, which is
    /// empty. `Ok`: everything before that position was in them. `Err`: there are none before that
    /// position.
    pub(crate) fn take(
        &mut self,
        at: PhysicalOffset,
        upto: PhysicalOffset,
        budget: usize,
        taken: &mut VecDeque<DispatchFact>,
    ) -> Result<PhysicalOffset, PhysicalOffset> {
        if at < self.complete_from {
            return Err(self.complete_from);
        }
        let all = self.facts.len() <= budget;
        let next = if all && self.facts.back().is_none_or(|last| last.entry.physical_end() <= upto) {
            // Most often; nothing is moved then.
            std::mem::swap(&mut self.facts, taken);
            upto
        } else {
            let is_before = |fact: &&DispatchFact| fact.entry.physical_end() <= upto;
            let count = self.facts.iter().take(budget).take_while(is_before).count();
            taken.extend(self.facts.drain(..count));
            self.facts.front().map_or(upto, |next| next.entry.physical.min(upto))
        };
        self.complete_from = next;
        Ok(next)
    }
}
