//! Small words that all tests here use.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use staticfire::client::{
    ConsumeResult, Listener, Message, PushConsumerOptions, ReceivedMessage, StartFrom, listener,
};
use staticfire::sim::{Cluster, Node, Running};

/// What a listener saw.
#[derive(Clone, Default)]
pub struct Seen(pub Arc<Mutex<Vec<ReceivedMessage>>>);

impl Seen {
    pub fn listener(&self) -> Arc<dyn Listener> {
        let seen = self.clone();
        listener(move |messages| {
            seen.0.lock().expect("no listener panics").extend_from_slice(messages);
            ConsumeResult::Consumed
        })
    }

    pub fn bodies(&self) -> Vec<String> {
        let text = |message: &ReceivedMessage| String::from_utf8_lossy(message.body()).into_owned();
        self.0.lock().expect("no listener panics").iter().map(text).collect()
    }

    /// The bodies that came since the last time, sorted.
    pub fn take(&self) -> Vec<String> {
        let mut bodies = self.bodies();
        self.0.lock().expect("no listener panics").clear();
        bodies.sort();
        bodies
    }

    pub fn distinct(&self) -> BTreeSet<String> {
        self.bodies().into_iter().collect()
    }

    pub fn messages(&self) -> Vec<ReceivedMessage> {
        self.0.lock().expect("no listener panics").clone()
    }
}

pub fn second(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub fn minute(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// A running cluster with so many name servers and brokers.
pub fn start(seed: u64, name_servers: u8, brokers: u8) -> Running {
    Cluster::seeded(seed).name_servers(name_servers).brokers(brokers).start()
}

pub fn message(topic: &str, body: impl Into<String>) -> Message {
    Message::new(topic, body.into()).expect("a topic's name")
}

pub fn earliest() -> PushConsumerOptions {
    PushConsumerOptions { start: StartFrom::Earliest, ..PushConsumerOptions::default() }
}

pub fn numbered(count: usize) -> BTreeSet<String> {
    (0..count).map(|number| format!("m{number}")).collect()
}

/// The bodies of all messages in a topic's queues.
pub fn bodies(cluster: &Running, topic: &str) -> BTreeSet<String> {
    cluster.stored(topic).iter().map(|found| String::from_utf8_lossy(&found.body).into_owned()).collect()
}

/// How many requests with this code a client sent since the log was cleared.
pub fn requests(cluster: &Running, client: u8, code: i32) -> usize {
    cluster.requests_of(Node::Client(client)).into_iter().filter(|sent| *sent == code).count()
}

pub fn cases(default: u32) -> u32 {
    let factor = std::env::var("STATICFIRE_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    default * factor
}
