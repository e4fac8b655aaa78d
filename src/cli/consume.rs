//! `staticfire consume`: prints what a topic holds, from where its group stands.
//!
//! It reads all queues of the topic; two of them in one group both get every message. The group remembers
//! how far it got, to the message: at the brokers, or with `--offsets` in a directory.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::{Value, json};
use staticfire::client::{
    Client, ClientError, ClientOptions, DirectoryOffsets, KeptOffsets, OffsetStore, PullConsumer,
    PullConsumerOptions, ReceivedMessage,
};
use staticfire::protocol::body::MessageQueue;
use staticfire::protocol::names::GroupName;
use staticfire::storage::TopicName;
use staticfire::transport::tcp::{Tcp, TcpOptions};
use staticfire::transport::{Monotonic, Runtime};

use super::arguments::ConsumeArguments;
use super::measure::{Latencies, Throughput, progress};
use super::signals;
use super::{Failure, name_servers};

/// How long a signal may wait for attention.
const LOOK_UP: Duration = Duration::from_millis(100);
/// Time between two attempts at something that is not there yet.
const AGAIN: Duration = Duration::from_millis(500);
/// Time between two commits of the group's offsets.
const COMMIT: Duration = Duration::from_secs(1);

pub fn consume(arguments: &ConsumeArguments) -> Result<(), Failure> {
    TopicName::new(&arguments.topic).map_err(Failure::not_started)?;
    let group = GroupName::new(&arguments.group).map_err(Failure::not_started)?;
    let stop = signals::end_flag().map_err(Failure::not_started)?;
    let tcp = Tcp::start(TcpOptions::default()).map_err(Failure::not_started)?;
    let options = ClientOptions::new(name_servers::chosen(&arguments.name_server)?);
    let client = Client::new(Arc::new(tcp.clone()), Arc::new(tcp.clone()), options);
    let offsets = match &arguments.offsets {
        Some(path) => Some(Offsets::read(path, &group)?),
        None => None,
    };
    let options = PullConsumerOptions { expression: arguments.tag.clone(), ..PullConsumerOptions::default() };
    let consumer = PullConsumer::new(&client, group, options).map_err(Failure::not_started)?;
    let bar = if arguments.quiet { progress(arguments.count) } else { ProgressBar::hidden() };
    let run = Run {
        arguments,
        stop: &stop,
        tcp: &tcp,
        consumer,
        queues: Vec::new(),
        offsets,
        bar,
        messages: 0,
        bytes: 0,
        latencies: Latencies::new(),
        began: tcp.now(),
        last: tcp.now(),
    };
    tcp.block_on(run.go())
}

struct Run<'a> {
    arguments: &'a ConsumeArguments,
    stop: &'a AtomicBool,
    tcp: &'a Tcp,
    consumer: PullConsumer,
    queues: Vec<MessageQueue>,
    offsets: Option<Offsets>,
    bar: ProgressBar,
    messages: u64,
    bytes: u64,
    latencies: Latencies,
    /// When the first poll began.
    began: Monotonic,
    /// When the last message came; without one, when the first poll began.
    last: Monotonic,
}

/// The group's offsets in a directory.
struct Offsets {
    place: DirectoryOffsets,
    group: GroupName,
    /// As they were at the start.
    at_start: KeptOffsets,
}

impl Offsets {
    fn read(path: &Path, group: &GroupName) -> Result<Self, Failure> {
        let failure = |error| Failure::not_started(format!("{}: {error}", path.display()));
        let place = DirectoryOffsets::at(path).map_err(failure)?;
        let at_start = place.load(group).map_err(failure)?;
        Ok(Self { place, group: group.clone(), at_start })
    }
}

impl Run<'_> {
    async fn go(mut self) -> Result<(), Failure> {
        self.join().await?;
        self.began = self.tcp.now();
        self.last = self.began;
        let mut committed = self.began;
        while !self.is_over() {
            match self.consumer.poll(LOOK_UP).await {
                Ok(messages) => self.take(messages)?,
                Err(error) if is_passing(&error) => self.wait(&error).await,
                Err(error) => return Err(Failure::not_well(error)),
            }
            if self.tcp.now().since(committed) >= COMMIT {
                // What is not committed now is committed in a second, or at the end.
                let _ = self.commit().await;
                committed = self.tcp.now();
            }
        }
        self.bar.finish_and_clear();
        let committed = self.commit().await;
        self.report()?;
        self.consumer.close().await;
        committed.map_err(|error| Failure::not_well(format!("the group's offsets are not stored: {error}")))
    }

    async fn commit(&self) -> Result<(), String> {
        let Some(Offsets { place, group, .. }) = &self.offsets else {
            return self.consumer.commit().await.map_err(|error| error.to_string());
        };
        let positions = self
            .queues
            .iter()
            .filter_map(|queue| self.consumer.position(queue).map(|offset| (queue.clone(), offset)));
        place.store(group, &positions.collect()).map_err(|error| error.to_string())
    }

    /// Waits for the topic, and takes all its queues.
    async fn join(&mut self) -> Result<(), Failure> {
        let mut told = false;
        while !self.stop.load(Ordering::Relaxed) {
            let queues = self.consumer.queues(&self.arguments.topic).await;
            let joined = match queues {
                Ok(queues) => self.assign(queues).await,
                Err(error) => Err(error),
            };
            match joined {
                Ok(()) => return Ok(()),
                Err(error) if is_passing(&error) => {
                    if !std::mem::replace(&mut told, true) {
                        eprintln!("waiting: {error}");
                    }
                    self.tcp.sleep(AGAIN).await;
                }
                Err(error) => return Err(Failure::not_started(error)),
            }
        }
        Ok(())
    }

    async fn assign(&mut self, queues: Vec<MessageQueue>) -> Result<(), ClientError> {
        self.consumer.assign(queues.clone()).await?;
        self.queues = queues;
        let Some(offsets) = &self.offsets else { return Ok(()) };
        for queue in &self.queues {
            let offset = match offsets.at_start.get(queue) {
                Some(offset) => *offset,
                None => self.consumer.min_offset(queue).await?,
            };
            self.consumer.seek(queue, offset);
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let enough = self.arguments.count.is_some_and(|count| self.messages >= count);
        enough || self.stop.load(Ordering::Relaxed)
    }

    async fn wait(&self, error: &ClientError) {
        self.bar.suspend(|| eprintln!("trying again: {error}"));
        self.tcp.sleep(AGAIN).await;
    }

    /// Takes messages as far as they were asked for; what is beyond stays for the next time.
    fn take(&mut self, messages: Vec<ReceivedMessage>) -> Result<(), Failure> {
        let now_ms = self.tcp.wall_ms();
        let mut out = io::stdout().lock();
        for message in messages {
            if self.is_over() {
                let queue = MessageQueue::new(message.topic(), message.broker_name(), message.queue_id());
                self.consumer.seek(&queue, message.queue_offset());
                break;
            }
            if !self.arguments.quiet {
                let line = if self.arguments.json { json_line(&message).to_string() } else { line(&message) };
                writeln!(out, "{line}").map_err(Failure::not_well)?;
            }
            let age = u64::try_from(now_ms - message.born_ms()).unwrap_or(0);
            self.latencies.record(Duration::from_millis(age));
            self.messages += 1;
            self.bytes += message.body().len() as u64;
            self.bar.inc(1);
            self.last = self.tcp.now();
        }
        out.flush().map_err(Failure::not_well)
    }

    /// Numbers: on standard output as JSON, else beside the messages, on standard error.
    fn report(&self) -> Result<(), Failure> {
        let time = self.last.since(self.began);
        let throughput = Throughput { messages: self.messages, bytes: self.bytes, time };
        if self.arguments.json {
            let mut report = throughput.json();
            report["consumed"] = self.messages.into();
            report["age_us"] = self.latencies.json();
            writeln!(io::stdout(), "{report}").map_err(Failure::not_well)?;
        } else {
            eprintln!("{} consumed {}", self.messages, throughput.words());
            eprintln!("age since the send: {}", self.latencies.words());
        }
        Ok(())
    }
}

/// What time may heal: a topic that is not there yet, a broker that starts.
fn is_passing(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::NoRoute { .. }
            | ClientError::NoQueue { .. }
            | ClientError::NameServers
            | ClientError::Unreachable { .. }
            | ClientError::NoAnswer { .. }
            | ClientError::TimedOut
    )
}

/// One line for people: where it stands, its tag and keys, and its body without control characters.
fn line(message: &ReceivedMessage) -> String {
    let body = String::from_utf8_lossy(message.body());
    let body: String = body
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect();
    let tag = message.tag().map(|tag| format!(" [{tag}]")).unwrap_or_default();
    let (broker, queue, offset) = (message.broker_name(), message.queue_id(), message.queue_offset());
    format!("{broker}/{queue}@{offset}{tag} {body}")
}

fn json_line(message: &ReceivedMessage) -> Value {
    let mut line = json!({
        "topic": message.topic(),
        "broker": message.broker_name(),
        "queue": message.queue_id(),
        "offset": message.queue_offset(),
        "id": message.id(),
        "tag": message.tag(),
        "keys": message.keys(),
        "born_ms": message.born_ms(),
        "store_ms": message.store_ms(),
    });
    match std::str::from_utf8(message.body()) {
        Ok(text) => line["body"] = text.into(),
        Err(_) => {
            let hex: String = message.body().iter().map(|byte| format!("{byte:02x}")).collect();
            line["body_hex"] = hex.into();
        }
    }
    line
}
