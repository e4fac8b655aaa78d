//! Pulls that found nothing and wait for a message: parked under their queue, woken by the first
//! entry that passes their filter, or by their deadline.
//!
//! No wake-up is lost (I70) if the two sides keep this order:
//!
//! ```text
//! puller                                   dispatcher
//! park                                     make the entry readable
//! read the queue's max again               take what is parked
//! ```
//!
//! Whichever of `park` and `take` comes second sees the other's work. A poll leaves the table
//! exactly once, so it is answered exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use staticfire_storage::{QueueId, QueueOffset, TopicName};
use staticfire_transport::{ConnectionId, Monotonic};

use crate::protocol::filter::TagFilter;

/// Names a parked poll for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PollId(u64);

/// One waiting pull; `P` is what is needed to answer it.
#[derive(Debug)]
pub struct Poll<P> {
    /// The connection to answer on.
    pub connection: ConnectionId,
    /// The topic waited on.
    pub topic: TopicName,
    /// The queue waited on.
    pub queue: QueueId,
    /// First offset wanted.
    pub offset: QueueOffset,
    /// Which entries wake it.
    pub filter: Arc<TagFilter>,
    /// When it is answered in any case.
    pub deadline: Monotonic,
    /// The request.
    pub request: P,
}

/// Why a poll was not parked. The request comes back, to be answered at once.
#[derive(Debug)]
pub struct PollsFull<P>(pub Poll<P>);

/// All parked polls of a broker.
#[derive(Debug)]
pub struct Polls<P> {
    limits: PollLimits,
    next: u64,
    held: BTreeMap<PollId, Poll<P>>,
    by_queue: BTreeMap<TopicName, BTreeMap<QueueId, BTreeSet<PollId>>>,
    by_connection: BTreeMap<ConnectionId, BTreeSet<PollId>>,
    by_deadline: BTreeSet<(Monotonic, PollId)>,
}

/// How many polls may wait.
#[derive(Clone, Copy, Debug)]
pub struct PollLimits {
    /// On one connection. A client holds one per queue assigned to it.
    pub per_connection: usize,
    /// In all.
    pub total: usize,
}

impl Default for PollLimits {
    fn default() -> Self {
        Self { per_connection: 10_000, total: 100_000 }
    }
}

impl<P> Polls<P> {
    /// An empty table.
    #[must_use]
    pub const fn new(limits: PollLimits) -> Self {
        Self {
            limits,
            next: 0,
            held: BTreeMap::new(),
            by_queue: BTreeMap::new(),
            by_connection: BTreeMap::new(),
            by_deadline: BTreeSet::new(),
        }
    }

    /// Number of parked polls.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Parks a poll. The caller must look at the queue once more afterwards.
    ///
    /// # Errors
    /// [`PollsFull`] at a limit.
    #[allow(clippy::result_large_err, reason = "the poll itself comes back")]
    pub fn park(&mut self, poll: Poll<P>) -> Result<PollId, PollsFull<P>> {
        let on_connection = self.by_connection.get(&poll.connection).map_or(0, BTreeSet::len);
        if self.held.len() >= self.limits.total || on_connection >= self.limits.per_connection {
            return Err(PollsFull(poll));
        }
        let id = PollId(self.next);
        self.next += 1;
        self.by_queue.entry(poll.topic.clone()).or_default().entry(poll.queue).or_default().insert(id);
        self.by_connection.entry(poll.connection).or_default().insert(id);
        self.by_deadline.insert((poll.deadline, id));
        self.held.insert(id, poll);
        Ok(id)
    }

    /// Takes one poll back; `None` when somebody else took it.
    pub fn take(&mut self, id: PollId) -> Option<Poll<P>> {
        let poll = self.held.remove(&id)?;
        self.by_deadline.remove(&(poll.deadline, id));
        remove_from(&mut self.by_connection, &poll.connection, id);
        if let Some(queues) = self.by_queue.get_mut(&poll.topic) {
            remove_from(queues, &poll.queue, id);
            if queues.is_empty() {
                self.by_queue.remove(&poll.topic);
            }
        }
        Some(poll)
    }

    /// Moves to `woken` the polls on this queue that want an entry with this offset and tag code.
    pub fn arrived(
        &mut self,
        topic: &str,
        queue: QueueId,
        offset: QueueOffset,
        tags_code: i64,
        woken: &mut Vec<Poll<P>>,
    ) {
        let Some(ids) = self.by_queue.get(topic).and_then(|queues| queues.get(&queue)) else { return };
        let wants = |poll: &Poll<P>| poll.offset <= offset && poll.filter.matches_code(tags_code);
        let ids: Vec<PollId> = ids.iter().copied().filter(|id| wants(&self.held[id])).collect();
        woken.extend(ids.into_iter().filter_map(|id| self.take(id)));
    }

    /// Takes the polls whose deadline has come.
    pub fn expired(&mut self, now: Monotonic) -> Vec<Poll<P>> {
        let due: Vec<PollId> =
            self.by_deadline.iter().take_while(|(deadline, _)| *deadline <= now).map(|(_, id)| *id).collect();
        due.into_iter().filter_map(|id| self.take(id)).collect()
    }

    /// Takes the polls for which `is_due` holds: the sweep that lets a filtered poll report how
    /// far it has looked.
    pub fn take_where(&mut self, mut is_due: impl FnMut(&Poll<P>) -> bool) -> Vec<Poll<P>> {
        let due: Vec<PollId> = self.held.iter().filter(|(_, poll)| is_due(poll)).map(|(id, _)| *id).collect();
        due.into_iter().filter_map(|id| self.take(id)).collect()
    }

    /// Drops the polls of a closed connection.
    pub fn closed(&mut self, connection: ConnectionId) {
        for id in self.by_connection.remove(&connection).unwrap_or_default() {
            self.take(id);
        }
    }
}

fn remove_from<K: Ord>(index: &mut BTreeMap<K, BTreeSet<PollId>>, key: &K, id: PollId) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(&id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::filter::tag_code;

    fn at(seconds: u64) -> Monotonic {
        Monotonic::new(Duration::from_secs(seconds))
    }

    fn poll(connection: u64, queue: u32, offset: u64, filter: &str) -> Poll<u64> {
        Poll {
            connection: ConnectionId(connection),
            topic: TopicName::new("t").unwrap(),
            queue: QueueId(queue),
            offset: QueueOffset(offset),
            filter: Arc::new(TagFilter::parse(filter).unwrap()),
            deadline: at(15),
            request: connection,
        }
    }

    fn table() -> Polls<u64> {
        Polls::new(PollLimits::default())
    }

    fn arrive(polls: &mut Polls<u64>, queue: u32, offset: u64, tag: &str) -> Vec<u64> {
        let mut woken = Vec::new();
        let code = tag_code(tag);
        polls.arrived("t", QueueId(queue), QueueOffset(offset), code, &mut woken);
        woken.into_iter().map(|poll| poll.request).collect()
    }

    /// proves: I70
    #[test]
    fn an_arrival_wakes_the_polls_of_its_queue_that_want_it() {
        let mut polls = table();
        for p in [poll(1, 0, 5, "*"), poll(2, 0, 5, "red"), poll(3, 1, 5, "*"), poll(4, 0, 6, "*")] {
            polls.park(p).unwrap();
        }
        assert_eq!(arrive(&mut polls, 0, 5, "blue"), [1], "2 wants red, 3 another queue, 4 a later offset");
        assert_eq!(arrive(&mut polls, 0, 6, "red"), [2, 4]);
        assert_eq!(arrive(&mut polls, 0, 7, "red"), [] as [u64; 0], "each is answered once");
        assert_eq!(polls.len(), 1);
    }

    #[test]
    fn a_deadline_ends_the_wait() {
        let mut polls = table();
        polls.park(poll(1, 0, 0, "*")).unwrap();
        assert!(polls.expired(at(14)).is_empty());
        assert_eq!(polls.expired(at(15)).len(), 1);
        assert!(polls.is_empty());
    }

    /// proves: I73
    #[test]
    fn a_closed_connection_leaves_nothing_behind() {
        let mut polls = table();
        polls.park(poll(1, 0, 0, "*")).unwrap();
        polls.park(poll(1, 1, 0, "*")).unwrap();
        polls.park(poll(2, 1, 0, "*")).unwrap();
        polls.closed(ConnectionId(1));
        assert_eq!(arrive(&mut polls, 1, 0, ""), [2]);
        assert!(polls.held.is_empty() && polls.by_queue.is_empty());
        assert!(polls.by_connection.is_empty() && polls.by_deadline.is_empty());
    }

    /// proves: I73
    #[test]
    fn waiting_is_bounded_per_connection_and_in_all() {
        let mut polls = Polls::new(PollLimits { per_connection: 2, total: 3 });
        polls.park(poll(1, 0, 0, "*")).unwrap();
        polls.park(poll(1, 1, 0, "*")).unwrap();
        assert_eq!(polls.park(poll(1, 2, 0, "*")).unwrap_err().0.request, 1);
        polls.park(poll(2, 0, 0, "*")).unwrap();
        assert!(polls.park(poll(3, 0, 0, "*")).is_err());
    }

    proptest! {
        /// The dispatcher publishes, then wakes; the puller parks, then looks again; in any
        /// interleaving. When both are done, nobody waits beside a message.
        ///
        /// proves: I70
        #[test]
        fn no_interleaving_loses_a_wake_up(steps in prop::collection::vec(0..4_u8, 1..60)) {
            let mut polls = table();
            let (mut max, mut woken_to, mut seen) = (0_u64, 0_u64, 0_u64);
            let (mut parked, mut must_look) = (None, false);
            let finish = [1_u8, 3];
            for step in steps.into_iter().chain(finish) {
                match step {
                    0 => max += 1,
                    1 => while woken_to < max {
                        if !arrive(&mut polls, 0, woken_to, "").is_empty() {
                            (parked, must_look, seen) = (None, false, max);
                        }
                        woken_to += 1;
                    },
                    2 if parked.is_none() && seen == max => {
                        parked = Some(polls.park(poll(1, 0, seen, "*")).unwrap());
                        must_look = true;
                    }
                    3 if must_look => {
                        must_look = false;
                        if max > seen {
                            prop_assert!(polls.take(parked.take().unwrap()).is_some());
                            seen = max;
                        }
                    }
                    _ => {}
                }
            }
            prop_assert!(parked.is_none() || max == seen, "a held poll missed an entry");
        }
    }
}
