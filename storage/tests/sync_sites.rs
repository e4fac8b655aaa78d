//! Every line of the store that asks for a sync is needed: without it, some crash breaks a promise.

mod crash_suite;

use std::collections::BTreeSet;

use crash_suite::{Effort, Op, Seen, Workload, explore};
use staticfire_storage::Durability;
use staticfire_storage::disk::DiskFaults;

/// Workloads that between them reach every sync, the likeliest first.
fn workloads() -> Vec<Workload> {
    use Op::*;
    let sequences: [&[Op]; 9] = [
        &[Append, Write, Flush, Close],
        &[Append, Write, Flush],
        &[AppendLarge, AppendLarge, Write, Flush, Dispatch, Tidy],
        &[Append, Write, Flush, Dispatch, Close],
        &[Append, Write, Flush, Append, Write, Cut],
        &[Append, Write, Flush, AppendLarge, AppendLarge, Write, Cut, Append, Write, Flush],
        &[
            AppendLarge,
            AppendLarge,
            AppendLarge,
            AppendLarge,
            Write,
            Flush,
            Flush,
            Flush,
            Dispatch,
            Tidy,
            Retain,
        ],
        &[Append, Write, Flush, Dispatch, CloseAndOpen, AppendLarge, AppendLarge, Write, Flush, Flush],
        &[AppendBatch, AppendBatch, AppendBatch, AppendBatch, Write, Flush, Flush, Dispatch, Tidy, Close],
    ];
    let modes = [Durability::Flushed, Durability::Written];
    let all = sequences.into_iter().flat_map(|ops| modes.map(|durability| (ops, durability)));
    all.map(|(ops, durability)| Workload { ops: ops.to_vec(), durability }).collect()
}

/// proves: I9, Z12: each `sync` call site removed in turn is caught
#[test]
fn every_sync_is_needed() {
    let mut seen = Seen::default();
    let calm = Effort { images: 8, nested_one_in: 4, ..Effort::default() };
    for workload in workloads() {
        explore(&workload, &calm, &mut seen).unwrap_or_else(|violation| panic!("{violation}"));
    }
    let mut needless = BTreeSet::new();
    for site in &seen.sync_sites {
        let faults = DiskFaults::calm().ignoring_syncs_at(site);
        let effort = Effort { faults, ..calm.clone() };
        let mut seen = Seen::default();
        let caught = workloads().iter().find_map(|workload| explore(workload, &effort, &mut seen).err());
        match caught {
            Some(violation) => println!("{site}: {}", violation.invariant),
            None => {
                println!("{site}: not caught");
                needless.insert(site);
            }
        }
    }
    assert!(needless.is_empty(), "nothing breaks without {needless:#?}");
}
