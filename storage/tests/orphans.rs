//! What was cut off the log can be read.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::orphans::{CutReason, Orphan};
use staticfire_storage::{
    Durability, Epoch, Message, PhysicalOffset, Position, QueueId, Retention, Store, StoreOptions,
    SystemClock, TopicName,
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
    assert_eq!((first.epoch, first.start, first.reason), (Epoch(3), ends[2], Some(CutReason::Diverged)));
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

/// Cuts ten messages but for the first off a log, in epochs of their own, so often.
fn cut_often(store: &Store, times: u64) {
    for epoch in 0..times {
        store.open_epoch().unwrap();
        let ends = append(store);
        store.fence(Epoch(10 + epoch));
        if epoch.is_multiple_of(2) {
            store.truncate(ends[0]).unwrap()
        } else {
            store.retract(ends[0]).unwrap()
        }
    }
}

/// proves: M34: why it was cut is told by the orphan itself, also when a crash left the cut to the next opening
#[test]
fn an_orphan_says_why_it_was_cut() {
    let mut finished = 0;
    for step in 0..200 {
        let disk = SimulatedDisk::new(step).completing_at_once();
        let store = open(&disk, Durability::Confirmed);
        store.open_epoch().unwrap();
        let ends = append(&store);
        store.fence(Epoch(3));
        disk.crash_at_step(disk.steps() + step);
        let whole = store.retract(ends[2]).is_ok() && !disk.is_gone();
        drop(store);
        let disk = disk.crash().completing_at_once();
        let store = open(&disk, Durability::Confirmed);
        finished += usize::from(store.report().log.finished_cut.is_some());
        for orphan in Orphan::all(&*disk.directory()).unwrap() {
            let torn = orphan.reason == Some(CutReason::Torn);
            assert!(torn || orphan.reason == Some(CutReason::Retracted), "step {step}: {orphan:?}");
        }
        if whole {
            assert!(finished > 3, "{finished}");
            return;
        }
    }
    panic!("it never ends");
}

/// proves: M34, I76: orphans are kept for their own time and within their own bytes, the newest always
#[test]
fn orphans_go_when_they_are_too_old_or_too_many() {
    let open = |age_ms, bytes, limit| {
        let disk = SimulatedDisk::new(5).completing_at_once();
        let mut options = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
        (options.segment_bytes, options.durability) = (2048, Durability::Confirmed);
        options.retention = Retention { age_ms: None, bytes: limit };
        options.orphans = Retention { age_ms, bytes };
        let store = Store::open(options).unwrap();
        cut_often(&store, 4);
        let before = Orphan::all(&*disk.directory()).unwrap();
        assert!(before.len() >= 8, "{before:?}");
        store.retain().unwrap();
        (before, Orphan::all(&*disk.directory()).unwrap(), store)
    };
    let (before, kept, _) = open(None, None, None);
    assert_eq!(kept, before, "without limits they stay");
    let (before, kept, _) = open(Some(0), None, None);
    assert_eq!(kept, before[before.len() - 1..], "too old, all but the newest");
    let (before, kept, _) = open(None, Some(3 * 2048), None);
    assert_eq!(kept, before[before.len() - 3..], "the newest three files are within it");
    let (before, kept, _) = open(None, None, Some(8 * 2048));
    assert_eq!(kept, before[before.len() - 2..], "a quarter of what the log may keep");
}

/// proves: M34: what orphans take the log may not, and no more than half of what it may keep is taken from it
#[test]
fn orphans_count_in_what_the_log_may_keep() {
    let kept = |orphans: Option<u64>| {
        let disk = SimulatedDisk::new(6).completing_at_once();
        let mut options = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
        (options.segment_bytes, options.queue_file_entries) = (2048, 16);
        options.durability = Durability::Confirmed;
        options.retention = Retention { age_ms: None, bytes: Some(8 * 2048) };
        options.orphans = Retention { age_ms: None, bytes: orphans };
        let store = Store::open(options).unwrap();
        cut_often(&store, 6);
        store.open_epoch().unwrap();
        let end = (0..12).fold(PhysicalOffset(0), |_, _| append(&store)[9]);
        let epoch = store.marks().epoch;
        store.when(Durability::Flushed, Position { epoch, end }, Box::new(|_| {}));
        store.confirm(epoch, end);
        store.retain().unwrap();
        let orphans: u64 = Orphan::all(&*disk.directory()).unwrap().iter().map(|it| it.file_bytes).sum();
        (end.0 - store.marks().min.0, orphans)
    };
    let (log, orphans) = kept(None);
    assert!(orphans == 2 * 2048 && log <= 6 * 2048 && log > 4 * 2048, "{log} and {orphans}");
    let (log, orphans) = kept(Some(1 << 30));
    assert!(orphans > 8 * 2048 && log <= 4 * 2048 && log > 2 * 2048, "{log} and {orphans}");
}
