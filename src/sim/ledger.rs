//! What was asked for, what was answered, and what there is in the end.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use staticfire_storage::PhysicalOffset;
use staticfire_transport::Runtime;

use super::{Violation, clients};
use crate::client::{ConsumeResult, Listener, Message, Producer, ReceivedMessage, SendResult, listener};

/// Every attempt to store a message in one topic, and its outcome. Cloning shares it.
///
/// Each attempt has a body of its own, by which it is found again: in the queues, and by consumers.
/// [`Running::check`](super::Running::check) holds a cluster against it.
#[derive(Clone)]
pub struct Ledger {
    topic: Arc<str>,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    attempts: Vec<Attempt>,
    /// Counts beginnings and outcomes, and so puts them into one order.
    events: u64,
    /// What each member of a group was given, in order.
    delivered: BTreeMap<String, Vec<(Place, Option<usize>)>>,
}

struct Attempt {
    begun: u64,
    settled: Option<(u64, Outcome)>,
}

/// Where a message is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The name of the broker.
    pub broker: String,
    /// The queue.
    pub queue: i32,
    /// The offset in it.
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} queue {} offset {}", self.broker, self.queue, self.offset)
    }
}

/// A message that was found in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub place: Place,
    /// Where in the log of its broker.
    pub physical: PhysicalOffset,
    /// Its body.
    pub body: Bytes,
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was acknowledged as stored here.
    Ok(Place),
    /// It was certainly not stored.
    Rejected,
    /// It may be stored, once, now or later.
    Unknown,
}

/// What a crash may take of what was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Nothing.
    Everything,
    /// The end of each queue.
    AllButTheEnd,
}

/// How many attempts ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Without an answer so far.
    pub open: usize,
    /// Acknowledged.
    pub ok: usize,
    /// Certainly not stored.
    pub rejected: usize,
    /// Perhaps stored.
    pub unknown: usize,
}

/// Bodies begin with this and the number of the attempt, in 30 hexadecimal digits.
const MARK: &str = "a-";

impl Ledger {
    /// An empty ledger for a topic.
    #[must_use]
    pub fn of(topic: &str) -> Self {
        Self { topic: topic.into(), book: Arc::default() }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an attempt: its number, and the body to send.
    #[must_use]
    pub fn begin(&self) -> (usize, Bytes) {
        let mut book = self.book();
        let number = book.attempts.len();
        let begun = book.next_event();
        book.attempts.push(Attempt { begun, settled: None });
        (number, format!("{MARK}{number:030x}").into())
    }

    /// Notes the outcome of an attempt.
    pub fn settle(&self, number: usize, outcome: Outcome) {
        let mut book = self.book();
        let at = book.next_event();
        book.attempts[number].settled = Some((at, outcome));
    }

    /// Makes an attempt with a producer.
    ///
    /// # Errors
    /// What the producer says.
    pub async fn send(&self, producer: &Producer) -> Result<SendResult, crate::client::ClientError> {
        let (number, body) = self.begin();
        let message = Message::new(&self.topic, body)?;
        let sent = producer.send(message).await;
        self.settle(number, clients::outcome(&sent));
        sent
    }

    /// Makes attempts one after the other, with a pause between, for ever: a task for
    /// [`Running::spawn`](super::Running::spawn).
    pub async fn keep_sending(self, producer: Producer, runtime: impl Runtime, pause: Duration) {
        loop {
            // Its outcome is in the ledger.
            let _ = self.send(&producer).await;
            runtime.sleep(pause).await;
        }
    }

    /// A listener for a push consumer that consumes everything and notes it under `member`.
    #[must_use]
    pub fn listener(&self, member: &str) -> Arc<dyn Listener> {
        let (ledger, member) = (self.clone(), member.to_owned());
        listener(move |messages: &[ReceivedMessage]| {
            let mut book = ledger.book();
            let delivered = book.delivered.entry(member.clone()).or_default();
            delivered.extend(messages.iter().map(|message| {
                let place = Place {
                    broker: message.broker_name().to_owned(),
                    queue: message.queue_id(),
                    offset: message.queue_offset(),
                };
                (place, attempt_in(message.body()))
            }));
            ConsumeResult::Consumed
        })
    }

    /// How many attempts ended how.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for attempt in &self.book().attempts {
            match &attempt.settled {
                None => counts.open += 1,
                Some((_, Outcome::Ok(_))) => counts.ok += 1,
                Some((_, Outcome::Rejected)) => counts.rejected += 1,
                Some((_, Outcome::Unknown)) => counts.unknown += 1,
            }
        }
        counts
    }

    /// Holds what was found in the queues against the attempts: everything acknowledged is there,
    /// where the answer said (as far as `promise` goes for its broker), nothing is there twice,
    /// nothing that was refused, nothing that nobody sent, and in each queue nothing stands before
    /// what had been acknowledged when it was sent.
    ///
    /// proves: I1, I2, I14, I51, I62
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, found: &[Found], promise: impl Fn(&str) -> Promise) -> Result<(), Violation> {
        let book = self.book();
        let mut places: BTreeMap<usize, &Place> = BTreeMap::new();
        let mut ends: BTreeMap<(&str, i32), i64> = BTreeMap::new();
        for Found { place, body, .. } in found {
            let number = attempt_in(body).filter(|number| *number < book.attempts.len());
            let Some(number) = number else {
                return wrong("I62", format!("{place}: nobody sent {body:?}"));
            };
            if let Some(other) = places.insert(number, place) {
                return wrong("I51", format!("attempt {number} is stored twice: {other} and {place}"));
            }
            let end = ends.entry((&place.broker, place.queue)).or_default();
            *end = (*end).max(place.offset + 1);
        }
        for (number, attempt) in book.attempts.iter().enumerate() {
            match (&attempt.settled, places.get(&number)) {
                (Some((_, Outcome::Ok(said))), None) => {
                    let end = ends.get(&(said.broker.as_str(), said.queue)).copied().unwrap_or(0);
                    let lost = promise(&said.broker) == Promise::Everything || said.offset < end;
                    // What took the place of a lost end has another body, and that is all right.
                    let replaced = promise(&said.broker) == Promise::AllButTheEnd
                        && book.is_replaced(said, &places, attempt.begun);
                    if lost && !replaced {
                        return wrong("I1", format!("attempt {number}, acknowledged at {said}, is gone"));
                    }
                }
                (Some((_, Outcome::Ok(said))), Some(place)) if said != *place => {
                    return wrong("I1", format!("attempt {number}, acknowledged at {said}, is at {place}"));
                }
                (Some((_, Outcome::Rejected)), Some(place)) => {
                    return wrong("I62", format!("attempt {number} was refused and is at {place}"));
                }
                _ => {}
            }
        }
        book.check_order(&places)
    }

    /// Everything that was acknowledged came to `members`, which are one group, and nothing came that
    /// nobody sent.
    ///
    /// proves: I61, I62
    ///
    /// # Errors
    /// The first difference.
    pub fn check_delivered(&self, members: &[&str]) -> Result<(), Violation> {
        let book = self.book();
        let mut came = vec![false; book.attempts.len()];
        for member in members {
            for (place, number) in book.delivered.get(*member).into_iter().flatten() {
                let Some(number) = number.filter(|number| *number < came.len()) else {
                    return wrong("I62", format!("{member} got from {place} what nobody sent"));
                };
                came[number] = true;
            }
        }
        let missing = book.attempts.iter().zip(&came).find_map(|(attempt, came)| match &attempt.settled {
            Some((_, Outcome::Ok(place))) if !came => Some(place),
            _ => None,
        });
        match missing {
            Some(place) => wrong("I61", format!("{place} was acknowledged and not delivered")),
            None => Ok(()),
        }
    }

    /// A member that consumes in order saw each queue without a gap and in order, apart from what
    /// came again.
    ///
    /// proves: I63
    ///
    /// # Errors
    /// The first difference.
    pub fn check_delivered_in_order(&self, member: &str) -> Result<(), Violation> {
        let book = self.book();
        let mut reached: BTreeMap<(&str, i32), i64> = BTreeMap::new();
        for (place, _) in book.delivered.get(member).into_iter().flatten() {
            let last = reached.entry((&place.broker, place.queue)).or_insert(place.offset - 1);
            if place.offset > *last + 1 {
                return wrong("I63", format!("{member} got {place} after offset {last}"));
            }
            *last = (*last).max(place.offset);
        }
        Ok(())
    }

    /// How many messages came to a member, again and again counted.
    #[must_use]
    pub fn delivered(&self, member: &str) -> usize {
        self.book().delivered.get(member).map_or(0, Vec::len)
    }
}

impl Book {
    const fn next_event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }

    /// Does a later attempt stand where this one stood?
    fn is_replaced(&self, said: &Place, places: &BTreeMap<usize, &Place>, begun: u64) -> bool {
        places.iter().any(|(number, place)| {
            self.attempts[*number].begun > begun
                && (&place.broker, place.queue) == (&said.broker, said.queue)
                && place.offset <= said.offset
        })
    }

    /// Whoever was acknowledged before another one of its queue began stands before it.
    fn check_order(&self, places: &BTreeMap<usize, &Place>) -> Result<(), Violation> {
        let mut begun: Vec<_> =
            places.iter().map(|(number, place)| (self.attempts[*number].begun, place)).collect();
        let mut settled: Vec<_> = places
            .iter()
            .filter_map(|(number, place)| match &self.attempts[*number].settled {
                Some((at, Outcome::Ok(_))) => Some((*at, place)),
                _ => None,
            })
            .collect();
        begun.sort();
        settled.sort();
        let mut settled = settled.into_iter().peekable();
        let mut highest: BTreeMap<(&str, i32), i64> = BTreeMap::new();
        for (begun, place) in begun {
            while let Some((_, before)) = settled.next_if(|(at, _)| *at < begun) {
                let end = highest.entry((&before.broker, before.queue)).or_insert(-1);
                *end = (*end).max(before.offset);
            }
            let end = highest.get(&(place.broker.as_str(), place.queue)).copied().unwrap_or(-1);
            if place.offset <= end {
                return wrong("I14", format!("{place} was sent after offset {end} had been acknowledged"));
            }
        }
        Ok(())
    }
}

fn wrong<T>(invariant: &'static str, what: String) -> Result<T, Violation> {
    Err(Violation::new(invariant, what))
}

/// The attempt that a body belongs to.
fn attempt_in(body: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(body).ok()?.strip_prefix(MARK)?.get(..30)?;
    usize::from_str_radix(digits, 16).ok()
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({}: {:?})", self.topic, self.counts())
    }
}
