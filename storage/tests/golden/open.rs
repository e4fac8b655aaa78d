//! RocketMQ's directories opened as stores, through the public API.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use staticfire_storage::{
    Background, Boundary, Message, OpenError, PhysicalOffset, Queue, QueueEntry, QueueId, QueueOffset,
    Retention, Store, StoreOptions, SystemClock, TopicName, verify,
};

use crate::fixture::{Fixture, WHOLE};

pub fn open(fixture: &Fixture) -> Result<Store, OpenError> {
    let mut options = sized(StoreOptions::at(fixture.path()), fixture);
    options.background = Background::Caller;
    Store::open(options)
}

/// The options for a directory that keeps everything, with the sizes the fixture was made with.
pub fn sized(mut options: StoreOptions, fixture: &Fixture) -> StoreOptions {
    options.segment_bytes = fixture.setting("mappedFileSizeCommitLog").unwrap();
    options.queue_file_entries = fixture.setting("mappedFileSizeConsumeQueue").unwrap() / 20;
    if let Some(len) = fixture.setting("mapperFileSizeBatchConsumeQueue") {
        options.batch_queue_file_entries = len / 46;
    }
    options.retention = Retention { age_ms: None, bytes: None };
    options
}

/// proves: M9: positions, queues, entries and times are what RocketMQ reads in them
#[test]
fn whole_directories_are_read_as_rocketmq_reads_them() {
    for name in WHOLE {
        let fixture = Fixture::open(name);
        let store = open(&fixture).unwrap();
        let recovered = fixture.lines("recovered").next().unwrap();
        let marks = store.marks();
        assert_eq!(marks.min.0, recovered["minPhyOffset"].as_u64().unwrap(), "{name}");
        assert_eq!(marks.written.0, recovered["maxPhyOffset"].as_u64().unwrap(), "{name}");
        assert_eq!(marks.dispatched, marks.written);

        for line in fixture.lines("record") {
            let record = store.record(PhysicalOffset(line["offset"].as_u64().unwrap())).unwrap();
            assert_eq!(crc32fast::hash(record.bytes()), line["recordCRC32"], "{name}: {record:?}");
        }
        let mut known = 0;
        for line in fixture.lines("queue") {
            compare_queue(&store, line, name);
            known += 1;
        }
        let topics = store.topics();
        let queues: usize = topics.iter().map(|topic| store.queues_of(topic.as_str()).len()).sum();
        assert_eq!(queues, known, "{name}: {topics:?}");
        store.close().unwrap();
    }
}

/// proves: D1: opening and closing leaves every file of RocketMQ's as it was
#[test]
fn nothing_of_a_whole_directory_changes_when_nothing_is_appended() {
    for name in WHOLE {
        let fixture = Fixture::open(name);
        let disk = fixture.on_simulated_disk();
        // `checkpoint` and `abort` say how far everything is; an empty segment made ahead goes.
        let theirs =
            |path: &String| !["staticfire", "checkpoint", "abort"].iter().any(|ours| path.starts_with(ours));
        let contents = || -> BTreeMap<String, Vec<u8>> {
            let files = disk.paths().into_iter().filter(theirs);
            let files = files.filter_map(|path| disk.contents(&path).ok().map(|bytes| (path, bytes)));
            files.filter(|(path, bytes)| !path.starts_with("commitlog/") || !is_zero(bytes)).collect()
        };
        let before = contents();
        let options = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
        Store::open(sized(options, &fixture)).unwrap().close().unwrap();
        let after = contents();
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "{name}");
        for (path, bytes) in before {
            assert!(after[&path] == bytes, "{name}: {path} changed");
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// proves: D1, I13: queues go on behind what RocketMQ wrote, and the result is sound
#[test]
fn every_queue_goes_on_where_rocketmq_stopped() {
    for name in WHOLE {
        let fixture = Fixture::open(name);
        let disk = fixture.on_simulated_disk();
        let options = || sized(StoreOptions::on(disk.directory(), Arc::new(SystemClock)), &fixture);
        let store = Store::open(options()).unwrap();
        let mut appended = Vec::new();
        for line in fixture.lines("queue") {
            let (topic, id, max) = (line["topic"].as_str().unwrap(), queue_id(line), number(&line["max"]));
            let message = Message::new(TopicName::new(topic).unwrap(), id, "after");
            let receipt = store.append(&message).unwrap();
            assert_eq!(receipt.queue_offset().0, max, "{name}: {topic} {id}");
            appended.push((topic, id, max));
        }
        disk.complete_all();
        store.close().unwrap();

        let report = verify(&*disk.directory()).unwrap();
        assert!(report.is_sound(), "{name}: {report}");
        let store = Store::open(options()).unwrap();
        for (topic, id, max) in appended {
            let queue = store.queue(topic, id).unwrap();
            assert_eq!(queue.max().0, max + 1, "{name}: {topic} {id}");
            let records = queue.read(QueueOffset(max), 1).unwrap();
            assert_eq!(records[0].body(), "after", "{name}: {topic} {id}");
        }
        store.close().unwrap();
    }
}

fn compare_queue(store: &Store, line: &Value, name: &str) {
    let topic = line["topic"].as_str().unwrap();
    let id = queue_id(line);
    let what = format!("{name}: {topic} {id}");
    let queue = store.queue(topic, id).unwrap_or_else(|| panic!("{what} is missing"));
    assert_eq!((queue.min().0, queue.max().0), (number(&line["min"]), number(&line["max"])), "{what}");
    let entries = queue.entries(queue.min(), 4096).unwrap();
    assert_eq!(Value::from_iter(entries.iter().map(as_listed)), line["entries"], "{what}");
    for probe in line["byTime"].as_array().unwrap() {
        let ms = probe[0].as_i64().unwrap();
        let found = [Boundary::Lower, Boundary::Upper].map(|side| queue.seek_by_time(ms, side).unwrap().0);
        let expected = match line["type"].as_str() {
            // In batch queues RocketMQ's search answers the first entry, or the next, where the last
            // one that is not later is asked for, and the last where there is none that is not
            // earlier. Here all queues answer alike.
            Some("BatchCQ") => by_definition(&queue, &entries, ms),
            _ => [number(&probe[1]), number(&probe[2])],
        };
        assert_eq!(found, expected, "{what} at {ms}");
    }
}

/// The first entry not earlier than `ms` and the last one not later (store-format 5.6), by looking
/// at all of them.
fn by_definition(queue: &Queue, entries: &[QueueEntry], ms: i64) -> [u64; 2] {
    let store_ms = |entry: &QueueEntry| queue.record(entry).unwrap().store_ms();
    let lower = entries.iter().find(|entry| store_ms(entry) >= ms);
    let upper = entries.iter().rfind(|entry| store_ms(entry) <= ms);
    [lower.map_or(queue.max().0, |entry| entry.offset.0), upper.map_or(queue.min().0, |entry| entry.offset.0)]
}

fn queue_id(line: &Value) -> QueueId {
    QueueId(u32::try_from(number(&line["queueId"])).unwrap())
}

pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

/// An entry as `expected.jsonl` lists it.
fn as_listed(entry: &QueueEntry) -> Value {
    let QueueEntry { physical, size, tags_code, offset, messages } = *entry;
    match messages {
        1 => json!([offset.0, physical.0, size, tags_code]),
        _ => json!([offset.0, physical.0, size, tags_code, messages]),
    }
}
