//! Every line of the store that asks for a sync is needed: without it, some crash breaks a promise.

mod crash_suite;

use std::collections::BTreeSet;

use crash_suite::{Effort, Seen, Workload, explore};
use staticfire_storage::disk::{DiskFaults, Reread};

/// proves: I9, Z12: each `sync` call site removed in turn is caught
#[test]
fn every_sync_is_needed() {
    let mut seen = Seen::default();
    // A failed flush after which the cache shows less is how a killed process leaves a hole.
    let faults = DiskFaults::calm().with_reread(Reread::Old);
    let calm = Effort { images: 8, nested_one_in: 4, faults, ..Effort::default() };
    for workload in Workload::reaching_every_sync() {
        explore(&workload, &calm, &mut seen).unwrap_or_else(|violation| panic!("{violation}"));
    }
    let mut needless = BTreeSet::new();
    for site in &seen.sync_sites {
        let faults = calm.faults.clone().ignoring_syncs_at(site);
        let effort = Effort { faults, ..calm.clone() };
        let mut seen = Seen::default();
        let caught = Workload::reaching_every_sync()
            .iter()
            .find_map(|workload| explore(workload, &effort, &mut seen).err());
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
