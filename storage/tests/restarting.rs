//! A log that is emptied and begins again further on, because another node keeps nothing from before.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::verify::verify;
use staticfire_storage::{
    CutError, Durability, Epoch, Message, PhysicalOffset, Position, QueueId, QueueOffset, Retention, Store,
    StoreOptions, SystemClock, TopicName,
};

const SEGMENT: u64 = 2048;

fn open(disk: &SimulatedDisk, durability: Durability) -> Store {
    let mut options = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
    (options.segment_bytes, options.queue_file_entries) = (SEGMENT, 16);
    options.retention.age_ms = None;
    options.durability = durability;
    Store::open(options).unwrap()
}

fn message(n: u64) -> Message {
    Message::new(TopicName::new("orders").unwrap(), QueueId(0), n.to_be_bytes().repeat(20))
}

/// What another node's log holds from `base` on, and the number of the first message there.
fn tail(base: PhysicalOffset) -> (Vec<u8>, QueueOffset) {
    let disk = SimulatedDisk::new(9).completing_at_once();
    let store = open(&disk, Durability::Flushed);
    let places: Vec<_> = (0..60)
        .map(|n| store.append(&message(n)).unwrap())
        .map(|receipt| (receipt.start(), receipt.queue_offset()))
        .collect();
    let first = places.iter().find(|(start, _)| *start >= base).unwrap();
    (store.slices(base, store.marks().written).unwrap().concat(), first.1)
}

fn follower(disk: &SimulatedDisk, messages: u64) -> Store {
    if messages > 0 {
        let store = open(disk, Durability::Flushed);
        (0..messages).for_each(|n| drop(store.append(&message(1000 + n)).unwrap()));
        store.close().unwrap();
    }
    let store = open(disk, Durability::Confirmed);
    store.fence(Epoch(7));
    store
}

/// Copies what comes from `base` on, and looks at it before and after another opening.
fn copy_on(disk: &SimulatedDisk, store: Store, base: PhysicalOffset) {
    let (bytes, first) = tail(base);
    store.append_raw(base, &bytes).unwrap();
    let end = base.after(bytes.len() as u64);
    store.confirm(store.marks().epoch, end);
    let queue = store.queue("orders", QueueId(0)).unwrap();
    assert_eq!((queue.min(), queue.max()), (first, QueueOffset(60)));
    store.close().unwrap();
    let report = verify(&*disk.directory()).unwrap();
    assert!(report.is_sound(), "{report}");
    let store = open(disk, Durability::Confirmed);
    assert_eq!((store.marks().min, store.marks().written), (base, end));
    assert_eq!(store.slices(base, end).unwrap().concat(), bytes);
    let queue = store.queue("orders", QueueId(0)).unwrap();
    assert_eq!((queue.min(), queue.max()), (first, QueueOffset(60)));
    store.close().unwrap();
}

/// proves: I14, I30, M34: shorter, longer or empty: the log begins at the new place, and what it held is kept
#[test]
fn a_log_begins_again_further_on() {
    let base = PhysicalOffset(2 * SEGMENT);
    for messages in [0, 3, 60] {
        let disk = SimulatedDisk::new(1).completing_at_once();
        let store = follower(&disk, messages);
        let slice = (messages > 0).then(|| store.slices(PhysicalOffset(0), PhysicalOffset(8)).unwrap());
        let before = slice.as_ref().map(|slices| slices.concat());
        store.restart(base).unwrap();
        let marks = store.marks();
        assert_eq!([marks.min, marks.appended, marks.flushed, marks.dispatched], [base; 4]);
        assert!(store.queue("orders", QueueId(0)).is_none());
        assert_eq!(slice.map(|slices| slices.concat()), before, "what was read stays");
        let orphans = disk.directory().list("staticfire/orphans").map_or(0, |orphans| orphans.len());
        assert_eq!(orphans > 0, messages > 0);
        copy_on(&disk, store, base);
    }
}

/// proves: I4, I5: opened again while it is still empty, it begins where it began
#[test]
fn an_empty_log_remembers_where_it_begins() {
    let base = PhysicalOffset(3 * SEGMENT);
    for clean in [true, false] {
        let mut disk = SimulatedDisk::new(2).completing_at_once();
        let store = follower(&disk, 10);
        store.restart(base).unwrap();
        if clean {
            store.close().unwrap();
        } else {
            disk = disk.crash().completing_at_once();
        }
        for _ in 0..2 {
            let store = open(&disk, Durability::Confirmed);
            assert_eq!((store.marks().min, store.marks().appended), (base, base));
            store.close().unwrap();
        }
        let store = open(&disk, Durability::Confirmed);
        copy_on(&disk, store, base);
    }
}

/// proves: I4, I14, I17: whatever is left when the power fails meanwhile opens, and is brought to the same end
#[test]
fn a_restart_that_was_cut_off_is_done_again() {
    let base = PhysicalOffset(2 * SEGMENT);
    let mut images = 0;
    for step in 0.. {
        let disk = SimulatedDisk::new(step).completing_at_once();
        let store = follower(&disk, 30);
        disk.crash_at_step(disk.steps() + step);
        let whole = store.restart(base).is_ok() && !disk.is_gone();
        drop(store);
        for image in disk.crash_images(4) {
            images += 1;
            let image = image.completing_at_once();
            let store = open(&image, Durability::Confirmed);
            store.restart(base).unwrap();
            copy_on(&image, store, base);
        }
        if whole {
            break;
        }
    }
    assert!(images > 50, "{images}");
}

/// proves: B53: not while it has producers, nor in the middle of a segment
#[test]
fn only_a_follower_restarts_and_only_at_a_segment() {
    let disk = SimulatedDisk::new(3).completing_at_once();
    let store = open(&disk, Durability::Flushed);
    store.append(&message(1)).unwrap();
    assert!(matches!(store.restart(PhysicalOffset(SEGMENT)), Err(CutError::NotFenced)));
    store.fence(Epoch(9));
    let refused = store.restart(PhysicalOffset(100));
    assert!(matches!(refused, Err(CutError::NoSegment { at: PhysicalOffset(100) })));
    assert_eq!(store.queue("orders", QueueId(0)).unwrap().max(), QueueOffset(1), "nothing changed");
}

/// A copy that ends where a segment does, and of which retention may remove everything: the newest segment
/// stays, so that the log still says where it goes on.
/// proves: I4, I14, I17
#[test]
fn a_log_that_ends_with_a_segment_opens_after_retention() {
    for clean in [true, false] {
        let mut disk = SimulatedDisk::new(4).completing_at_once();
        let end = PhysicalOffset(3 * SEGMENT);
        let open_small = |disk: &SimulatedDisk| {
            let mut options = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
            (options.segment_bytes, options.queue_file_entries) = (SEGMENT, 16);
            options.retention = Retention { age_ms: None, bytes: Some(1) };
            options.durability = Durability::Confirmed;
            Store::open(options).unwrap()
        };
        let store = open_small(&disk);
        store.fence(Epoch(7));
        let (bytes, _) = tail(PhysicalOffset(0));
        store.append_raw(PhysicalOffset(0), &bytes[..end.0 as usize]).unwrap();
        let epoch = store.marks().epoch;
        store.when(Durability::Flushed, Position { epoch, end }, Box::new(|_| {}));
        store.confirm(epoch, end);
        store.retain().unwrap();
        let min = PhysicalOffset(2 * SEGMENT);
        assert_eq!((store.marks().min, store.marks().written), (min, end));
        let numbers = |store: &Store| {
            let queue = store.queue("orders", QueueId(0)).unwrap();
            (queue.min(), queue.max())
        };
        let before = numbers(&store);
        if clean {
            store.close().unwrap();
        } else {
            drop(store);
            disk = disk.crash().completing_at_once();
        }
        for _ in 0..2 {
            let store = open_small(&disk);
            assert_eq!((store.marks().min, store.marks().written), (min, end), "clean: {clean}");
            assert_eq!(numbers(&store), before);
            store.close().unwrap();
        }
        let store = open_small(&disk);
        store.append_raw(end, &bytes[end.0 as usize..]).unwrap();
        store.confirm(store.marks().epoch, PhysicalOffset(bytes.len() as u64));
        assert_eq!(numbers(&store).1, QueueOffset(60));
        store.close().unwrap();
        assert!(verify(&*disk.directory()).unwrap().is_sound());
    }
}
