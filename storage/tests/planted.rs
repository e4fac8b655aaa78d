//! The crash suite finds bugs: each of these is built in, one at a time, and must be caught.
#![cfg(feature = "planted-bugs")]

mod crash_suite;

use crash_suite::{Effort, Op, Seen, Workload, explore};
use staticfire_storage::Durability;
use staticfire_storage::disk::DiskFaults;

const BUGS: [&str; 10] =
    ["Z1", "Z5", "Z6", "Z9", "Z11", "Z14", "Z42", "any-epoch", "append-past-fence", "flush-after-cut"];

fn workloads() -> Vec<Workload> {
    use Op::*;
    let sequences: [&[Op]; 9] = [
        &[Append, Write, Flush, Append, Write, StartFlush],
        &[Append, Write, FailFlush, Append, Write, Flush],
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
    let effort = Effort { images: 32, nested_one_in: 4, faults: faults.clone(), seed };
    let mut seen = Seen::default();
    let explored = |workload: &Workload| {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            explore(workload, &effort, &mut seen).err().map(|violation| violation.invariant)
        }));
        caught.unwrap_or(Some("an assertion of the store"))
    };
    workloads().iter().find_map(explored)
}

/// proves: Z1, Z5, Z6, Z9, Z11, Z14, Z42 and the three of the spine are caught
#[test]
fn every_planted_bug_is_caught() {
    let disks = [(1, DiskFaults::calm()), (2, DiskFaults::default()), (3, DiskFaults::default())];
    let hunted = || disks.iter().find_map(|(seed, faults)| hunt(*seed, faults));
    assert_eq!(hunted(), None, "nothing is planted, and something is caught");
    let mut missed = Vec::new();
    for bug in BUGS {
        staticfire_storage::plant(Some(bug));
        let caught = hunted();
        staticfire_storage::plant(None);
        println!("{bug}: {}", caught.unwrap_or("not caught"));
        if caught.is_none() {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
