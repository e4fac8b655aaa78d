//! How far a consumer group is, as its brokers say.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use staticfire_transport::{Command, Connection, Runtime, Service, Transport};

use super::Violation;
use crate::protocol::codes::{request, response};

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Nothing that was sent before is under way any more: a commit that comes late is a new one to a
/// broker.
const LONG: Duration = Duration::from_secs(10);
/// Between two commits.
const PAUSE: Duration = Duration::from_millis(20);

/// The offset of one group in queue 0 of one topic: what was committed, and what is known to be
/// stored since. Cloning shares it.
#[derive(Clone)]
pub struct Progress {
    group: Arc<str>,
    topic: Arc<str>,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The newest offset whose commit was acknowledged, or that was seen.
    at_least: i64,
    /// The newest that was committed, perhaps in vain.
    at_most: i64,
    acknowledged: u64,
    steps: u64,
    broken: Option<Violation>,
}

/// Says nothing to what a broker asks.
struct Silent;

impl Service for Silent {
    fn turn(&self, _connection: &Connection, requests: &mut Vec<Command>) {
        requests.clear();
    }
}

impl Progress {
    /// The progress of a group in queue 0 of a topic, which committed nothing yet.
    #[must_use]
    pub fn of(group: &str, topic: &str) -> Self {
        Self { group: group.into(), topic: topic.into(), known: Arc::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the stored offset and commits the end of the queue, again and again, at whichever of
    /// `brokers` takes it: a task for [`Running::spawn`](super::Running::spawn).
    pub async fn keep_committing(self, host: impl Transport + Runtime, brokers: Vec<SocketAddr>) {
        loop {
            for broker in &brokers {
                let Ok(connection) = host.connect(*broker, Arc::new(Silent)).await else { continue };
                let begun = self.known().acknowledged;
                // First of all, what the new leader knows of what the old one acknowledged.
                while let Some(end) = self.look(&connection).await
                    && self.commit(&connection, end).await
                {
                    host.sleep(PAUSE).await;
                }
                connection.close();
                if self.known().acknowledged > begun {
                    host.sleep(LONG).await;
                }
            }
            host.sleep(PAUSE).await;
        }
    }

    /// The end of the queue, if this broker answers.
    async fn look(&self, connection: &Connection) -> Option<i64> {
        let stored = ask(connection, self.row(request::QUERY_CONSUMER_OFFSET)).await?;
        let found = match stored.code {
            response::SUCCESS => offset(&stored)?,
            response::QUERY_NOT_FOUND => 0,
            _ => return None,
        };
        let end = ask(connection, self.row(request::GET_MAX_OFFSET)).await?;
        let end = (end.code == response::SUCCESS).then(|| offset(&end)).flatten()?;
        let mut known = self.known();
        known.steps += 1;
        if found < known.at_least {
            let what = format!("offset {found} is stored, and {} was", known.at_least);
            known.broken.get_or_insert(Violation::new("I65", what));
        }
        if found > known.at_most.min(end) {
            let what = format!("offset {found} is stored: {} messages, {} committed", end, known.at_most);
            known.broken.get_or_insert(Violation::new("I64", what));
        }
        known.at_least = known.at_least.max(found);
        Some(end)
    }

    async fn commit(&self, connection: &Connection, end: i64) -> bool {
        let end = {
            let mut known = self.known();
            known.at_most = known.at_most.max(end);
            known.at_most
        };
        let commit = self.row(request::UPDATE_CONSUMER_OFFSET).with_ext("commitOffset", end);
        let done = ask(connection, commit).await.is_some_and(|answer| answer.code == response::SUCCESS);
        if done {
            let mut known = self.known();
            known.acknowledged += 1;
            known.at_least = known.at_least.max(end);
        }
        done
    }

    fn row(&self, code: i32) -> Command {
        let command = Command::request(code).with_ext("consumerGroup", &*self.group);
        command.with_ext("topic", &*self.topic).with_ext("queueId", 0)
    }

    /// How often the stored offset was looked at.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.known().steps
    }

    /// The stored offset never went back behind an acknowledged commit, and was never ahead of the
    /// queue or of what was committed.
    ///
    /// proves: I64, I65
    ///
    /// # Errors
    /// The first look that showed otherwise.
    pub fn check(&self) -> Result<(), Violation> {
        self.known().broken.clone().map_or(Ok(()), Err)
    }
}

fn offset(answer: &Command) -> Option<i64> {
    answer.ext.get("offset")?.parse().ok()
}

async fn ask(connection: &Connection, request: Command) -> Option<Command> {
    connection.call(request, PATIENCE).await.ok()
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Progress({} in {}: {:?})", self.group, self.topic, self.known())
    }
}
