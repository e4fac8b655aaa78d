//! What was flushed is never given up in silence: files that are gone keep the store from opening,
//! damage is kept and reported.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::{Message, OpenError, QueueId, Store, StoreOptions, SystemClock, TopicName};

const SEGMENT: u64 = 2048;

fn open(disk: &SimulatedDisk) -> Result<Store, OpenError> {
    let mut options = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
    (options.segment_bytes, options.queue_file_entries) = (SEGMENT, 16);
    Store::open(options)
}

fn append(disk: &SimulatedDisk, store: &Store, count: u32) -> u64 {
    for n in 0..count {
        let message = Message::new(TopicName::new("orders").unwrap(), QueueId(n % 2), format!("body {n}"));
        drop(store.append(&message).unwrap());
        disk.complete_all();
    }
    store.marks().flushed.0
}

/// A store with three segments and where its log ends.
fn written(close: bool) -> (SimulatedDisk, u64) {
    let disk = SimulatedDisk::new(1);
    let store = open(&disk).unwrap();
    let end = append(&disk, &store, 40);
    assert!(end > 2 * SEGMENT && end < 3 * SEGMENT);
    store.close().unwrap();
    if close {
        return (disk, end);
    }
    // Open, and so not trusted, but durable as far as it goes.
    let store = open(&disk).unwrap();
    let killed = disk.kill();
    drop(store);
    (killed, end)
}

fn segment(number: u64) -> String {
    format!("commitlog/{:020}", number * SEGMENT)
}

fn lost(disk: &SimulatedDisk) -> (u64, u64) {
    match open(disk) {
        Err(OpenError::LostDurable { end, durable }) => (end.0, durable.0),
        Err(error) => panic!("another error: {error}"),
        Ok(store) => panic!("it opened: {}", store.report()),
    }
}

/// proves: I7, D6
#[test]
fn a_missing_newest_file_is_no_shorter_log() {
    for close in [true, false] {
        let (disk, end) = written(close);
        disk.directory().remove(&segment(2)).unwrap();
        assert_eq!(lost(&disk), (2 * SEGMENT, end));
        disk.directory().remove(&segment(1)).unwrap();
        disk.directory().remove(&segment(0)).unwrap();
        assert_eq!(lost(&disk), (0, end));
    }
}

/// proves: I7, D6, B63
#[test]
fn a_short_newest_file_is_no_shorter_log() {
    for close in [true, false] {
        let (disk, end) = written(close);
        disk.edit(&segment(2), |bytes| bytes.truncate(100)).unwrap();
        let (at, durable) = lost(&disk);
        assert!(at <= 2 * SEGMENT + 100 && durable == end);
    }
}

/// proves: I7, D6, B65
#[test]
fn a_missing_file_in_the_middle_is_kept_as_damage() {
    for close in [true, false] {
        let (disk, end) = written(close);
        disk.directory().remove(&segment(1)).unwrap();
        let store = open(&disk).unwrap();
        let damaged = &store.report().log.damaged;
        assert_eq!(damaged.len(), 1, "{}", store.report());
        assert_eq!((damaged[0].from.0, damaged[0].to.0), (SEGMENT, 2 * SEGMENT));
        assert_eq!(store.marks().written.0, end);
        assert!(append(&disk, &store, 5) > end, "the log goes on");
    }
}

/// proves: I7, D6: the last durable record is damaged, and a whole one that was not yet durable follows
#[test]
fn damage_just_below_the_durable_mark_is_kept() {
    let (disk, end) = written(true);
    let store = open(&disk).unwrap();
    let last =
        store.queue("orders", QueueId(1)).unwrap().read(staticfire_storage::QueueOffset(19), 1).unwrap();
    let last = last[0].physical().0;
    append(&disk, &store, 1);
    let disk = disk.kill();
    disk.edit(&segment(2), |bytes| bytes[(last % SEGMENT) as usize + 90] ^= 1).unwrap();
    disk.edit("staticfire/state", |_| {}).unwrap();
    let store = open(&disk).unwrap();
    let log = &store.report().log;
    assert!(log.tail.is_none(), "{}", store.report());
    assert!(store.marks().written.0 > end, "the record behind it stays");
}

/// A file that was cut below the mark at which a closed store is trusted made appending spin.
#[test]
fn appending_ends_whatever_happened_to_the_files() {
    for len in [0, 1, 100, SEGMENT as usize - 1] {
        for number in 0..3 {
            let (disk, _) = written(true);
            disk.edit(&segment(number), |bytes| bytes.truncate(len)).unwrap();
            if let Ok(store) = open(&disk) {
                append(&disk, &store, 30);
            }
        }
    }
}
