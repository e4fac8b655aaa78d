//! What replication may rely on when it fences, copies and cuts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use staticfire_storage::disk::{DiskFaults, DiskOperation, FaultEffect, SimulatedDisk};
use staticfire_storage::{
    AppendError, CutError, Durability, Epoch, Message, PhysicalOffset, QueueId, Store, StoreOptions,
    SystemClock, TopicName,
};

fn open(disk: &SimulatedDisk) -> Store {
    let mut options = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
    (options.segment_bytes, options.queue_file_entries) = (2048, 16);
    options.durability = Durability::Confirmed;
    Store::open(options).unwrap()
}

fn message(body: &'static str) -> Message {
    Message::new(TopicName::new("orders").unwrap(), QueueId(0), body)
}

/// Another node's first record, and where the second one goes.
fn record() -> (Vec<u8>, PhysicalOffset) {
    let leader = open(&SimulatedDisk::new(2));
    let receipt = leader.append(&message("theirs")).unwrap();
    (leader.record(receipt.start()).unwrap().bytes().to_vec(), receipt.position().end)
}

/// proves: I38, B53: bytes go where they came from or nowhere
#[test]
fn bytes_that_do_not_continue_the_log_are_refused() {
    let (bytes, end) = record();
    let store = open(&SimulatedDisk::new(1));
    let refused = |at| match store.append_raw(at, &bytes) {
        Err(AppendError::NotAtEnd { end, open, .. }) => (end, open),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(PhysicalOffset(0)), (PhysicalOffset(0), true), "it has producers of its own");
    store.fence(Epoch(2));
    assert_eq!(refused(end), (PhysicalOffset(0), false), "a gap");
    store.append_raw(PhysicalOffset(0), &bytes).unwrap();
    assert_eq!(refused(PhysicalOffset(0)), (end, false), "the same bytes again");
    assert_eq!(store.marks().appended, end);
}

/// proves: I8, I28, I48: a cut that fails half-way leaves nothing that takes another byte, and the next
/// open finishes it
#[test]
fn a_cut_that_fails_ends_the_store_until_it_is_opened_again() {
    let disk = SimulatedDisk::new(1);
    let store = open(&disk);
    let kept = store.append(&message("kept")).unwrap().position().end;
    store.append(&message("cut")).unwrap();
    store.confirm(Epoch(1), kept);
    store.fence(Epoch(2));
    disk.set_faults(DiskFaults::calm().on_nth(DiskOperation::Rename, 1, FaultEffect::Io));
    assert!(matches!(store.truncate(kept), Err(CutError::Io(_))));
    store.open_epoch().unwrap();
    assert!(matches!(store.append(&message("more")), Err(AppendError::Failed(_))));
    let store = open(&disk.kill());
    assert_eq!((store.marks().written, store.report().log.finished_cut), (kept, Some(kept)));
    assert_eq!(store.queue("orders", QueueId(0)).unwrap().max().0, 1);
}
