//! Wall clocks that jump: store times never decrease, and nothing else depends on them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::{Clock, Message, QueueId, Store, StoreOptions, TopicName, verify};

/// Says what it was set to.
#[derive(Debug, Default)]
struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn wall_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn open(disk: &SimulatedDisk, clock: &Arc<SetClock>) -> Store {
    let mut options = StoreOptions::on(disk.directory(), Arc::clone(clock) as Arc<dyn Clock>);
    (options.segment_bytes, options.queue_file_entries) = (4096, 100);
    Store::open(options).unwrap()
}

fn append(store: &Store) {
    store.append(&Message::new(TopicName::new("orders").unwrap(), QueueId(0), "body")).unwrap();
}

fn store_times(store: &Store) -> Vec<i64> {
    store.records(store.marks().min).map(|record| record.unwrap().store_ms()).collect()
}

/// proves: B70: before 1970, back by years, to the end of time and back, across proper ends and crashes
#[test]
fn store_times_never_decrease() {
    let (disk, clock) = (SimulatedDisk::new(1).completing_at_once(), Arc::new(SetClock::default()));
    let times = [-1, i64::MIN, 1_000, 500, -7, 2_000, 1, i64::MAX, 3, i64::MIN];
    let expected = [0, 0, 1_000, 1_000, 1_000, 2_000, 2_000, i64::MAX, i64::MAX, i64::MAX];
    let mut store = open(&disk, &clock);
    for (number, time) in times.into_iter().enumerate() {
        clock.0.store(time, Ordering::Relaxed);
        append(&store);
        if number % 3 == 1 {
            store.close().unwrap();
            store = open(&disk, &clock);
        } else if number % 3 == 2 {
            drop(store);
            store = open(&disk, &clock);
        }
        assert_eq!(store_times(&store), expected[..=number], "after {time}");
    }
    store.close().unwrap();
    let report = verify(&*disk.directory()).unwrap();
    assert!(report.is_sound(), "{report}");
}
