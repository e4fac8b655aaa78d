//! Random walks through a group of replicas whose disks and network do their worst.

mod timed;
mod walking;
mod world;

use std::collections::BTreeMap;

/// proves: I35, I36, I38, I39, I40, I41, I44, I47, I48
#[test]
fn nothing_that_was_confirmed_is_lost_on_random_walks() {
    let cases = std::env::var("STATICFIRE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_u64);
    // `STATICFIRE_SEED=17` walks that one alone.
    let seed = std::env::var("STATICFIRE_SEED").ok().and_then(|seed| seed.parse().ok());
    if let Some(seed) = seed {
        for nodes in [3, 5] {
            let world = walking::walk(seed, nodes, 1_500, None);
            assert_eq!(world.violation, None, "seed {seed}, {nodes} nodes: {world:?}");
        }
        return;
    }
    let mut reached = BTreeMap::<&str, usize>::new();
    for seed in 0..300 * cases {
        for nodes in [3, 5] {
            let world = walking::walk(seed, nodes, 1_500, None);
            assert_eq!(world.violation, None, "seed {seed}, {nodes} nodes");
            world.reached.0.into_iter().for_each(|name| *reached.entry(name).or_default() += 1);
        }
    }
    println!("{reached:?}");
    let wanted = ["second leader", "copied", "cut", "crash", "confirmed over two epochs", "read", "joined"];
    for name in wanted {
        assert!(reached.get(name).is_some_and(|count| *count > 20), "hardly ever: {name} in {reached:?}");
    }
}

/// proves: I25, I27, I38, I40, I48: with a master that the operator chose, OK is said when as many slaves
/// have it as the mode asks for, in the lives that the master knows of
#[test]
fn a_master_counts_only_what_its_slaves_have() {
    let cases = std::env::var("STATICFIRE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_u64);
    let mut reached = BTreeMap::<&str, usize>::new();
    for seed in 0..300 * cases {
        let world = walking::walk_with_master(seed, 1_500, None);
        assert_eq!(world.violation, None, "seed {seed}");
        world.reached.0.into_iter().for_each(|name| *reached.entry(name).or_default() += 1);
    }
    println!("{reached:?}");
    for name in ["confirmed over two epochs", "cut", "disk lost", "begun anew"] {
        assert!(reached.get(name).is_some_and(|count| *count > 20), "hardly ever: {name} in {reached:?}");
    }
}

/// proves: I43, I49: somebody leads soon, and a node that comes back ends no epoch of a leader that is heard
#[test]
fn leaders_are_found_in_time() {
    let cases = std::env::var("STATICFIRE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_u64);
    for seed in 0..40 * cases {
        assert_eq!(timed::run(seed, None), None, "seed {seed}");
    }
}
