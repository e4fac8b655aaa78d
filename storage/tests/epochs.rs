//! What replication may rely on when it fences, copies and cuts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use staticfire_storage::disk::{DiskFaults, DiskOperation, FaultEffect, SimulatedDisk};
use staticfire_storage::{
    AppendError, CutError, Durability, Epoch, Message, PhysicalOffset, QueueId, QueueOffset, Store,
    StoreOptions, SystemClock, TopicName,
};

fn open(disk: &SimulatedDisk) -> Store {
    let mut options = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
    (options.segment_bytes, options.queue_file_entries) = (2048, 16);
    options.durability = Durability::Confirmed;
    let store = Store::open(options).unwrap();
    store.open_epoch().unwrap();
    store
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

/// proves: D3: what was copied from another node is dispatched as what was appended here
#[test]
fn copied_records_reach_their_queues_once_they_are_confirmed() {
    let (bytes, end) = record();
    let store = open(&SimulatedDisk::new(1));
    store.fence(Epoch(2));
    let (now, later) = bytes.split_at(50);
    store.append_raw(PhysicalOffset(0), now).unwrap();
    store.append_raw(PhysicalOffset(50), later).unwrap();
    store.confirm(Epoch(2), end);
    let queue = store.queue("orders", QueueId(0)).expect("the copied record is its first");
    assert_eq!(queue.read(QueueOffset(0), 1).unwrap()[0].body(), "theirs");
    store.open_epoch().unwrap();
    let own = store.append(&message("own")).unwrap();
    assert_eq!(own.queue_offset(), QueueOffset(1));
    store.confirm(Epoch(2), own.position().end);
    assert_eq!(queue.read(QueueOffset(0), 2).unwrap()[1].body(), "own");
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
    store.confirm(store.marks().epoch, kept);
    assert_eq!(store.queue("orders", QueueId(0)).unwrap().max().0, 1);
}

/// proves: I29, I40; D2: what was not confirmed is not shown, not even after a crash, and may still be cut
#[test]
fn a_reopened_log_shows_what_was_confirmed_and_no_more() {
    let disk = SimulatedDisk::new(1);
    let store = open(&disk);
    let shown = store.append(&message("confirmed")).unwrap().position().end;
    store.append(&message("not yet")).unwrap();
    store.confirm(Epoch(1), shown);
    assert_eq!(store.queue("orders", QueueId(0)).unwrap().max().0, 1);
    let end = store.marks().written;
    let store = open(&disk.kill());
    let marks = store.marks();
    assert!(marks.written == end && marks.confirmed <= shown, "{marks:?}");
    assert!(store.queue("orders", QueueId(0)).is_none_or(|queue| queue.max().0 <= 1));
    store.confirm(Epoch(1), end);
    assert_eq!(store.queue("orders", QueueId(0)).unwrap().max().0, 2, "both have their entries");
    let next = store.append(&message("next")).unwrap();
    assert_eq!(next.queue_offset().0, 2, "numbers go on behind what was not confirmed yet");
}

/// proves: D7, I13: what another node copies are slices of the log, across segments, and once they are
/// confirmed they are in its queues
#[test]
fn a_range_of_the_log_comes_as_slices() {
    let disk = SimulatedDisk::new(1);
    let store = open(&disk);
    while store.marks().written < PhysicalOffset(5000) {
        store.append(&message("a record")).unwrap();
    }
    let end = store.marks().written;
    let slices = store.slices(PhysicalOffset(100), end).unwrap();
    assert_eq!(slices.len(), 3, "segments of 2048 bytes");
    assert_eq!(slices.iter().map(|slice| slice.len() as u64).sum::<u64>(), end.0 - 100);
    let other = open(&SimulatedDisk::new(2));
    other.fence(Epoch(2));
    let whole: Vec<u8> = store.slices(PhysicalOffset(0), end).unwrap().concat();
    other.append_raw(PhysicalOffset(0), &whole).unwrap();
    assert_eq!(other.slices(PhysicalOffset(0), end).unwrap().concat(), whole);
    assert!(store.slices(PhysicalOffset(0), end.after(1)).is_err(), "not written yet");
    other.confirm(Epoch(2), end);
    let count = |store: &Store| store.queue("orders", QueueId(0)).map(|queue| queue.max());
    store.confirm(Epoch(1), end);
    assert!(count(&other).is_some() && count(&other) == count(&store), "copied records get their entries");
}
