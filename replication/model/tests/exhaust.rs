//! All states of a group of three replicas, within a budget of epochs, crashes and messages
//! delivered twice, by breadth; the replicas are the real ones.
//!
//! `STATICFIRE_STATES` says after how many states to stop (default 200,000).

#[path = "../../tests/world/mod.rs"]
mod world;

use std::time::Instant;

use stateright::{Checker, Model, Property};
use world::{Action, Budget, World};

#[derive(Clone, Debug)]
struct Group {
    budget: Budget,
}

impl Model for Group {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(3, self.budget, 1, None)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend(world.actions());
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.act(&action);
        next.check_logs();
        next.forget_stale();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every promise is kept", |_, world: &World| world.violation.is_none()),
            Property::sometimes("confirmed", |_, world: &World| world.reached.0.contains("confirmed")),
        ]
    }
}

fn exhaust(name: &str, budget: Budget) {
    let states = std::env::var("STATICFIRE_STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(200_000);
    #[allow(clippy::disallowed_methods, reason = "only to say how long it took")]
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let model = Group { budget };
    let checker = model.checker().threads(threads).target_state_count(states).spawn_bfs().join();
    println!(
        "{name}: {} states, {} distinct, depth {}, {:.1?}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed(),
    );
    if let Some(path) = checker.discovery("every promise is kept") {
        let violation = path.last_state().violation.clone();
        panic!("{violation:?}\n{:#?}", path.into_actions());
    }
}

/// proves: I35, I36, I37, I38, I39, I40, I41, I48; no OK is lost
#[test]
fn three_epochs_two_crashes() {
    let budget = Budget { epochs: 3, appends: 2, crashes: 2, duplicates: 1, asks: 2, wipes: 0 };
    exhaust("three epochs, two crashes", budget);
}

#[test]
fn one() {
    let budget = Budget { epochs: 1, appends: 1, crashes: 0, duplicates: 0, asks: 0, wipes: 0 };
    exhaust("one epoch", budget);
    let budget = Budget { epochs: 2, appends: 0, crashes: 0, duplicates: 0, asks: 1, wipes: 0 };
    exhaust("two epochs", budget);
}
