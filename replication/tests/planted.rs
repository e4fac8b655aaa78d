//! The walks prove themselves: replicas with a bug in them are found out, by a promise that breaks.
#![cfg(feature = "planted-bugs")]

mod walking;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use walking::walk;

const SEEDS: u64 = 4_000;

/// proves: Z2, Z3, Z4, Z18, Z19, Z20, Z21, Z25, Z27, Z29, Z32 are found, and a log that begins anew without the
/// epoch of what came before
#[test]
fn every_planted_bug_is_found() {
    let bugs = ["Z2", "Z3", "Z4", "Z18", "Z19", "Z20", "Z21", "Z25", "Z27", "Z29", "Z32", "base-epoch"];
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for bug in bugs {
        let found = (0..SEEDS).find_map(|seed| {
            let walked =
                catch_unwind(AssertUnwindSafe(|| walk(seed, 3 + 2 * (seed % 2) as usize, 1_500, Some(bug))));
            match walked {
                Ok(world) => world.violation.map(|violation| (seed, violation)),
                Err(_) => Some((seed, "an assertion of the replica itself".to_owned())),
            }
        });
        match found {
            Some((seed, how)) => println!("{bug}: seed {seed}: {how}"),
            None => missed.push(bug),
        }
    }
    drop(std::panic::take_hook());
    assert!(missed.is_empty(), "nobody noticed {missed:?}");
}
