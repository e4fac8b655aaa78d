//! A group of replicas on disks and a network that do their worst, small enough to enumerate.
//!
//! A record is one byte of the log: its epoch and a number, 0 for a barrier. What happens is an
//! [`Action`]; which one is up to the test: a random walk, an exhaustive search, a transcript.
//! After each, the promises are checked against what really is on the disks.

#![allow(dead_code, reason = "each test that includes this uses a part of it")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};

use staticfire_replication::{
    Answer, DiskId, Effect, EpochStart, EpochTable, Failover, Fetch, FetchAnswer, Group, Input, Mode, NodeId,
    Promise, Remembered, Replica, Request, Settings, Timing, Token,
};
use staticfire_storage::{Epoch, PhysicalOffset, Position};

mod carrying;

/// What stands at one position of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rec {
    pub epoch: u64,
    pub number: u8,
}

/// A node: what it thinks, and what its disk really holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub replica: Replica,
    /// All of it, also what it no longer keeps.
    pub log: Vec<Rec>,
    /// The oldest position that it keeps.
    pub base: Position,
    /// Records that survive a power cut.
    pub durable: usize,
    /// A sync that was started, and covers so many records.
    pub syncing: Option<usize>,
    pub saved: Promise,
    pub saving: Option<Promise>,
    pub disk: DiskId,
}

impl Node {
    /// Retention goes no further.
    fn expirable(&self) -> PhysicalOffset {
        self.replica.confirmed().min(at(self.durable))
    }
}

/// A message under way. Sets of them: copies of one are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Envelope {
    pub from: usize,
    pub to: usize,
    pub message: Message,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    Request(Request),
    /// With the records that belong to it.
    Answer(Answer, Vec<Rec>),
}

/// How much may go wrong, and how much work there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    pub epochs: u64,
    pub appends: u8,
    pub crashes: u8,
    pub duplicates: u8,
    /// Connections lost, and followers that look for their leader.
    pub asks: u16,
    pub wipes: u8,
    /// Members that claim what they were never sent.
    pub lies: u8,
    /// Times that retention removes what is confirmed.
    pub expiries: u8,
}

impl Budget {
    /// Nothing goes wrong, and nobody works.
    pub const NONE: Self =
        Self { epochs: 0, appends: 0, crashes: 0, duplicates: 0, asks: 0, wipes: 0, lies: 0, expiries: 0 };
}

/// What kind of group it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub nodes: usize,
    /// What OK means where the first node is master; `None`: the members elect.
    pub mode: Option<Mode>,
    pub timing: Timing,
    /// The most records that answer a fetch.
    pub fetch_max: u64,
    pub bug: Option<&'static str>,
}

impl Shape {
    /// Members that elect, whose timers never ring by themselves.
    pub const fn elected(nodes: usize, fetch_max: u64, bug: Option<&'static str>) -> Self {
        let timing = Timing {
            election_min_ms: NEVER_MS,
            election_max_ms: NEVER_MS,
            heartbeat_ms: NEVER_MS,
            retry_ms: 2,
        };
        Self { nodes, mode: None, timing, fetch_max, bug }
    }
}

/// What is on a node's disk when it starts.
#[derive(Clone, Debug, Default)]
pub struct Given {
    pub log: Vec<Rec>,
    /// The last session of its earlier lives; what it draws depends on it.
    pub session: u64,
    pub promise: Promise,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// A message arrives.
    Deliver(Envelope),
    /// It arrives, and will once more.
    DeliverTwice(Envelope),
    /// A node stands for election.
    Campaign(usize),
    /// A follower looks for its leader, or a leader notices that it is alone.
    Tick(usize),
    /// A leader that hears nobody steps down.
    StepDown(usize),
    /// The election timer of a follower rings: it asks whether to stand.
    TimeOut(usize),
    /// A follower's connection to whom it asked is lost.
    Unanswered(usize),
    Append(usize),
    StartSync(usize),
    CompleteSync(usize),
    /// The promise reached the disk.
    CompleteSave(usize),
    /// The power fails; of what was not durable so many records stay, and perhaps the promise.
    Crash {
        node: usize,
        keep: usize,
        promise: bool,
    },
    /// The disk is replaced by an empty one.
    Wipe(usize),
    Transfer(usize),
    Read(usize),
    /// A follower claims more than the leader has, and all of it flushed.
    Lie(usize),
    /// Retention removes everything that is confirmed there.
    Expire(usize),
}

/// Names of what happened, for coverage, and what the replicas said, when somebody listens: makes no
/// difference between two worlds.
#[derive(Clone, Debug, Default)]
pub struct Reached(
    pub BTreeSet<&'static str>,
    pub Option<Vec<(usize, Effect)>>,
    /// Whom each node voted for in each epoch, on whatever disk.
    pub BTreeMap<(usize, Epoch), usize>,
);

impl PartialEq for Reached {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Reached {}

impl Hash for Reached {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub nodes: Vec<Node>,
    pub net: BTreeSet<Envelope>,
    pub left: Budget,
    /// What was confirmed anywhere, ever: consumers may have seen it.
    pub confirmed: Vec<Rec>,
    /// Of it, how much was confirmed before each read that is open, by node.
    pub reads: BTreeMap<usize, usize>,
    pub leaders: BTreeMap<u64, usize>,
    pub violation: Option<String>,
    pub reached: Reached,
    /// What a replica is given next, while one is at work.
    inputs: VecDeque<(usize, u64, Input)>,
    /// What each node's clock says.
    pub now: u64,
    /// What was there in lives that ended, by node, and the last session of each: it counts until a master has
    /// heard of a later one.
    lost: BTreeMap<usize, Vec<(u64, Vec<Rec>)>>,
    pub shape: Shape,
}

/// Far enough that the timers of the small world never ring, and later than all of them.
const NEVER_MS: u64 = 1_000;
const LATE_MS: u64 = 10_000;

pub fn id(index: usize) -> NodeId {
    NodeId(u32::try_from(index).expect("few nodes") + 1)
}

pub fn index(node: NodeId) -> usize {
    node.0 as usize - 1
}

fn at(len: usize) -> PhysicalOffset {
    PhysicalOffset(len as u64)
}

fn starts(records: &[Rec], first: usize, before: Option<u64>) -> Vec<EpochStart> {
    let mut last = before;
    let mut starts = Vec::new();
    for (offset, rec) in records.iter().enumerate() {
        if last != Some(rec.epoch) {
            starts.push(EpochStart { epoch: Epoch(rec.epoch), start: at(first + offset) });
        }
        last = Some(rec.epoch);
    }
    starts
}

impl World {
    /// A formed group of `nodes` empty voters.
    pub fn new(nodes: usize, left: Budget, fetch_max: u64, bug: Option<&'static str>) -> Self {
        Self::start(Shape::elected(nodes, fetch_max, bug), left, &vec![Given::default(); nodes])
    }

    /// A formed group whose nodes find these on their disks.
    pub fn start(shape: Shape, left: Budget, given: &[Given]) -> Self {
        let formed: Vec<_> = (0..shape.nodes).map(|node| (id(node), DiskId(node as u64))).collect();
        let mut world = Self {
            nodes: Vec::new(),
            net: BTreeSet::new(),
            left,
            confirmed: Vec::new(),
            reads: BTreeMap::new(),
            leaders: BTreeMap::new(),
            violation: None,
            reached: Reached::default(),
            inputs: VecDeque::new(),
            now: 0,
            lost: BTreeMap::new(),
            shape,
        };
        for (index, given) in given.iter().enumerate() {
            let saved = Promise { formed: formed.clone(), ..given.promise.clone() };
            let (log, base) = (given.log.clone(), Position::default());
            let disk = DiskId(index as u64);
            let replica = world.open(index, disk, &saved, (&log, base), given.session);
            let durable = log.len();
            let node = Node { replica, log, base, durable, syncing: None, saved, saving: None, disk };
            world.nodes.push(node);
        }
        world
    }

    fn open(
        &self,
        node: usize,
        disk: DiskId,
        promise: &Promise,
        (log, base): (&[Rec], Position),
        session: u64,
    ) -> Replica {
        let members = (0..self.shape.nodes).map(id).collect();
        let failover = match self.shape.mode {
            None => Failover::Raft,
            Some(_) if node == 0 => Failover::Master { generation: 1 },
            Some(_) => Failover::Slave,
        };
        let mut settings = Settings::new(Group::new(members, id(node)).expect("a group"), failover);
        settings.timing = self.shape.timing;
        settings.fetch_max = self.shape.fetch_max;
        settings.mode = self.shape.mode.unwrap_or_default();
        #[cfg(feature = "planted-bugs")]
        {
            settings.bug = self.shape.bug;
        }
        let first = base.end.0 as usize;
        let before = (first > 0).then_some(base.epoch.0);
        let rows = starts(&log[first..], first, before);
        let log = EpochTable::new(base, &rows, at(log.len())).expect("in order");
        let (flushed, confirmed) = (log.end(), base.end);
        let promise = if self.shape.bug == Some("Z4") {
            Promise { epoch: log.last().epoch, vote: None, ..promise.clone() }
        } else {
            promise.clone()
        };
        // Every life draws its own times.
        let seed = session << 8 | node as u64;
        Replica::new(settings, seed, Remembered { disk, promise, log, flushed, confirmed, session })
    }

    /// Everything that can happen next.
    pub fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.violation.is_some() {
            return actions;
        }
        for envelope in &self.net {
            actions.push(Action::Deliver(envelope.clone()));
            if self.left.duplicates > 0 {
                actions.push(Action::DeliverTwice(envelope.clone()));
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            self.actions_of(index, node, &mut actions);
        }
        actions
    }

    fn actions_of(&self, index: usize, node: &Node, actions: &mut Vec<Action>) {
        let replica = &node.replica;
        let may_begin = self.shape.mode.is_none() && replica.epoch().0 < self.left.epochs;
        // At first all nodes are alike, so it may as well be the first one.
        let alike = index > 0 && self.nodes.iter().all(|node| node.replica.epoch() == Epoch(0));
        if may_begin && !replica.leads() && !replica.is_stopped() && !alike {
            actions.push(Action::Campaign(index));
        }
        if may_begin && replica.leads() {
            actions.push(Action::StepDown(index));
        }
        if self.left.asks > 0 && !replica.leads() && (replica.leader().is_none() || !replica.is_voter()) {
            actions.push(Action::Tick(index));
        }
        if self.left.asks > 0 && !replica.leads() && replica.leader().is_some() {
            actions.push(Action::Unanswered(index));
        }
        let started = node.log.last().is_some_and(|rec| rec.epoch == replica.epoch().0);
        if replica.leads() && started && self.left.appends > 0 {
            actions.push(Action::Append(index));
        }
        if node.durable < node.log.len() && node.syncing.is_none() {
            actions.push(Action::StartSync(index));
        }
        if node.syncing.is_some() {
            actions.push(Action::CompleteSync(index));
        }
        if node.saving.is_some() {
            actions.push(Action::CompleteSave(index));
        }
        if self.left.crashes > 0 {
            for keep in BTreeSet::from([node.durable, node.log.len()]) {
                actions.push(Action::Crash { node: index, keep, promise: false });
                if node.saving.is_some() {
                    actions.push(Action::Crash { node: index, keep, promise: true });
                }
            }
        }
        // A master that comes back empty is the operator's to replace.
        if self.left.wipes > 0 && (self.shape.mode.is_none() || index > 0) {
            actions.push(Action::Wipe(index));
        }
        if self.left.lies > 0 && replica.is_copying() {
            actions.push(Action::Lie(index));
        }
        if self.left.expiries > 0 && node.expirable() > node.base.end {
            actions.push(Action::Expire(index));
        }
    }

    /// Lets one thing happen.
    pub fn act(&mut self, action: &Action) {
        match action {
            Action::Deliver(envelope) => {
                self.net.remove(envelope);
                self.deliver(envelope.clone());
            }
            Action::DeliverTwice(envelope) => {
                self.left.duplicates -= 1;
                self.deliver(envelope.clone());
            }
            Action::Campaign(node) => self.step(*node, self.now, Input::Campaign, &[]),
            Action::Tick(node) => {
                self.left.asks -= 1;
                // The next of the short timers, which follow a connection that broke: those of elections never ring.
                let due = Some(self.nodes[*node].replica.deadline()).filter(|due| *due < self.now + NEVER_MS);
                self.step(*node, due.unwrap_or(0).max(self.now), Input::Tick, &[]);
            }
            Action::TimeOut(node) => {
                let late = self.nodes[*node].replica.deadline().max(LATE_MS);
                self.step(*node, self.now + late, Input::Tick, &[]);
            }
            Action::StepDown(node) => self.step(*node, self.now + LATE_MS, Input::Tick, &[]),
            Action::Unanswered(node) => {
                self.left.asks -= 1;
                let leader = self.nodes[*node].replica.leader();
                let from = leader.unwrap_or(NodeId(0));
                self.step(*node, self.now, Input::Unanswered { from }, &[]);
            }
            Action::Append(node) => {
                let number = self.left.appends;
                self.left.appends -= 1;
                self.append(*node, number);
            }
            Action::StartSync(node) => self.nodes[*node].syncing = Some(self.nodes[*node].log.len()),
            Action::CompleteSync(node) => {
                let covered = self.nodes[*node].syncing.take().expect("one was started");
                self.nodes[*node].durable = covered;
                self.step(*node, self.now, Input::Flushed(at(covered)), &[]);
            }
            Action::CompleteSave(node) => {
                let promise = self.nodes[*node].saving.take().expect("one was started");
                self.nodes[*node].saved = promise.clone();
                self.step(*node, self.now, Input::Saved(promise), &[]);
            }
            Action::Crash { node, keep, promise } => self.crash(*node, *keep, *promise),
            Action::Wipe(node) => self.wipe(*node),
            Action::Transfer(node) => self.step(*node, self.now, Input::Transfer { to: None }, &[]),
            Action::Read(node) => {
                self.reads.insert(*node, self.confirmed.len());
                self.step(*node, self.now, Input::Read(Token(100)), &[]);
            }
            Action::Lie(node) => self.lie(*node),
            Action::Expire(node) => {
                self.left.expiries -= 1;
                let min = self.nodes[*node].expirable();
                self.nodes[*node].base = self.nodes[*node].replica.log().at(min);
                self.step(*node, self.now, Input::Forgotten(min), &[]);
                self.reached.0.insert("expired");
            }
        }
    }

    fn deliver(&mut self, envelope: Envelope) {
        let Envelope { from, to, message } = envelope;
        match message {
            Message::Request(request) => {
                if let Request::Fetch(fetch) = &request
                    && self.nodes[to].replica.leads()
                    && fetch.epoch == self.nodes[to].replica.epoch()
                    && self.shape.mode.is_some()
                {
                    let lives = self.lost.entry(from).or_default();
                    lives.retain(|(last_session, _)| fetch.session <= *last_session);
                }
                let token = Token(from as u64);
                self.step(to, self.now, Input::Request { from: id(from), token, request }, &[]);
            }
            Message::Answer(answer, records) => {
                self.step(to, self.now, Input::Answer { from: id(from), answer }, &records);
            }
        }
    }

    pub fn append(&mut self, index: usize, number: u8) {
        let node = &mut self.nodes[index];
        let (first, epoch) = (node.log.len(), node.replica.epoch().0);
        let before = node.log.last().map(|rec| rec.epoch);
        let rec = Rec { epoch, number };
        node.log.push(rec);
        let input = Input::Appended { end: at(first + 1), epochs: starts(&[rec], first, before) };
        self.step(index, self.now, input, &[]);
    }

    fn crash(&mut self, index: usize, keep: usize, promise: bool) {
        self.left.crashes -= 1;
        self.reads.remove(&index);
        let session = self.session_of(index);
        let node = &mut self.nodes[index];
        if self.shape.mode.is_some() {
            self.lost.entry(index).or_default().push((session, node.log.clone()));
        }
        node.log.truncate(keep);
        node.durable = keep;
        node.syncing = None;
        if let Some(saving) = node.saving.take().filter(|_| promise) {
            node.saved = saving;
        }
        let (disk, saved, log, base) = (node.disk, node.saved.clone(), node.log.clone(), node.base);
        self.nodes[index].replica = self.open(index, disk, &saved, (&log, base), session);
        self.reached.0.insert("crash");
    }

    fn wipe(&mut self, index: usize) {
        self.left.wipes -= 1;
        self.reached.0.insert("disk lost");
        self.reads.remove(&index);
        let (session, Node { log, durable, .. }) = (self.session_of(index), &self.nodes[index]);
        let had = if self.shape.mode.is_some() { log.clone() } else { log[..*durable].to_vec() };
        self.lost.entry(index).or_default().push((session, had));
        let disk = DiskId(self.nodes[index].disk.0 + 100);
        let (saved, base) = (Promise::default(), Position::default());
        let replica = self.open(index, disk, &saved, (&[], base), session);
        self.nodes[index] =
            Node { replica, log: Vec::new(), base, durable: 0, syncing: None, saved, saving: None, disk };
    }

    /// Its disk, or who is in its place, makes it claim what nobody sent (I24).
    fn lie(&mut self, index: usize) {
        self.left.lies -= 1;
        let replica = &self.nodes[index].replica;
        let Some(leader) = replica.leader().map(self::index) else { return };
        let ahead = at(self.nodes[leader].log.len() + 1_000);
        let at = Position { epoch: replica.epoch(), end: ahead };
        let (session, epoch, learner) = (replica.session(), replica.epoch(), !replica.is_voter());
        let fetch = Fetch { session, epoch, at, flushed: ahead, visible: ahead, round: 0, learner };
        self.net.insert(Envelope {
            from: index,
            to: leader,
            message: Message::Request(Request::Fetch(fetch)),
        });
        self.reached.0.insert("claimed too much");
    }

    /// A new life counts its sessions on, as if by the clock: above all that it had used.
    fn session_of(&self, node: usize) -> u64 {
        let sent = self.net.iter().filter(|envelope| envelope.from == node);
        let used = sent.filter_map(|envelope| match &envelope.message {
            Message::Request(Request::Fetch(fetch)) => Some(fetch.session),
            _ => None,
        });
        used.max().unwrap_or(0).max(self.nodes.get(node).map_or(0, |node| node.replica.session()))
    }

    /// Lets everything arrive and complete that is under way, in order, until nothing is.
    pub fn calm(&mut self) {
        let calm = |action: &Action| {
            matches!(
                action,
                Action::Deliver(_) | Action::StartSync(_) | Action::CompleteSync(_) | Action::CompleteSave(_)
            )
        };
        for _ in 0..10_000 {
            let Some(action) = self.actions().into_iter().find(calm) else { return };
            self.act(&action);
        }
        self.violate("I49", "it never comes to rest".to_owned());
    }

    /// A node's own timer rings, whichever.
    pub fn tick(&mut self, node: usize) {
        self.step(node, self.now, Input::Tick, &[]);
    }

    /// Forgets messages that can never again make a difference.
    pub fn forget_stale(&mut self) {
        let nodes = &self.nodes;
        self.net.retain(|Envelope { from, to, message }| {
            let (sender, receiver) = (&nodes[*from].replica, &nodes[*to].replica);
            let (sent, here) = (sender.epoch(), receiver.epoch());
            match message {
                Message::Answer(Answer::Fetch(answer), _) => match answer {
                    FetchAnswer::Records { session, epoch, .. }
                    | FetchAnswer::Diverged { session, epoch, .. }
                    | FetchAnswer::Below { session, epoch, .. } => {
                        *epoch > here
                            || (*epoch == here && *session >= receiver.session() && !receiver.leads())
                    }
                    FetchAnswer::Refused { epoch, .. } => *epoch >= here && !receiver.leads(),
                },
                Message::Answer(Answer::Vote(answer), _) => {
                    answer.epoch > here || (answer.asked >= here && !receiver.leads())
                }
                Message::Answer(..) => true,
                Message::Request(Request::Vote(vote)) => vote.epoch >= here || sent < here,
                Message::Request(Request::Fetch(fetch)) => fetch.epoch >= here || sent < here,
                Message::Request(_) => true,
            }
        });
    }

    pub fn violate(&mut self, invariant: &str, what: String) {
        self.violation.get_or_insert(format!("{invariant}: {what}"));
    }
}
