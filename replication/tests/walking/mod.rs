//! One random walk.

use staticfire_replication::Draw;

use crate::world::{Action, Budget, World};

/// Lets `steps` things happen, drawn from `seed`, or fewer when a promise breaks.
pub fn walk(seed: u64, nodes: usize, steps: usize, bug: Option<&'static str>) -> World {
    let mut draw = Draw::new(seed);
    let wipes = if draw.next().is_multiple_of(2) { (nodes as u8 - 1) / 2 } else { 0 };
    let budget = Budget { epochs: 1_000, appends: 100, crashes: 12, duplicates: 40, asks: 1_000, wipes };
    let fetch_max = if draw.next().is_multiple_of(2) { 1 } else { 100 };
    // How often something ends an epoch or a life, in 1,000 steps.
    let trouble = [5, 20, 80][(draw.next() % 3) as usize];
    let mut world = World::new(nodes, budget, fetch_max, bug);
    for _ in 0..steps {
        let Some(action) = draw_action(&world, trouble, &mut draw) else { break };
        if std::env::var("TRACE").is_ok() {
            println!("{action:?}");
        }
        world.act(&action);
        world.check_logs();
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
        | Action::Unanswered(_)
        | Action::Transfer(_)
        | Action::Crash { .. }
        | Action::Wipe(_) => Kind::Trouble,
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
