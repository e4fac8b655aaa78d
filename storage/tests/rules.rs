//! The rules of a store decide its queue entries, whoever makes them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::dispatch::SCHEDULE_TOPIC;
use staticfire_storage::message::sys_flag;
use staticfire_storage::{
    Clock, DelayLevels, DispatchRules, Epoch, Message, QueueEntry, QueueId, QueueOffset, Store, StoreOptions,
    TopicName, verify,
};

const NOW_MS: i64 = 1_700_000_000_000;

#[derive(Debug)]
struct Stopped;

impl Clock for Stopped {
    fn wall_ms(&self) -> i64 {
        NOW_MS
    }
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn rules() -> DispatchRules {
    DispatchRules { delay_levels: DelayLevels::new(vec![7, 77]), system_topic: Some(topic("control")) }
}

fn open(disk: &SimulatedDisk) -> Store {
    let mut options = StoreOptions::on(disk.directory(), Arc::new(Stopped));
    (options.segment_bytes, options.queue_file_entries, options.batch_queue_file_entries) = (4096, 16, 16);
    (options.rules, options.batch_topics) = (rules(), vec![topic("batches")]);
    Store::open(options).unwrap()
}

fn entries(store: &Store) -> [Vec<QueueEntry>; 2] {
    assert!(store.queue("control", QueueId(0)).is_none_or(|queue| queue.max() == QueueOffset(0)));
    [SCHEDULE_TOPIC, "batches"].map(|topic| {
        let queue = store.queue(topic, QueueId(0)).unwrap();
        queue.entries(queue.min(), 32).unwrap()
    })
}

fn append(store: &Store) {
    store.append(&Message::new(topic("control"), QueueId(0), "a control record")).unwrap();
    let delayed = Message::new(topic(SCHEDULE_TOPIC), QueueId(0), "later").with_property("DELAY", "2");
    store.append(&delayed).unwrap();
    let mut batch = Message::new(topic("batches"), QueueId(0), "five").with_property("INNER_NUM", "5");
    batch.sys_flag |= sys_flag::INNER_BATCH;
    store.append(&batch).unwrap();
}

/// proves: I15, M34: appending, rebuilding after a crash, numbering after a fence and verifying agree
#[test]
fn one_table_of_rules_serves_everybody() {
    let disk = SimulatedDisk::new(1).completing_at_once();
    let store = open(&disk);
    append(&store);
    let live = entries(&store);
    assert_eq!((live[0][0].tags_code, live[0][0].messages), (NOW_MS + 77, 1));
    assert_eq!((live[1][0].offset.0, live[1][0].messages), (0, 5));

    let disk = disk.crash();
    let store = open(&disk);
    assert_eq!(entries(&store), live, "built again");
    store.fence(Epoch(2));
    store.open_epoch().unwrap();
    append(&store);
    let [delayed, batches] = entries(&store);
    assert_eq!((delayed[1].offset.0, delayed[1].tags_code), (1, NOW_MS + 77));
    assert_eq!((batches[1].offset.0, batches[1].messages), (5, 5));
    store.close().unwrap();

    let report = verify::verify_with(&*disk.directory(), &rules()).unwrap();
    assert!(report.is_sound(), "{report}");
    let other = verify(&*disk.directory()).unwrap();
    assert!(!other.is_sound(), "other rules are told by other entries");
}
