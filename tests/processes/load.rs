//! Senders that never rest, and what they were told.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use staticfire::client::{
    Client, Message, Producer, ProducerOptions, PullConsumer, PullConsumerOptions, PullStatus,
    ReceivedMessage, SendStatus,
};
use staticfire::protocol::names::GroupName;
use staticfire::transport::tcp::Tcp;
use staticfire::transport::{Monotonic, Runtime};

/// The topic of all messages.
pub const TOPIC: &str = "orders";
/// Messages on their way at a time.
pub const SENDERS: usize = 16;

/// What was acknowledged, and when that happened last.
#[derive(Default)]
pub struct Acknowledged {
    pub bodies: Mutex<BTreeSet<String>>,
    pub failed: AtomicUsize,
    last: Mutex<Monotonic>,
    /// The longest time without an acknowledgement since it was last asked for.
    silence: Mutex<Duration>,
    pub stop: AtomicBool,
}

impl Acknowledged {
    /// Sixteen senders with one producer, which begin now.
    pub fn by_senders(tcp: &Tcp, client: &Client) -> Arc<Self> {
        let acknowledged = Arc::new(Self::default());
        let name = GroupName::new("writers").unwrap();
        let producer = Producer::new(client, name, ProducerOptions::default());
        for sender in 0..SENDERS {
            let sending = keep_sending(sender, producer.clone(), tcp.clone(), Arc::clone(&acknowledged));
            tcp.spawn(Box::pin(sending));
        }
        acknowledged
    }

    fn note(&self, body: String, now: Monotonic) {
        self.bodies.lock().unwrap().insert(body);
        let last = std::mem::replace(&mut *self.last.lock().unwrap(), now);
        let mut silence = self.silence.lock().unwrap();
        *silence = (*silence).max(now.since(last));
    }

    pub fn count(&self) -> usize {
        self.bodies.lock().unwrap().len()
    }

    /// Sends that came to nothing, for all that their senders know.
    pub fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }

    /// Waits until so many more were acknowledged.
    pub fn wait_for_more(&self, tcp: &Tcp, more: usize) {
        let (wanted, until) = (self.count() + more, tcp.now() + Duration::from_secs(20));
        while self.count() < wanted {
            assert!(tcp.now() < until, "nothing more is acknowledged after {}", self.count());
            tcp.block_on(tcp.sleep(Duration::from_millis(20)));
        }
    }

    /// The longest time without an acknowledgement since this was asked last.
    pub fn longest_silence(&self) -> Duration {
        std::mem::take(&mut *self.silence.lock().unwrap())
    }

    /// Ends the senders, and waits for what they are about.
    pub fn stop(&self, tcp: &Tcp) {
        self.stop.store(true, Ordering::Relaxed);
        tcp.block_on(tcp.sleep(Duration::from_millis(300)));
    }
}

async fn keep_sending(sender: usize, producer: Producer, tcp: Tcp, acknowledged: Arc<Acknowledged>) {
    for number in 0.. {
        if acknowledged.stop.load(Ordering::Relaxed) {
            return;
        }
        let body = format!("{sender}-{number}");
        match producer.send(Message::new(TOPIC, body.clone()).unwrap()).await {
            Ok(sent) if sent.status == SendStatus::Ok => acknowledged.note(body, tcp.now()),
            _ => drop(acknowledged.failed.fetch_add(1, Ordering::Relaxed)),
        }
        // A dead leader refuses at once; nobody is hurried by that.
        tcp.sleep(Duration::from_millis(1)).await;
    }
}

/// All messages of the topic.
pub fn read_back(tcp: &Tcp, client: &Client) -> Vec<ReceivedMessage> {
    let group = GroupName::new("readers").unwrap();
    let consumer = PullConsumer::new(client, group, PullConsumerOptions::default()).unwrap();
    let mut messages = Vec::new();
    for queue in tcp.block_on(consumer.queues(TOPIC)).unwrap() {
        let mut at = tcp.block_on(consumer.min_offset(&queue)).unwrap();
        loop {
            let pulled = tcp.block_on(consumer.pull(&queue, at, 32, Duration::ZERO)).unwrap();
            messages.extend(pulled.messages);
            if pulled.status == PullStatus::NoNewMessage {
                break;
            }
            at = pulled.next_offset;
        }
    }
    messages
}
