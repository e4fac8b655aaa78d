//! The crash suite finds bugs: each of these is built in, one at a time, and must be caught.
#![cfg(feature = "planted-bugs")]
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod crash_suite;

use std::sync::Arc;

use staticfire_storage::disk::{DiskFaults, SimulatedDisk};
use staticfire_storage::{
    Background, Clock, Durability, Message, QueueId, Retention, Step, Store, StoreOptions, TopicName,
};

use crash_suite::{Effort, Op, Seen, Workload, explore};

/// Each bug, and what it must be caught by: the invariant that the reliability programme names for it, or, of
/// the spine's three, the one that they break; not anything that happens.
const BUGS: [(&str, &str); 11] = [
    ("Z1", "I1"),
    ("Z5", "I8"),
    ("Z6", "I8"),
    ("Z9", "I7"),
    ("Z11", "I5"),
    ("Z12", "I9"),
    ("Z14", "I15"),
    ("Z42", "I2"),
    ("any-epoch", "I31"),
    ("append-past-fence", "I5"),
    ("flush-after-cut", "I1"),
];

fn workloads() -> Vec<Workload> {
    use Op::*;
    let sequences: [&[Op]; 10] = [
        &[Append, Write, Flush, Append, Append, Append, Append, Write, StartFlush],
        &[Append, Write, Flush, Append, Write, StartFlush],
        &[AppendLarge, Write, FailFlush, AppendLarge, Write, Flush],
        &[Append, Write, Dispatch, Append, Write, Dispatch],
        &[Append, Write, Flush, Append, Append, Append, Write, StartFlush],
        &[Append, Write, Flush, Append, Write, CutAndFollow, Write, Flush],
        &[Append, Write, Flush, Append, Write, StartFlush, CutAndFollow, Write, Complete],
        &[AppendBatch, Write, Flush, Cut, Append, Write, Flush],
        &[AppendLarge, AppendLarge, Write, Flush, Flush, Dispatch, Tidy, Append, Write, Flush],
        &[Append, Write, Flush, Dispatch, Tidy, Append, Write, CloseAndOpen, Append, Write],
    ];
    let modes = [Durability::Flushed, Durability::Written];
    let all = sequences.into_iter().flat_map(|ops| modes.map(|durability| (ops, durability)));
    all.map(|(ops, durability)| Workload { ops: ops.to_vec(), durability }).collect()
}

fn hunt(seed: u64, faults: &DiskFaults) -> Option<&'static str> {
    let effort = Effort {
        images: 12,
        nested_one_in: 64,
        appends: 4,
        faults: faults.clone(),
        seed,
        ..Effort::default()
    };
    match std::panic::catch_unwind(damage_below_the_durable_mark) {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return Some("I7"),
        Err(_) => return Some("an assertion of the store"),
    }
    let mut seen = Seen::default();
    let explored = |workload: &Workload| {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            explore(workload, &effort, &mut seen).err().map(|violation| violation.invariant)
        }));
        caught.unwrap_or(Some("an assertion of the store"))
    };
    workloads().iter().find_map(explored)
}

/// A clock that moves on with every look, so that every record has its own store time.
#[derive(Debug, Default)]
struct Ticking(std::sync::atomic::AtomicI64);

impl Clock for Ticking {
    fn wall_ms(&self) -> i64 {
        1_700_000_000_000 + self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }
}

/// One flipped bit in a flushed record, and our own notes lost: RocketMQ's checkpoint still proves
/// that the record had been flushed, so the records behind it stay.
fn damage_below_the_durable_mark() -> Result<(), String> {
    let disk = SimulatedDisk::new(1).with_faults(DiskFaults::calm());
    let options = |disk: &SimulatedDisk| {
        let mut options = StoreOptions::on(disk.directory(), Arc::new(Ticking::default()));
        options.segment_bytes = crash_suite::SEGMENT_BYTES;
        options.retention = Retention { age_ms: None, bytes: None };
        options.background = Background::Steps;
        options
    };
    let store = Store::open(options(&disk)).map_err(|error| error.to_string())?;
    let message = Message::new(TopicName::new("t").unwrap(), QueueId(0), "x".repeat(100));
    let receipts: Vec<_> = (0..4).map(|_| store.append(&message).unwrap()).collect();
    for step in [Step::Write, Step::Flush, Step::Dispatch(100), Step::Tidy] {
        store.step(step).map_err(|error| error.to_string())?;
        disk.complete_all();
    }
    let image = disk.kill();
    let damaged = receipts[1].start().0 + 120;
    image.flip_bit("commitlog/00000000000000000000", damaged * 8).map_err(|error| error.to_string())?;
    image.edit("staticfire/state", |bytes| bytes.fill(0)).map_err(|error| error.to_string())?;
    let store = Store::open(options(&image)).map_err(|error| error.to_string())?;
    let left = store.records(store.marks().min).filter(Result::is_ok).count();
    if left == 3 && store.report().log.damaged.len() == 1 {
        return Ok(());
    }
    Err(format!("{left} records left\n{}", store.report()))
}

/// proves: Z1, Z5, Z6, Z9, Z11, Z12, Z14, Z42 and the three of the spine are caught
#[test]
fn every_planted_bug_is_caught() {
    let disks = [(1, DiskFaults::calm()), (2, DiskFaults::default()), (3, DiskFaults::default())];
    let hunted = || disks.iter().find_map(|(seed, faults)| hunt(*seed, faults));
    assert_eq!(hunted(), None, "nothing is planted, and something is caught");
    let mut missed = Vec::new();
    for (bug, invariant) in BUGS {
        staticfire_storage::plant(Some(bug));
        let caught = hunted();
        staticfire_storage::plant(None);
        println!("{bug}: {}", caught.unwrap_or("not caught"));
        if caught != Some(invariant) {
            missed.push((bug, caught, invariant));
        }
    }
    assert!(missed.is_empty(), "caught by something else, or not: {missed:?}");
}
