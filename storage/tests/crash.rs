//! Power cuts and kills at every disk step of short workloads.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crash_suite;

use crash_suite::{Effort, Op, Seen, Workload, explore, explore_failing_syncs};
use staticfire_storage::disk::{DiskFaults, DiskOperation, FaultEffect, Reread, SimulatedDisk};
use staticfire_storage::{CloseError, Durability, Message, QueueId, Step, Store, TopicName};

/// Multiplies the number of cases; 1 unless the environment says more.
fn cases() -> usize {
    std::env::var("STATICFIRE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1)
}

/// Every sequence of two ops, and a share of those of three, each behind the same first records.
fn workloads(share: usize) -> Vec<Workload> {
    let pairs = Op::ALL.into_iter().flat_map(|first| Op::ALL.map(|second| vec![first, second]));
    let triples = pairs.clone().flat_map(|pair| Op::ALL.map(|third| [&pair[..], &[third]].concat()));
    let chosen =
        triples.enumerate().filter(|(number, _)| number % TRIPLES_ONE_IN < share).map(|(_, ops)| ops);
    let modes = [Durability::Flushed, Durability::Written];
    let start = [Op::Append, Op::Write, Op::Flush, Op::Dispatch, Op::AppendLarge, Op::Write];
    let all = pairs.chain(chosen).flat_map(|ops| modes.map(|durability| (ops.clone(), durability)));
    all.map(|(ops, durability)| Workload { ops: [&start[..], &ops].concat(), durability }).collect()
}

/// Of the sequences of three ops, one in so many runs by default.
const TRIPLES_ONE_IN: usize = 43;

/// proves: I1, I2, I3, I4, I5, I8, I13, I14, I15, I17, I74, M34, F1, F2, F4, F5, F6, F7, F10, F13
#[test]
fn whatever_the_crash_leaves_the_promises_hold() {
    let mut seen = Seen::default();
    let disks = [DiskFaults::calm(), DiskFaults::default().with_reread(Reread::Old)];
    for (seed, faults) in (1..).zip(disks) {
        let effort = Effort { images: 48, seed, faults, ..Effort::default() };
        for workload in workloads(cases()) {
            if let Err(violation) = explore(&workload, &effort, &mut seen) {
                panic!("{violation}\n  {effort:?}");
            }
        }
    }
    let (recoveries, states) = (seen.recoveries, seen.states.len());
    println!("{recoveries} recoveries of {states} distinct states");
    assert!(states >= 20_000, "only {states} distinct states");
}

/// proves: I1, I2, I3, I8, I17, M34, F10
#[test]
fn whatever_sync_fails_the_promises_hold() {
    let mut seen = Seen::default();
    for (seed, reread, sector_bytes) in [(1, Reread::New, 512), (2, Reread::Old, 4096)] {
        let faults = DiskFaults::calm().with_reread(reread);
        let effort = Effort { images: 8, nested_one_in: 2, seed, faults, sector_bytes, ..Effort::default() };
        for workload in Workload::reaching_every_sync() {
            if let Err(violation) = explore_failing_syncs(&workload, &effort, &mut seen) {
                panic!("{violation}\n  {effort:?}");
            }
        }
    }
    println!("{} recoveries of {} distinct states", seen.recoveries, seen.states.len());
    assert!(seen.states.len() >= 200, "only {} distinct states", seen.states.len());
}

/// proves: I8, F10: a flush has failed, nobody was told yet, and the close that comes then does not count on
/// a later sync, for the system may report a failure once
#[test]
fn a_close_counts_on_no_flush_that_failed_unheard() {
    let disk = SimulatedDisk::new(1).with_faults(DiskFaults::calm());
    let workload = Workload { ops: Vec::new(), durability: Durability::Flushed };
    let store = Store::open(crash_suite::options(&disk, &workload)).unwrap();
    disk.set_faults(DiskFaults::calm().on_nth(DiskOperation::SyncFile, 1, FaultEffect::Io));
    let message = Message::new(TopicName::new("t").unwrap(), QueueId(0), "x");
    let receipt = store.append(&message).unwrap();
    for step in [Step::Write, Step::Flush] {
        store.step(step).unwrap();
    }
    assert_eq!(disk.pending_syncs().len(), 1);
    let closed = store.clone().close();
    assert!(
        matches!(closed, Err(CloseError::Failed(_))),
        "{closed:?} {:?} {:?}",
        disk.pending_syncs(),
        disk.operations()
    );
    assert!(receipt.wait(Durability::Flushed).is_err());
}

/// proves: I1, I2, I3, I4, I5, I17, F2, F4: on disks whose sectors have 4096 bytes too
#[test]
fn whatever_the_sectors_are_the_promises_hold() {
    let faults = DiskFaults::default();
    let effort =
        Effort { images: 16, nested_one_in: 4, seed: 3, faults, sector_bytes: 4096, ..Effort::default() };
    let mut seen = Seen::default();
    for workload in Workload::reaching_every_sync() {
        if let Err(violation) = explore(&workload, &effort, &mut seen) {
            panic!("{violation}\n  {effort:?}");
        }
    }
    println!("{} recoveries of {} distinct states", seen.recoveries, seen.states.len());
}
