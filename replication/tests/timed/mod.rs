//! A group in time: leaders are cut off, nodes come back, and somebody must lead soon.

use staticfire_replication::{Draw, Effect, Timing};

use crate::world::{Action, Budget, Envelope, Given, Message, Shape, World};

/// Ten of the longest election timeouts (I49).
const PATIENCE_MS: u64 = 6_000;

struct Running {
    world: World,
    draw: Draw,
    /// Every message takes so long.
    delay_ms: u64,
    under_way: Vec<(u64, Envelope)>,
    /// Nobody hears from it, and it hears from nobody.
    cut_off: Option<usize>,
}

/// Cuts off followers and leaders, and says which promise about time was broken.
pub fn run(seed: u64, bug: Option<&'static str>) -> Option<String> {
    let mut draw = Draw::new(seed);
    let timing = Timing { election_min_ms: 300, election_max_ms: 600, heartbeat_ms: 100, retry_ms: 50 };
    let shape = Shape { timing, ..Shape::elected(3, 100, bug) };
    let mut given = vec![Given::default(); 3];
    // Nodes with different pasts draw different times.
    given.iter_mut().for_each(|given| given.session = draw.next() >> 40);
    let all = u16::MAX;
    let budget = Budget { epochs: 1_000, asks: all, appends: u8::MAX, ..Budget::NONE };
    let mut world = World::start(shape, budget, &given);
    world.reached.1 = Some(Vec::new());
    let delay_ms = 2 + draw.next() % 8;
    let mut running = Running { world, draw, delay_ms, under_way: Vec::new(), cut_off: None };
    for _ in 0..3 {
        if let Err(violation) = running.round() {
            return Some(violation);
        }
    }
    running.world.violation.clone()
}

impl Running {
    /// A follower is cut off and comes back, and then the leader is.
    fn round(&mut self) -> Result<(), String> {
        let leader = self.elected()?;
        self.pass(1_000);
        let epoch = self.world.nodes[leader].replica.epoch();
        self.cut_off = Some((leader + 1 + (self.draw.next() % 2) as usize) % 3);
        self.pass(2_000);
        self.cut_off = None;
        self.pass(1_000);
        let now = self.world.nodes[leader].replica.epoch();
        if now != epoch {
            return Err(format!(
                "I43: a node that came back ended epoch {epoch} of a leader that nobody missed"
            ));
        }
        self.cut_off = Some(leader);
        self.pass(1_000);
        self.elected()?;
        self.cut_off = None;
        self.pass(1_000);
        Ok(())
    }

    /// Waits until a node serves that the others hear.
    fn elected(&mut self) -> Result<usize, String> {
        for _ in 0..PATIENCE_MS {
            let serves =
                |node: &usize| Some(*node) != self.cut_off && self.world.nodes[*node].replica.serves();
            if let Some(leader) =
                (0..3).filter(serves).max_by_key(|node| self.world.nodes[*node].replica.epoch())
            {
                return Ok(leader);
            }
            self.pass(1);
        }
        Err(format!("I49: nobody leads after {PATIENCE_MS} ms"))
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.world.now += 1;
            let now = self.world.now;
            for node in 0..3 {
                if self.world.nodes[node].replica.deadline() <= now {
                    self.world.tick(node);
                }
                let it = &self.world.nodes[node];
                let (saving, syncing, behind) =
                    (it.saving.is_some(), it.syncing.is_some(), it.durable < it.log.len());
                match () {
                    () if saving => self.world.act(&Action::CompleteSave(node)),
                    () if syncing => self.world.act(&Action::CompleteSync(node)),
                    () if behind => self.world.act(&Action::StartSync(node)),
                    () => {}
                }
            }
            self.send();
            let due = self.under_way.iter().take_while(|(due, _)| *due <= now).count();
            for (_, envelope) in self.under_way.drain(..due).collect::<Vec<_>>() {
                if ![Some(envelope.from), Some(envelope.to)].contains(&self.cut_off) {
                    self.world.act(&Action::Deliver(envelope));
                    self.send();
                }
            }
        }
    }

    /// What was said goes on its way; the network of the world itself, where copies are one, is not used.
    fn send(&mut self) {
        self.world.net.clear();
        for (from, effect) in self.world.reached.1.replace(Vec::new()).unwrap_or_default() {
            let (to, message) = match effect {
                Effect::Ask { to, request } => (to.0 as usize - 1, Message::Request(request)),
                Effect::Answer { token, answer } => {
                    let records = self.world.records_of(from, &answer);
                    (token.0 as usize, Message::Answer(answer, records))
                }
                _ => continue,
            };
            self.under_way.push((self.world.now + self.delay_ms, Envelope { from, to, message }));
        }
    }
}
