//! What retention removes and cuts replace, and that whoever holds a record's bytes notices neither.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use staticfire_storage::disk::{Directory, RealDirectory, SimulatedDisk};
use staticfire_storage::{
    Background, Clock, Epoch, Message, QueueId, QueueOffset, ReadError, Receipt, Record, Retention, Step,
    Store, StoreOptions, SystemClock, TopicName,
};

const HOUR_MS: i64 = 3_600_000;
const SEGMENT_BYTES: u64 = 64 << 10;

/// A clock that the test sets.
#[derive(Debug, Default)]
struct Hands(AtomicI64);

impl Clock for Hands {
    fn wall_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn options(directory: Arc<dyn Directory>, clock: Arc<dyn Clock>, retention: Retention) -> StoreOptions {
    let mut options = StoreOptions::on(directory, clock);
    options.segment_bytes = SEGMENT_BYTES;
    options.background = Background::Steps;
    options.retention = retention;
    options
}

/// A store on a simulated disk whose files are as old as the clock says.
fn aging(retention: Retention) -> (SimulatedDisk, Arc<Hands>, Store) {
    let clock = Arc::new(Hands(AtomicI64::new(1_700_000_000_000)));
    let disk = SimulatedDisk::new(3).completing_at_once();
    let same = Arc::clone(&clock);
    disk.set_clock(move || (0, same.wall_ms()));
    let store = Store::open(options(disk.directory(), clock.clone(), retention)).unwrap();
    (disk, clock, store)
}

fn on_files(folder: &tempfile::TempDir, retention: Retention) -> Store {
    let directory = Arc::new(RealDirectory::open(folder.path()).unwrap());
    Store::open(options(directory, Arc::new(SystemClock), retention)).unwrap()
}

/// Three of them fill a segment.
fn message(n: usize) -> Message {
    let body = format!("{n:06}").repeat(3_000);
    Message::new(TopicName::new("orders").unwrap(), QueueId(0), body)
}

/// Appends three messages: one segment of the log and the first bytes of nothing else.
fn fill_segment(store: &Store, number: usize) -> Vec<Receipt> {
    let receipts = (0..3).map(|n| store.append(&message(3 * number + n)).unwrap()).collect();
    settle(store);
    receipts
}

/// Written, flushed and dispatched to the end.
fn settle(store: &Store) {
    while store.marks().dispatched < store.marks().appended {
        store.step(Step::Write).unwrap();
        store.step(Step::Flush).unwrap();
        store.step(Step::Dispatch(100)).unwrap();
    }
}

fn min_of(store: &Store) -> (u64, u64) {
    (store.marks().min.0, store.queue("orders", QueueId(0)).unwrap().min().0)
}

fn address(bytes: &Bytes) -> usize {
    bytes.as_ptr() as usize
}

/// proves: I12: a segment goes when it was last written `age_ms` ago, not a millisecond earlier; the newest
/// never does
#[test]
fn segments_go_by_age() {
    let (disk, clock, store) = aging(Retention { age_ms: Some(72 * HOUR_MS), bytes: None });
    for number in 0..3 {
        fill_segment(&store, number);
        clock.0.fetch_add(HOUR_MS, Ordering::Relaxed);
    }
    // The first was last written two hours ago: the blank behind its records came with the next segment.
    clock.0.fetch_add(70 * HOUR_MS - 1, Ordering::Relaxed);
    store.retain().unwrap();
    assert_eq!(min_of(&store), (0, 0), "the oldest is a millisecond too young");
    clock.0.fetch_add(1, Ordering::Relaxed);
    store.retain().unwrap();
    assert_eq!(min_of(&store), (SEGMENT_BYTES, 3), "the oldest goes, the next is an hour younger");
    clock.0.fetch_add(HOUR_MS, Ordering::Relaxed);
    store.retain().unwrap();
    clock.0.fetch_add(10_000 * HOUR_MS, Ordering::Relaxed);
    store.retain().unwrap();
    assert_eq!(min_of(&store), (2 * SEGMENT_BYTES, 6), "the newest stays, however old");
    let left = disk.paths().into_iter().filter(|path| path.starts_with("commitlog/"));
    assert_eq!(left.collect::<Vec<_>>(), [format!("commitlog/{:020}", 2 * SEGMENT_BYTES)]);
    assert_eq!(store.append(&message(9)).unwrap().queue_offset(), QueueOffset(9));
}

/// proves: I12: age and size are each enough, and neither touches what is not flushed
#[test]
fn segments_go_by_age_or_by_size() {
    let both = Retention { age_ms: Some(HOUR_MS), bytes: Some(2 * SEGMENT_BYTES) };
    let (_disk, clock, store) = aging(both);
    (0..4).for_each(|number| drop(fill_segment(&store, number)));
    store.retain().unwrap();
    assert_eq!(min_of(&store), (2 * SEGMENT_BYTES, 6), "young, but too many");
    clock.0.fetch_add(HOUR_MS, Ordering::Relaxed);
    store.retain().unwrap();
    assert_eq!(min_of(&store), (3 * SEGMENT_BYTES, 9), "few, but too old");

    let (_disk, clock, store) = aging(both);
    (0..9).for_each(|n| drop(store.append(&message(n)).unwrap()));
    store.step(Step::Write).unwrap();
    clock.0.fetch_add(HOUR_MS, Ordering::Relaxed);
    store.retain().unwrap();
    assert_eq!(store.marks().min.0, 0, "too old and too many, but not flushed");
}

/// A record and a slice of it, read in several ways, with what they must stay.
fn held(store: &Store, receipt: &Receipt, n: usize) -> (Record, Bytes, Bytes) {
    let record = store.record(receipt.start()).unwrap();
    let body = record.body();
    assert_eq!(body, message(n).body);
    let copy = Bytes::copy_from_slice(record.bytes());
    (record, body, copy)
}

fn assert_unchanged((record, body, copy): &(Record, Bytes, Bytes)) {
    assert_eq!(record.bytes(), copy);
    assert_eq!(*body, record.body());
    assert!(copy.windows(body.len()).any(|window| window == &body[..]), "the body changed");
}

/// proves: C2, D5, I12: a record that somebody holds outlives its segment; who asks for it now is refused
fn retention_keeps_what_is_held(store: &Store, age: impl FnOnce()) {
    let first = fill_segment(store, 0);
    let held = held(store, &first[1], 1);
    let from_queue = store.queue("orders", QueueId(0)).unwrap().read(QueueOffset(0), 3).unwrap();
    (1..4).for_each(|number| drop(fill_segment(store, number)));
    age();
    store.retain().unwrap();
    assert!(store.marks().min > first[2].start(), "the segment was removed");
    assert!(matches!(store.record(first[1].start()), Err(ReadError::OutOfRange { .. })));
    (4..8).for_each(|number| drop(fill_segment(store, number)));
    assert_unchanged(&held);
    for (n, record) in from_queue.iter().enumerate() {
        assert_eq!(record.body(), message(n).body);
    }
    store.clone().close().unwrap();
    assert_unchanged(&held);
}

#[test]
fn retention_keeps_what_is_held_on_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = on_files(&folder, Retention { age_ms: None, bytes: Some(SEGMENT_BYTES) });
    retention_keeps_what_is_held(&store, || {});
}

#[test]
fn retention_keeps_what_is_held_on_a_simulated_disk() {
    let (_disk, clock, store) = aging(Retention { age_ms: Some(HOUR_MS), bytes: None });
    retention_keeps_what_is_held(&store, || _ = clock.0.fetch_add(HOUR_MS, Ordering::Relaxed));
}

/// proves: C2, D5, M34: a record that somebody holds outlives a cut and the different bytes that take its place
#[test]
fn a_cut_changes_nothing_that_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let store = on_files(&folder, Retention { age_ms: None, bytes: None });
    let first = store.append(&message(0)).unwrap();
    settle(&store);
    let second = store.append(&message(1)).unwrap();
    store.step(Step::Write).unwrap();
    let (kept, cut) = (held(&store, &first, 0), held(&store, &second, 1));
    store.fence(Epoch(store.marks().epoch.0 + 1));
    store.final_end().unwrap();
    store.truncate(second.start()).unwrap();
    store.open_epoch().unwrap();
    let other = store.append(&message(7)).unwrap();
    assert_eq!(other.start(), second.start());
    settle(&store);
    assert_eq!(store.record(other.start()).unwrap().body(), message(7).body);
    assert_unchanged(&kept);
    assert_unchanged(&cut);
    assert_eq!(cut.1, message(1).body);
    store.close().unwrap();
    assert_unchanged(&cut);
}

/// proves: C3, D5: what is read lies in one mapping of the segment, at the distance it has in the file
#[test]
fn reads_are_slices_of_one_mapping() {
    let folder = tempfile::tempdir().unwrap();
    let store = on_files(&folder, Retention { age_ms: None, bytes: None });
    let receipts = fill_segment(&store, 0);
    let queued = store.queue("orders", QueueId(0)).unwrap().read(QueueOffset(0), 3).unwrap();
    let single = receipts.iter().map(|receipt| store.record(receipt.start()).unwrap());
    let records: Vec<_> = queued.into_iter().chain(single).collect();
    assert_eq!(records.len(), 6);
    let mapping = address(records[0].bytes()) - records[0].physical().0 as usize;
    for record in &records {
        assert_eq!(address(record.bytes()), mapping + record.physical().0 as usize);
        let body = address(&record.body());
        let end = address(record.bytes()) + record.bytes().len();
        assert!(
            body > address(record.bytes()) && body + record.body().len() <= end,
            "its body is a part of it"
        );
    }
}
