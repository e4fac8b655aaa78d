//! Random walks through a group of replicas whose disks and network do their worst.

mod world;

use staticfire_replication::Draw;
use world::{Action, Budget, World};

fn walk(seed: u64, nodes: usize, steps: usize) -> World {
    let mut draw = Draw::new(seed);
    let budget = Budget { epochs: 40, appends: 60, crashes: 12, duplicates: 40, unanswered: 40, wipes: 0 };
    let mut world = World::new(nodes, budget, None);
    for _ in 0..steps {
        let mut actions = world.actions();
        for node in 0..nodes {
            if world.nodes[node].replica.serves() && !world.reads.contains_key(&node) {
                actions.push(Action::Read(node));
            }
            if world.nodes[node].replica.leads() && draw.next() % 20 == 0 {
                actions.push(Action::Transfer(node));
            }
        }
        // What ends an epoch is rare, so that something happens in it.
        let rare = |action: &Action| {
            matches!(
                action,
                Action::Campaign(_)
                    | Action::StepDown(_)
                    | Action::Crash { .. }
                    | Action::Unanswered(_)
                    | Action::Wipe(_)
            )
        };
        let keep_rare = draw.next() % 12 == 0;
        let some: Vec<Action> = actions.iter().filter(|action| rare(action) == keep_rare).cloned().collect();
        let from = if some.is_empty() { actions } else { some };
        let Some(action) = from.get((draw.next() % from.len().max(1) as u64) as usize) else { break };
        world.act(action);
        world.check_logs();
        assert_eq!(world.violation, None, "seed {seed}, {nodes} nodes, at {action:?}");
    }
    world
}

/// proves: I35, I36, I38, I39, I40, I41, I44, I48
#[test]
fn nothing_that_was_confirmed_is_lost_on_random_walks() {
    let cases = std::env::var("STATICFIRE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_u64);
    let mut reached = std::collections::BTreeMap::<&str, usize>::new();
    for seed in 0..300 * cases {
        for nodes in [3, 5] {
            for name in walk(seed, nodes, 1_500).reached {
                *reached.entry(name).or_default() += 1;
            }
        }
    }
    println!("{reached:?}");
    for name in ["second leader", "copied", "cut", "crash", "confirmed over two epochs", "read"] {
        assert!(reached.get(name).is_some_and(|count| *count > 20), "hardly ever: {name} in {reached:?}");
    }
}
