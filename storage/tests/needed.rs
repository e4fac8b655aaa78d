//! What the owner of a store needs beyond the messages: a part of the log that retention leaves alone, and
//! the numbers of queues whose messages are gone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::verify::verify;
use staticfire_storage::{
    KeptFor, Message, PhysicalOffset, QueueId, QueueOffset, Retention, Store, StoreOptions, SystemClock,
    TopicName,
};

fn open(disk: &SimulatedDisk) -> Store {
    let mut options = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
    (options.segment_bytes, options.queue_file_entries) = (2048, 16);
    options.retention = Retention { age_ms: None, bytes: Some(2048) };
    Store::open(options).unwrap()
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn append(store: &Store, topic_name: &str) -> QueueOffset {
    store.append(&Message::new(topic(topic_name), QueueId(0), vec![7; 100])).unwrap().queue_offset()
}

/// proves: I30: retention stops in front of what the owner needs, and says where it would go on
#[test]
fn retention_leaves_what_is_needed() {
    let disk = SimulatedDisk::new(1).completing_at_once();
    let store = open(&disk);
    for _ in 0..60 {
        append(&store, "orders");
    }
    let needed = PhysicalOffset(2048 + 100);
    store.keep_from(KeptFor::State, needed);
    store.retain().unwrap();
    assert_eq!(store.marks().min, PhysicalOffset(2048), "the segment that holds it stays");
    assert_eq!(store.retention_waits_for(), Some(PhysicalOffset(4096)));
    store.keep_from(KeptFor::State, PhysicalOffset(4096));
    store.retain().unwrap();
    assert_eq!(store.marks().min, PhysicalOffset(4096));
    store.keep_from(KeptFor::State, store.marks().dispatched);
    store.retain().unwrap();
    assert!(store.marks().min > PhysicalOffset(4096));
    assert_eq!(store.retention_waits_for(), None, "only its own limits hold it now");
    store.close().unwrap();
    let store = open(&disk);
    let min = store.marks().min;
    for _ in 0..60 {
        append(&store, "orders");
    }
    store.retain().unwrap();
    assert!(store.marks().min > min, "after opening, nothing is needed until somebody says so");
}

/// proves: I14, I30: numbers go on behind messages that this log never held, across restarts, and the
/// queue's files are what they are for any queue that begins late
#[test]
fn a_queue_whose_messages_are_gone_keeps_its_numbers() {
    let disk = SimulatedDisk::new(1).completing_at_once();
    let store = open(&disk);
    append(&store, "busy");
    store.continue_queue(&topic("gone"), QueueId(0), QueueOffset(57));
    store.continue_queue(&topic("busy"), QueueId(0), QueueOffset(57));
    assert_eq!(append(&store, "busy"), QueueOffset(1), "it has numbers of its own");
    let gone = store.queue("gone", QueueId(0)).unwrap();
    assert_eq!((gone.min(), gone.max()), (QueueOffset(57), QueueOffset(57)));
    store.close().unwrap();

    let store = open(&disk);
    assert!(store.queue("gone", QueueId(0)).is_none(), "an empty queue is remembered by its owner");
    store.continue_queue(&topic("gone"), QueueId(0), QueueOffset(57));
    assert_eq!(append(&store, "gone"), QueueOffset(57));
    store.continue_queue(&topic("gone"), QueueId(0), QueueOffset(90));
    assert_eq!(append(&store, "gone"), QueueOffset(58));
    store.close().unwrap();

    let directory = disk.directory();
    let report = verify(&*directory).unwrap();
    assert!(report.is_sound(), "{report}");
    let store = open(&disk);
    let gone = store.queue("gone", QueueId(0)).unwrap();
    assert_eq!((gone.min(), gone.max()), (QueueOffset(57), QueueOffset(59)));
    assert_eq!(append(&store, "gone"), QueueOffset(59));
    assert_eq!(gone.read(QueueOffset(57), 9).unwrap().len(), 3);
}
