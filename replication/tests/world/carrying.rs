//! What the driver of a replica does for it, on these disks and this network, and what must hold then.

use std::collections::BTreeSet;

use staticfire_replication::{
    Answer, Effect, FetchAnswer, Input, Mode, Promise, Request, SlaveAck, VoteAnswer, VoteRequest,
};
use staticfire_storage::{Epoch, PhysicalOffset};

use super::{Envelope, Message, Node, Rec, World, at, id, starts};

impl World {
    /// Gives a replica an input, and then those that its effects bring up, each after all effects of the one
    /// before, as a member does it.
    pub fn step(&mut self, index: usize, now: u64, input: Input, records: &[Rec]) {
        self.inputs.push_back((index, now, input));
        if self.inputs.len() > 1 {
            return;
        }
        while let Some((index, now, input)) = self.inputs.front().cloned() {
            let mut effects = Vec::new();
            self.nodes[index].replica.step(now, input, &mut effects);
            for effect in effects {
                if let Some(said) = &mut self.reached.1 {
                    said.push((index, effect.clone()));
                }
                self.carry_out(index, effect, records);
            }
            self.inputs.pop_front();
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
                if let Request::Vote(VoteRequest { epoch, pre: false, .. }) = request {
                    self.check_promised(index, epoch, index);
                }
                self.net.insert(Envelope {
                    from: index,
                    to: super::index(to),
                    message: Message::Request(request),
                });
            }
            Effect::Answer { token, answer } => {
                if let Answer::Vote(VoteAnswer { asked, pre: false, granted: true, .. }) = answer {
                    self.check_promised(index, asked, token.0 as usize);
                }
                let records = self.records_of(index, &answer);
                let message = Message::Answer(answer, records);
                self.net.insert(Envelope { from: index, to: token.0 as usize, message });
            }
            Effect::Lead(epoch) => self.lead(index, epoch),
            Effect::Take { from } => self.take(index, from, records),
            Effect::Truncate(to) => self.truncate(index, to.0 as usize),
            Effect::Reset(base) => {
                if base.end.0 as usize > self.confirmed.len() {
                    return self.violate("I12", format!("what was not confirmed expired below {base:?}"));
                }
                // What expired is known to the test alone.
                let node = &mut self.nodes[index];
                (node.log, node.base) = (self.confirmed[..base.end.0 as usize].to_vec(), base);
                self.reached.0.insert(if base.end.0 > 0 { "begun anew" } else { "begun from nothing" });
                self.truncate(index, base.end.0 as usize);
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
            // One that was deposed and does not know it asks before it answers (I44).
            Effect::Serve(epoch) if self.leaders.keys().last() == Some(&epoch.0) => {
                if !self.nodes[index].log.starts_with(&self.confirmed) {
                    self.violate("I39", format!("{index} serves without what was confirmed"));
                }
            }
            Effect::Stop(evidence) => self.violate("I40", format!("node {index} stops: {evidence:?}")),
            Effect::Fence(_)
            | Effect::Serve(_)
            | Effect::Follow { .. }
            | Effect::Restart
            | Effect::Gate { .. } => {}
        }
    }

    /// The records that belong to an answer.
    pub fn records_of(&self, index: usize, answer: &Answer) -> Vec<Rec> {
        match answer {
            Answer::Fetch(FetchAnswer::Records { from, upto, .. }) => {
                self.nodes[index].log[from.0 as usize..upto.0 as usize].to_vec()
            }
            _ => Vec::new(),
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
        self.step(index, self.now, input, &[]);
    }

    /// The file is replaced: what stays is durable, and a sync of the old file says nothing.
    fn truncate(&mut self, index: usize, to: usize) {
        let node = &mut self.nodes[index];
        if node.replica.leads() {
            return self.violate("I37", format!("{index} leads, and cuts its log at {to}"));
        }
        node.log.truncate(to);
        node.durable = to;
        node.syncing = None;
        self.reached.0.insert("cut");
        self.step(index, self.now, Input::CutDone, &[]);
    }

    fn confirm(&mut self, index: usize, end: usize) {
        let Node { log, replica, .. } = &self.nodes[index];
        let known = end.min(self.confirmed.len());
        if end > log.len() {
            return self.violate("I48", format!("{index} confirms {end} and has {}", log.len()));
        }
        if log[..known] != self.confirmed[..known] {
            return self.violate("I40", format!("{index} confirms other records than were confirmed"));
        }
        if replica.leads() && end > 0 && log[end - 1].epoch != replica.epoch().0 {
            let epoch = log[end - 1].epoch;
            return self.violate("I41", format!("{index} confirms a record of epoch {epoch} by counting"));
        }
        if end > self.confirmed.len() {
            self.confirmed = log[..end].to_vec();
            self.check_kept(&format!("{index} confirms {end}"));
            let epochs = self.confirmed.iter().map(|rec| rec.epoch).collect::<BTreeSet<_>>().len();
            self.reached.0.insert(if epochs > 1 { "confirmed over two epochs" } else { "confirmed" });
        }
    }

    /// proves: I25, I40, I43; no OK is lost: as many nodes have what was confirmed as the mode asks for
    fn check_kept(&mut self, when: &str) {
        let all = || self.nodes.iter().enumerate();
        let lives = |index| self.lost.get(&index).into_iter().flatten();
        let had = |index| lives(index).any(|(_, log)| log.starts_with(&self.confirmed));
        let flushed = |node: &Node| node.log[..node.durable].starts_with(&self.confirmed);
        let (invariant, count, needed) = match self.shape.mode {
            None => {
                let count =
                    all().filter(|(index, node)| had(*index) || node.replica.is_voter() && flushed(node));
                ("I40, I43", count.count(), self.shape.nodes / 2 + 1)
            }
            Some(Mode::Replicated { slaves, ack }) => {
                let received = |node: &Node| node.log.starts_with(&self.confirmed);
                let has = |node: &Node| if ack == SlaveAck::Flushed { flushed(node) } else { received(node) };
                let slaves_with = all().skip(1).filter(|(index, node)| had(*index) || has(node)).count();
                ("I25, I27", slaves_with, usize::from(slaves.get()))
            }
            Some(_) => return,
        };
        if count < needed {
            self.violate(invariant, format!("{when}: {count} nodes have it of {needed} that must"));
        }
    }

    /// proves: I36: the vote is on stable storage before anything leaves that depends on it
    fn check_promised(&mut self, index: usize, epoch: Epoch, vote: usize) {
        let earlier = *self.reached.2.entry((index, epoch)).or_insert(vote);
        if earlier != vote {
            self.violate("I35", format!("{index} votes in epoch {epoch} for {vote}, and did for {earlier}"));
        }
        let Promise { epoch: saved, vote: voted, .. } = self.nodes[index].saved;
        // A later epoch on the disk is as good: no other vote follows in the one before.
        if saved < epoch || saved == epoch && voted != Some(id(vote)) {
            self.violate(
                "I36",
                format!("{index} votes in epoch {epoch} and its disk says {saved}, {voted:?}"),
            );
        }
    }

    /// proves: I38: logs agree; I48: no mark is above the end of its log; no OK is lost
    pub fn check(&mut self) {
        self.check_logs();
        if self.shape.mode.is_none() {
            self.check_kept("later");
        }
        for index in 0..self.nodes.len() {
            let Node { replica, log, .. } = &self.nodes[index];
            let end = at(log.len());
            if replica.log().end() != end || replica.confirmed().max(replica.flushed_end()) > end {
                let marks = (replica.log().end(), replica.confirmed(), replica.flushed_end());
                self.violate("I48", format!("{index} ends at {end} and says {marks:?}"));
            }
        }
    }

    /// proves: I38: logs agree up to every position that they hold with the same epoch
    fn check_logs(&mut self) {
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
