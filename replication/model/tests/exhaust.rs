//! All states of a group of three replicas, within a budget of epochs, crashes and messages
//! delivered twice, by breadth; the replicas are the real ones.
//!
//! A small budget is exhausted to the last state. The large ones begin where it becomes
//! interesting: a leader with an unconfirmed tail, two leaders, logs that differ.
//! `STATICFIRE_STATES` says after how many states to stop (default 5,000,000 in all).

#[path = "../../tests/world/mod.rs"]
mod world;

use std::time::Instant;

use stateright::{Checker, Model, Property};
use world::{Action, Budget, Envelope, Message, World};

#[derive(Clone, Debug)]
struct Group {
    starts: Vec<World>,
}

impl Model for Group {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        self.starts.clone()
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend(world.actions());
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.act(&action);
        next.check();
        next.forget_stale();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("every promise is kept", |_, world: &World| world.violation.is_none())]
    }
}

fn states() -> usize {
    std::env::var("STATICFIRE_STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000_000)
}

/// Searches from `starts`; returns how many states it saw.
fn search(name: &str, starts: Vec<World>, states: usize) -> usize {
    #[allow(clippy::disallowed_methods, reason = "only to say how long it took")]
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = Group { starts }.checker().threads(threads).target_state_count(states).spawn_bfs().join();
    let (seen, distinct) = (checker.state_count(), checker.unique_state_count());
    println!(
        "{name}: {seen} states, {distinct} distinct, depth {}, {:.1?}",
        checker.max_depth(),
        started.elapsed()
    );
    if let Some(path) = checker.discovery("every promise is kept") {
        let violation = path.last_state().violation.clone();
        panic!("{violation:?}\n{:#?}", path.into_actions());
    }
    seen
}

/// A group whose first node leads epoch 1, with everything confirmed everywhere.
fn led(budget: Budget) -> World {
    let mut world = World::new(3, budget, 1, None);
    world.act(&Action::Campaign(0));
    world.calm();
    for node in [1, 2] {
        world.act(&Action::Tick(node));
        world.calm();
    }
    assert_eq!((world.confirmed.len(), world.violation.clone()), (1, None), "the barrier is confirmed");
    world
}

/// It appends, and nobody hears of it.
fn tail(budget: Budget) -> World {
    let mut world = led(budget);
    world.net.clear();
    world.act(&Action::Append(0));
    world.act(&Action::StartSync(0));
    world
}

/// Everything under way reaches node `to` and nobody else, or is answered to it.
fn serve_only(world: &mut World, nodes: [usize; 2]) {
    for _ in 0..1_000 {
        let among = |envelope: &&Envelope| nodes.contains(&envelope.from) && nodes.contains(&envelope.to);
        let next = world.net.iter().find(among).cloned().map(Action::Deliver);
        let save =
            nodes.into_iter().find(|node| world.nodes[*node].saving.is_some()).map(Action::CompleteSave);
        let Some(action) = save.or(next) else { return };
        world.act(&action);
    }
    panic!("it never comes to rest");
}

/// While it has a tail of its own, another is elected behind its back: two leaders.
fn two_leaders(budget: Budget) -> World {
    let mut world = tail(budget);
    for node in [1, 2] {
        world.act(&Action::Unanswered(node));
    }
    world.net.clear();
    world.act(&Action::Campaign(1));
    world.net.retain(|envelope| !matches!(&envelope.message, Message::Request(_) if envelope.to == 0));
    serve_only(&mut world, [1, 2]);
    assert!(world.nodes[0].replica.leads() && world.nodes[1].replica.leads(), "two lead");
    world
}

/// proves: I35, I36, I37, I38, I39, I40, I41, I48; no OK is lost: one epoch, to the last state
#[test]
fn one_epoch_is_exhausted() {
    let budget = Budget { epochs: 1, appends: 1, duplicates: 1, ..Budget::NONE };
    let seen = search("one epoch, one record, one duplicate", vec![World::new(3, budget, 1, None)], states());
    assert!(seen < states(), "the search ended by itself");
}

/// proves: I35, I36, I37, I38, I39, I40, I41, I48; no OK is lost: three epochs, two crashes
#[test]
fn three_epochs_two_crashes() {
    let budget = Budget { epochs: 3, appends: 2, crashes: 2, duplicates: 1, asks: 6, ..Budget::NONE };
    let share = states() / 4;
    search("from nothing", vec![World::new(3, budget, 1, None)], share);
    search("from a leader", vec![led(budget)], share);
    search("from an unconfirmed tail", vec![tail(budget)], share);
    search("from two leaders", vec![two_leaders(budget)], share);
}
