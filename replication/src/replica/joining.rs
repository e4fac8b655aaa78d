//! How a node becomes a voter, once for each disk.
//!
//! A group forms when a member has heard from every other that it is no voter either: then nobody
//! can ever have voted. The identities of the disks are noted with the promise, and the best of the
//! logs, for there may be some: of a group whose failover was manual so far.
//!
//! A node whose disk was lost finds itself left out of that list: the disk there is another. What it
//! promised and acknowledged before is forgotten, so it only copies (I47), until
//!
//! * it has on stable storage all that the leader had when it came, so whatever its old disk helped
//!   to confirm is there again, and
//! * every other member has told it its epoch since: nobody can have a vote of its old disk in an
//!   epoch above the highest of these, because a candidate is in its epoch before it asks. Up to
//!   there it never votes.

use std::collections::BTreeMap;

use staticfire_storage::{Epoch, PhysicalOffset};

use super::{Effect, Failover, Millis, Replica, Role};
use crate::{DiskId, Introduction, NodeId, Promise, Request};

/// What the others said of themselves since this node started, and what it has to copy first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Joining {
    heard: BTreeMap<NodeId, Introduction>,
    /// Where the leader stood when it was first heard.
    goal: Option<(Epoch, PhysicalOffset)>,
    /// When to ask again.
    next_ms: Millis,
    /// When a master began to ask whether there is a newer one.
    since_ms: Option<Millis>,
}

impl Joining {
    /// Notes what the leader has; the first time in an epoch counts.
    pub(super) fn aim(&mut self, epoch: Epoch, end: PhysicalOffset) {
        if self.goal.is_none_or(|(earlier, _)| earlier < epoch) {
            self.goal = Some((epoch, end));
        }
    }
}

impl Replica {
    /// When a node that is no voter asks who the others are.
    pub(super) fn joining_deadline(&self) -> Millis {
        if self.is_voter() { Millis::MAX } else { self.joining.next_ms }
    }

    pub(super) fn tick_joining(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if now < self.joining_deadline() {
            return;
        }
        self.joining.next_ms = now + self.settings.timing.retry_ms;
        let request = Request::Introduce { disk: self.disk };
        let others: Vec<NodeId> = self.settings.group.others().collect();
        for to in others {
            self.send(Effect::Ask { to, request: request.clone() }, effects);
        }
        self.form(effects);
    }

    /// Who starts as master asks the others first whether a newer generation has begun, and leads when all
    /// have answered, or after a while without them: it may be the only one left.
    pub(super) fn has_asked_for_newer(&mut self, now: Millis, effects: &mut Vec<Effect>) -> bool {
        let others: Vec<NodeId> = self.settings.group.others().collect();
        let since = *self.joining.since_ms.get_or_insert(now);
        let all = others.iter().all(|node| self.joining.heard.contains_key(node));
        if all || now >= since + self.settings.timing.election_max_ms || self.is_fenced() {
            return true;
        }
        self.ask_for_newer(others, effects);
        self.wait_before_seeking(now);
        false
    }

    /// Asks these for their epoch; a newer one ends what this master does.
    pub(super) fn ask_for_newer(&mut self, nodes: Vec<NodeId>, effects: &mut Vec<Effect>) {
        for to in nodes {
            let request = Request::Introduce { disk: self.disk };
            self.send(Effect::Ask { to, request }, effects);
        }
    }

    pub(super) fn introduced(
        &mut self,
        now: Millis,
        from: NodeId,
        introduction: Introduction,
        effects: &mut Vec<Effect>,
    ) {
        if matches!(self.settings.failover, Failover::Master { .. }) {
            let epoch = introduction.epoch;
            self.joining.heard.insert(from, introduction);
            self.adopt(now, epoch, None, effects);
            return;
        }
        if self.is_voter() {
            return;
        }
        self.joining.heard.insert(from, introduction);
        if self.settings.planted("Z32") && self.joining.heard.values().any(|other| !other.formed.is_empty()) {
            return self.join(Epoch(0), effects);
        }
        self.form(effects);
        self.caught_up(effects);
    }

    /// A group of empty disks forms, or a member learns that it has.
    fn form(&mut self, effects: &mut Vec<Effect>) {
        if self.is_voter() {
            return;
        }
        let (me, mine) = (self.settings.group.me(), self.disk);
        let member = |formed: &[(NodeId, DiskId)]| formed.contains(&(me, mine));
        let told = self.joining.heard.values().find(|other| member(&other.formed));
        let all = self.settings.group.others().all(|node| self.joining.heard.contains_key(&node));
        let heard = &self.joining.heard;
        let (formed, floor) = if let Some(other) = told {
            (other.formed.clone(), other.floor)
        } else if all && heard.values().all(|other| other.formed.is_empty()) {
            let disk = |node: &NodeId| heard.get(node).map_or(mine, |other| other.disk);
            let formed = self.settings.group.members().iter().map(|node| (*node, disk(node))).collect();
            let best = heard.values().map(|other| other.last).max().unwrap_or_default();
            (formed, best.max(self.log.last()))
        } else {
            return;
        };
        self.save(Promise { formed, floor, ..self.promise.clone() }, effects);
    }

    /// A learner that has all it needs becomes a voter.
    pub(super) fn caught_up(&mut self, effects: &mut Vec<Effect>) {
        if self.is_voter() || !self.elects() {
            return;
        }
        let all = self.settings.group.others().all(|node| self.joining.heard.contains_key(&node));
        let reached =
            self.joining.goal.is_some_and(|(epoch, end)| epoch == self.epoch() && self.flushed >= end);
        if all && (reached || self.settings.planted("join-early")) && self.is_copying() {
            let barred = self.joining.heard.values().map(|other| other.epoch).max().unwrap_or_default();
            self.join(barred, effects);
        }
    }

    fn join(&mut self, barred: Epoch, effects: &mut Vec<Effect>) {
        let (me, mine) = (self.settings.group.me(), self.disk);
        let known = self.joining.heard.values().map(|other| &other.formed).find(|formed| !formed.is_empty());
        let Some(known) = known else { return };
        let formed =
            known.iter().map(|(node, disk)| (*node, if *node == me { mine } else { *disk })).collect();
        let barred = barred.max(self.promise.barred).max(self.epoch());
        self.save(Promise { formed, barred, ..self.promise.clone() }, effects);
        assert!(!matches!(self.role, Role::Leading(_)), "a learner does not lead");
    }
}
