//! A read that fails says so: nothing is taken for damage, cut off or skipped because of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use staticfire_storage::disk::{DiskFaults, DiskOperation, FaultEffect, SimulatedDisk};
use staticfire_storage::{
    Background, Durability, Message, OpenError, QueueId, QueueOffset, Step, Store, StoreOptions, SystemClock,
    TopicName,
};

const RECORDS: usize = 12;

fn open(disk: &SimulatedDisk) -> Result<Store, OpenError> {
    let mut options = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
    (options.segment_bytes, options.queue_file_entries) = (1024, 8);
    (options.background, options.durability) = (Background::Steps, Durability::Written);
    options.retention.bytes = None;
    Store::open(options)
}

/// Two queues over several segments, flushed in part, in the hands of nobody.
fn killed() -> SimulatedDisk {
    let disk = SimulatedDisk::new(1).with_faults(DiskFaults::calm());
    let store = open(&disk).unwrap();
    for n in 0..RECORDS {
        let queue = QueueId(n as u32 % 2);
        store.append(&Message::new(TopicName::new("t").unwrap(), queue, format!("{n:0100}"))).unwrap();
        store.step(Step::Write).unwrap();
        store.step(Step::Dispatch(100)).unwrap();
        if n == RECORDS / 2 {
            store.step(Step::Flush).unwrap();
            disk.complete_all();
            store.step(Step::Tidy).unwrap();
        }
    }
    disk.kill()
}

/// What can be read, from the log and from the queues; the first error otherwise.
fn read_all(store: &Store) -> Result<usize, String> {
    let records = store.records(store.marks().min).collect::<Result<Vec<_>, _>>();
    let records = records.map_err(|error| error.to_string())?;
    let mut queued = 0;
    for queue in store.queues_of("t") {
        queued += queue.read(QueueOffset(0), RECORDS).map_err(|error| error.to_string())?.len();
    }
    assert_eq!(records.len(), queued, "each record is in its queue");
    Ok(queued)
}

/// Lets the n-th read fail, for each n, while `read` runs; gives how many there were.
fn fail_each_read(effect: FaultEffect, read: impl Fn(&SimulatedDisk) -> Option<usize>) -> u64 {
    for nth in 1.. {
        let disk = killed();
        let faults = DiskFaults::calm().on_nth(DiskOperation::Read, nth, effect);
        disk.set_faults(faults);
        if let Some(found) = read(&disk) {
            assert_eq!(found, RECORDS, "{effect:?} of read {nth} hid something");
        }
        let reads = disk.operations().iter().filter(|it| it.operation == DiskOperation::Read).count() as u64;
        // The error was passing: what there was is there.
        let store = open(&disk.kill()).unwrap_or_else(|error| panic!("{effect:?} of read {nth}: {error}"));
        assert_eq!(read_all(&store), Ok(RECORDS), "after {effect:?} of read {nth}\n{}", store.report());
        assert!(store.report().log.damaged.is_empty() && store.report().log.tail.is_none());
        if reads < nth {
            return reads;
        }
    }
    unreachable!("reading ends");
}

/// proves: F11, F19, I7, I17, I18
#[test]
fn a_store_that_cannot_be_read_for_a_moment_loses_nothing() {
    for effect in [FaultEffect::Io, FaultEffect::NotMapped] {
        let reads = fail_each_read(effect, |disk| {
            let store = open(disk).ok()?;
            let read = read_all(&store).ok();
            // The same process reads it again.
            disk.set_faults(DiskFaults::calm());
            assert_eq!(read_all(&store), Ok(RECORDS), "{effect:?} stays");
            read
        });
        println!("{reads} reads, each failed with {effect:?}");
        assert!(reads > 20, "only {reads}");
    }
}
