//! A group of replicas on disks and a network that do their worst, small enough to enumerate.
//!
//! A record is one byte of the log: its epoch and a number, 0 for a barrier. What happens is an
//! [`Action`]; which one is up to the test: a random walk, an exhaustive search, a transcript.
//! After each, the promises are checked against what really is on the disks.

#![allow(dead_code, reason = "each test that includes this uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use staticfire_replication::{
    Answer, DiskId, Effect, EpochStart, EpochTable, Failover, FetchAnswer, Group, Input, NodeId, Promise,
    Remembered, Replica, Request, Settings, Timing, Token,
};
use staticfire_storage::{Epoch, PhysicalOffset, Position};

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
    pub log: Vec<Rec>,
    /// Records that survive a power cut.
    pub durable: usize,
    /// A sync that was started, and covers so many records.
    pub syncing: Option<usize>,
    pub saved: Promise,
    pub saving: Option<Promise>,
    pub disk: DiskId,
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
}

/// Names of what happened, for coverage: makes no difference between two worlds.
#[derive(Clone, Debug, Default)]
pub struct Reached(pub BTreeSet<&'static str>);

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
    /// What was durable on disks that were lost, by node.
    lost: BTreeMap<usize, Vec<Rec>>,
    /// The most records that answer a fetch.
    fetch_max: u64,
    bug: Option<&'static str>,
}

/// Far enough that the timers of the small world never ring, and later than all of them.
const NEVER_MS: u64 = 1_000;
const LATE_MS: u64 = 10_000;

fn id(index: usize) -> NodeId {
    NodeId(u32::try_from(index).expect("few nodes") + 1)
}

fn index(node: NodeId) -> usize {
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
        let formed: Vec<_> = (0..nodes).map(|node| (id(node), DiskId(node as u64))).collect();
        let promise = Promise { formed, ..Promise::default() };
        let mut world = Self {
            nodes: Vec::new(),
            net: BTreeSet::new(),
            left,
            confirmed: Vec::new(),
            reads: BTreeMap::new(),
            leaders: BTreeMap::new(),
            violation: None,
            reached: Reached::default(),
            lost: BTreeMap::new(),
            fetch_max,
            bug,
        };
        for node in 0..nodes {
            let disk = DiskId(node as u64);
            let replica = world.open(nodes, node, disk, &promise, &[], 0);
            world.nodes.push(Node {
                replica,
                log: Vec::new(),
                durable: 0,
                syncing: None,
                saved: promise.clone(),
                saving: None,
                disk,
            });
        }
        world
    }

    fn open(
        &self,
        nodes: usize,
        node: usize,
        disk: DiskId,
        promise: &Promise,
        log: &[Rec],
        session: u64,
    ) -> Replica {
        let members = (0..nodes).map(id).collect();
        let mut settings = Settings::new(Group::new(members, id(node)).expect("a group"), Failover::Raft);
        settings.timing = Timing {
            election_min_ms: NEVER_MS,
            election_max_ms: NEVER_MS,
            heartbeat_ms: NEVER_MS,
            retry_ms: 0,
        };
        settings.fetch_max = self.fetch_max;
        #[cfg(feature = "planted-bugs")]
        {
            settings.bug = self.bug;
        }
        let log =
            EpochTable::new(Position::default(), &starts(log, 0, None), at(log.len())).expect("in order");
        let (flushed, confirmed) = (log.end(), PhysicalOffset(0));
        let promise = if self.bug == Some("Z4") {
            Promise { epoch: log.last().epoch, vote: None, ..promise.clone() }
        } else {
            promise.clone()
        };
        Replica::new(settings, 0, Remembered { disk, promise, log, flushed, confirmed, session })
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
        let may_begin = replica.epoch().0 < self.left.epochs;
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
        if self.left.wipes > 0 {
            actions.push(Action::Wipe(index));
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
            Action::Campaign(node) => self.step(*node, 0, Input::Campaign, &[]),
            Action::Tick(node) => {
                self.left.asks -= 1;
                self.step(*node, 0, Input::Tick, &[]);
            }
            Action::StepDown(node) => self.step(*node, LATE_MS, Input::Tick, &[]),
            Action::Unanswered(node) => {
                self.left.asks -= 1;
                let leader = self.nodes[*node].replica.leader();
                let from = leader.unwrap_or(NodeId(0));
                self.step(*node, 0, Input::Unanswered { from }, &[]);
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
                self.step(*node, 0, Input::Flushed(at(covered)), &[]);
            }
            Action::CompleteSave(node) => {
                let promise = self.nodes[*node].saving.take().expect("one was started");
                self.nodes[*node].saved = promise.clone();
                self.step(*node, 0, Input::Saved(promise), &[]);
            }
            Action::Crash { node, keep, promise } => self.crash(*node, *keep, *promise),
            Action::Wipe(node) => self.wipe(*node),
            Action::Transfer(node) => self.step(*node, 0, Input::Transfer { to: None }, &[]),
            Action::Read(node) => {
                self.reads.insert(*node, self.confirmed.len());
                self.step(*node, 0, Input::Read(Token(100)), &[]);
            }
        }
    }

    fn deliver(&mut self, envelope: Envelope) {
        let Envelope { from, to, message } = envelope;
        match message {
            Message::Request(request) => {
                let token = Token(from as u64);
                self.step(to, 0, Input::Request { from: id(from), token, request }, &[]);
            }
            Message::Answer(answer, records) => {
                self.step(to, 0, Input::Answer { from: id(from), answer }, &records);
            }
        }
    }

    fn append(&mut self, index: usize, number: u8) {
        let node = &mut self.nodes[index];
        let (first, epoch) = (node.log.len(), node.replica.epoch().0);
        let before = node.log.last().map(|rec| rec.epoch);
        let rec = Rec { epoch, number };
        node.log.push(rec);
        let input = Input::Appended { end: at(first + 1), epochs: starts(&[rec], first, before) };
        self.step(index, 0, input, &[]);
    }

    fn crash(&mut self, index: usize, keep: usize, promise: bool) {
        self.left.crashes -= 1;
        self.reads.remove(&index);
        let nodes = self.nodes.len();
        let node = &mut self.nodes[index];
        node.log.truncate(keep);
        node.durable = keep;
        node.syncing = None;
        if let Some(saving) = node.saving.take().filter(|_| promise) {
            node.saved = saving;
        }
        let (disk, saved, log) = (node.disk, node.saved.clone(), node.log.clone());
        self.nodes[index].replica = self.open(nodes, index, disk, &saved, &log, self.session_of(index));
        self.reached.0.insert("crash");
    }

    fn wipe(&mut self, index: usize) {
        self.left.wipes -= 1;
        self.reached.0.insert("disk lost");
        let durable = self.nodes[index].durable;
        self.lost.insert(index, self.nodes[index].log[..durable].to_vec());
        self.reads.remove(&index);
        let nodes = self.nodes.len();
        let disk = DiskId(self.nodes[index].disk.0 + 100);
        let replica = self.open(nodes, index, disk, &Promise::default(), &[], self.session_of(index));
        let saved = Promise::default();
        self.nodes[index] =
            Node { replica, log: Vec::new(), durable: 0, syncing: None, saved, saving: None, disk };
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

    fn step(&mut self, index: usize, now: u64, input: Input, records: &[Rec]) {
        let mut effects = Vec::new();
        self.nodes[index].replica.step(now, input, &mut effects);
        for effect in effects {
            self.carry_out(index, effect, records);
        }
    }

    fn carry_out(&mut self, index: usize, effect: Effect, records: &[Rec]) {
        match effect {
            Effect::Save(promise) => {
                if self.nodes[index].saved.formed.is_empty() && !promise.formed.is_empty() {
                    self.reached.0.insert("joined");
                }
                self.nodes[index].saving = Some(promise);
            }
            Effect::Ask { to, request } => {
                self.net.insert(Envelope {
                    from: index,
                    to: self::index(to),
                    message: Message::Request(request),
                });
            }
            Effect::Answer { token, answer } => {
                let records = match answer {
                    Answer::Fetch(FetchAnswer::Records { from, upto, .. }) => {
                        self.nodes[index].log[from.0 as usize..upto.0 as usize].to_vec()
                    }
                    _ => Vec::new(),
                };
                let message = Message::Answer(answer, records);
                self.net.insert(Envelope { from: index, to: token.0 as usize, message });
            }
            Effect::Lead(epoch) => self.lead(index, epoch),
            Effect::Take { from } => self.take(index, from, records),
            Effect::Truncate(to) => self.truncate(index, to.0 as usize),
            Effect::Reset(base) => {
                assert_eq!(base, Position::default(), "nothing expires in this world");
                self.truncate(index, 0);
            }
            Effect::Confirm { end, .. } => self.confirm(index, end.0 as usize),
            Effect::ReadReady { confirmed, .. } => {
                let before = self.reads.remove(&index).unwrap_or(0);
                if (confirmed.0 as usize) < before {
                    self.violate("I44", format!("node {index} answers a read with {confirmed} of {before}"));
                }
                self.reached.0.insert("read");
            }
            Effect::ReadLost(_) => drop(self.reads.remove(&index)),
            Effect::Stop(evidence) => self.violate("I40", format!("node {index} stops: {evidence:?}")),
            Effect::Fence(_)
            | Effect::Serve(_)
            | Effect::Follow { .. }
            | Effect::Restart
            | Effect::Gate { .. } => {}
        }
    }

    fn lead(&mut self, index: usize, epoch: Epoch) {
        if let Some(other) = self.leaders.insert(epoch.0, index).filter(|other| *other != index) {
            self.violate("I35", format!("{other} and {index} lead epoch {epoch}"));
        }
        if !self.nodes[index].log.starts_with(&self.confirmed) {
            self.violate("I39", format!("{index} leads epoch {epoch} without what was confirmed"));
        }
        if self.nodes.iter().enumerate().any(|(other, node)| other != index && node.replica.serves()) {
            self.reached.0.insert("two leaders");
        }
        self.reached.0.insert(if epoch.0 > 1 { "second leader" } else { "leader" });
        self.append(index, 0);
    }

    fn take(&mut self, index: usize, from: PhysicalOffset, records: &[Rec]) {
        let node = &mut self.nodes[index];
        let first = node.log.len();
        assert_eq!(from, at(first), "bytes that do not follow the log");
        let before = node.log.last().map(|rec| rec.epoch);
        node.log.extend_from_slice(records);
        let epochs = starts(records, first, before);
        let input = Input::Appended { end: at(node.log.len()), epochs };
        self.reached.0.insert("copied");
        self.step(index, 0, input, &[]);
    }

    /// The file is replaced: what stays is durable, and a sync of the old file says nothing.
    fn truncate(&mut self, index: usize, to: usize) {
        let node = &mut self.nodes[index];
        node.log.truncate(to);
        node.durable = to;
        node.syncing = None;
        self.reached.0.insert("cut");
        self.step(index, 0, Input::CutDone, &[]);
    }

    fn confirm(&mut self, index: usize, end: usize) {
        let log = &self.nodes[index].log;
        let known = end.min(self.confirmed.len());
        if log[..known] != self.confirmed[..known] {
            return self.violate("I40", format!("{index} confirms other records than were confirmed"));
        }
        if end > self.confirmed.len() {
            self.confirmed = log[..end].to_vec();
            // A disk that was lost since had it, when it said so.
            let lost = |index| self.lost.get(&index).is_some_and(|log| log.starts_with(&self.confirmed));
            let durable = |(index, node): &(usize, &Node)| {
                lost(*index)
                    || node.replica.is_voter() && node.log[..node.durable].starts_with(&self.confirmed)
            };
            if self.nodes.iter().enumerate().filter(durable).count() <= self.nodes.len() / 2 {
                return self
                    .violate("I40, I43", format!("{index} confirms {end}, no majority of voters has it"));
            }
            let epochs = self.confirmed.iter().map(|rec| rec.epoch).collect::<BTreeSet<_>>().len();
            self.reached.0.insert(if epochs > 1 { "confirmed over two epochs" } else { "confirmed" });
        }
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

    /// proves: I38: logs agree up to every position that they hold with the same epoch
    pub fn check_logs(&mut self) {
        for a in 0..self.nodes.len() {
            for b in 0..a {
                let (one, other) = (&self.nodes[a].log, &self.nodes[b].log);
                let same = |end: &usize| one[*end - 1].epoch == other[*end - 1].epoch;
                let last = (1..=one.len().min(other.len())).rev().find(same).unwrap_or(0);
                if one[..last] != other[..last] {
                    return self
                        .violate("I38", format!("{a} and {b} differ below {last}: {one:?}, {other:?}"));
                }
            }
        }
    }
}
