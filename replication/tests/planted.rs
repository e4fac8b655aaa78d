//! The walks prove themselves: replicas with a bug in them are found out, by a promise that breaks.
#![cfg(feature = "planted-bugs")]

mod timed;
mod walking;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use walking::{walk, walk_with_master};

/// Within so many seeds every bug is found …
const SEEDS: u64 = 10_000;
/// … and four of five within so many.
const SOON: u64 = 500;

/// Bugs and what names them.
const BUGS: [(&str, &[&str]); 28] = [
    ("Z2", &["I40"]),
    ("Z3", &["I36"]),
    ("Z4", &["I35", "I36"]),
    ("Z18", &["I48"]),
    ("Z19", &["I41"]),
    ("Z20", &["I40"]),
    ("Z21", &["I40"]),
    ("Z23", &["I49"]),
    ("Z24", &["I43"]),
    ("Z25", &["I44"]),
    ("Z26", &["I44"]),
    ("Z27", &["I40"]),
    ("Z28", &["I40"]),
    ("Z29", &["I38", "I40"]),
    ("Z30", &["I25, I27"]),
    ("Z31", &["I25, I27"]),
    ("Z32", &["I39", "I40"]),
    // A log that begins anew without the epoch of what came before.
    ("base-epoch", &["I40"]),
    // From here on, what others had in theirs. The longest log is elected, whatever its epoch (MongoDB, before 3.2).
    ("longest-log", &["I39", "I40"]),
    // A second vote in one epoch, for somebody who has more.
    ("vote-again", &["I35", "I36"]),
    // Confirmed is what the leader says, before both logs are known to agree (KIP-101).
    ("confirm-unmatched", &["I40"]),
    // What a follower has received counts as flushed (DLedger).
    ("count-received", &["I40"]),
    // What a follower reports counts before both logs are known to agree (apache/rocketmq#1155).
    ("count-probe", &["I40"]),
    // A leader answers before its barrier is confirmed.
    ("serve-at-once", &["I39", "I44"]),
    // A read is answered by a round that began before it.
    ("old-round", &["I44"]),
    // A node whose disk was lost is a voter before it has what it had (nats-server#7567).
    ("join-early", &["I39", "I40"]),
    // Who would vote has voted.
    ("pre-vote-counts", &["I35", "I39", "I40"]),
    // None: whatever is found with it is a mistake of the tests.
    ("", &[]),
];

/// What one seed finds: by time, by members that elect, and by a master with slaves.
fn violation(seed: u64, bug: &'static str) -> Option<String> {
    if matches!(bug, "Z23" | "Z24") {
        return timed::run(seed, Some(bug));
    }
    let walked = catch_unwind(AssertUnwindSafe(|| {
        let elected = || walk(seed, 3 + 2 * (seed % 2) as usize, 1_500, Some(bug)).violation;
        let with_master = || walk_with_master(seed, 1_500, Some(bug)).violation;
        if matches!(bug, "Z30" | "Z31") { with_master() } else { elected() }
    }));
    walked.unwrap_or_else(|error| {
        let text = error.downcast::<String>().map_or_else(|_| String::new(), |text| *text);
        // The replicas themselves hold on to this promise. Any other panic is no finding.
        let marks = text.contains("what the log does not hold");
        marks.then(|| "I48: an assertion of the replica".to_owned())
    })
}

/// proves: Z2, Z3, Z4, Z18, Z19, Z20, Z21, Z23, Z24, Z25, Z26, Z27, Z28, Z29, Z30, Z31, Z32 are found, and what others had,
/// each by a promise that it breaks
#[test]
fn every_planted_bug_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let (mut wrong, mut soon) = (Vec::new(), 0);
    // `STATICFIRE_BUG=Z2` hunts that one alone.
    let only = std::env::var("STATICFIRE_BUG").ok();
    for (bug, invariants) in
        BUGS.into_iter().filter(|(bug, _)| only.as_deref().is_none_or(|only| only == *bug))
    {
        let seeds = if bug.is_empty() { 100 } else { SEEDS };
        match (0..seeds).find_map(|seed| violation(seed, bug).map(|how| (seed, how))) {
            Some((seed, how)) => {
                println!("| {bug} | {} | {} |", seed + 1, how);
                soon += usize::from(seed < SOON);
                if !invariants.iter().any(|invariant| how.starts_with(invariant)) {
                    wrong.push(format!("{bug} by {how}, and not by {invariants:?}"));
                }
            }
            None if bug.is_empty() => {}
            None => wrong.push(format!("nobody noticed {bug}")),
        }
    }
    drop(std::panic::take_hook());
    println!("{soon} of {} within {SOON} seeds", BUGS.len() - 1);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(only.is_some() || 5 * soon >= 4 * (BUGS.len() - 1), "it takes too long to find them");
}
