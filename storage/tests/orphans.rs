//! What was cut off the log can be read.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::orphans::Orphan;
use staticfire_storage::{
    Durability, Epoch, Message, PhysicalOffset, QueueId, Store, StoreOptions, SystemClock, TopicName,
};

fn open(disk: &SimulatedDisk, durability: Durability) -> Store {
    let mut options = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
    (options.segment_bytes, options.durability) = (2048, durability);
    Store::open(options).unwrap()
}

/// Appends ten messages; where each of them ends.
fn append(store: &Store) -> Vec<PhysicalOffset> {
    let message = |n: u8| Message::new(TopicName::new("orders").unwrap(), QueueId(0), vec![n; 300]);
    (0..10).map(|n| store.append(&message(n)).unwrap().position().end).collect()
}

/// The first bytes of the bodies in all orphans, and how many records are damaged.
fn orphaned(disk: &SimulatedDisk) -> (Vec<u8>, usize) {
    let directory = disk.directory();
    let all = Orphan::all(&*directory).unwrap();
    let records = all.iter().flat_map(|orphan| orphan.records(&*directory).unwrap());
    let (good, bad): (Vec<_>, Vec<_>) = records.partition(Result::is_ok);
    (good.into_iter().map(|record| record.unwrap().body()[0]).collect(), bad.len())
}

/// proves: M34, I76
#[test]
fn what_another_leader_did_not_have_is_read_across_segments() {
    let disk = SimulatedDisk::new(1).completing_at_once();
    let store = open(&disk, Durability::Confirmed);
    store.open_epoch().unwrap();
    let ends = append(&store);
    assert!(ends[9].0 > 2 * 2048);
    assert_eq!(orphaned(&disk), (vec![], 0));
    store.fence(Epoch(3));
    store.truncate(ends[2]).unwrap();
    assert_eq!(orphaned(&disk), ((3..10).collect(), 0));
    let first = &Orphan::all(&*disk.directory()).unwrap()[0];
    assert_eq!((first.epoch, first.start), (Epoch(3), ends[2]));
}

/// proves: I76
#[test]
fn what_a_crash_left_incomplete_is_read_as_far_as_it_is_whole() {
    let disk = SimulatedDisk::new(1).completing_at_once();
    let ends = append(&open(&disk, Durability::Written));
    let disk = disk.kill();
    let flip = |bytes: &mut Vec<u8>| bytes[usize::try_from(ends[1].0).unwrap() + 150] ^= 1;
    disk.edit("commitlog/00000000000000000000", flip).unwrap();
    let store = open(&disk, Durability::Written);
    assert_eq!(store.marks().written, ends[1], "the third is not whole");
    assert_eq!(orphaned(&disk), ((3..10).collect(), 1));
}
