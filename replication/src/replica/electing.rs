//! Standing for election, and voting.

use std::collections::BTreeMap;

use staticfire_storage::{Epoch, Position};

use super::following::Following;
use super::{Effect, Millis, Replica, Role, Token};
use crate::{Answer, Fetch, NodeId, Promise, Request, VoteAnswer, VoteRequest};

/// A candidate, or one who asks whether to become it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Standing {
    pre: bool,
    /// The epoch to be led.
    epoch: Epoch,
    transfer: bool,
    /// What the others said.
    votes: BTreeMap<NodeId, bool>,
    /// Fetches of those who voted and wait for the outcome.
    early: BTreeMap<NodeId, (Token, Fetch)>,
}

impl Standing {
    /// Keeps a fetch until this node leads or gives up; returns the one it replaces, or itself.
    pub(super) fn wait(&mut self, from: NodeId, token: Token, fetch: Fetch) -> Option<Token> {
        if self.pre || fetch.epoch != self.epoch {
            return Some(token);
        }
        self.early.insert(from, (token, fetch)).map(|(earlier, _)| earlier)
    }

    pub(super) fn take_early(&mut self) -> BTreeMap<NodeId, (Token, Fetch)> {
        std::mem::take(&mut self.early)
    }
}

impl Replica {
    /// Stands for election, or asks first whether it is worth it (thesis §9.6).
    pub(super) fn campaign(&mut self, now: Millis, pre: bool, effects: &mut Vec<Effect>) {
        if !self.elects() || !self.is_voter() || self.cutting || self.leads() {
            return;
        }
        self.stand(now, pre && !self.settings.planted("Z24"), false, effects);
    }

    /// The leader leaves, and wants this node to follow it.
    pub(super) fn take_over(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if self.elects() && self.is_voter() && !self.cutting {
            self.stand(now, false, true, effects);
        }
    }

    fn stand(&mut self, now: Millis, pre: bool, transfer: bool, effects: &mut Vec<Effect>) {
        let Some(epoch) = self.epoch().0.checked_add(1).filter(|epoch| i32::try_from(*epoch).is_ok()) else {
            return;
        };
        let epoch = Epoch(epoch);
        if self.log.last() < self.promise.floor {
            // Not a log that anybody votes for: copy first.
            return self.hear(now);
        }
        self.hear(now);
        if !pre {
            let vote = Some(self.settings.group.me());
            self.save(Promise { epoch, vote, ..self.promise.clone() }, effects);
            effects.push(Effect::Follow { epoch, leader: None });
        }
        self.leave(effects);
        self.role =
            Role::Standing(Standing { pre, epoch, transfer, votes: BTreeMap::new(), early: BTreeMap::new() });
        let request = Request::Vote(VoteRequest { epoch, last: self.log.last(), pre, transfer });
        let others: Vec<NodeId> = self.settings.group.others().collect();
        for to in others {
            self.send(Effect::Ask { to, request: request.clone() }, effects);
        }
        self.count_votes(now, effects);
    }

    /// Goes on when a majority agrees; its own vote counts once it is on stable storage (I36).
    pub(super) fn count_votes(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let own_counts = self.saved == self.promise || self.settings.planted("Z3");
        let majority = self.settings.group.majority();
        let Role::Standing(standing) = &self.role else { return };
        let granted = standing.votes.values().filter(|granted| **granted).count();
        let refused = standing.votes.len() - granted;
        let pre = standing.pre;
        if granted + usize::from(pre || own_counts) >= majority {
            if pre {
                self.stand(now, false, false, effects);
            } else {
                self.lead(now, effects);
            }
        } else if refused >= majority {
            self.leave(effects);
            self.role = Role::Following(Following::new(None));
        }
    }

    pub(super) fn voted(&mut self, now: Millis, from: NodeId, answer: VoteAnswer, effects: &mut Vec<Effect>) {
        if self.adopt(now, answer.epoch, None, effects) {
            return;
        }
        let any = self.settings.planted("pre-vote-counts");
        if let Role::Standing(standing) = &mut self.role
            && (any || standing.pre == answer.pre)
            && standing.epoch == answer.asked
        {
            standing.votes.insert(from, answer.granted);
            self.count_votes(now, effects);
        }
    }

    /// Votes by the epoch and place of the last record (DESIGN §7 rule 9).
    pub(super) fn vote(
        &mut self,
        now: Millis,
        from: NodeId,
        token: Token,
        request: VoteRequest,
        effects: &mut Vec<Effect>,
    ) {
        let VoteRequest { epoch, last, pre, transfer } = request;
        let leader_lives = self.leader().is_some() && now < self.silent_deadline() || self.leads();
        let welcome = self.elects() && i32::try_from(epoch.0).is_ok() && (transfer || !leader_lives);
        if welcome && !pre && epoch > self.epoch() {
            self.adopt_for_vote(now, from, request, effects);
        }
        let again = self.settings.planted("vote-again") && last > self.log.last();
        let promised = again || self.promise.vote.is_none_or(|vote| vote == from);
        let current = epoch > self.epoch() || epoch == self.epoch() && !pre && promised;
        let may = self.would_vote(epoch, last);
        let granted = welcome && current && may;
        if granted && !pre {
            if self.promise.vote != Some(from) {
                self.save(Promise { vote: Some(from), ..self.promise.clone() }, effects);
            }
            self.hear(now);
        }
        let answer = Answer::Vote(VoteAnswer { epoch: self.epoch(), asked: epoch, pre, granted });
        self.send(Effect::Answer { token, answer }, effects);
    }

    /// Takes part in the candidate's epoch, with one write when it also gets the vote.
    fn adopt_for_vote(&mut self, now: Millis, from: NodeId, request: VoteRequest, effects: &mut Vec<Effect>) {
        let VoteRequest { epoch, last, .. } = request;
        let vote = self.would_vote(epoch, last).then_some(from);
        self.save(Promise { epoch, vote, ..self.promise.clone() }, effects);
        // It may lead soon, so it is the first to be asked.
        self.follow(now, None, effects);
        self.role = Role::Following(Following::seek(Some(from), now));
    }

    fn would_vote(&self, epoch: Epoch, last: Position) -> bool {
        let barred = if self.settings.planted("vote-barred") { Epoch(0) } else { self.promise.barred };
        let least = self.log.last().max(self.promise.floor);
        let good = if self.settings.planted("longest-log") { last.end >= least.end } else { last >= least };
        self.is_voter() && epoch > barred && good
    }
}
