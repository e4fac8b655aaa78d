//! One random walk.

#![allow(dead_code, reason = "each test that includes this uses a part of it")]

use std::num::NonZeroU8;

use staticfire_replication::{Draw, Mode, SlaveAck};

use crate::world::{Action, Budget, Given, Shape, World};

/// Lets `steps` things happen among members that elect, drawn from `seed`, or fewer when a promise breaks.
pub fn walk(seed: u64, nodes: usize, steps: usize, bug: Option<&'static str>) -> World {
    let mut draw = Draw::new(seed);
    let wipes = if draw.next().is_multiple_of(2) { (nodes as u8 - 1) / 2 } else { 0 };
    let fetch_max = if draw.next().is_multiple_of(2) { 1 } else { 100 };
    let (lies, expiries) = if draw.next().is_multiple_of(4) { (3, 10) } else { (0, 0) };
    let world = World::new(nodes, Budget { wipes, lies, expiries, ..PLENTY }, fetch_max, bug);
    through(world, steps, draw)
}

/// The same with a master and its slaves, who answer when enough of them have a message.
pub fn walk_with_master(seed: u64, steps: usize, bug: Option<&'static str>) -> World {
    let mut draw = Draw::new(seed);
    let slaves = NonZeroU8::new(1 + (draw.next() % 2) as u8).expect("one or two");
    let ack = if draw.next().is_multiple_of(2) { SlaveAck::Received } else { SlaveAck::Flushed };
    let mode = Some(Mode::Replicated { slaves, ack });
    let fetch_max = if draw.next().is_multiple_of(2) { 1 } else { 100 };
    let budget = Budget { wipes: 1, expiries: (draw.next() % 2) as u8 * 10, ..PLENTY };
    let shape = Shape { mode, ..Shape::elected(3, fetch_max, bug) };
    through(World::start(shape, budget, &vec![Given::default(); 3]), steps, draw)
}

const PLENTY: Budget =
    Budget { epochs: 1_000, appends: 100, crashes: 12, duplicates: 40, asks: 1_000, ..Budget::NONE };

fn through(mut world: World, steps: usize, mut draw: Draw) -> World {
    // How often something ends an epoch or a life, in 1,000 steps.
    let trouble = [5, 20, 80][(draw.next() % 3) as usize];
    for _ in 0..steps {
        let Some(action) = draw_action(&world, trouble, &mut draw) else { break };
        if std::env::var("TRACE").is_ok() {
            println!("{action:?}");
        }
        world.act(&action);
        world.check();
        world.forget_stale();
        if world.violation.is_some() {
            break;
        }
    }
    world
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Work,
    Twice,
    Seek,
    Trouble,
}

fn kind(action: &Action) -> Kind {
    match action {
        Action::DeliverTwice(_) => Kind::Twice,
        Action::Tick(_) => Kind::Seek,
        Action::Campaign(_)
        | Action::StepDown(_)
        | Action::TimeOut(_)
        | Action::Unanswered(_)
        | Action::Transfer(_)
        | Action::Crash { .. }
        | Action::Wipe(_)
        | Action::Lie(_)
        | Action::Expire(_) => Kind::Trouble,
        _ => Kind::Work,
    }
}

fn draw_action(world: &World, trouble: u64, draw: &mut Draw) -> Option<Action> {
    let mut actions = world.actions();
    for (index, node) in world.nodes.iter().enumerate() {
        if node.replica.serves() && !world.reads.contains_key(&index) {
            actions.push(Action::Read(index));
        }
        if node.replica.leads() {
            actions.push(Action::Transfer(index));
        } else if node.replica.is_voter() && !node.replica.is_stopped() && world.shape.mode.is_none() {
            actions.push(Action::TimeOut(index));
        }
    }
    // Without a leader, something must begin an epoch.
    let trouble = if world.nodes.iter().any(|node| node.replica.leads()) { trouble } else { 100 };
    let wanted = match draw.next() % 1_000 {
        n if n < trouble => Kind::Trouble,
        n if n < trouble + 100 => Kind::Seek,
        n if n < trouble + 120 => Kind::Twice,
        _ => Kind::Work,
    };
    let some: Vec<Action> = actions.iter().filter(|action| kind(action) == wanted).cloned().collect();
    let from = if some.is_empty() { actions } else { some };
    from.get((draw.next() % from.len().max(1) as u64) as usize).cloned()
}
