//! The next segment is made and written with zeros ahead of time, while nothing else happens (DESIGN D5).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crash_suite;

use std::sync::Arc;

use crash_suite::{Effort, Op, Seen, Workload, explore};
use staticfire_storage::disk::{DiskFaults, DiskOperation, FaultEffect, FaultRule, SimulatedDisk};
use staticfire_storage::{
    AppendError, Background, Durability, Message, QueueId, Store, StoreOptions, SystemClock, TopicName,
};

const SEGMENT_BYTES: u64 = 12 << 20;
const NEXT: &str = "commitlog/00000000000012582912";

fn store(disk: &SimulatedDisk) -> Store {
    let mut options = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
    (options.segment_bytes, options.background) = (SEGMENT_BYTES, Background::Caller);
    Store::open(options).unwrap()
}

fn large() -> Message {
    Message::new(TopicName::new("orders").unwrap(), QueueId(0), vec![b'x'; 4 << 20])
}

/// Bytes of the next segment that were written in order.
fn zeroed(disk: &SimulatedDisk) -> u64 {
    let writes = disk.operations().into_iter().filter(|it| it.operation == DiskOperation::Write);
    let writes = writes.filter(|it| &*it.path == NEXT);
    writes.fold(0, |end, write| if write.range.start == end { write.range.end } else { end })
}

/// proves: D5: a few MiB in each idle round, none in a busy one, each piece durable before the next
#[test]
fn idle_rounds_write_zeros_to_the_next_segment_piece_by_piece() {
    let disk = SimulatedDisk::new(1).with_faults(DiskFaults::calm());
    let store = store(&disk);
    store.append(&large()).unwrap();
    (0..3).for_each(|_| store.housekeep());
    assert_eq!(zeroed(&disk), 0, "less than half full: there is no next segment");
    store.append(&large()).unwrap();
    store.housekeep();
    assert_eq!(zeroed(&disk), 0, "something was appended since the last round");
    for round in 1..=3 {
        store.housekeep();
        assert_eq!(zeroed(&disk), round * (4 << 20));
        store.housekeep();
        assert_eq!(zeroed(&disk), round * (4 << 20), "its sync is under way");
        disk.complete_all();
    }
    (0..3).for_each(|_| store.housekeep());
    assert_eq!(zeroed(&disk), SEGMENT_BYTES);
    assert!(disk.contents(NEXT).unwrap().iter().all(|byte| *byte == 0));
    let in_next = (0..2).map(|_| store.append(&large()).unwrap().start()).max();
    (0..3).for_each(|_| store.housekeep());
    assert!(store.record(in_next.unwrap()).is_ok(), "what was appended there stays");
    disk.complete_all();
    store.close().unwrap();
}

/// proves: I8: a disk that fails is noticed where it fails
#[test]
fn zeros_that_do_not_reach_the_disk_end_the_store() {
    for operation in [DiskOperation::Write, DiskOperation::SyncFile] {
        let rule = FaultRule { path: NEXT.to_owned(), ..FaultRule::on(operation, FaultEffect::Io) };
        let disk = SimulatedDisk::new(1).completing_at_once().with_faults(DiskFaults::calm().with_rule(rule));
        let store = store(&disk);
        (0..2).for_each(|_| drop(store.append(&large()).unwrap()));
        (0..2).for_each(|_| store.housekeep());
        assert!(matches!(store.append(&large()), Err(AppendError::Failed(_))), "{operation:?}");
    }
}

/// proves: I4, I5, I17, M34: whatever the crash leaves of a segment made ahead of time
#[test]
fn a_crash_finds_the_same_log_with_a_segment_ahead() {
    use Op::*;
    let sequences: [&[Op]; 6] = [
        &[AppendLarge, Write, Flush, AppendLarge, Prepare, Prepare, Write, StartFlush, Complete],
        &[
            Append,
            AppendLarge,
            Prepare,
            Write,
            Prepare,
            AppendLarge,
            AppendLarge,
            Write,
            Prepare,
            Flush,
            Flush,
        ],
        &[AppendLarge, Append, Write, Prepare, Flush, Close],
        &[
            AppendLarge,
            Append,
            Write,
            Prepare,
            Flush,
            Dispatch,
            CloseAndOpen,
            Prepare,
            AppendLarge,
            Write,
            Flush,
        ],
        &[
            AppendLarge,
            Append,
            Write,
            Flush,
            Append,
            Write,
            Prepare,
            Cut,
            Prepare,
            AppendLarge,
            Write,
            Flush,
            Flush,
        ],
        &[AppendLarge, Prepare, AppendLarge, Write, Cut, Prepare, Append, Write, Flush, Dispatch, Tidy],
    ];
    let mut seen = Seen::default();
    for (seed, faults) in [(1, DiskFaults::calm()), (2, DiskFaults::default())] {
        let effort = Effort { images: 12, seed, faults, ..Effort::default() };
        for ops in sequences {
            for durability in [Durability::Flushed, Durability::Written] {
                let workload = Workload { ops: ops.to_vec(), durability };
                explore(&workload, &effort, &mut seen).unwrap_or_else(|violation| panic!("{violation}"));
            }
        }
    }
    println!("{} recoveries of {} distinct states", seen.recoveries, seen.states.len());
}
