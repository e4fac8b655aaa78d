//! `staticfire store tail --orphans`: what was cut off a log, as a list, as messages, or sent once more.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::Arc;

use serde_json::{Value, json};
use staticfire::client::{Client, ClientOptions, Message, Producer, ProducerOptions, SendStatus};
use staticfire::protocol::names::{self, GroupName, SCHEDULE_TOPIC};
use staticfire::replication::Barrier;
use staticfire::storage::disk::{Directory, RealDirectory};
use staticfire::storage::orphans::{CutReason, Orphan};
use staticfire::storage::properties::{DELAY, REAL_QUEUE_ID, REAL_TOPIC};
use staticfire::storage::{Record, TopicName};
use staticfire::transport::tcp::{Tcp, TcpOptions};

use super::arguments::TailArguments;
use super::{Failure, name_servers};

/// The producer group of messages that are sent once more.
const GROUP: &str = "STATICFIRE_ORPHANS";

/// What is in one orphan.
struct Contents {
    orphan: Orphan,
    records: Vec<Record>,
    /// What is wrong with the last record that could not be read.
    broken: Option<String>,
}

pub fn tail(arguments: &TailArguments) -> Result<(), Failure> {
    let place = arguments.directory.display();
    let not_started = |error: &dyn Display| Failure::not_started(format!("{place}: {error}"));
    let directory = RealDirectory::open_read_only(&arguments.directory).map_err(|e| not_started(&e))?;
    // Something else than a store has no orphans either.
    directory.list("commitlog").map_err(|error| not_started(&format!("commitlog: {error}")))?;
    let orphans = Orphan::all(&directory).map_err(|e| not_started(&e))?;
    let mut all = Vec::new();
    for orphan in orphans {
        let mut contents = Contents { records: Vec::new(), broken: None, orphan };
        let unreadable = |error| not_started(&format!("{}: {error}", contents.orphan.file));
        let records = contents.orphan.records(&directory).map_err(unreadable)?;
        for record in records {
            match record {
                Ok(record) => contents.records.push(record),
                Err(error) => contents.broken = Some(error.to_string()),
            }
        }
        all.push(contents);
    }
    if !arguments.send_to.is_empty() {
        send(&all, arguments)?;
    } else {
        print(&all, arguments).map_err(Failure::not_well)?;
    }
    match all.iter().find_map(|contents| Some((&contents.orphan.file, contents.broken.as_ref()?))) {
        Some((file, why)) => Err(Failure::not_well(format!("{file}: not all of it can be read: {why}"))),
        None => Ok(()),
    }
}

fn print(all: &[Contents], arguments: &TailArguments) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if arguments.messages {
        for record in all.iter().flat_map(Contents::messages) {
            writeln!(out, "{}", message_json(record))?;
        }
        return Ok(());
    }
    for contents in all {
        let shown = if arguments.json { contents.json().to_string() } else { contents.line() };
        writeln!(out, "{shown}")?;
    }
    if all.is_empty() && !arguments.json {
        writeln!(out, "nothing was ever cut off")?;
    }
    Ok(())
}

impl Contents {
    /// The records that applications sent.
    fn messages(&self) -> impl Iterator<Item = &Record> {
        let own = |topic: &str| topic != SCHEDULE_TOPIC && names::is_closed_to_senders(topic);
        self.records.iter().filter(move |record| !own(record.topic()))
    }

    fn topics(&self) -> BTreeMap<&str, u64> {
        let mut topics = BTreeMap::new();
        self.messages().for_each(|record| *topics.entry(target(record)).or_default() += 1);
        topics
    }

    /// The epochs that began in it.
    fn epochs(&self) -> Vec<u64> {
        let barriers = self.records.iter().filter_map(|record| Barrier::read(record).ok()?);
        barriers.map(|barrier| barrier.epoch.0).collect()
    }

    fn bytes(&self) -> u64 {
        self.records.iter().map(|record| u64::from(record.len())).sum()
    }

    fn line(&self) -> String {
        let Orphan { file, epoch, start, reason, .. } = &self.orphan;
        let why = reason.map_or(String::new(), |reason| format!(" because {}", reason.words()));
        let topics = self.topics();
        let topics: Vec<String> = topics.iter().map(|(topic, count)| format!("{count} of {topic}")).collect();
        let topics = if topics.is_empty() { "no messages".to_owned() } else { topics.join(", ") };
        let broken =
            self.broken.as_ref().map_or(String::new(), |why| format!("; not all of it can be read: {why}"));
        format!("{file}: cut at {start} in epoch {}{why}, {} bytes: {topics}{broken}", epoch.0, self.bytes())
    }

    fn json(&self) -> Value {
        json!({
            "file": self.orphan.file,
            "epoch": self.orphan.epoch.0,
            "start": self.orphan.start.0,
            "reason": self.orphan.reason.map(CutReason::name),
            "epochs": self.epochs(),
            "bytes": self.bytes(),
            "messages": self.messages().count(),
            "topics": self.topics(),
            "first_store_ms": self.messages().next().map(Record::store_ms),
            "last_store_ms": self.messages().last().map(Record::store_ms),
            "broken": self.broken,
        })
    }
}

/// The topic that a message is for: also when it waited for its delay.
fn target(record: &Record) -> &str {
    let waited = record.topic() == SCHEDULE_TOPIC;
    record.property(REAL_TOPIC).filter(|_| waited).unwrap_or(record.topic())
}

fn message_json(record: &Record) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let properties: BTreeMap<String, String> =
        record.properties().pairs().map(|(name, value)| (text(name), text(value))).collect();
    let mut line = json!({
        "topic": target(record),
        "queue": record.queue().0,
        "offset": record.queue_offset().0,
        "physical": record.physical().0,
        "born_ms": record.born_ms(),
        "store_ms": record.store_ms(),
        "flag": record.flag(),
        "sys_flag": record.sys_flag(),
        "properties": properties,
    });
    match std::str::from_utf8(&record.body()) {
        Ok(text) => line["body"] = text.into(),
        Err(_) => {
            let hex: String = record.body().iter().map(|byte| format!("{byte:02x}")).collect();
            line["body_hex"] = hex.into();
        }
    }
    line
}

fn send(all: &[Contents], arguments: &TailArguments) -> Result<(), Failure> {
    let tcp = Tcp::start(TcpOptions::default()).map_err(Failure::not_started)?;
    let options = ClientOptions::new(name_servers::said(&arguments.send_to));
    let client = Client::new(Arc::new(tcp.clone()), Arc::new(tcp.clone()), options);
    let group = GroupName::new(GROUP).map_err(Failure::not_started)?;
    let producer = Producer::new(&client, group, ProducerOptions::default());
    let mut sent = 0_u64;
    let mut done = Ok(());
    for record in all.iter().flat_map(Contents::messages) {
        if let Err(error) = tcp.block_on(send_one(&producer, record)) {
            let at = record.physical();
            done = Err(Failure::not_well(format!(
                "the message at {at} was not sent, nor those behind it: {error}"
            )));
            break;
        }
        sent += 1;
    }
    tcp.block_on(producer.close());
    println!("{sent} messages sent");
    done
}

async fn send_one(producer: &Producer, record: &Record) -> Result<(), String> {
    let topic = TopicName::new(target(record)).map_err(|error| error.to_string())?;
    let mut message = Message::copy_of(record, topic);
    if record.topic() == SCHEDULE_TOPIC {
        message = [REAL_TOPIC, REAL_QUEUE_ID, DELAY].into_iter().fold(message, Message::without);
    }
    let result = producer.send(message).await.map_err(|error| error.to_string())?;
    match result.status {
        SendStatus::Ok => Ok(()),
        status => Err(format!("{status:?}")),
    }
}
